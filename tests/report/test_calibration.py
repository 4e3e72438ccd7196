"""Calibration by hand, and against bins that numpy makes."""

import numpy as np
import pytest

from src.report.calibration import BINS, calibration


def test_by_hand():
    """Two images in the bin (9/15, 10/15], one of which is right: |1/2 - 0.65|; one alone, sure and right."""
    found = calibration([0.64, 0.66, 1.0], [True, False, True], [0.1, 0.2, 0.3])
    assert found == {"accuracy": pytest.approx(200 / 3), "confidence": pytest.approx(230 / 3),
                     "ece": pytest.approx(100 * (2 / 3) * 0.15), "nll": pytest.approx(0.2)}


def test_an_upper_edge_belongs_to_its_bin():
    """1/15 is of the first bin: apart from 0.06 or with it, the gaps differ."""
    together = calibration([1 / 15, 0.06], [True, False], [0.0, 0.0])["ece"]
    assert together == pytest.approx(100 * abs(1 - (1 / 15 + 0.06)) / 2)


def test_like_numpy_histograms():
    rng = np.random.default_rng(0)
    confidences, hits = rng.uniform(0.01, 1, 500), rng.uniform(size=500) < 0.6
    edges = np.linspace(0, 1, BINS + 1)
    numbers = np.digitize(confidences, edges, right=True)
    gaps = [abs(hits[numbers == number].mean() - confidences[numbers == number].mean()) * (numbers == number).mean()
            for number in np.unique(numbers)]
    found = calibration(confidences.tolist(), hits.tolist(), [0.0] * 500)
    assert found["ece"] == pytest.approx(100 * sum(gaps), abs=1e-9)
