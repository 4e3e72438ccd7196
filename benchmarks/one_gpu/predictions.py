"""Predictions made before the GPU runs (ViT-B/16, batch 64 + 64, one H100 or H200), beside the
measurements.

``PREDICTIONS``: before the first run. ``SECOND``: after it and before the second, for the parts
projections, host and graph. ``THIRD``: before the third, for the parts changes, changes_parity and
changes_finetune. ``FOURTH``: before the fourth, for the parts packing and casts. ``FIFTH``: not run yet.
"""

from collections.abc import Callable
from dataclasses import dataclass

ZSCL = "ZSCL bf16 100 classes"


@dataclass(frozen=True)
class Prediction:
    """``measure``: {part: figures} -> a number in ``unit``. ``low``, ``high``: the predicted range; None
    means unbounded."""

    name: str
    low: float | None
    high: float | None
    unit: str
    measure: Callable


def ms(row, key="s", part="steps"):
    """Return a function for the milliseconds of a row in a part."""
    return lambda parts: 1000 * parts[part][row][key]


def more(row, base=ZSCL):
    """Return a function for the milliseconds that a row takes more than another."""
    return lambda parts: ms(row)(parts) - ms(base)(parts)


def value(part, *keys, scale=1.0):
    """Return a function for a figure of a part, times ``scale``."""
    def measure(parts):
        found = parts[part]
        for key in keys:
            found = found[key]
        return scale * found
    return measure


def ratio(part, row, base, key="s"):
    """Return a function for a row's figure divided by another's."""
    return lambda parts: parts[part][row][key] / parts[part][base][key]


def projections(parts):
    """Return the milliseconds of both projections of a step."""
    return ms("gradient", part="ogd")(parts) + ms("update", part="ogd")(parts)


PREDICTIONS = (
    Prediction("ZSCL step, bf16", 58, 72, "ms", ms(ZSCL)),
    Prediction("l2 adds", 5, 9, "ms", more(f"{ZSCL} + l2")),
    Prediction("padded prompts add", -3, -1, "ms", more(f"{ZSCL} padded")),
    Prediction("ZSCL step, tf32", 95, 130, "ms", ms("ZSCL tf32")),
    Prediction("ZSCL step, fp32", 330, 430, "ms", ms("ZSCL fp32")),
    Prediction("finetune step, 397 classes", 30, 38, "ms", ms("finetune bf16 397 classes")),
    Prediction("finetune step, batch 8", 18, 28, "ms", ms("finetune bf16 batch 8")),
    Prediction("ZSCL step, ViT-L/14", 210, 270, "ms", ms("ViT-L/14 ZSCL bf16")),
    Prediction("launches of a ZSCL step", 3700, 4300, "", value("steps", "profile", "launches")),
    Prediction("peak of a ZSCL step", 13, 16, "GB", value("steps", ZSCL, "peak_bytes", scale=1e-9)),
    Prediction("blocks compiled, of the eager step", 0.70, 0.85, "", ratio("compiled", "blocks", "eager")),
    Prediction("evaluation from files", 2000, 4000, "images/s", value("evaluation", "files", "images_per_s")),
    Prediction("evaluation from the cache", 7000, None, "images/s", value("evaluation", "cached", "images_per_s")),
    Prediction("both projections", 12, 16, "ms", projections),
    Prediction("losses, CPU against device, fp64", None, 1e-9, "", value("parity", "fp64", "loss")),
    Prediction("losses, CPU against device, fp32", None, 1e-4, "", value("parity", "fp32", "loss")),
    Prediction("losses, CPU against device, bf16", None, 2e-2, "", value("parity", "bf16", "loss")),
    Prediction("losses, CPU against device, fp16", None, 2e-2, "", value("parity", "fp16", "loss")),
)


def alternated(row, base, part="host", turns="in turns"):
    """Return a function for a variant's median step divided by that of another, alternated with it."""
    def measure(parts):
        found = parts[part][turns]
        return found[row]["median_s"] / found[base]["median_s"]
    return measure


def both_in_a_step(parts):
    """Return the milliseconds of both projections of a step, from the part ``projections``."""
    found = parts["projections"]["a step's"]
    return 1000 * (found["gradient"]["median_s"] + found["update"]["median_s"])


def small_operation(parts):
    """Return the host microseconds of one small operation on the device."""
    return parts["host"]["calls, us"]["add_ on the device"]


SECOND = (
    Prediction("ZSCL step as a CUDA graph", 70, 78, "ms", ms("whole step", "median_s", "graph")),
    Prediction("the same, l2 by foreach, one forward, padded, Triton", 60, 70, "ms",
               ms("whole step, all", "median_s", "graph")),
    Prediction("finetune step, batch 8, as a CUDA graph", 9, 16, "ms", ms("finetune batch 8", "median_s", "graph")),
    Prediction("losses, CUDA graph against eager", None, 1e-3, "", value("graph", "whole step", "losses_differ")),
    Prediction("bases projected off once, whole products", 45, 60, "ms",
               ms("whole products, as before", "median_s", "projections")),
    Prediction("the same in pieces of 4096", 5, 11, "ms", ms("pieces of 4096", "median_s", "projections")),
    Prediction("the same by Triton", 4, 7, "ms", ms("Triton", "median_s", "projections")),
    Prediction("the same by Triton, bases in bf16", 2, 5, "ms", ms("Triton, bases in bf16", "median_s", "projections")),
    Prediction("both projections of a step, in pieces", 14, 26, "ms", both_in_a_step),
    Prediction("one small operation on the device", 6, 14, "us", small_operation),
    Prediction("padded prompts, of the step as it is", 0.70, 0.85, "", alternated("padded prompts", "as it is")),
    Prediction("attention without cuDNN, of the same", 0.85, 0.97, "",
               alternated("attention without cuDNN", "as it is")),
    Prediction("one forward for both batches, of the same", 0.80, 0.92, "",
               alternated("one forward for both batches", "as it is")),
    Prediction("one thread, of the same", 0.95, 1.05, "", alternated("one thread", "as it is")),
    Prediction("l2 by foreach, of l2 as it is", 0.65, 0.80, "", alternated("l2 by foreach", "l2 as it is")),
    Prediction("l2 and all together, of l2 as it is", 0.40, 0.60, "", alternated("l2, all of these", "l2 as it is")),
)


def changed(row, base="as it is", turns="in turns"):
    """Return ``alternated`` for the part ``changes``."""
    return alternated(row, base, "changes", turns)


def tuned(row, base, turns):
    """Return ``alternated`` for the part ``changes_finetune``."""
    return alternated(row, base, "changes_finetune", turns)


def in_turns(row, key="median_s", part="changes", turns="in turns"):
    """Return a function for the milliseconds of an alternated row."""
    return value(part, turns, row, key, scale=1000)


def furthest_function(parts):
    """Return the largest distance of a function in fp64 between CPU and device."""
    return max(parts["changes_parity"]["functions"].values())


# Estimated from the second run (22 us of host per operation, 3,784 operations; device busy for 72 ms) with 1,736
# operations now, 2,048 with l2. The device saves: small kernels of packed prompts 4 ms, passes over the activation
# 4 ms, copies of the gradient of query, key and value 2 ms. So the device is the limit, and starting more operations
# costs little until the host becomes the limit again.
THIRD = (
    Prediction("ZSCL step as it is now", 60, 70, "ms", in_turns("as it is")),
    Prediction("host of the same", 33, 46, "ms", in_turns("as it is", "host_median_s")),
    Prediction("the same step as before", 94, 110, "ms", in_turns("as before")),
    Prediction("as it is, of as before", 0.58, 0.72, "", changed("as it is", "as before")),
    Prediction("with l2", 62, 74, "ms", in_turns("l2, as it is")),
    Prediction("with l2, of as before", 0.48, 0.62, "", changed("l2, as it is", "l2, as before")),
    Prediction("prompts packed again, of as it is", 0.98, 1.20, "", changed("prompts packed")),
    Prediction("two forwards again, of the same", 0.99, 1.06, "", changed("two forwards")),
    Prediction("activation by autograd again, of the same", 1.04, 1.12, "", changed("activation by autograd")),
    Prediction("qkv by unbind again, of the same", 1.01, 1.05, "", changed("qkv by unbind")),
    Prediction("cuDNN for texts again, of the same", 0.97, 1.03, "", changed("cuDNN for texts")),
    Prediction("l2 tensor by tensor again, of l2 as it is", 1.05, 1.40, "",
               changed("l2, tensor by tensor", "l2, as it is")),
    Prediction("activation by Triton, of as it is", 0.90, 0.97, "", changed("activation by Triton")),
    Prediction("evaluation forward, activation by Triton, of as it is", 0.84, 0.90, "",
               changed("activation by Triton", turns="evaluation")),
    Prediction("launches of a ZSCL step now", 1900, 2500, "", value("changes", "profile, as it is", "launches")),
    Prediction("launches with l2 now", 2200, 2900, "", value("changes", "profile, l2, as it is", "launches")),
    Prediction("device busy in a ZSCL step now", 57, 66, "ms",
               value("changes", "profile, as it is", "busy_s", scale=1000)),
    Prediction("peak of a ZSCL step now, with anchors of l2", 11.6, 13.2, "GB",
               value("changes", "peaks", "as it is", scale=1e-9)),
    Prediction("a text of a new length", None, 60, "ms",
               value("changes", "new text shapes", "as it is", "s", scale=1000)),
    Prediction("the same with cuDNN", 100, 700, "ms", value("changes", "new text shapes", "cuDNN", "s", scale=1000)),
    Prediction("finetune step, batch 8, now", 26, 38, "ms",
               in_turns("as it is", part="changes_finetune", turns="finetune, batch 8, 47 classes")),
    Prediction("finetune step, 397 classes, now", 32, 44, "ms",
               in_turns("as it is", part="changes_finetune", turns="finetune, 397 classes")),
    Prediction("finetune, 397 classes, packed of padded", 1.3, 2.0, "",
               tuned("prompts packed", "prompts padded", "finetune, 397 classes")),
    Prediction("finetune, 1000 classes, packed of padded", 1.1, 1.6, "",
               tuned("prompts packed", "prompts padded", "finetune, 1000 classes")),
    Prediction("ZSCL, 1000 classes, packed of padded", 0.86, 1.02, "",
               tuned("prompts packed", "prompts padded", "ZSCL, 1000 classes")),
    Prediction("new functions, CPU against device, fp64", None, 1e-12, "", furthest_function),
    Prediction("losses of 20 steps, as before against now, fp64", None, 1e-9, "",
               value("changes_parity", "20 steps, fp64", "loss")),
    Prediction("the same in bf16", None, 2e-2, "", value("changes_parity", "20 steps, bf16", "loss")),
    Prediction("killed and resumed, equal bits (1: yes)", 1, 1, "", value("cli_toy", "equal", "killed and resumed")),
)


def packed(kind, classes):
    """Return packed steps relative to padded ones, in the part ``packing``."""
    return alternated("packed", "padded", "packing", f"{kind}, {classes} classes")


def form_of(kind, classes, form, key, scale=1.0):
    """Return a function for a figure of one form of the prompts in the part ``packing``."""
    return value("packing", f"{kind}, {classes} classes", form, key, scale=scale)


def crossover(kind):
    """Return a function for the saved tokens from which packing pays: the zero of a line between two
    measured sizes."""
    def measure(parts):
        rows = [row for name, row in parts["packing"].items() if name.startswith(f"{kind},") and "padded" in row]
        points = sorted((row["tokens"]["padded"] - row["tokens"]["packed"],
                         row["packed"]["median_s"] - row["padded"]["median_s"]) for row in rows)
        for (tokens, loses), (more_tokens, gains) in zip(points, points[1:], strict=False):
            if loses > 0 >= gains:
                return tokens + (more_tokens - tokens) * loses / (loses - gains)
        return None
    return measure


def busy_of_a_token(parts):
    """Return the microseconds that one more padded token keeps the device busy."""
    few, many = (parts["packing"][f"ZSCL, {classes} classes"] for classes in (1000, 4000))
    seconds = many["padded"]["busy_s"] - few["padded"]["busy_s"]
    return 1e6 * seconds / (many["tokens"]["padded"] - few["tokens"]["padded"])


# Estimated from the third run. Packed steps are limited by the host, at any number of classes here: 141 ms (ZSCL), 123
# (fine-tuning). Padded ones take 74 ms + 1.2 us per token (ZSCL), or 36 ms + 1.2 us per token and at least 71 ms
# (fine-tuning). By hand, a token of the text tower keeps 18 KB per block for backward, 216 KB in all. Of a step's 2,169
# launches 390 are casts of 195 weights and their gradients; as two foreach copies they are about 16. Each takes the
# host 20 us.
FOURTH = (
    Prediction("ZSCL, 1000 classes, packed of padded, again", 1.35, 1.65, "", packed("ZSCL", 1000)),
    Prediction("ZSCL, 2000 classes, packed of padded", 1.10, 1.38, "", packed("ZSCL", 2000)),
    Prediction("ZSCL, 4000 classes, packed of padded", 0.85, 1.02, "", packed("ZSCL", 4000)),
    Prediction("ZSCL, packing pays from", 34000, 54000, "saved tokens", crossover("ZSCL")),
    Prediction("finetune, 1000 classes, packed of padded, again", 1.55, 1.85, "", packed("finetune", 1000)),
    Prediction("finetune, 2000 classes, packed of padded", 1.35, 1.75, "", packed("finetune", 2000)),
    Prediction("finetune, 4000 classes, packed of padded", 0.94, 1.20, "", packed("finetune", 4000)),
    Prediction("finetune, 8000 classes, packed of padded", 0.52, 0.75, "", packed("finetune", 8000)),
    Prediction("finetune, packing pays from", 44000, 70000, "saved tokens", crossover("finetune")),
    Prediction("device busy, ZSCL, 1000 classes padded", 70, 85, "ms", form_of("ZSCL", 1000, "padded", "busy_s", 1000)),
    Prediction("device busy for one more padded token", 0.9, 1.4, "us", busy_of_a_token),
    Prediction("launches that packing adds, ZSCL, 4000 classes", 1150, 1600, "", lambda parts: (
        form_of("ZSCL", 4000, "packed", "launches")(parts) - form_of("ZSCL", 4000, "padded", "launches")(parts))),
    Prediction("peak, finetune, 8000 classes padded", 33, 46, "GB",
               form_of("finetune", 8000, "padded", "peak_bytes", 1e-9)),
    Prediction("peak, finetune, 8000 classes packed", 12, 18, "GB",
               form_of("finetune", 8000, "packed", "peak_bytes", 1e-9)),
    Prediction("weights cast by one copy, of as it is", 0.88, 0.98, "",
               alternated("casts by one copy", "as it is", "casts")),
    Prediction("host, weights cast by one copy", 0.76, 0.92, "", lambda parts: (
        in_turns("casts by one copy", "host_median_s", "casts")(parts)
        / in_turns("as it is", "host_median_s", "casts")(parts))),
    Prediction("launches, weights cast by one copy", 1770, 1850, "",
               value("casts", "kernels, casts by one copy", "launches")),
    Prediction("device busy, weights cast by one copy, of as it is", 0.96, 1.02, "",
               ratio("casts", "kernels, casts by one copy", "kernels, as it is", "busy_s")),
    Prediction("losses, weights cast by one copy", None, 1e-2, "", value("casts", "losses", "loss")),
)


# Before a fifth run. NuSA-CL: fine-tuning at batch 8 is limited by its 1,394 operations (63.5 ms); the branches of 96
# weights are 14 more each, forward and backward. Its activations are those of 16 images and 100 prompts. Image towers
# compiled leave the text tower's operations (380) and those of losses and optimiser to the host.
FIFTH = (
    Prediction("NuSA-CL step, batch 16, bf16", 85, 180, "ms", ms("bf16", part="nusa")),
    Prediction("NuSA-CL step, batch 16, fp32", 75, 200, "ms", ms("fp32", part="nusa")),
    Prediction("peak of the same, bf16", 1.8, 4.0, "GB", value("nusa", "bf16", "peak_bytes", scale=1e-9)),
    Prediction("peak of the same, fp32", 2.8, 6.6, "GB", value("nusa", "fp32", "peak_bytes", scale=1e-9)),
    Prediction("image towers compiled, of the eager step", 0.45, 0.80, "", ratio("compiled", "image towers", "eager")),
    Prediction("evaluation from images on the device", 6500, None, "images/s",
               value("evaluation", "on the device", "images_per_s")),
    Prediction("evaluation that fills the cache, of one from files", 0.9, None, "",
               ratio("evaluation", "filling the cache", "files", "images_per_s")),
)


def verdicts(parts, predictions=PREDICTIONS + SECOND + THIRD + FOURTH + FIFTH):
    """Return [{name, low, high, unit, measured, verdict}]; the verdict is right, wrong or not measured."""
    found = []
    for prediction in predictions:
        try:
            measured = prediction.measure(parts)
        except (KeyError, TypeError, ZeroDivisionError):
            measured = None
        found.append({"name": prediction.name, "low": prediction.low, "high": prediction.high,
                      "unit": prediction.unit, "measured": measured, "verdict": verdict(prediction, measured)})
    return found


def verdict(prediction, measured):
    """Return right, wrong or not measured; NaN is wrong."""
    if measured is None:
        return "not measured"
    above = prediction.low is None or measured >= prediction.low
    below = prediction.high is None or measured <= prediction.high
    return "right" if above and below else "wrong"
