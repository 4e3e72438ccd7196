"""Measure how far confidences are from accuracies. No torch."""

from bisect import bisect_left
from statistics import fmean

BINS = 15  # of equal width, as in Guo et al., 2017
EDGES = [(number + 1) / BINS for number in range(BINS - 1)]  # between bins; each belongs to the lower one


def calibration(confidences, hits, losses):
    """Return {"accuracy", "confidence", "ece" in percent, "nll"} of predictions.

    ``confidences``: their softmax; ``hits``: whether they are right; ``losses``: the cross-entropy of the true
    class. ECE (Guo et al., 2017, arXiv:1706.04599): the mean over images of |accuracy - confidence| of the
    image's bin, of 15 bins (0, 1/15], (1/15, 2/15], ...
    """
    bins = {}
    for confidence, hit in zip(confidences, hits, strict=True):
        bins.setdefault(bisect_left(EDGES, confidence), []).append((confidence, hit))
    gaps = [abs(sum(hit for _, hit in bin) - sum(confidence for confidence, _ in bin)) for bin in bins.values()]
    return {"accuracy": 100 * fmean(hits), "confidence": 100 * fmean(confidences),
            "ece": 100 * sum(gaps) / len(hits), "nll": fmean(losses)}
