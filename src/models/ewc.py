"""Elastic weight consolidation (Kirkpatrick et al., 2017, arXiv:1612.00796), online (Schwarz et al., 2018,
arXiv:1805.06370): keeps weights that earlier tasks need near the values the last task left."""

import itertools
from bisect import bisect_right

import torch

from src.datasets.seeds import seed_of
from src.models.finetune import Finetune, Prompts
from src.models.helpers import l2_distance, similarity
from src.models.hooks import Hooks
from src.models.modeling import image_features, in_eval_mode, text_features
from src.models.modx import Contrastive


class EWC(Hooks):
    """The task loss + strength / 2 sum_i F_i (theta_i - theta*_i)^2, where theta* are the weights at the
    end of the last task.

    After task t, F <- decay F + F_t. F_t is the mean over the training images, one by one, of (d log p(y |
    x) / d theta)^2: ``empirical`` takes y from the label, ``true`` draws y from p(. | x), ``weighted`` is
    the empirical one with each square times p(y | x). It covers trained weights of the towers; a linear
    head belongs to its task alone.

    On image-text pairs p ranks the candidates of a full batch: log p of a pair is the mean of both
    directions.
    """

    data = "both"
    other_terms = ("ewc",)
    all_used = True

    def __init__(self, ls=0.0, ewc_strength=1000.0, ewc_fisher="empirical", ewc_decay=1.0):
        self.label_smoothing, self.strength, self.kind, self.decay = ls, ewc_strength, ewc_fisher, ewc_decay
        self.fisher, self.anchor = {}, {}

    def begin(self, state):
        self.plain = Contrastive() if state.task.pairs else Finetune(self.label_smoothing)
        self.plain.begin(state)
        self.fisher, self.anchor = (
            {name: value.to(state.model.logit_scale) for name, value in kept.items()}
            for kept in (self.fisher, self.anchor))
        trained = tower_weights(state.model)
        held = [name for name in trained if name in self.fisher]
        self.held = [[kept[name] for name in held] for kept in (trained, self.anchor, self.fisher)]
        if self.fisher and len(held) < len(trained):
            print(f"note: EWC protects {len(held)} of the {len(trained)} tensors that train: the others did not train "
                  "in an earlier task")

    def losses(self, state, batch):
        losses = self.plain.losses(state, batch)
        if self.held[0]:
            losses["ewc"] = self.strength / 2 * l2_distance(*self.held)
        return losses

    def after_step(self, state):
        self.plain.after_step(state)

    def end(self, state):
        state.model.load_state_dict(state.final_model.state_dict())  # the average, if one is kept
        with in_eval_mode(state.model):
            found = self.fisher_of_task(state)
        for name in dict.fromkeys([*self.fisher, *found]):
            self.fisher[name] = self.decay * self.fisher.get(name, 0) + found.get(name, 0)
        weights = dict(state.model.named_parameters())
        self.anchor = {name: weights[name].detach().clone() for name in self.fisher}

    def fisher_of_task(self, state):
        """Return {name: F_t of a trained weight}. Gradients are computed without autocast."""
        trained = tower_weights(state.model)
        weights, count = list(trained.values()), 0
        squares = [torch.zeros_like(weight) for weight in weights]
        for logs, label, index in (self.pairs if state.task.pairs else self.images)(state):
            log = self.log_likelihood(logs, label, seed_of(state.seed_of("labels"), index))
            gradients = torch.autograd.grad(log, weights, retain_graph=True)  # the next image reuses the texts' graph
            torch._foreach_addcmul_(squares, gradients, gradients)
            count += 1
        count = state.world.sum(torch.tensor(count, device=squares[0].device))
        return {name: state.world.sum(square) / count for name, square in zip(trained, squares, strict=True)}

    def log_likelihood(self, logs, label, seed):
        """Return the scalar to differentiate for one image: the mean over ``logs``, vectors (C,) of log p,
        of the entry at the label, or at a class drawn with ``seed``. ``weighted`` multiplies by sqrt(p), so
        that the square is weighted by p."""
        labels = [label] * len(logs)
        if self.kind == "true":
            generator = torch.Generator().manual_seed(seed)
            labels = [torch.multinomial(log.detach().exp().cpu(), 1, generator=generator).item() for log in logs]
        log = sum(log[label] for log, label in zip(logs, labels, strict=True)) / len(logs)
        return log * log.detach().div(2).exp() if self.kind == "weighted" else log

    def images(self, state):
        """Yield ([(C,) log p over the classes of its task], label among them, index) of each training
        image. Encodes the texts once."""
        classifiers = [fixed(state, scores) for scores in self.plain.classes.scores]
        first = [0, *itertools.accumulate(self.plain.classes.sizes)]
        for batch in state.once(state.task.split("train"), "fisher", state.settings.batch_size):
            for image, label, index in zip(batch.images, batch.labels.tolist(), batch.indices.tolist(), strict=True):
                part = bisect_right(first, label) - 1
                scores = classifiers[part](image_features(state.model, image[None]))
                yield [scores[0].log_softmax(dim=0)], label - first[part], index

    def pairs(self, state):
        """Yield ([(N,) log p of the batch's texts, (N,) of its images], own position, index) of each pair
        of a full batch. Each process encodes the whole batch and differentiates its own pairs."""
        split, model = state.task.split("train"), state.model
        size = min(state.settings.batch_size, len(split))
        for own in state.once(split, "fisher", size, shuffle=True, drop_last=True,
                              captions=state.settings.caption_choice):
            labels = state.world.gather(own.labels)
            batch = own._replace(images=state.world.gather(own.images), labels_on_host=labels.cpu())
            texts = text_features(model, self.plain.pairs(state, batch))                      # (N, D)
            scores = similarity(image_features(model, batch.images), texts, model.logit_scale.exp())
            i2t, t2i = scores.log_softmax(dim=1), scores.T.log_softmax(dim=1)                # (N, N)
            for place, index in enumerate(own.indices.tolist(), state.world.first_row(own.images)):
                yield [i2t[place], t2i[place]], place, index

    def copies(self):
        return {"Fisher information": self.fisher, "weights of the last task": self.anchor}

    def carry(self):
        return {name: {key: value.cpu() for key, value in kept.items()}
                for name, kept in (("fisher", self.fisher), ("anchor", self.anchor))}

    def load_carry(self, content):
        self.fisher, self.anchor = dict(content.get("fisher", {})), dict(content.get("anchor", {}))


def tower_weights(model):
    """Return {name: parameter} of what trains, without a linear head."""
    return {name: value for name, value in model.named_parameters()
            if value.requires_grad and not name.startswith("head.")}


def fixed(state, scores):
    """Return a classifier, (B, D) -> (B, C), whose texts are encoded once, with gradient. A linear head is
    returned as it is."""
    if not isinstance(scores, Prompts):
        return scores
    texts = scores.features()
    return lambda features: similarity(features, texts, state.scale)
