"""The table of docs/reproductions.md is what scripts/reproductions.py makes of the certificates, all of which hold."""

import json

import pytest

from scripts import reproductions
from scripts.marks import between_marks
from src.cli.reproductions import read_reproduction, reproduction_names
from src.report.certificate import cells_of

DOCUMENT = reproductions.DOCUMENT.read_text(encoding="utf-8")
NAME = "mtil-1-nusa-cl"
SUMMARY = {"label_space": "task", "datasets": ["a"], "zero_shot": None, "matrix": [[0.0]], "transfer": 68.4,
           "avg": 75.6, "last": None, "forgetting": None, "bwt": None}


@pytest.fixture
def store(tmp_path):
    """store(file name, part=value, ...): a certificate in an empty folder."""
    def call(file, **parts):
        cells = cells_of(read_reproduction(NAME), {"nusa-cl": SUMMARY})
        run = {"command": "python", "flags": {}, "seconds": 1, "made_by": [], "weights": {}, "datasets": {}}
        content = {"format": 1, "name": NAME, "source": "x", "date": "2026-02-03", "passed": False, "cells": cells,
                   "runs": {"nusa-cl": run}, "code": "c0de"} | parts
        (tmp_path / file).write_text(json.dumps(content), encoding="utf-8")
        return tmp_path / file
    return call


def rows(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_the_document_has_the_table_of_what_is_stored(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproductions, "DOCUMENT", tmp_path / "reproductions.md")
    reproductions.DOCUMENT.write_text(between_marks(DOCUMENT, reproductions.MARK, "old"), encoding="utf-8")
    assert reproductions.main(["--write"]) == 0
    assert reproductions.DOCUMENT.read_text(encoding="utf-8") == DOCUMENT, "python scripts/reproductions.py --write"
    assert reproductions.main([]) == 0 and capsys.readouterr().out.strip() in DOCUMENT


def test_every_published_cell_has_a_row_by_stage_and_is_empty_without_a_certificate(tmp_path):
    found = rows(reproductions.table(tmp_path))
    assert len(found) == sum(len(read_reproduction(name).expected) for name in reproduction_names())
    assert found[0] == ["`mtil-1-zeroshot`", "Aircraft", "24.3", "0.3", "", ""]
    assert found[11] == ["`mtil-1-nusa-cl`", "Transfer", "68.71", "0.5", "", ""]
    assert [row[0] for row in found[11:]] == [f"`mtil-1-{name}`" for name in ("nusa-cl", "finetune", "zscl")
                                              for _ in range(3)]


def test_what_certificates_found_stands_beside_it(store, tmp_path):
    store("a.json")
    store("b.json", date="2026-02-04")
    found = [row for row in rows(reproductions.table(tmp_path)) if row[0] == f"`{NAME}`"]
    links = "[2026-02-03](../reproductions/a.json), [2026-02-04](../reproductions/b.json)"
    assert [row[1:] for row in found] == [
        ["Transfer", "68.71", "0.5", "68.40, 68.40", links],
        ["Avg", "75.09", "0.5", "75.60 (fails), 75.60 (fails)", links],
        ["Last", "82.74", "0.5", "undefined (fails), undefined (fails)", links]]


@pytest.mark.parametrize(("parts", "message"), [
    ({"passed": True}, "passed does not follow from its cells"), ({"name": "mine"}, "belongs to mine, which is not"),
    ({"cells": []}, "its cells are not those of the reproduction")])
def test_one_that_does_not_hold_is_refused(store, tmp_path, monkeypatch, capsys, parts, message):
    path = store("a.json", **parts)
    monkeypatch.setattr(reproductions, "FOLDER", tmp_path)
    with pytest.raises(reproductions.Faulty, match=message):
        reproductions.table(tmp_path)
    assert reproductions.main(["--check", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: ")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_what_is_no_certificate(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert reproductions.main(["--check", str(tmp_path / "a.json")]) == 2


def test_one_that_holds_is_named(store, capsys):
    path = store("a.json")
    assert reproductions.main(["--check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: a certificate of {NAME}, failed\n"
