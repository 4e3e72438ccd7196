"""What was predicted before the runs on a GPU (ViT-B/16, batch 64 + 64, one H100 or H200), beside what was measured.

``PREDICTIONS``: before the first. ``SECOND``: after it and before the second, of the parts projections, host and graph.
"""

from collections.abc import Callable
from dataclasses import dataclass

ZSCL = "ZSCL bf16 100 classes"


@dataclass(frozen=True)
class Prediction:
    """``measure``: {part: figures} -> a number in ``unit``. ``low``, ``high``: the predicted range, None for no
    bound."""

    name: str
    low: float | None
    high: float | None
    unit: str
    measure: Callable


def ms(row, key="s", part="steps"):
    """Milliseconds of a row of a part."""
    return lambda parts: 1000 * parts[part][row][key]


def more(row, base=ZSCL):
    """Milliseconds that a row takes more than another."""
    return lambda parts: ms(row)(parts) - ms(base)(parts)


def value(part, *keys, scale=1.0):
    """A figure of a part, times ``scale``."""
    def measure(parts):
        found = parts[part]
        for key in keys:
            found = found[key]
        return scale * found
    return measure


def ratio(part, row, base, key="s"):
    """A row's figure over another's."""
    return lambda parts: parts[part][row][key] / parts[part][base][key]


def projections(parts):
    """Milliseconds of both projections of a step."""
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


def alternated(row, base):
    """A variant's median step over that of another, alternated with it."""
    def measure(parts):
        found = parts["host"]["in turns"]
        return found[row]["median_s"] / found[base]["median_s"]
    return measure


def both_in_a_step(parts):
    """Milliseconds of both projections of a step, as the part ``projections`` has them."""
    found = parts["projections"]["a step's"]
    return 1000 * (found["gradient"]["median_s"] + found["update"]["median_s"])


def small_operation(parts):
    """Host microseconds of one small operation on the device."""
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


def verdicts(parts, predictions=PREDICTIONS + SECOND):
    """Return [{name, low, high, unit, measured, verdict}], the verdict being right, wrong or not measured."""
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
    """Return right, wrong or not measured; a number that is not one is wrong."""
    if measured is None:
        return "not measured"
    above = prediction.low is None or measured >= prediction.low
    below = prediction.high is None or measured <= prediction.high
    return "right" if above and below else "wrong"
