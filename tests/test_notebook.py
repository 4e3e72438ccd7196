"""examples/quickstart.ipynb: what it stores is small and the same everywhere, and its cells give it when they run."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from notebook_cells import cells_of, differences, run_cells, text_of

from scripts import notebook

ROOT = Path(__file__).parents[1]
TEXT = notebook.NOTEBOOK.read_text(encoding="utf-8")
CELLS = cells_of(notebook.NOTEBOOK)
POINTS = 6.0  # percent: other processors round otherwise, and forty steps on small pictures amplify it
# What must not be in a notebook that others read: folders of a machine, addresses of objects, dates and times.
OF_ONE_MACHINE = r"/(?:tmp|root|home|Users|work|var|private)/|0x[0-9a-f]{6,}|20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d"


def test_each_cell_has_run_in_order_without_an_error():
    cells = [cell for cell in json.loads(TEXT)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for _, outputs in CELLS for output in outputs]
    assert set(kinds) <= {"execute_result", "stream"} and "stderr" not in TEXT
    with_results = [source for source, outputs in CELLS if outputs]
    assert len(with_results) >= 9 and with_results[-1] == CELLS[-1][0]


def test_it_is_small_and_of_no_machine():
    assert len(TEXT.encode()) < 300 * 1024
    without_pictures = re.sub(r'"image/png": "[^"]*"', "", TEXT)
    assert re.findall(OF_ONE_MACHINE, without_pictures) == [] and str(ROOT) not in TEXT and str(Path.home()) not in TEXT
    assert set(json.loads(TEXT)["metadata"]) == set(notebook.KEPT) and '"execution"' not in TEXT


@pytest.mark.parametrize("text", ["/tmp/x.py:3", "<A at 0x7f12ab3c>", "2026-11-28", "at 12:30:01"])
def test_what_is_of_one_machine_is_found(text):
    assert re.search(OF_ONE_MACHINE, text)


def test_the_cells_compile_and_show_what_was_promised():
    for number, (source, _) in enumerate(CELLS, 1):
        compile(source, f"cell {number}", "exec")
    whole = "\n".join(source for source, _ in CELLS)
    for promised in ("import clip_continual as cc", ".matrix()", "class Pulled(cc.Finetune)", "cc.Task.from_folder(",
                     "export=", "cc.report(", "cc.classify(", "cc.load("):
        assert promised in whole, promised


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (notebook.NOTEBOOK.parent / link).exists(), link


def test_texts_are_compared_by_their_numbers():
    stored = "           transfer   last\nzscl  58.1  NaN\n<Image size=3 at 0x7F3A>"
    assert differences(stored, stored.replace("58.1", "61.0").replace("0x7F3A", "0x1"), 3) == []
    assert differences(stored, stored.replace("58.1", "61.2"), 3) == ["58.1 and 61.2"]
    assert differences(stored, stored.replace("zscl", "lwf"), 3) == ["zscl and lwf"]
    assert differences(stored, stored + " more", 3) == ["7 and 8 words"]


def test_a_cell_is_run_as_a_kernel_would():
    assert run_cells(["a = 1\nprint('x')\na + 1", "class A:\n    pass", "A.__module__"]) == ["x\n2", "", "'__main__'"]
    outputs = [{"output_type": "stream", "name": "stdout", "text": ["x\n"]},
               {"output_type": "execute_result", "data": {"text/plain": ["2"]}}]
    assert text_of(outputs) == "x\n2"


@pytest.mark.slow
@pytest.mark.pictures
def test_the_cells_give_what_is_stored(tmp_path, monkeypatch):
    """Without Jupyter, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)
    found = run_cells([source for source, _ in CELLS])
    for (source, outputs), text in zip(CELLS, found, strict=True):
        assert differences(text_of(outputs), text, POINTS) == [], source
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart"]


@pytest.mark.slow
@pytest.mark.skipif(not all(map(importlib.util.find_spec, ("nbclient", "ipykernel"))),
                    reason="nbclient or ipykernel is not installed")
def test_a_kernel_gives_what_is_stored():
    for (source, outputs), cell in zip(CELLS, [cell for cell in notebook.executed().cells if cell.cell_type == "code"],
                                       strict=True):
        assert differences(text_of(outputs), text_of(cell.outputs), POINTS) == [], source
