"""--load A,B,C --eval-only: the matrix of a sequence that single runs have trained one after the other."""

import csv

import pytest
from cli_files import BATCH, RATE, listing, read_json

from src.errors import UserError
from src.main import main
from src.report.runs import read_run
from src.run.chain import _trained

pytest_plugins = ["cli_fixtures"]

ORDER = ("toy-colours", "toy-sizes", "toy-positions")
SCORED = "--max-evaluation-size 24 --quiet"
TRAINED = f"--iterations 3 --batch-size 8 --lr 1e-2 --warmup-length 0 {SCORED}"


def call(*words):
    assert main([*map(str, words)]) == 0


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """One process."""
    folder = tmp_path_factory.mktemp("sequence")
    call("--model", "toy", "--dataset-order", ",".join(ORDER), *TRAINED.split(), "--label-space", "task,all", "--save",
         folder)
    return folder


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """A run for each dataset, as a shell loop starts them."""
    folder, start = tmp_path_factory.mktemp("loop"), ("--model", "toy")
    for name in ORDER:
        call(*start, "--train-dataset", name, *TRAINED.split(), "--save", folder)
        start = ("--load", folder / f"{name}.pth")
    return folder


def files(folder, names=ORDER):
    return ",".join(str(folder / f"{name}.pth") for name in names)


def evaluate(cli, folder, *words, names=ORDER):
    return cli("--load", files(folder, names), "--eval-only", *SCORED.split(), *words)


SUMMARIES = ("matrix_top1.csv", "matrix_top5.csv", "matrix_top1_all.csv", "matrix_top5_all.csv", "summary.json",
             "summary_all.json", "summary.md", "summary.tex")


@pytest.mark.slow
def test_a_loop_gives_the_matrix_of_the_sequence_cell_by_cell(cli, sequence, loop, tmp_path):
    done = evaluate(cli, loop, "--label-space", "task,all", "--save", tmp_path / "out")
    assert done.status == 0 and done.err == "" and not done.warnings
    for name in SUMMARIES:
        assert (tmp_path / "out" / name).read_bytes() == (sequence / name).read_bytes(), name
    header, *rows = csv.reader((tmp_path / "out" / "matrix_top1.csv").read_text(encoding="utf-8").splitlines())
    assert header == ["task", *ORDER] and [row[0] for row in rows] == ["", *ORDER]
    assert len({tuple(row[1:]) for row in rows}) > 2, "training moved nothing, so the test shows nothing"
    shown = [line for line in done.out.splitlines() if line.startswith("|")]
    text = (sequence / "summary.md").read_text(encoding="utf-8")
    assert shown == [line for line in text.splitlines() if line.startswith("|")]


@pytest.mark.slow
def test_a_report_reads_it_and_knows_how_it_was_trained(cli, sequence, loop, tmp_path):
    assert evaluate(cli, loop, "--save", tmp_path / "out").status == 0
    run = read_run(tmp_path / "out")
    assert run.order == [*ORDER] and run.losses == {} and run.seed == 42
    assert [flags["train_dataset"] for flags in run.trained_with] == [*ORDER]
    assert {flags["lr"][""] for flags in run.trained_with} == {1e-2}
    done = cli("--report", f"{tmp_path / 'out'},{sequence}")
    assert done.status == 0 and "--lr" not in done.out


def test_into_the_folder_of_the_loop(cli, sequence, loop):
    """Its metrics hold the rows already; the zero-shot one is new."""
    before = {name: (loop / name).read_text(encoding="utf-8").splitlines() for name in listing(loop)
              if name.startswith("metrics_")}
    assert evaluate(cli, loop, "--save", loop).status == 0
    for name in before:
        rows = (loop / name).read_text(encoding="utf-8").splitlines()
        assert rows[:len(before[name])] == before[name] and len(rows) == 1 + 1 + len(ORDER)
    run = read_run(loop)
    assert [*run.losses] == [*run.tasks] == [*ORDER] and run.tasks["toy-sizes"].trainable_values > 0
    assert run.matrices["task"] == read_run(sequence).matrices["task"]


def test_nothing_is_written_without_a_folder(cli, loop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = listing(loop)
    done = evaluate(cli, loop, "--eval-datasets", ",".join((*ORDER[::-1], "toy-backgrounds")))
    assert done.status == 0 and listing(loop) == before and listing(tmp_path) == set()
    assert "toy-backgrounds" in done.out and "| zero-shot " in done.out
    header = next(line for line in done.out.splitlines() if line.startswith("| top-1"))
    assert [cell.strip() for cell in header.strip("|").split("|")[1:]] == [*ORDER], "columns follow the training"


@pytest.mark.slow
def test_a_part_of_a_sequence(cli, sequence, loop, tmp_path):
    done = evaluate(cli, loop, "--save", tmp_path / "out", names=ORDER[:2])
    assert done.status == 0
    whole, part = read_json(sequence / "summary.json"), read_json(tmp_path / "out" / "summary.json")
    assert part["matrix"] == [row[:2] for row in whole["matrix"][:2]]
    done = evaluate(cli, loop, "--save", tmp_path / "later", names=ORDER[1:])
    assert done.status == 0
    later = read_json(tmp_path / "later" / "summary.json")
    assert later["matrix"] == [row[1:] for row in whole["matrix"][1:]]
    assert list(later["zero_shot"].values()) == whole["matrix"][0][1:], "the weights that these runs started from"


# -- small models: other starts and other kinds of data ----------------------------------------------------------------


@pytest.fixture
def chain(cli, world, tmp_path):
    """colours, then tones, from a file that may go away."""
    start = tmp_path / "start.pth"
    start.write_bytes(world.model.read_bytes())
    for name, before in ((world.colours, start), (world.tones, tmp_path / "run" / "colours.pth")):
        done = cli("--load", before, "--train-dataset", name, "--iterations", 2, "--batch-size", BATCH, "--lr", RATE,
                   "--workers", 0, "--save", tmp_path / "run")
        assert done.status == 0, done.err
    return tmp_path / "run"


def test_the_zero_shot_row_is_of_the_file_that_training_started_from(cli, world, chain, tmp_path):
    done = evaluate(cli, chain, "--save", tmp_path / "out", "--workers", 0, names=("colours", "tones"))
    assert done.status == 0, done.err
    start = cli("--load", tmp_path / "start.pth", "--eval-only", *SCORED.split(), "--workers", 0, "--eval-datasets",
                f"{world.colours},{world.tones}", "--save", tmp_path / "single")
    assert start.status == 0
    rows = {name: list(csv.DictReader((tmp_path / "single" / f"metrics_{name}.csv").open(encoding="utf-8")))[0]
            for name in ("colours", "tones")}
    found = csv.DictReader((tmp_path / "out" / "matrix_top1.csv").open(encoding="utf-8"))
    assert next(found) == {"task": "", **{name: row["top1"] for name, row in rows.items()}}


@pytest.mark.parametrize("left", [None, "other_model"], ids=str)
def test_no_zero_shot_row_where_that_file_is_gone_or_another(cli, world, chain, tmp_path, left):
    (tmp_path / "start.pth").unlink()
    if left:
        (tmp_path / "start.pth").write_bytes(getattr(world, left).read_bytes())
    done = evaluate(cli, chain, "--save", tmp_path / "out", "--workers", 0, names=("colours", "tones"))
    assert done.status == 0
    told = [line for line in done.out.splitlines() if line.startswith("note: no zero-shot row")]
    assert len(told) == 1 and str(tmp_path / "start.pth") in told[0]
    assert not any(line.startswith("| zero-shot") for line in done.out.splitlines())
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["zero_shot"] is None and len(summary["matrix"]) == 2
    assert list(read_run(tmp_path / "out").matrices["task"]["top1"]) == ["colours", "tones"]
    assert cli("--report", tmp_path / "out").status == 0


@pytest.mark.slow
def test_random_weights_are_drawn_again(cli, world, tmp_path):
    words = ("--model", "tiny-vit", "--init", "scratch", "--seed", 3, "--workers", 0, "--iterations", 1, "--lr", "1e-5")
    order = f"{world.colours},{world.tones}"
    assert cli(*words, "--dataset-order", order, "--save", tmp_path / "one").status == 0
    done = evaluate(cli, tmp_path / "one", "--save", tmp_path / "out", "--workers", 0, names=("colours", "tones"))
    assert done.status == 0, done.err
    assert (read_json(tmp_path / "out" / "summary.json")["zero_shot"]
            == read_json(tmp_path / "one" / "summary.json")["zero_shot"])


def test_phases_of_image_text_pairs(cli, world, pairs, tmp_path):
    done = cli("--load", world.model, "--train-dataset", pairs, "--num-phases", 2, "--epochs", 1, "--batch-size", BATCH,
               "--workers", 0, "--save", tmp_path / "run")
    assert done.status == 0, done.err
    names = ("stream_phase1", "stream_phase2")
    done = cli("--load", files(tmp_path / "run", names), "--eval-only", "--workers", 0, "--save", tmp_path / "out")
    assert done.status == 0, done.err
    written = {name for name in listing(tmp_path / "run") if name.startswith(("matrix_", "summary"))}
    assert len(written) == 3 + 3
    for name in written:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    assert read_run(tmp_path / "out").order == list(names)


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(done, *fragments):
    assert done.status == 2 and len(done.err.splitlines()) == 1 and done.err.startswith("error: "), done.err
    assert all(str(fragment) in done.err for fragment in fragments), done.err


def checkpoint(dataset, *before, shape="small"):
    return {"architecture": shape, "history": [{"dataset": name, "source": name} for name in (*before, dataset)]}


def test_another_architecture_is_no_sequence():
    assert _trained({"a": checkpoint("A"), "b": checkpoint("B", "A")}) == ["A", "B"]
    with pytest.raises(UserError, match="--load b: holds another architecture than a; give the files of one sequence"):
        _trained({"a": checkpoint("A"), "b": checkpoint("B", "A", shape="large")})


def test_pairs_and_classes_share_no_matrix():
    with pytest.raises(UserError, match="--load a,b: some were trained on image-text pairs, some on classes"):
        _trained({"a": checkpoint("coco"), "b": checkpoint("DTD", "coco")})


def test_files_that_are_no_sequence(cli, world, chain, tmp_path):
    colours, tones = chain / "colours.pth", chain / "tones.pth"
    alone = tmp_path / "alone"
    done = cli("--load", world.model, "--train-dataset", world.tones, "--iterations", 1, "--lr", RATE, "--workers", 0,
               "--save", alone)
    assert done.status == 0
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"nonsense")
    before = listing(tmp_path)

    def call(*paths, words=()):
        return cli("--load", ",".join(map(str, paths)), "--eval-only", "--workers", 0, "--save", tmp_path / "out",
                   *words)
    refused(call(tones, colours), f"--load {colours}", "order of training")
    refused(call(colours, alone / "tones.pth"), f"--load {alone / 'tones.pth'}", "trained on tones", "after colours")
    refused(call(colours, world.model), f"--load {world.model}", "does not say")
    refused(call(colours, tmp_path / "none.pth"), f"--load {tmp_path / 'none.pth'}: no such file")
    refused(call(colours, broken), broken)
    refused(call(colours, colours), "twice")
    refused(call(colours, tones, words=("--eval-datasets", world.tones)), "--eval-datasets", world.colours)
    refused(call(colours, tones, words=("--wise-ft",)), "--wise-ft", "one")
    refused(call(colours, tones, words=("--linear-eval", world.tones)), "--linear-eval", "one")
    refused(cli("--load", f"{colours},{tones}", "--train-dataset", world.tones, "--iterations", 1), "--eval-only")
    refused(cli("--load", f"{colours},{tones}", "--eval-single", world.image, "--class-names", broken, "--eval-only"),
            "--eval-only")
    assert listing(tmp_path) == before


def test_a_name_with_a_comma_is_one_file(cli, world, tmp_path):
    path = tmp_path / "a,b.pth"
    path.write_bytes(world.model.read_bytes())
    done = cli("--load", path, "--eval-only", "--eval-datasets", world.tones, "--workers", 0)
    assert done.status == 0 and "| tones " in done.out
