"""Fine-tuning on class data, and the methods that add distillation to it: Finetune, Distill, LwF, ZSCL."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from src.datasets.seeds import order_of_epoch, seed_of
from src.machine.files import may_write
from src.models.batch_norms import StepNorms
from src.models.helpers import divergence, image_pairs, interpolate_, similarity
from src.models.hooks import Hooks
from src.models.kept_features import kept_features
from src.models.modeling import (
    batch_features,
    constant_text_features,
    image_features,
    random_tokens,
    text_features,
    tokens_of,
)


class Finetune(Hooks):
    """Cross-entropy over the task's own classes: CE(s f(x) g(prompts)^T, y) with one prompt per class
    (Radford et al., 2021); in the fc modes CE(head(f(x)), y).

    ``ls``: label smoothing.
    """

    all_used = True

    def __init__(self, ls=0.0):
        self.label_smoothing = ls

    def begin(self, state):
        scores = [Prompts(state, state.prompts(part)) for part in state.task.parts] or [
            state.head or Prompts(state, state.prompts(state.task))]
        self.classes = ClassesOfTasks(scores, [len(part.classnames) for part in state.task.parts or [state.task]])

    def losses(self, state, batch):
        features = batch_features(state.model, batch)                                        # (B, D)
        return {"task": self.classes.cross_entropy(batch, features, self.label_smoothing)}


class ClassesOfTasks:
    """Classifiers of several tasks, (B, D) -> (B, C_t) each, for batches whose labels run through all of them."""

    def __init__(self, scores, sizes):
        self.scores, self.sizes = scores, sizes

    def cross_entropy(self, batch, features, label_smoothing=0.0):
        """Return the mean cross-entropy over a batch with features (B, D), each row over its own task's
        classes; NaN for 0 rows. Scores only tasks that occur in the batch."""
        if len(self.scores) == 1 or not len(features):
            return F.cross_entropy(self.scores[0](features), batch.labels, label_smoothing=label_smoothing)
        first, total = 0, features.new_zeros(())
        here = batch.labels_on_host  # shows which tasks occur without waiting for the device
        for scores, size in zip(self.scores, self.sizes, strict=True):
            rows = ((here >= first) & (here < first + size)).nonzero()[:, 0].to(features.device, non_blocking=True)
            if len(rows):
                total = total + F.cross_entropy(scores(features[rows]), batch.labels[rows] - first, reduction="sum",
                                                label_smoothing=label_smoothing)
            first += size
        return total / len(batch.labels)


class Prompts:
    """The text classifier over prompts, (B, D) -> s f g^T (B, C). A text tower that does not train encodes
    them once."""

    def __init__(self, state, prompts):
        self.state, self.constant = state, None
        tokens = tokens_of(state.model, prompts)                                             # (C, L)
        if state.trains("text"):
            self.texts = state.packed(tokens)
        else:
            with state.device.autocast(), state.attached():
                self.constant = constant_text_features(state.model, tokens)                  # (C, D)

    def features(self):
        """Return the text features (C, D), with gradient if the text tower trains."""
        return text_features(self.state.model, self.texts) if self.constant is None else self.constant

    def __call__(self, features):
        return similarity(features, self.features(), self.state.scale)                       # (B, D) x (C, D) -> (B, C)


@dataclass
class Reference:
    """What a distilling method compares on: a frozen ``teacher``, a split of ``images``, and ``tokens`` (M,
    L) of texts.
    ``from_code``: a function of the user's gives the images."""

    teacher: Any
    images: Any
    tokens: torch.Tensor
    from_code: bool = False


class TeacherFeatures:
    """A frozen teacher's features of reference images, Batch -> (B, D), without gradient.

    ``size``: the number of images, for a fixed set under one transform. Each image is then encoded once,
    together with the other new ones of its first step, and looked up afterwards. Because kernels round
    depending on what else is in a batch, the numbers agree with a teacher run at every step up to rounding.
    The table is still a function of the stream alone, so equal runs are bit-identical; an interrupted run
    must repeat the first visits. ``table`` (N, D): of all images of such a set, NaN for those that have no features.
    """

    def __init__(self, teacher, size=None, table=None):
        self.teacher, self.table = teacher, table
        if table is not None:
            self.known = ~table[:, 0].isnan().cpu()
            return
        if size is not None:
            self.table = teacher.logit_scale.new_empty(size, teacher.text_projection.shape[1])   # (N, D)
            self.known = torch.zeros(size, dtype=torch.bool)  # on the host: a lookup does not wait for the device

    @torch.no_grad()
    def __call__(self, batch):
        if self.table is None:
            return image_features(self.teacher, batch.images)
        device = self.table.device
        rows = batch.indices.to(device, non_blocking=True)
        new = (~self.known[batch.indices]).nonzero()[:, 0]                                   # rows of the batch
        if len(new):
            self.known[batch.indices[new]] = True
            new = new.to(device, non_blocking=True)
            self.table[rows[new]] = image_features(self.teacher, batch.images[new])
        return self.table[rows]


class Distill(Finetune):
    """The task loss plus distillation from a teacher on reference images, against fixed reference texts.

    Each term is the KL divergence, KD(a, b) minus the entropy of a: the same gradient, and 0 where they
    agree. With Z_S = s f' g_T^T of the student and Z_T = s f_T g_T^T of the teacher, both (B, M), and g_T
    the **teacher's** text features: ``image_loss`` is KD(Z_T, Z_S), rows are images; ``text_loss`` is
    KD(Z_T^T, Z_S^T), rows are texts and the softmax runs over the batch. If neither is given, both apply.
    ``weight_adjust`` weights them 0.5 instead of 1.

    ``feature_mse`` adds MSE(f_T, f'), ``ablation_loss_2`` image-image KD (``image_pairs``). All of these
    reach the image tower only; ``distill_text_tower`` adds terms for the text tower, weighted by
    ``text_tower_weight``.

    The teacher encodes each reference image once per task and its features are kept if
    ``cache_ref_features`` is set, or if it would otherwise see each image more than twice; ``keep_ref_features``:
    in a file, for all tasks and runs (``src.models.kept_features``). A subclass defines in ``reference`` what to
    compare on.
    """

    other_terms = ("image_kl", "text_kl", "image_pair_kl", "feature_mse", "text_tower_image_kl", "text_tower_text_kl")

    def __init__(self, ls=0.0, T=2.0, image_loss=False, text_loss=False, weight_adjust=False, feature_mse=False,
                 ablation_loss_2=False, distill_text_tower=False, text_tower_weight=1.0, ref_batch_size=None,
                 cache_ref_features=False, keep_ref_features=False):
        super().__init__(ls)
        self.T, self.weight = T, 0.5 if weight_adjust else 1.0
        self.image_loss, self.text_loss = (image_loss, text_loss) if image_loss or text_loss else (True, True)
        self.feature_mse, self.ablation_loss_2 = feature_mse, ablation_loss_2
        self.text_tower_weight = self.weight * text_tower_weight if distill_text_tower else None
        self.ref_batch_size, self.cache_ref_features = ref_batch_size, cache_ref_features
        self.keep_ref_features, self.teacher = keep_ref_features, None

    def reference(self, state):
        """Return the Reference."""
        raise NotImplementedError

    def begin(self, state):
        super().begin(state)
        reference = self.reference(state)
        self.teacher, self.reference_tokens = reference.teacher, reference.tokens
        with state.device.autocast():
            self.reference_texts = constant_text_features(self.teacher, reference.tokens)    # (M, D), once per task
        self.norms = StepNorms(state.model, state.world.size, "reference images")
        self.batch_size = self.ref_batch_size or state.settings.batch_size
        stream = reference.images, "reference", self.batch_size
        self.reference_images = state.stream(*stream)
        self.teacher_features = self.features_of(state, reference, stream)

    def features_of(self, state, reference, stream):
        """The TeacherFeatures of a Reference whose images come by ``stream``."""
        size = len(reference.images)
        if self.keep_ref_features and not state.planned and may_write():
            return TeacherFeatures(self.teacher, table=kept_features(state, self.teacher, reference))
        keeps = self.keep_ref_features or self.keeps_features(state, size)
        found = TeacherFeatures(self.teacher, size if keeps else None)
        with state.device.autocast():
            for visit in state.first_visits(*stream) if keeps else ():
                found(visit)
        return found

    def copies(self):
        return {"teacher": [self.teacher, self.teacher_features.table]} if self.teacher else {}

    def keeps_features(self, state, images):
        """Return whether a table of the teacher's features of ``images`` reference images is worth it:
        below two visits per image, a process would hardly encode more without one."""
        asked = state.settings.iterations * self.batch_size // state.world.size
        return self.cache_ref_features or asked > 2 * images

    def losses(self, state, batch):
        reference = next(self.reference_images)
        batch, student = self.encode(state, batch, reference)
        teacher = self.teacher_features(reference)                                           # (B, D)
        return {**super().losses(state, batch), **self.comparison(state, reference, student, teacher)}

    def encode(self, state, batch, reference):
        """Return (the Batch, perhaps with features; the student's features (B, D) of the reference images,
        None if unused).

        Encodes both batches in one forward, which halves the launches, if that gives the same result and
        takes no more memory; a part of ``--grad-accum`` is a part of one batch.
        """
        model = state.model
        if not self.needs_student(state):
            return batch, None
        if batch.features is not None or model.parts > 1 or not state.encodes_rows_alone():
            with self.norms(len(reference.labels) * state.world.size, reference.skipped):
                return batch, image_features(model, reference.images)
        images = torch.cat([batch.images, reference.images])
        own, student = image_features(model, images).split([len(batch.images), len(reference.images)])
        return batch._replace(features=own), student

    def needs_student(self, state):
        """Return whether ``comparison`` reads the student's features; the text tower's terms do not."""
        return state.trains("image")

    def comparison(self, state, reference, student, teacher):
        """Return {name: weighted term} between student and teacher features (B, D) of a reference Batch;
        ``student`` is None if unused."""
        losses = {}
        if state.trains("image"):
            losses |= self._image_tower(state, student, teacher)
        if self.text_tower_weight is not None:
            losses |= self._text_tower(state, teacher)
        return losses

    def _image_tower(self, state, student, teacher):
        student_logits = similarity(student, self.reference_texts, state.scale)              # (B, D) x (M, D) -> (B, M)
        teacher_logits = similarity(teacher, self.reference_texts, state.scale)
        world, losses = state.world, {}
        if self.image_loss:
            losses["image_kl"] = self.weight * divergence(teacher_logits, student_logits, self.T)
        if self.text_loss:  # each process has the whole (M, B of all), so the mean over processes equals its loss
            losses["text_kl"] = self.weight * divergence(
                world.gather(teacher_logits).T, world.gather(student_logits).T, self.T)
        if self.ablation_loss_2:  # rows are the process's own images, columns those of all processes
            losses["image_pair_kl"] = self.weight * divergence(*(
                image_pairs(features, state.scale, world.gather(features), world.first_row(features))
                for features in (teacher, student)), self.T)
        if self.feature_mse:
            losses["feature_mse"] = F.mse_loss(student, teacher)
        return losses

    def _text_tower(self, state, teacher):
        """Return KD terms in both directions for the text tower.

        They compare the teacher's image features against the teacher's and against the **student's**
        features of a sampled batch of the reference texts. Only this term lets the teacher reach the text
        tower.
        """
        generator = torch.Generator().manual_seed(seed_of(state.seed_of("sampled texts"), state.iteration))
        rows = torch.randperm(len(self.reference_tokens), generator=generator)[:self.batch_size]
        rows = rows.to(self.reference_tokens.device, non_blocking=True)
        student_texts = text_features(state.model, self.reference_tokens[rows])              # (K, D)
        teacher_logits = similarity(teacher, self.reference_texts[rows], state.scale)        # (B, D) x (K, D) -> (B, K)
        student_logits = similarity(teacher, student_texts, state.scale)
        return {"text_tower_image_kl": self.text_tower_weight * divergence(teacher_logits, student_logits, self.T),
                "text_tower_text_kl": self.text_tower_weight * divergence(
                    state.world.gather(teacher_logits).T, state.world.gather(student_logits).T, self.T)}


def reference_texts(state, ref_sentences, text_datasets, default):
    """Return the tokens (M, L) of the reference texts: ``text_datasets`` > random > ``ref_sentences`` >
    ``default`` (a list). ``ref_sentences`` names a dataset with sentences, or one with classes: its
    training prompts (Zheng et al., 2023)."""
    if ref_sentences == "random" and not text_datasets:
        return random_tokens(state.model, state.settings.seed)
    if text_datasets:
        texts = [prompt for name in text_datasets for prompt in state.open_task(name).prompts()]
    elif ref_sentences:
        task = state.open_task(ref_sentences)
        texts = task.sentences or task.prompts()
    else:
        texts = default
    return tokens_of(state.model, texts)


class LwF(Distill):
    """Learning without forgetting (Li and Hoiem, 2016) for CLIP: the teacher is the model at the start of
    the task, on the task's own images and prompts."""

    all_used = True

    def __init__(self, ls=0.0, ref_sentences=None, text_datasets=(), **options):
        super().__init__(ls, **options)
        self.ref_sentences, self.text_datasets = ref_sentences, text_datasets

    def reference(self, state):
        texts = reference_texts(state, self.ref_sentences, self.text_datasets, state.task.prompts())
        return Reference(state.teacher, state.task.split("train"), texts, state.task.from_code)


class ZSCL(Distill):
    """ZSCL (Zheng et al., 2023, arXiv:2303.06628).

    The teacher is zero-shot CLIP, or ``ref_model``, or with ``ref_wise`` (1 - a) zero-shot + a weights at
    load, a = ``ref_wise_alpha``; on the images of ``ref_dataset``, or a seeded subset of ``ref_size``.
    """

    all_used = True

    def __init__(self, ref_dataset, ref_model=None, ref_wise=False, ref_wise_alpha=0.8, ref_size=None,
                 ref_sentences=None, text_datasets=(), **options):
        super().__init__(**options)
        self.ref_dataset, self.ref_model, self.ref_size = ref_dataset, ref_model, ref_size
        self.alpha = ref_wise_alpha if ref_wise else 0.0
        self.ref_sentences, self.text_datasets = ref_sentences, text_datasets

    def reference(self, state):
        reference = state.open_task(self.ref_dataset)
        if self.alpha:
            teacher, zeroshot = state.frozen(), state.zeroshot(self.ref_model).state_dict()
            interpolate_(teacher, {**teacher.state_dict(), **zeroshot}, self.alpha)  # the teacher has no head
            teacher = state.lowered(teacher)
        else:
            teacher = state.zeroshot_teacher(self.ref_model)
        images = reference.reference_split
        if self.ref_size is not None:
            seed = seed_of(state.settings.seed, reference.name, "reference subset")  # the same in every task
            images = images.subset(sorted(order_of_epoch(len(images), seed, 0)[:self.ref_size]))
        images = state.kept(reference, images, "reference")
        texts = reference_texts(state, self.ref_sentences, self.text_datasets, reference.prompts())
        return Reference(teacher, images, texts, reference.from_code)
