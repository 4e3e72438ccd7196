"""Whether two rows differ by more than chance: over seeds that both have, or over the test images of one seed.

Needs numpy and scipy, which no other table does: imported where a study names a baseline.
"""

import csv
import math
import statistics
from dataclasses import dataclass

DRAWS = 10_000  # of a bootstrap
SHARE = 95  # percent of the draws that an interval holds
ALIKE = 1e-9  # a deviation of differences below it is rounding: they are all the same


@dataclass(frozen=True)
class Difference:
    """``mean`` over the ``n`` seeds that both rows have, ``deviation`` of several; ``p`` of a paired t-test over seeds;
    ``interval`` (low, high) of a paired bootstrap over test images; None where there is none."""

    mean: float
    deviation: float | None
    n: int
    p: float | None = None
    interval: tuple | None = None


def over_seeds(numbers, baseline):
    """{seed: number} of two rows -> the Difference to the baseline; None without a common seed."""
    seeds = [seed for seed in numbers if seed in baseline]
    if not seeds:
        return None
    found = [numbers[seed] - baseline[seed] for seed in seeds]
    if len(found) == 1:
        return Difference(found[0], None, 1)
    deviation = statistics.stdev(found)
    return Difference(statistics.fmean(found), deviation, len(found), paired_t(found) if deviation > ALIKE else None)


def paired_t(differences):
    """p of the paired t-test, two-sided: whether the mean of differences is 0."""
    from scipy.special import stdtr  # scipy.stats takes a second to import
    n = len(differences)
    t = statistics.fmean(differences) / (statistics.stdev(differences) / math.sqrt(n))
    return float(2 * stdtr(n - 1, -abs(t)))


def paired_bootstrap(sets, seed=0, draws=DRAWS):
    """(low, high): 95 % of a paired bootstrap of the mean difference in accuracy, in percent.

    ``sets``: [(correct_a, correct_b)], for each dataset which of its images two models have right, in the same order.
    Each draw takes as many images of each dataset as it has, with replacement, and is the mean over the datasets of the
    accuracy of a minus that of b. An image counts -1, 0 or 1, so what matters of a draw is how many of each it has:
    those are multinomial.
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
    """{dataset: ([image], [whether its prediction is right])} of a SequenceRun after its last task; None where a
    dataset has none, or others than its accuracy in the matrix says."""
    summary, found = run.spaces[space], {}
    mark = "" if space == run.space else f"_{space}"
    for name, accuracy in zip(summary["datasets"], summary["matrix"][-1], strict=True):
        images, correct = _read(run.folder / f"predictions_{name}{mark}.csv")
        if not images or accuracy is None or abs(100 * sum(correct) / len(correct) - accuracy) > 1e-3:
            return None
        found[name] = images, correct
    return found


def _read(path):
    """([image], [bool]) of a file of predictions, nothing where there is none that can be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return [row["image"] for row in rows], [int(row["rank"]) == 1 for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return [], []


def over_images(run, baseline, space):
    """The interval of ``paired_bootstrap`` of Last between two SequenceRuns; None where their predictions are not
    stored, or of other images."""
    found = [stored_predictions(each, space) for each in (run, baseline)]
    if None in found or _images(found[0]) != _images(found[1]):
        return None
    return paired_bootstrap([(found[0][name][1], found[1][name][1]) for name in found[0]])


def _images(predictions):
    return {name: images for name, (images, _) in predictions.items()}
