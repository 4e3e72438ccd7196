"""Where the images of a table lie."""

import pytest
from dataset_files import put

from src.datasets.places import MOST_FAULTY, Places, leave_out
from src.errors import UserError


def test_images_are_found_as_they_are_spelled_there(tmp_path):
    put(tmp_path / "a" / "caf\u00e9.png", 0)
    places = Places(tmp_path)
    for spelled in ("a/caf\u00e9.png", "a/cafe\u0301.png", "a\\caf\u00e9.png"):
        assert places.find(spelled) == "a/caf\u00e9.png"
    assert places.find("a") is None and places.find("a/b.png") is None and places.find("a\0b") is None


def test_one_row_in_a_hundred_may_lack_its_image(capsys):
    faults = [("line 7", "x.png is not there")]
    assert MOST_FAULTY == 0.01
    sentence, = leave_out("csv:a", "a.csv", faults, 100, False)
    assert "1 of 100 rows of a.csv" in sentence and "line 7: x.png" in capsys.readouterr().out
    with pytest.raises(UserError, match="1 of 99 rows .*line 7: x.png .*--skip-bad-images"):
        leave_out("csv:a", "a.csv", faults, 99, False)
    assert leave_out("csv:a", "a.csv", faults, 2, True) and leave_out("csv:a", "a.csv", [], 2, False) == []
