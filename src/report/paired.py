"""Test whether two rows differ by more than chance: over common seeds, or over the test images of one seed.

Only these tables need numpy and scipy; they are imported where a study names a baseline.
"""

import csv
import math
import statistics
from dataclasses import dataclass

DRAWS = 10_000  # draws of a bootstrap
SHARE = 95  # percent of the draws inside an interval
ALIKE = 1e-9  # a deviation below it is rounding: all differences are equal


@dataclass(frozen=True)
class Difference:
    """Hold a difference: ``mean`` over the ``n`` seeds that both rows have, ``deviation`` for several.

    ``p``: that of a paired t-test over seeds. ``interval``: (low, high) of a paired bootstrap over test images.
    None where there is none.
    """

    mean: float
    deviation: float | None
    n: int
    p: float | None = None
    interval: tuple | None = None


def over_seeds(numbers, baseline):
    """Return the Difference of {seed: number} to the baseline's; None without a common seed."""
    seeds = [seed for seed in numbers if seed in baseline]
    if not seeds:
        return None
    found = [numbers[seed] - baseline[seed] for seed in seeds]
    if len(found) == 1:
        return Difference(found[0], None, 1)
    deviation = statistics.stdev(found)
    return Difference(statistics.fmean(found), deviation, len(found), paired_t(found) if deviation > ALIKE else None)


def paired_t(differences):
    """Return the two-sided p of the paired t-test of whether the mean of differences is 0."""
    from scipy.special import stdtr  # scipy.stats takes a second to import
    n = len(differences)
    t = statistics.fmean(differences) / (statistics.stdev(differences) / math.sqrt(n))
    return float(2 * stdtr(n - 1, -abs(t)))


def paired_bootstrap(sets, seed=0, draws=DRAWS):
    """Return (low, high), 95 % of a paired bootstrap of the mean difference in accuracy, in percent.

    ``sets``: [(correct_a, correct_b)], for each dataset which of its images the two models get right, in the
    same order. Each draw takes as many images of each dataset as it has, with replacement, and is the mean over
    the datasets of the accuracy of a minus that of b. An image counts -1, 0 or 1, so a draw only needs the
    number of each, which are multinomial.
    """
    import numpy
    generator, total = numpy.random.default_rng(seed), numpy.zeros(draws)
    for one, other in sets:
        difference = numpy.asarray(one, dtype=int) - numpy.asarray(other, dtype=int)
        size = len(difference)
        counts = generator.multinomial(size, [(difference == sign).sum() / size for sign in (-1, 0, 1)], size=draws)
        total += 100 * (counts[:, 2] - counts[:, 0]) / size
    rest = (100 - SHARE) / 2
    low, high = numpy.percentile(total / len(sets), [rest, 100 - rest])
    return float(low), float(high)


def stored_predictions(run, space):
    """Return {dataset: ([image], [whether its prediction is right])} of a SequenceRun after its last task.

    None if a dataset has none, or some that contradict its accuracy in the matrix.
    """
    summary, found = run.spaces[space], {}
    mark = "" if space == run.space else f"_{space}"
    for name, accuracy in zip(summary["datasets"], summary["matrix"][-1], strict=True):
        images, correct = _read(run.folder / f"predictions_{name}{mark}.csv")
        if not images or accuracy is None or abs(100 * sum(correct) / len(correct) - accuracy) > 1e-3:
            return None
        found[name] = images, correct
    return found


def _read(path):
    """Return ([image], [bool]) from a file of predictions; empty if it cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return [row["image"] for row in rows], [int(row["rank"]) == 1 for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return [], []


def over_images(run, baseline, space):
    """Return the interval of ``paired_bootstrap`` of Last between two SequenceRuns.

    None if their predictions are not stored, or are for different images.
    """
    found = [stored_predictions(each, space) for each in (run, baseline)]
    if None in found or _images(found[0]) != _images(found[1]):
        return None
    return paired_bootstrap([(found[0][name][1], found[1][name][1]) for name in found[0]])


def _images(predictions):
    return {name: images for name, (images, _) in predictions.items()}
