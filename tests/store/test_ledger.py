"""The files of kept features: when they count, and in which types they are."""

import numpy as np
import pytest

from src.report.predictions import files_of, kept_tasks, read_arrays
from src.store.ledger import Ledger, names_as_bytes, small
from src.store.records import RunFolder


def arrays(rows=3):
    return {"features": np.zeros((rows, 2), np.float16), "labels": small([0] * rows), "places": small(range(rows)),
            "classifier": np.eye(2, dtype=np.float32)}


def test_an_evaluation_counts_once_it_is_described(tmp_path):
    ledger = Ledger(RunFolder(tmp_path))
    ledger.begin("DTD")
    ledger.add("DTD", "MNIST", arrays())
    assert not ledger.has("DTD") and kept_tasks(tmp_path) == []
    ledger.finish("DTD", {})
    assert ledger.has("DTD") and kept_tasks(tmp_path) == ["DTD"]
    ledger.begin("DTD")  # scored once more: a run that is killed here leaves nothing that counts
    assert not ledger.has("DTD")
    assert (tmp_path / "features" / "after_DTD" / "MNIST.npz").is_file()


def test_a_task_called_start_is_not_the_row_before_training(tmp_path):
    ledger = Ledger(RunFolder(tmp_path))
    ledger.finish("start", {})
    assert ledger.has("start") and not ledger.has("")


def test_a_process_beside_the_first_writes_nothing(tmp_path):
    ledger = Ledger(RunFolder(tmp_path, writes=False))
    ledger.begin("")
    ledger.add("", "DTD", arrays())
    ledger.finish("", {})
    assert list(tmp_path.iterdir()) == []
    assert not Ledger(RunFolder(None)).has("")


@pytest.mark.parametrize("numbers, kind", [([], np.uint16), ([0, 65535], np.uint16), ([65536], np.uint32)])
def test_whole_numbers_take_the_smallest_type(numbers, kind):
    assert small(numbers).dtype == kind and small(numbers).tolist() == numbers


def test_names_come_back(tmp_path):
    """Also those that are no UTF-8, and of several lines."""
    ledger, names = Ledger(RunFolder(tmp_path)), ["a/b.png", "\udcff\n.png"]
    ledger.add("", "x", arrays(0) | {"files": names_as_bytes(names)})
    assert files_of(read_arrays(tmp_path, "", "x", "--rescore")) == names
