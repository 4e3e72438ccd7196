"""Rows that time a training step against ``published_loop``; each returns a dict for ``benchmarks.run``."""

import time

import torch

from benchmarks.harness import compared, in_turns, summary
from benchmarks.our_step import TEMPLATE, OurStep, batch_of
from benchmarks.published_loop import PublishedLoop, plain_copy
from benchmarks.sizes import class_names, random_images, random_model
from benchmarks.sizes import sentences as some_sentences
from clip import tokenize
from src.datasets.common import fill
from src.machine.device import Device
from src.models.modeling import constant_text_features, frozen_copy, tokens_of

TOLERANCE = {"fp64": 1e-9, "fp32": 1e-4, "bf16": 2e-2}  # of the loss before the first step, relative


class Pair:
    """Both sides of a step, from equal weights on equal images and texts.

    ``sentences`` 0 means plain fine-tuning. The peer runs in fp32 (fp64 if ours does), as published, unless
    ``peer_too`` wraps it in our autocast.
    """

    def __init__(self, model, classes, batch, sentences=0, precision="fp32", device="cpu", peer_too=False):
        self.device = Device(device, precision)
        place = self.device.device
        ours = self.device.place(random_model(model))
        names, texts = class_names(classes), some_sentences(sentences)
        images, reference = (random_images(batch, ours.image_resolution, seed).to(place, self.device.weight_type)
                             for seed in (0, 1))
        labels = (torch.arange(batch) % classes).to(place)
        self.given = (images, labels, reference)
        teacher = plain_copy(ours).eval().requires_grad_(False) if sentences else None
        self.peer = PublishedLoop(plain_copy(ours), tokenize([fill(TEMPLATE, name) for name in names]).to(place),
                                  teacher, tokenize(texts).to(place) if sentences else None,
                                  **({"autocast": self.device.autocast} if peer_too else {}))
        self.ours = OurStep(ours, self.device, names, batch_of(images, labels), texts or None,
                            batch_of(reference, labels))

    def step_of_peer(self):
        return self.peer.step(*self.given)

    def check(self):
        """Compare both sides before a first step, which warms them up; return what was compared."""
        ours = sum(self.ours.losses().values()).detach()
        with self.peer.autocast():
            peer = sum(self.peer.losses(*self.given, divergences=True).values()).detach()
        self.ours()
        self.step_of_peer()
        return [compared("loss before the first step", ours, peer, TOLERANCE[self.device.precision])]


def training_step(model, classes, batch, rounds, sentences=0, precision="fp32", budget=None):
    """Time a step of fine-tuning, or with ``sentences`` of ZSCL."""
    pair = Pair(model, classes, batch, sentences, precision)
    checks = pair.check()
    return {**summary(*in_turns(pair.ours, pair.step_of_peer, rounds, budget)), "checks": checks}


def many_sentences(model, classes, batch, sentences, part, rounds, precision="fp32", budget=None):
    """Time ZSCL with more sentences than the published step could be timed on in minutes.

    The peer runs with ``part`` of them, and the time of its teacher on those is added (sentences - part) /
    part times. Ours runs with all of them; its time for them, once per task, is reported separately.
    """
    pair = Pair(model, classes, batch, part, precision)
    checks = pair.check()
    once = _all_sentences(pair, sentences)
    with torch.no_grad():
        encode = in_turns(lambda: pair.peer.teacher.encode_text(pair.peer.sentences), lambda: None, 1)[0][0]
    ours, timed = in_turns(pair.ours, pair.step_of_peer, rounds, budget)
    added = encode * (sentences - part) / part
    return {**summary(ours, [seconds + added for seconds in timed]), "checks": checks, "scaled": True,
            "once_a_task_s": once, "note": f"published side timed with {part} sentences ({timed[0]:.2f} s), "
            f"{added:.1f} s added for the other {sentences - part}"}


def _all_sentences(pair, count):
    """Give our side all sentences; return the seconds that its teacher needs for them, once per task."""
    method, start = pair.ours.method, time.perf_counter()
    with pair.device.autocast():
        method.reference_texts = constant_text_features(
            method.teacher, tokens_of(method.teacher, some_sentences(count)))
    return time.perf_counter() - start


def bf16_steps(model, classes, batch, sentences, rounds):
    """Run ZSCL steps in bf16 and in fp32 from equal weights on one batch: their losses must agree within 2
    % of the largest."""
    start, names, texts = random_model(model), class_names(classes), some_sentences(sentences)
    images, reference = (random_images(batch, start.image_resolution, seed) for seed in (0, 1))
    labels, losses = torch.arange(batch) % classes, {"bf16": [], "fp32": []}

    def side(precision):
        step = OurStep(frozen_copy(start), Device("cpu", precision), names, batch_of(images, labels), texts,
                       batch_of(reference, labels))
        return lambda: losses[precision].append(step().item())

    times = in_turns(side("bf16"), side("fp32"), rounds)
    return {**summary(*times), "losses": losses,
            "checks": [compared(f"losses of {rounds} steps", losses["bf16"], losses["fp32"], TOLERANCE["bf16"])]}
