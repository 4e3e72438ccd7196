"""Label spaces: which classes an image is told apart from, from the command line to the csv; custom scores of a
method."""

import csv
import io
import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cli_files import read_json, rows

import clip
from src.datasets import open_task
from src.datasets.seeds import balanced_subset
from src.errors import UserError
from src.main import main
from src.models.classifiers import zeroshot_weights
from src.models.evaluation import SUBSET_SEED
from src.models.modeling import image_features
from src.run.spaces import LabelSpaces

pytest_plugins = ["cli_fixtures"]

SHARED = ("--model", "toy", "--iterations", 2, "--batch-size", 4, "--lr", "0.002", "--warmup-length", 0, "--workers", 0,
          "--max-evaluation-size", 24)
ORDER = ("toy-sizes", "toy-colours")
CLASSES = {"toy-sizes": 3, "toy-colours": 8, "toy-positions": 9}
SPACES = ("task", "seen", "all")
EVALUATION = ("--workers", 0, "--max-evaluation-size", 24)


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """The folder of a finished sequence in all three label spaces."""
    folder = tmp_path_factory.mktemp("sequence")
    assert main([str(word) for word in (*SHARED, "--dataset-order", ",".join(ORDER), "--label-space", ",".join(SPACES),
                                        "--save", folder)]) == 0
    return folder


def table(folder, dataset):
    """{(task, label space): row} of a metrics file."""
    found = rows(Path(folder) / f"metrics_{dataset}.csv")
    keyed = {(row["task"], row["label_space"]): row for row in found}
    assert len(keyed) == len(found)
    return keyed


def prompts_of(model, name):
    """(D, C) of one dataset's classes."""
    task = open_task(name, "")
    return zeroshot_weights(model, task.classnames, task.templates)


@torch.no_grad()
def brute_force(path, dataset, parts, split="test", count=24):
    """(top-1, top-k, k) of a file of weights: every image against the prompts of all classes of ``parts``."""
    model, preprocess = clip.load(str(path))
    joined = torch.cat([prompts_of(model, part) for part in parts], dim=1)
    images = open_task(dataset, "").split(split)
    first, k = sum(CLASSES[part] for part in parts[:parts.index(dataset)]), min(5, joined.shape[1])
    hits = torch.zeros(2)
    for index in balanced_subset(images.labels, count, SUBSET_SEED):
        scores = (image_features(model, preprocess(images.image(index))[None]) @ joined)[0]
        best = scores.argsort(descending=True).tolist()
        hits += torch.tensor([first + images.labels[index] in best[:1], first + images.labels[index] in best[:k]])
    return *(100 * hits / count).tolist(), k


def assert_equals_brute_force(row, *arguments, **options):
    top1, top5, k = brute_force(*arguments, **options)
    assert (row["k"], row["n"], row["scored_by"]) == (str(k), "24", "zeroshot")
    assert [float(row["top1"]), float(row["top5"])] == pytest.approx([top1, top5], abs=1e-3)


# -- the spaces themselves ---------------------------------------------------------------------------------------------


def opener(**classnames):
    return lambda name: SimpleNamespace(name=name, classnames=list(classnames.get(name.replace("-", "_"), name)))


def entry(name, **more):
    return {"dataset": name, "classnames": list(name), **more}


@pytest.mark.parametrize(("history", "expected"), [
    ([], {"task": ("b",), "seen": (), "all": ("a", "b")}),
    ([entry("a")], {"task": ("b",), "seen": ("a",), "all": ("a", "b")}),
    ([entry("c"), entry("b")], {"task": ("b",), "seen": ("c", "b"), "all": ("a", "b", "c")}),
    ([entry("b"), entry("a"), entry("b")], {"task": ("b",), "seen": ("b", "a"), "all": ("a", "b")}),
])
def test_what_each_space_joins(history, expected):
    spaces, opened = LabelSpaces(SPACES, ["a", "b"], opener()).after(history)
    assert spaces("b") == expected
    assert opened.keys() == {*expected["all"], *expected["seen"]}
    assert LabelSpaces(("all",), ["a", "b"], opener()).after(history)[0]("a") == {"all": expected["all"]}


def test_the_task_s_own_classes_need_no_other_dataset():
    asked = []
    spaces = LabelSpaces(("task",), ["a"], lambda name: asked.append(name) or SimpleNamespace(classnames=["x"]))
    assert spaces.claim([entry("gone")], ["a"]).keys() == {"a"} and set(asked) == {"a"}
    assert spaces.after([entry("gone")])[0]("a") == {"task": ("a",)}


def test_a_task_of_the_past_is_opened_as_it_was_named():
    asked = []
    spaces = LabelSpaces(("seen",), ["a"], lambda name: asked.append(name) or SimpleNamespace(classnames=[name]))
    history = [entry("pets", source="folder:/data/pets")]
    opened = spaces.after(history)[1]
    assert asked == ["a", "folder:/data/pets"] and opened.keys() == {"a", "pets"}


def test_equal_names_are_told_in_one_line(capsys):
    open_one = opener(a=["cat", "dog"], b=["dog", "cat", "cow"], c=["dog"])
    LabelSpaces(("task", "all"), ["a", "b"], open_one).claim([entry("c")], ["a"])
    told, = capsys.readouterr().err.splitlines()
    assert told.startswith("warning: ") and "'cat' (a, b)" in told and "'dog' (a, b, c)" in told and "cow" not in told
    LabelSpaces(("task",), ["a", "b"], open_one).claim([entry("c")], ["a"])
    LabelSpaces(("all",), ["b"], open_one).claim([], ["b"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("now", "then", "refused"), [
    ({"toy_colours_1of4": "ab", "toy_colours_2of4": "cd"}, "ab", False),
    ({"toy_colours_1of4": "ba", "toy_colours_2of4": "cd"}, "ab", True),
    ({"toy_colours_1of4": "gh", "toy_colours_2of4": "ad"}, "ab", True),
    ({"toy_colours_1of4": "gh", "toy_colours_2of4": "cd"}, "ab", True),  # disjoint by chance: later ones would not be
    ({"toy_colours_1of4": "ab", "toy_colours_2of4": "bd"}, "ab", True),
])
def test_class_splits_must_be_those_of_the_past(now, then, refused):
    spaces = LabelSpaces(("task",), ["toy-colours-2of4"], opener(**now))
    history = [{"dataset": "toy-colours-1of4", "classnames": list(then)}]
    if not refused:
        spaces.claim(history, ["toy-colours-2of4"])
        return
    with pytest.raises(UserError, match="toy-colours-2of4.* toy-colours-1of4 .*--seed"):
        spaces.claim(history, ["toy-colours-2of4"])


# -- from the command line ---------------------------------------------------------------------------------------------


def test_rows_of_a_sequence_in_three_spaces(sequence):
    sizes, colours = table(sequence, "toy-sizes"), table(sequence, "toy-colours")
    tasks = ["", *ORDER]
    assert set(sizes) == {*itertools.product(tasks, ("task", "all")), *itertools.product(ORDER, ("seen",))}
    assert set(colours) == {*itertools.product(tasks, ("task", "all")), ("toy-colours", "seen")}
    found = [*sizes.values(), *colours.values()]
    assert {row["n"] for row in found} == {"24"} and {row["scored_by"] for row in found} == {"zeroshot"}
    assert {key: row["k"] for key, row in sizes.items() if row["k"] != "5"} == {
        **{(task, "task"): "3" for task in tasks}, ("toy-sizes", "seen"): "3"}
    assert {row["k"] for row in colours.values()} == {"5"}


@pytest.mark.parametrize("task", ["", *ORDER])
def test_every_number_of_a_sequence_equals_brute_force(sequence, task):
    weights = sequence / f"{task}.pth" if task else "toy"
    seen = ORDER[:ORDER.index(task) + 1] if task else ()
    differ = set()
    for dataset in ORDER:
        found = table(sequence, dataset)
        for space, parts in (("task", (dataset,)), ("seen", seen), ("all", ORDER)):
            assert ((task, space) in found) == (dataset in parts)
            if dataset in parts:
                assert_equals_brute_force(found[task, space], weights, dataset, parts)
                differ.add((dataset, found[task, space]["top1"]))
    assert len(differ) > 2, "the spaces have different numbers"


def test_files_of_each_space(sequence):
    summaries = {space: read_json(sequence / f"summary{mark}.json")
                 for space, mark in (("task", ""), ("seen", "_seen"), ("all", "_all"))}
    tables = {name: table(sequence, name) for name in ORDER}
    for space, summary in summaries.items():
        assert summary["label_space"] == space and summary["datasets"] == list(ORDER)
        cells = [[tables[name].get((task, space)) for name in ORDER] for task in ("", *ORDER)]
        for score in ("top1", "top5"):
            path = sequence / f"matrix_{score}{'' if space == 'task' else '_' + space}.csv"
            header, *body = csv.reader(io.StringIO(path.read_text(encoding="utf-8")))
            assert header == ["task", *ORDER]
            assert body == [[task, *(cell[score] if cell else "" for cell in row)]
                            for task, row in zip(("", *ORDER), cells, strict=True)]
        for row, numbers in zip(cells, [summary["zero_shot"].values(), *summary["matrix"]], strict=True):
            for cell, number in zip(row, numbers, strict=True):
                assert number == (cell and pytest.approx(float(cell["top1"]), abs=1e-3))
    assert not (sequence / "summary_task.json").exists()
    text = (sequence / "summary.md").read_text(encoding="utf-8")
    assert all(f"classes of {space}" in text for space in SPACES)


def test_seen_is_empty_above_the_diagonal_and_has_no_transfer(sequence):
    summary = read_json(sequence / "summary_seen.json")
    (first, above), (later, last) = summary["matrix"]
    assert above is None and None not in (first, later, last)
    assert summary["zero_shot"] == dict.fromkeys(ORDER) and summary["transfer"] is None
    assert summary["avg"] == pytest.approx((first + later + last) / 3)
    assert summary["last"] == pytest.approx((later + last) / 2)
    assert summary["forgetting"] == pytest.approx(max(first, later) - later)
    assert summary["bwt"] == pytest.approx(later - first)
    whole = read_json(sequence / "summary_all.json")
    assert whole["transfer"] == pytest.approx(whole["matrix"][0][1])


def test_a_chain_gives_the_rows_of_the_sequence(cli, sequence, tmp_path):
    start = ()
    for name in ORDER:
        done = cli(*SHARED, *start, "--train-dataset", name, "--eval-datasets", ",".join(ORDER), "--label-space",
                   ",".join(SPACES), "--save", tmp_path)
        assert done.status == 0 and done.err == ""
        start = ("--load", tmp_path / f"{name}.pth")
    for name in ORDER:
        assert table(tmp_path, name) == {key: row for key, row in table(sequence, name).items() if key[0]}


def test_evaluation_alone_gives_the_last_rows_of_the_sequence(cli, sequence, tmp_path):
    done = cli(*EVALUATION, "--load", sequence / "toy-colours.pth", "--eval-only", "--eval-datasets", ",".join(ORDER),
               "--label-space", "task,seen,all", "--save", tmp_path)
    assert done.status == 0
    for name in ORDER:
        assert table(tmp_path, name) == {key: row for key, row in table(sequence, name).items()
                                         if key[0] == "toy-colours"}
    shown = [line.split("|")[2].strip() for line in done.out.splitlines() if line.startswith("| toy-")]
    assert shown == [*SPACES, *SPACES]


def test_seen_counts_tasks_that_are_not_scored(cli, sequence, tmp_path):
    """The task's own name is all that a continued run gives."""
    done = cli(*SHARED, "--load", sequence / "toy-sizes.pth", "--train-dataset", "toy-colours", "--label-space", "seen",
               "--save", tmp_path)
    assert done.status == 0
    expected = table(sequence, "toy-colours")["toy-colours", "seen"]
    assert table(tmp_path, "toy-colours") == {("toy-colours", "seen"): expected}
    assert not (tmp_path / "metrics_toy-sizes.csv").exists()


def test_a_checkpoint_remembers_the_scores_of_one_space(cli, sequence, tmp_path):
    """The first one; a dataset that has no score in it has none from another."""
    done = cli(*SHARED, "--dataset-order", ",".join(ORDER), "--label-space", "seen,task", "--save", tmp_path)
    assert done.status == 0, done.err
    history = torch.load(tmp_path / "toy-colours.pth", weights_only=True)["history"]
    for entry, known in zip(history, (ORDER[:1], ORDER), strict=True):
        expected = {name: float(table(sequence, name)[entry["dataset"], "seen"]["top1"]) for name in known}
        assert {name: found["top1"] for name, found in entry["metrics"].items()} == pytest.approx(expected, abs=1e-3)
    told = next(line for line in done.out.splitlines() if line.startswith("toy-sizes: 2 steps"))
    assert "toy-colours" not in told


def test_seen_alone_in_a_sequence(cli, sequence, tmp_path):
    done = cli(*SHARED, "--dataset-order", ",".join(ORDER), "--label-space", "seen", "--save", tmp_path)
    assert done.status == 0, done.err
    for name in ORDER:
        assert table(tmp_path, name) == {key: row for key, row in table(sequence, name).items() if key[1] == "seen"}
    assert read_json(tmp_path / "summary.json") == read_json(sequence / "summary_seen.json")
    assert not list(tmp_path.glob("*_seen*"))


def test_all_counts_what_else_is_scored(cli, tmp_path):
    done = cli(*SHARED, "--dataset-order", ",".join(ORDER), "--eval-datasets", "toy-positions,toy-sizes",
               "--label-space", "all,seen", "--save", tmp_path)
    assert done.status == 0, done.err
    parts = (*ORDER, "toy-positions")
    for name in parts:
        found = table(tmp_path, name)["toy-colours", "all"]
        assert_equals_brute_force(found, tmp_path / "toy-colours.pth", name, parts)
    assert {key[1] for key in table(tmp_path, "toy-positions")} == {"all"}, "it is never trained on, hence never seen"
    assert read_json(tmp_path / "summary.json")["label_space"] == "all"
    assert read_json(tmp_path / "summary_seen.json")["label_space"] == "seen"
    assert not (tmp_path / "summary_all.json").exists()


@pytest.mark.slow
def test_another_split_in_every_space(cli, tmp_path):
    done = cli(*SHARED, "--dataset-order", ",".join(ORDER), "--label-space", "task,all", "--eval-split", "val",
               "--save", tmp_path)
    assert done.status == 0, done.err
    for name, (space, parts) in itertools.product(ORDER, (("task", None), ("all", ORDER))):
        row = table(tmp_path, name)["toy-colours", space]
        assert row["split"] == "val"
        assert_equals_brute_force(row, tmp_path / "toy-colours.pth", name, parts or (name,), split="val")


def test_equal_class_names_stay_different_classes(cli, world, tmp_path):
    words = ("--load", world.model, "--dataset-order", f"{world.colours},{world.loose}", "--iterations", 1,
             "--batch-size", 4, "--lr", "1e-9", "--workers", 0, "--data-location", tmp_path, "--warmup-length", 0)
    done = cli(*words, "--label-space", "task,all", "--save", tmp_path / "out")
    assert done.status == 0, done.err
    warning, = done.warnings
    assert all(f"{name!r} (colours, loose)" in warning for name in world.names)
    found = table(tmp_path / "out", "loose")
    assert found["", "all"]["k"] == "5" and found["", "task"]["k"] == "3"
    # The prompts are the same, so the first dataset's class of that name is always as good, and comes first.
    assert float(found["", "all"]["top1"]) == 0 < float(found["", "task"]["top1"])
    both = [table(tmp_path / "out", "colours")["", space]["top1"] for space in ("task", "all")]
    assert both[0] == both[1]
    assert cli(*words, "--label-space", "task", "--save", tmp_path / "plain").warnings == []


def test_nothing_is_seen_before_training(cli, tmp_path):
    done = cli("--model", "toy", "--eval-only", "--eval-datasets", "toy-sizes", "--label-space", "task,seen", "--save",
               tmp_path / "out")
    assert done.status == 2 and "--label-space seen" in done.err and not (tmp_path / "out").exists()


def test_what_is_never_seen_is_told(cli, sequence, tmp_path):
    words = (*EVALUATION, "--load", sequence / "toy-colours.pth", "--eval-only", "--eval-datasets",
             "toy-positions,toy-sizes", "--save", tmp_path)
    done = cli(*words, "--label-space", "seen")
    warning, = done.warnings
    assert done.status == 0 and "toy-positions has no score" in warning and "toy-sizes" not in warning
    assert [path.name for path in tmp_path.glob("metrics_*")] == ["metrics_toy-sizes.csv"]
    assert not list(tmp_path.glob("*toy-positions*")), "what is not scored has no predictions"
    assert cli(*words, "--label-space", "seen,task").warnings == []


def test_heads_and_prompts_stand_side_by_side(cli, tmp_path):
    """A trained head is one part of the joined classes, prompts are the other."""
    words = (*SHARED, "--label-space", "task,all", "--eval-datasets", ",".join(ORDER), "--save", tmp_path)
    assert cli(*words, "--train-dataset", "toy-sizes", "--train-mode", "image-fc").status == 0
    content = torch.load(tmp_path / "toy-sizes.pth", weights_only=True)
    model, preprocess = clip.load(str(tmp_path / "toy-sizes.pth"))
    head = content["heads"]["toy-sizes"]
    with torch.no_grad():
        scale = model.logit_scale.exp()
        colours = prompts_of(model, "toy-colours")
        for name, first in (("toy-sizes", 0), ("toy-colours", 3)):
            images, hits = open_task(name, "").split("test"), 0
            for index in balanced_subset(images.labels, 24, SUBSET_SEED):
                feature = image_features(model, preprocess(images.image(index))[None])[0]
                scores = torch.cat([head[:, :-1] @ feature + head[:, -1], scale * colours.T @ feature])
                hits += int(scores.argmax()) == first + images.labels[index]
            row = table(tmp_path, name)["toy-sizes", "all"]
            assert float(row["top1"]) == pytest.approx(100 * hits / 24, abs=1e-3)
            assert row["scored_by"] == ("head:toy-sizes" if name == "toy-sizes" else "zeroshot")


# -- custom scores of a method -----------------------------------------------------------------------------------------

OWN = '''
import torch
from src.models.finetune import Finetune
from src.models.modeling import image_features

ASKED = []


class Favourite(Finetune):
    """Whatever was trained on, its second class gets a bonus."""

    def __init__(self, bonus=1000.0):
        super().__init__()
        self.bonus, self.bonuses = bonus, {}

    def end(self, state):
        self.bonuses[state.task.name] = self.bonus * (torch.arange(len(state.task.classnames)) == 1)

    def scores(self, state, images, spaces):
        ASKED.append(spaces)
        features = image_features(state.final_model, images)
        return {space: torch.cat([features @ part.weights + self.bonuses.get(part.name, 0) for part in parts], dim=1)
                for space, parts in spaces.items()}

    def carry(self):
        return {"bonuses": self.bonuses}

    def load_carry(self, content):
        self.bonuses = dict(content.get("bonuses", {}))
'''


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "my.py"
    path.write_text(OWN, encoding="utf-8")
    return "--method", f"{path}:Favourite"


def test_a_method_s_own_scores(cli, own, tmp_path):
    done = cli(*SHARED, *own, "--dataset-order", ",".join(ORDER), "--label-space", "task,seen,all", "--save",
               tmp_path / "out")
    assert done.status == 0, done.err
    sizes, colours = (table(tmp_path / "out", name) for name in ORDER)
    third, eighth = ["33.3333"], ["12.5000"]  # balanced classes, one of them always answered
    assert [sizes[task, "task"]["top1"] for task in ORDER] == third * 2 and float(sizes["", "task"]["top1"]) > 50
    assert colours["toy-colours", "task"]["top1"] in eighth and float(colours["toy-sizes", "task"]["top1"]) > 25
    assert colours["toy-sizes", "all"]["top1"] == "0.0000", "a class of the other task is answered"
    asked = sys.modules["own_method_my"].ASKED
    names = [{space: tuple(part.name for part in parts) for space, parts in spaces.items()} for spaces in asked]
    unseen = [{"task": (name,), "all": ORDER} for name in ORDER]
    seen = [{"task": (name,), "seen": known, "all": ORDER} for known in (ORDER[:1], ORDER) for name in known]
    assert all(found in names for found in [*unseen, *seen]) and all(found in [*unseen, *seen] for found in names)
    for part in (part for spaces in asked for parts in spaces.values() for part in parts):
        task = open_task(part.name, "")
        assert (part.source, part.classnames, part.templates) == (part.name, task.classnames, task.templates)
        assert part.weights.shape[1] == CLASSES[part.name]


def test_evaluation_alone_takes_the_method_and_what_it_carried(cli, own, tmp_path):
    out = tmp_path / "out"
    both = ("--eval-datasets", ",".join(ORDER), "--label-space", "task,seen,all", *EVALUATION)
    assert cli(*SHARED, *own, "--dataset-order", ",".join(ORDER), "--label-space", "task,seen,all", "--save",
               out).status == 0
    done = cli(*own, "--load", out / "toy-colours.pth", "--eval-only", *both, "--save", tmp_path / "own")
    assert done.status == 0 and done.err == "" and done.warnings == []
    for name in ORDER:
        assert table(tmp_path / "own", name) == {key: row for key, row in table(out, name).items()
                                                 if key[0] == "toy-colours"}
    words = "--load", out / "toy-colours.pth", "--eval-only", *both, "--save", tmp_path / "plain"
    done = cli(*words)  # a checkpoint must not choose code to run, and plain CLIP would be another score
    assert done.status == 2 and f"give {' '.join(own)} yourself" in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "plain").exists()
    done = cli(*words, "--method", "finetune")
    assert done.status == 0 and done.err == ""
    assert done.warnings == ["warning: --method has no effect in an evaluation run: finetune is scored as plain CLIP"]
    assert f"made by --method {own[1]}, which defines its own scores; --method finetune is used instead" in done.out
    for name in ORDER:
        found = table(tmp_path / "plain", name)["toy-colours", "task"]
        assert_equals_brute_force(found, out / "toy-colours.pth", name, (name,))
        assert found["top1"] != table(out, name)["toy-colours", "task"]["top1"]
