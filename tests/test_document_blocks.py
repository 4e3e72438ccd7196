"""Every block of code in the documents runs or is read here, or in the test that is named beside it, or is listed with
the reason why not. Commands of a shell are those of test_documents.py."""

import csv
import io
import tarfile
from pathlib import Path

import pytest
from cli_files import COLOURS, picture, write_pictures
from document_commands import DOCUMENTS, ROOT, SHELL, blocks

import clip_continual as cc
from src.args import parse
from src.cli.checks import check
from src.cli.recipes import read_recipe
from src.cli.reproductions import read_reproduction
from src.cli.study import plan_of, read_study

pytest_plugins = ["cli_fixtures"]

SHORT = "--model toy --iterations 2 --batch-size 8 --max-evaluation-size 8 --warmup-length 0 --workers 0"
AS_COMMAND = "tests/test_documents.py::test_a_command_runs"
IN_A_ROW = "tests/api/test_python_document.py::test_all_blocks_run_one_after_the_other"
# (document, how the block begins) -> the test that runs it, where that is not here.
ELSEWHERE = {
    ("README.md", "import torch"): AS_COMMAND,
    ("docs/your-method.md", "from src.models.finetune import Finetune\n\n\nclass EWC"): AS_COMMAND,
    ("docs/your-method.md", "import torch"): AS_COMMAND,
    ("docs/your-method.md", "from torch import nn"): AS_COMMAND,
    ("docs/your-method.md", "from src.models.finetune import Finetune\nfrom src.models.wrapped"): AS_COMMAND,
    ("docs/your-method.md", "class TwoRates"): AS_COMMAND,
    ("docs/python.md", ""): IN_A_ROW,
    ("docs/studies.md", ""): "tests/cli/test_cli_study.py::test_the_file_of_the_document"}
NOT_CODE = {("README.md", "data family toy"): "what make demo prints; tests/test_documents.py runs its script"}


def code_blocks():
    """Yield (document, number of the first line, text) of the fenced blocks that are no shell's."""
    for document in DOCUMENTS:
        if document.endswith(".md"):
            text = (ROOT / document).read_text(encoding="utf-8")
            lines = ["", *text.splitlines()]
            for first, language, block in blocks(text):
                fenced = language is not None and lines[first - 1].strip().startswith("```")
                if fenced and language not in SHELL and block:
                    yield document, first, "\n".join(block) + "\n"


def block_of(document, start):
    """Return the one block that begins with ``start``."""
    [found] = [text for name, _, text in code_blocks() if name == document and text.startswith(start)]
    return found


# -- what runs or is read here -----------------------------------------------------------------------------------------


def short(function, **flags):
    return lambda *arguments, **keywords: function(*arguments, **keywords | flags)


def first_python(monkeypatch, **_):
    write_pictures(Path("photos"), COLOURS, 5)
    flags = {"iterations": 2, "batch_size": 8, "max_evaluation_size": 8, "warmup_length": 0, "model": "toy"}
    names = {}
    monkeypatch.setattr("src.api.commands.train", short(cc.train, **flags, workers=0))
    exec(block_of("README.md", "import clip_continual"), names)
    assert list(names["run"].matrix().index)[0] == "zero-shot" and names["run"].summary().shape == (1, 5)
    assert names["tokenize"](["a circle."]).shape == (1, 77)


def predictions_of_a_run(cli, **_):
    words = f"--method lwf --dataset-order toy-shapes,toy-colours --lr 1e-5 --keep-features --save ckpt/toy_lwf {SHORT}"
    assert cli(*words.split()).status == 0
    names = {}
    exec(block_of("docs/rescoring.md", "from src.report.predictions"), names)
    assert len(names["found"].hits) == len(names["found"].labels) == 8


def shards(**_):
    """As img2dataset writes them: an image and its text of one name."""
    for number in range(2):
        with tarfile.open(f"0000{number}.tar", "w") as archive:
            for name in ("000", "001"):
                picture(Path("x.jpg"), 0.3, int(name))
                archive.add("x.jpg", f"{name}.jpg")
                member = tarfile.TarInfo(f"{name}.txt")
                content = f"a picture, number {number}{name}".encode()
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    exec(block_of("docs/your-data.md", "import csv"), {})
    with open("shards/pairs.csv", encoding="utf-8", newline="") as file:
        found = list(csv.reader(file))
    assert found[0] == ["image", "caption"] and len(found) == 5
    assert found[1] == [str(Path("00000") / "000.jpg"), "a picture, number 0000"]
    assert all((Path("shards") / image).is_file() for image, _ in found[1:])


def recipe(**_):
    Path("my.yaml").write_text(block_of("docs/running.md", "about:"), encoding="utf-8")
    assert read_recipe("my.yaml").about
    config = parse("--recipe my.yaml --dataset-order mtil-1 --save ckpt/x".split())
    check(config)
    assert (config.method, config.lr[None], config.image_loss, config.text_loss) == ("lwf", 5e-6, True, False)


def reproduction(**_):
    Path("my.yaml").write_text(block_of("docs/reproductions.md", "stage: 2"), encoding="utf-8")
    found = read_reproduction("my.yaml")
    assert [(cell.name, cell.tolerance) for cell in found.expected] == [("transfer", 1), ("avg", 1), ("last", 0.5)]


def selection(**_):
    """The part that the answer shows, in the file of a study that has the rest."""
    rest = "base: {dataset-order: mtil-1}\naxes:\n  recipe: [finetune, lwf]\n  seed: [1, 2]\n"
    Path("my.yaml").write_text(rest + block_of("docs/faq.md", "select:"), encoding="utf-8")
    plan, _ = plan_of(read_study("my.yaml"), "out", parse)
    assert len(plan.trials) == 2 * 3 * 2


HERE = {
    ("README.md", "import clip_continual"): pytest.param(first_python, marks=pytest.mark.slow),
    ("docs/rescoring.md", "from src.report.predictions"): pytest.param(predictions_of_a_run, marks=pytest.mark.slow),
    ("docs/your-data.md", "import csv"): shards, ("docs/running.md", "about:"): recipe,
    ("docs/reproductions.md", "stage: 2"): reproduction, ("docs/faq.md", "select:"): selection}


@pytest.mark.parametrize("run", HERE.values(), ids=[document for document, _ in HERE])
def test_a_block_runs(run, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(cli=cli, monkeypatch=monkeypatch)


# -- none is missed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("document", "text"), [
    pytest.param(document, text, id=f"{document}:{first}") for document, first, text in code_blocks()])
def test_a_block_is_in_one_list(document, text):
    listed = [start for table in (HERE, ELSEWHERE, NOT_CODE) for name, start in table
              if name == document and text.startswith(start)]
    assert len(listed) == 1, text


def test_the_lists_hold_nothing_else():
    found = list(code_blocks())
    for document, start in (*HERE, *ELSEWHERE, *NOT_CODE):
        assert [text for name, _, text in found if name == document and text.startswith(start)], (document, start)
    for test in ELSEWHERE.values():
        file, _, name = test.partition("::")
        assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8"), test
