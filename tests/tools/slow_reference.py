"""Slow and obvious renderings of the formulas: one image, one text, one score at a time. Nothing of ``src`` is used.

A model is only asked for ``encode_image`` and ``encode_text`` of single inputs; everything else is written out here.
Scores are Python lists of scalar tensors, so that gradients flow through every step.
"""

import hashlib
import math

import torch


def unit(vector):
    """A vector of length 1."""
    return vector / (vector * vector).sum().sqrt()


def image_feature(model, image):
    return unit(model.encode_image(image.unsqueeze(0)).squeeze(0))


def text_feature(model, tokens):
    return unit(model.encode_text(tokens.unsqueeze(0)).squeeze(0))


def image_features(model, images):
    return [image_feature(model, image) for image in images]


def text_features(model, tokens):
    return [text_feature(model, row) for row in tokens]


def scores(features, others, scale):
    """Rows of scale * cosine, as lists."""
    return [[scale * torch.dot(feature, other) for other in others] for feature in features]


def transposed(rows):
    return [list(column) for column in zip(*rows, strict=True)]


def log_softmax(row):
    highest = max(float(value.detach()) for value in row)
    total = sum(torch.exp(value - highest) for value in row)
    return [value - highest - torch.log(total) for value in row]


def mean(values):
    return sum(values) / len(values)


def smoothed_cross_entropy(row, label, smoothing):
    """(1 - ls) of the weight on the true class, ls spread evenly over all classes, the true one included."""
    logs = log_softmax(row)
    return -sum(((1 - smoothing) * (number == label) + smoothing / len(row)) * value
                for number, value in enumerate(logs))


def task_loss(model, images, labels, tokens, smoothing, scale):
    rows = scores(image_features(model, images), text_features(model, tokens), scale)
    return mean([smoothed_cross_entropy(row, int(label), smoothing) for row, label in zip(rows, labels, strict=True)])


def tempered_cross_entropy(teacher_rows, student_rows, temperature):
    """T^2 * mean over rows of -sum p_teacher log p_student, both softened by T."""
    terms = []
    for teacher, student in zip(teacher_rows, student_rows, strict=True):
        wanted = [torch.exp(value) for value in log_softmax([score / temperature for score in teacher])]
        given = log_softmax([score / temperature for score in student])
        terms.append(-sum(p * q for p, q in zip(wanted, given, strict=True)))
    return temperature ** 2 * mean(terms)


def tempered_divergence(teacher_rows, student_rows, temperature):
    """T^2 * mean over rows of KL(teacher || student), both softened by T."""
    terms = []
    for teacher, student in zip(teacher_rows, student_rows, strict=True):
        wanted = log_softmax([score / temperature for score in teacher])
        given = log_softmax([score / temperature for score in student])
        terms.append(sum(torch.exp(p) * (p - q) for p, q in zip(wanted, given, strict=True)))
    return temperature ** 2 * mean(terms)


def pair_scores(features, scale):
    """Rows of scale * cosine of every image with every other; -1e4 with itself."""
    rows = scores(features, features, scale)
    return [[torch.full_like(value, -1e4) if one == other else value for other, value in enumerate(row)]
            for one, row in enumerate(rows)]


def distillation_terms(student, teacher, images, tokens, scale, temperature, image_loss, text_loss, weight=1.0,
                       feature_mse=False, image_pairs=False):
    """Named terms against the teacher's texts, {"image_kl", "text_kl", "image_pair_kl", "feature_mse"}."""
    with torch.no_grad():
        texts, taught = text_features(teacher, tokens), image_features(teacher, images)
    learnt = image_features(student, images)
    teacher_rows, student_rows = scores(taught, texts, scale), scores(learnt, texts, scale)
    terms = {}
    if image_loss:
        terms["image_kl"] = weight * tempered_divergence(teacher_rows, student_rows, temperature)
    if text_loss:
        teacher_rows, student_rows = transposed(teacher_rows), transposed(student_rows)
        terms["text_kl"] = weight * tempered_divergence(teacher_rows, student_rows, temperature)
    if image_pairs:
        teacher_rows, student_rows = pair_scores(taught, scale), pair_scores(learnt, scale)
        terms["image_pair_kl"] = weight * tempered_divergence(teacher_rows, student_rows, temperature)
    if feature_mse:
        squares = [(a - b) ** 2 for one, two in zip(learnt, taught, strict=True) for a, b in zip(one, two, strict=True)]
        terms["feature_mse"] = mean(squares)
    return terms


def text_tower_terms(student, teacher, images, tokens, scale, temperature, weight):
    """Named terms between the teacher's images against the teacher's texts and against the student's: rows are images,
    then rows are texts."""
    with torch.no_grad():
        taught, texts = image_features(teacher, images), text_features(teacher, tokens)
    teacher_rows, student_rows = scores(taught, texts, scale), scores(taught, text_features(student, tokens), scale)
    return {"text_tower_image_kl": weight * tempered_divergence(teacher_rows, student_rows, temperature),
            "text_tower_text_kl": weight * tempered_divergence(transposed(teacher_rows), transposed(student_rows),
                                                               temperature)}


def seed_of(*parts):
    """The upper 63 bits of an 8 byte BLAKE2b digest of the tuple as Python prints it."""
    return int(hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest(), 16) // 2


def sampled_texts(count, size, iteration, name="tiny", seed=42):
    """Which of ``count`` reference texts a step distils the text tower on: the first of a seeded permutation."""
    generator = torch.Generator().manual_seed(seed_of(seed_of(seed, name, "sampled texts"), iteration))
    return torch.randperm(count, generator=generator).tolist()[:size]


def herding(features, count):
    """Every remaining candidate is tried as the next pick; the one that brings the mean closest wins, the first of
    equals."""
    rows, chosen = [[float(value) for value in feature] for feature in features], []
    wanted = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    while len(chosen) < min(count, len(rows)):
        distances = {}
        for candidate in range(len(rows)):
            if candidate not in chosen:
                picked = [rows[index] for index in (*chosen, candidate)]
                centre = [sum(column) / len(picked) for column in zip(*picked, strict=True)]
                distances[candidate] = math.dist(centre, wanted)
        chosen.append(min(distances, key=distances.get))
    return chosen


def prompt_scores(model, tokens, scale):
    """-> feature -> its row of scores over prompts."""
    texts = text_features(model, tokens)
    return lambda feature: scores([feature], texts, scale)[0]


def head_scores(packed):
    """-> feature -> its row of scores by a linear head whose last column is the bias."""
    return lambda feature: [torch.dot(row[:-1], feature) + row[-1] for row in packed]


def replay_loss(model, images, labels, score_functions, smoothing):
    """``labels``: a pair (dataset, class) an image; ``score_functions``: feature -> row, for each dataset."""
    rows = [score_functions[dataset](image_feature(model, image))
            for image, (dataset, _) in zip(images, labels, strict=True)]
    return mean([smoothed_cross_entropy(row, label, smoothing) for row, (_, label) in zip(rows, labels, strict=True)])


def learning_rate(step, total, warmup, peak):
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


class AdamW:
    """Decoupled weight decay, then Adam with bias correction (Loshchilov and Hutter, 2019), tensor by tensor."""

    def __init__(self, parameters, beta2=0.999, eps=1e-8, decay=0.0):
        self.parameters, self.beta1, self.beta2, self.eps, self.decay = list(parameters), 0.9, beta2, eps, decay
        self.first = [torch.zeros_like(value) for value in self.parameters]
        self.second = [torch.zeros_like(value) for value in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients, rate):
        self.steps += 1
        for index, (value, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            self.first[index] = self.beta1 * self.first[index] + (1 - self.beta1) * gradient
            self.second[index] = self.beta2 * self.second[index] + (1 - self.beta2) * gradient ** 2
            first = self.first[index] / (1 - self.beta1 ** self.steps)
            second = self.second[index] / (1 - self.beta2 ** self.steps)
            value -= rate * self.decay * value
            value -= rate * first / (second ** 0.5 + self.eps)


def train(parameters, loss_of, batches, rates, **options):
    """Step by step on ``batches`` with the learning ``rates``; ``loss_of(step, batch) -> scalar``."""
    optimizer = AdamW(parameters, **options)
    for step, (batch, rate) in enumerate(zip(batches, rates, strict=True)):
        gradients = torch.autograd.grad(loss_of(step, batch), optimizer.parameters)
        optimizer.step(gradients, rate)


@torch.no_grad()
def zeroshot_weights(model, tokens_by_class):
    """Rows of tokens for each class, one a template -> a unit vector a class."""
    weights = []
    for tokens in tokens_by_class:
        total = torch.zeros_like(text_feature(model, tokens[0]))
        for row in tokens:
            total = total + text_feature(model, row)
        weights.append(unit(total / len(tokens)))
    return weights


def rank_of(row, label):
    """How many classes come before the true one; equal scores by class number."""
    order = sorted(range(len(row)), key=lambda number: (-float(row[number]), number))
    return order.index(label)


@torch.no_grad()
def accuracies(model, images, labels, weights, ks):
    """Percent of images whose class is among the k highest scores, for each k."""
    ranks = [rank_of(scores([image_feature(model, image)], weights, 1.0)[0], int(label))
             for image, label in zip(images, labels, strict=True)]
    return [100 * sum(rank < k for rank in ranks) / len(ranks) for k in ks]


def pair_loss(rows):
    """Rows of scores of N images with N texts, the i-th text belonging to the i-th image: half the mean cross-entropy
    of the rows and half that of the columns."""
    directions = [mean([-log_softmax(row)[own] for own, row in enumerate(side)]) for side in (rows, transposed(rows))]
    return (directions[0] + directions[1]) / 2


def own_is_highest(rows):
    """For each row, whether no other score is as high as its own pair's."""
    return [all(float(row[own]) > float(value) for other, value in enumerate(row) if other != own)
            for own, row in enumerate(rows)]


def off_diagonal_divergence(before, now, temperature, reduction):
    """As the paper has it: a row of ``before`` that ranks another pair first is overwritten by that of ``now``."""
    terms = []
    for right, old_row, new_row in zip(own_is_highest(before), before, now, strict=True):
        aim = old_row if right else [value.detach() for value in new_row]
        wanted = log_softmax([value / temperature for value in aim])
        given = log_softmax([value / temperature for value in new_row])
        terms.append(sum(torch.exp(p) * (p - q) for p, q in zip(wanted, given, strict=True)))
    return sum(terms) if reduction == "sum" else mean(terms)


def modx_terms(model, old, images, tokens, alpha=20.0, temperature=1.0, reduction="sum"):
    """({"contrastive", "off_diagonal"}, {"keep_i2t", "keep_t2i", "scale"}) of a batch of pairs."""
    with torch.no_grad():
        before = scores(image_features(old, images), text_features(old, tokens), 1.0)
    now = scores(image_features(model, images), text_features(model, tokens), 1.0)
    scale = torch.exp(model.logit_scale)
    sides = {"i2t": (before, now), "t2i": (transposed(before), transposed(now))}
    divergences = [off_diagonal_divergence(*side, temperature, reduction) for side in sides.values()]
    rates = {f"keep_{name}": mean(own_is_highest(side[0])) for name, side in sides.items()}
    return ({"contrastive": pair_loss([[scale * value for value in row] for row in now]),
             "off_diagonal": alpha * (divergences[0] + divergences[1]) / 2}, {**rates, "scale": scale.item()})


def drawn_caption(captions, seed, epoch, index):
    """The number, through all images' captions, of the one drawn for an image at a visit."""
    before = sum(len(texts) for texts in captions[:index])
    return before + seed_of(seed, epoch, index, "caption") % len(captions[index])


@torch.no_grad()
def move(model):
    """A model some steps away from where it was, deterministic; its temperature too."""
    generator = torch.Generator().manual_seed(11)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def gradients_of(loss, model):
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True)
    return dict(zip(named, gradients, strict=True))


def recursive_ridge(tasks, strength):
    """Ridge regression as RAIL's published code solves it, batch by batch: ``tasks`` [(classes, [(X (n, H), labels)])]
    -> W (H, sum of classes). R is the inverse of the regularised correlation of all inputs so far; before a task W
    gets a column of zeros for each new class, which stand behind those of earlier tasks."""
    size = len(tasks[0][1][0][0][0])
    inverse, weights = torch.eye(size, dtype=torch.float64) / strength, torch.zeros(size, 0, dtype=torch.float64)
    for classes, batches in tasks:
        first = weights.shape[1]
        weights = torch.cat([weights, torch.zeros(size, classes, dtype=torch.float64)], dim=1)
        for inputs, labels in batches:
            targets = torch.zeros(len(inputs), weights.shape[1], dtype=torch.float64)
            for row, label in enumerate(labels):
                targets[row, first + label] = 1
            middle = torch.eye(len(inputs), dtype=torch.float64) + inputs @ inverse @ inputs.T
            inverse = inverse - inverse @ inputs.T @ torch.linalg.inv(middle) @ inputs @ inverse
            weights = weights + inverse @ inputs.T @ (targets - inputs @ weights)
    return weights


def fused(probabilities, answers, trained, beta):
    """RAIL's scores of one image from lists over all classes: probabilities, the regression's answers (0 for classes
    that were not trained), and whether each class was trained."""
    best = max(range(len(probabilities)), key=lambda number: float(probabilities[number]))
    if not trained[best]:
        return list(probabilities)
    return [(1 - beta) * p + beta * y for p, y in zip(probabilities, answers, strict=True)]


def unified(tasks):
    """ConDU, task by task, value by value. ``tasks``: [{name: tensor d}] -> (U {name: [value]}, [{name: [bit]}], [l]);
    of an earlier task only l U m is left when the next one comes."""
    deltas, factors = [], []
    for task in tasks:
        deltas.append({name: [float(value) for value in tensor.flatten()] for name, tensor in task.items()})
        values, masks = {}, [{} for _ in deltas]
        for name in task:
            columns = list(zip(*(delta[name] for delta in deltas), strict=True))
            signs = [1.0 if mean(column) > 0 else -1.0 for column in columns]
            for mask, delta in zip(masks, deltas, strict=True):
                mask[name] = [d * sign > 0 for d, sign in zip(delta[name], signs, strict=True)]
            values[name] = [sign * max([abs(d) for d in column if d * sign > 0], default=0.0)
                            for column, sign in zip(columns, signs, strict=True)]
        factors = [sum(mean([abs(d) for d in delta[name]]) for name in task)
                   / sum(mean([abs(u) * bit for u, bit in zip(values[name], mask[name], strict=True)]) for name in task)
                   for delta, mask in zip(deltas, masks, strict=True)]
        deltas = [{name: [factor * u * bit for u, bit in zip(values[name], mask[name], strict=True)] for name in task}
                  for factor, mask in zip(factors, masks, strict=True)]
    return values, masks, factors


def nearest(feature, prototypes, most):
    """The numbers of the tasks, of their ``prototypes`` [(C, D)], with the ``most`` highest cosines to a feature."""
    heights = [max(float(torch.dot(feature, unit(row))) for row in rows) for rows in prototypes]
    return sorted(range(len(heights)), key=lambda number: (-heights[number], number))[:most]
