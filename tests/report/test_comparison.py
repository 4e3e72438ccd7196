"""A comparison as it is printed and written: markdown, LaTeX, csv."""

import csv
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from cli_files import listing
from comparisons import shifted, tables_of
from report_files import ORDER, write_run
from test_tables import cells

from src.report.comparison import comparison_csv

pytest_plugins = ["cli_fixtures"]


def test_printed_and_nothing_written_without_a_folder(cli, tmp_path, monkeypatch):
    folders = [write_run(tmp_path / "one"), write_run(tmp_path / "two", "--method lwf", matrix=shifted(1))]
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    done = cli("--report", ",".join(map(str, folders)))
    assert (done.status, done.err, done.warnings, listing(tmp_path)) == (0, "", [], before)
    header, start, first, second = cells(done.out)
    assert header == ["run, classes of task", "n", "Transfer", "Avg", "Last", "Forgetting", "BWT"]
    assert (start[0], first[:4], second[0]) == ("zero-shot", ["two", "1", "38.5", "63.2"], "one")
    assert "- one: --method finetune" in done.out and "Chaudhry" in done.out


def test_files_under_a_given_folder(cli, tmp_path):
    folders = [write_run(tmp_path / f"a_{seed}", f"--seed {seed}", matrix=shifted(seed)) for seed in (0, 1)]
    done = cli("--report", ",".join(map(str, folders)), "--save", tmp_path / "out" / "here")
    assert done.status == 0 and listing(tmp_path / "out" / "here") >= {"compare.md", "compare.tex", "compare.csv"}
    assert (tmp_path / "out" / "here" / "compare.md").read_text(encoding="utf-8") == done.out
    start, run = csv.DictReader(io.StringIO((tmp_path / "out" / "here" / "compare.csv").read_text(encoding="utf-8")))
    assert (run["row"], run["n"], run["runs"]) == ("a_*", "2", ",".join(map(str, folders)))
    assert float(run["avg"]) == pytest.approx(560 / 9 + 0.5) and float(run["avg_std"]) == pytest.approx(0.5 ** 0.5)
    assert (start["kind"], start["n"], start["avg_std"]) == ("zero-shot", "", "")
    text = (tmp_path / "out" / "here" / "compare.tex").read_text(encoding="utf-8")
    assert r"a\_* & 2 &" in text and r"62.7 $\pm$ 0.7" in text and r"\toprule" in text and "Chaudhry" in text


def test_a_folder_that_cannot_be_written(cli, tmp_path):
    folder = write_run(tmp_path / "one")
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in ("file", "file/below"):
        done = cli("--report", folder, "--save", tmp_path / place)
        assert done.status == 2 and f"--save {tmp_path / place}" in done.err and len(done.err.splitlines()) == 1


def test_a_report_waits_for_no_torch(tmp_path):
    write_run(tmp_path / "one")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from src.main import main\nassert main(sys.argv[1:]) == 0\n"
         "print([name for name in ('torch', 'numpy', 'pandas', 'matplotlib') if name in sys.modules])",
         "--report", str(tmp_path / "one")], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300,
        check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr


def test_the_csv_has_the_conditions_of_each_row(tmp_path):
    folder = write_run(tmp_path / "one", "--method ZSCL --ref-dataset coco --shots 5")
    start, run = csv.DictReader(io.StringIO(comparison_csv(tables_of(folder))))
    keys = ("label_space", "family", "reference", "shots", "router", "task_id")
    assert [run[key] for key in keys] == ["task", "own", "coco", "5", "none", "given"]
    assert [start[key] for key in keys] == ["task", "own", "", "", "none", "given"]


# -- seeds, against pandas ---------------------------------------------------------------------------------------------


def drawn(method, seed):
    """Draw a matrix of accuracies."""
    draw = random.Random(f"{method} {seed}")
    return [[draw.uniform(20, 90) for _ in ORDER] for _ in ORDER]


@pytest.fixture
def six(tmp_path):
    """Write the folders of two methods, three seeds each."""
    return [write_run(tmp_path / f"{method}-{seed}", f"--method {method} --seed {seed}", matrix=drawn(method, seed))
            for method in ("finetune", "lwf") for seed in (0, 1, 2)]


def test_mean_and_deviation_over_seeds_are_those_of_pandas(cli, six):
    done = cli("--report", ",".join(map(str, six)))
    assert done.status == 0 and done.err == ""
    table = pandas.DataFrame([{"method": folder.name.partition("-")[0],
                               **json.loads((folder / "summary.json").read_text(encoding="utf-8"))} for folder in six])
    numbers = ["transfer", "avg", "last", "forgetting", "bwt"]
    mean, deviation = (getattr(table.groupby("method")[numbers], name)() for name in ("mean", "std"))
    assert (deviation > 1).all(axis=None), "the seeds must differ in every number"
    rows = {row[0].partition("-")[0]: row[1:] for row in cells(done.out)[2:]}
    assert rows == {method: ["3", *(f"{mean[name][method]:.1f} ± {deviation[name][method]:.1f}" for name in numbers)]
                    for method in ("finetune", "lwf")}
    found = pandas.read_csv(io.StringIO(comparison_csv(tables_of(*six)))).set_index("row")
    for method in ("finetune", "lwf"):
        for name in numbers:
            assert found[name][f"{method}-*"] == pytest.approx(mean[name][method], rel=1e-12, abs=1e-12)
            assert found[f"{name}_std"][f"{method}-*"] == pytest.approx(deviation[name][method], rel=1e-9, abs=1e-9)
    assert found["n"]["lwf-*"] == 3 and cells(done.out)[1][0] == "zero-shot"
