"""Runs side by side: what is stored is what is shown."""

import json

import pytest
from test_tables import SUMMARY, cells

from src.errors import UserError
from src.report.compare import compare


def write(folder, **changes):
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, **changes}), encoding="utf-8")
    return str(folder)


def test_compare(tmp_path):
    text = compare([write(tmp_path / "one", last=11.0), write(tmp_path / "two", transfer=None)])
    assert cells(text)[0] == ["run", "Transfer", "Avg", "Last", "Forgetting", "BWT"]
    assert [row[0] for row in cells(text)[1:]] == ["one", "two"]
    assert cells(text)[1][3] == "11.0" and cells(text)[2][1] == "-"


def test_runs_of_one_name_are_all_shown(tmp_path):
    runs = [write(tmp_path / parent / "zscl", last=last) for parent, last in (("a", 1.0), ("b", 2.0))]
    found = cells(compare(runs))[1:]
    assert [row[3] for row in found] == ["1.0", "2.0"]
    assert found[0][0] != found[1][0]


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"transfer": 1}', "\xff"])
def test_a_damaged_summary_is_named(tmp_path, content):
    (tmp_path / "summary.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match="--report .*damaged"):
        compare([str(tmp_path)])


def test_a_folder_without_a_summary_is_named(tmp_path):
    with pytest.raises(UserError, match="--report .*--dataset-order"):
        compare([str(tmp_path)])
