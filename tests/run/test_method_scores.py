"""Scores of a method: what is rejected, what rows say, and that each mode asks for the same."""

import csv
import sys
from types import SimpleNamespace

import pytest
import torch
from cli_files import COLOURS, TONES, rows, write_pictures

from clip.model import CLIP
from src.errors import UserError
from src.main import main
from src.models.classifiers import Classes
from src.models.hooks import Hooks
from src.models.penalties import L2
from src.run.method_scores import MethodScores

pytest_plugins = ["cli_fixtures"]

SPACES = {"task": [Classes("a", "A", ["x", "y"], [], torch.ones(4, 2))],
          "all": [Classes("a", "A", ["x", "y"], [], torch.ones(4, 2)), Classes("b", "B", ["z"], [], torch.ones(4, 1))]}
TASK, ALL = torch.zeros(5, 2), torch.zeros(5, 3)


class Mine(Hooks):
    """Returns what it is given, call by call."""

    def __init__(self, *answers):
        self.answers = iter(answers)

    def scores(self, state, images, spaces):
        assert spaces is SPACES
        return next(self.answers)


def scores_of(*answers, own=()):
    return MethodScores(SimpleNamespace(acting=lambda: own), [Mine(*answers), L2(0.1)])


def ask(method):
    return method(torch.ones(5, 3, 2, 2), SPACES)


@pytest.mark.parametrize("own", [(), ("Mine",)], ids=["no modules", "modules that act"])
def test_each_space_says_what_scored_it(own):
    method, plain = scores_of({"task": TASK, "all": ALL}, {"all": ALL}, {}, None, own=own), "with:Mine" if own else None
    assert method.scores_alone and method.by("task") == plain
    expected = [("task", "all"), ("all",), (), ()]
    for dataset, given in enumerate(expected):
        method.turn_to(dataset)
        assert ask(method).keys() == set(given)
        for space in SPACES:
            assert method.by(space) == ("logits:Mine" if space in given else plain)


@pytest.mark.parametrize("router", ["sample", "batch"])
def test_rows_say_how_a_routed_method_chose(router):
    hook = Mine({"task": TASK})
    hook.router = router
    method = MethodScores(SimpleNamespace(acting=list, world=SimpleNamespace(size=1)), [hook])
    ask(method)
    assert method.by("task") == f"logits:Mine:{router}" and method.by("all") is None


class Together(Mine):
    router = "batch"


@pytest.mark.parametrize(("hook", "size", "refused"), [
    (Together(), 2, True), (Together(), 1, False), (Mine(), 2, False)], ids=["together", "alone", "each by itself"])
def test_images_that_choose_together_are_not_shared_by_processes(hook, size, refused):
    state = SimpleNamespace(acting=list, world=SimpleNamespace(size=size))
    if not refused:
        MethodScores(state, [hook])
        return
    with pytest.raises(UserError, match="--router batch: Together routes consecutive images together"):
        MethodScores(state, [hook])


@pytest.mark.parametrize("hooks", [[], [Hooks()]], ids=["plain CLIP", "nothing overridden"])
def test_without_scores_all_is_left_to_clip(hooks):
    method = MethodScores(SimpleNamespace(acting=list), hooks)
    assert ask(method) == {} and not method.scores_alone and method.by("task") is None


@pytest.mark.parametrize(("answer", "message"), [
    ([TASK], "Mine.scores must return {label space: scores} or None, not list"),
    (TASK, "Mine.scores must return {label space: scores} or None, not Tensor"),
    ({"task": TASK, "seen": ALL}, "Mine.scores returns scores of 'seen'; the label spaces are task, all"),
    ({"all": TASK}, "Mine.scores returns (5, 2) in label space all; 5 images and 3 classes need a tensor of "
                    "shape (5, 3)"),
    ({"task": TASK[:1]}, "Mine.scores returns (1, 2) in label space task; 5 images and 2 classes need"),
    ({"task": TASK.T}, "Mine.scores returns (2, 5) in label space task"),
    ({"task": [[0, 1]] * 5}, "Mine.scores returns list in label space task; 5 images and 2 classes need a tensor"),
], ids=lambda value: "" if isinstance(value, str) else None)
def test_what_does_not_fit_is_rejected_by_the_method_s_name(answer, message):
    with pytest.raises(UserError) as caught:
        ask(scores_of(answer))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("answers", [({"task": TASK}, None), (None, {"task": TASK}),
                                     ({"task": TASK, "all": ALL}, {"all": ALL})], ids=["then", "late", "one of two"])
def test_one_row_is_not_half_of_the_method_and_half_of_clip(answers):
    method = scores_of(*answers)
    method.turn_to("DTD")
    ask(method)
    with pytest.raises(UserError, match="Mine.scores scores only some batches of DTD in label space task; score all"):
        ask(method)
    method = scores_of(*answers)
    for dataset in ("DTD", "MNIST"):  # between datasets it may differ
        method.turn_to(dataset)
        ask(method)


def test_an_add_on_has_no_scores(cli, world, monkeypatch):
    monkeypatch.setattr(L2, "scores", lambda hook, state, images, spaces: None)
    with pytest.raises(ValueError, match="L2: an add-on may not build modules or define scores"):
        cli("--load", world.model, "--l2", "0.1", "--iterations", 1, "--lr", "1e-5", "--train-dataset", world.colours)


# -- from the command line ---------------------------------------------------------------------------------------------

METHODS = '''
import torch
from src.models.finetune import Finetune
from src.models.helpers import similarity
from src.models.hooks import Hooks
from src.models.modeling import image_features

ASKED = []


class Shifted(Finetune):
    """In "all" the classes of trained datasets come first; in "task" their first class does."""

    def __init__(self, bonus=0.02):
        super().__init__()
        self.bonus, self.trained = bonus, []

    def end(self, state):
        self.trained.append(state.source)

    def scores(self, state, images, spaces):
        ASKED.append(spaces)
        features = image_features(state.final_model, images)
        return {space: torch.cat([self.of(space, part, features) for part in parts], dim=1)
                for space, parts in spaces.items()}

    def of(self, space, part, features):
        scores = features @ part.weights                                            # (B, C)
        if part.source in self.trained:
            scores = scores + self.bonus * (torch.arange(scores.shape[1]) == 0 if space == "task" else 1)
        return scores

    def carry(self):
        return {"trained": self.trained}

    def load_carry(self, content):
        self.trained = list(content.get("trained", []))


class Known(Hooks):
    """In "all" only the classes of one dataset may be the answer; "task" is as CLIP has it, by itself or left out."""

    def __init__(self, dataset, leaves=False):
        self.dataset, self.leaves = dataset, leaves

    def scores(self, state, images, spaces):
        features, scale = image_features(state.final_model, images), state.final_model.logit_scale.exp()

        def of(space, part):
            found = similarity(features, part.weights.T, scale)
            return found if space == "task" or part.name == self.dataset else torch.full_like(found, -torch.inf)
        return {space: torch.cat([of(space, part) for part in parts], dim=1) for space, parts in spaces.items()
                if not (self.leaves and space == "task")}


class Wrong(Hooks):
    def scores(self, state, images, spaces):
        return {space: images.flatten(1) for space in spaces}


class Old(Finetune):
    def logits(self, state, images, heads):
        return None
'''
BOTH = ("--workers", 0, "--precision", "fp64", "--label-space", "task,all")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with ``my.py``."""
    folder = tmp_path_factory.mktemp("methods")
    (folder / "my.py").write_text(METHODS, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def shifted(place, world):
    """The folder of a sequence by Shifted."""
    assert main([str(word) for word in (
        "--load", world.model, "--method", f"{place}/my.py:Shifted", "--dataset-order",
        f"{world.colours},{world.tones}", "--iterations", 2, "--batch-size", 4, "--lr", "1e-3", "--warmup-length", 0,
        "--set", "bonus=0.05", *BOTH, "--save", place / "out")]) == 0
    return place / "out"


def table(folder, name, task=None):
    """{(task, label space): row}"""
    return {(row["task"], row["label_space"]): row for row in rows(folder / f"metrics_{name}.csv")
            if task in (None, row["task"])}


def test_each_mode_gives_the_rows_of_training(cli, place, world, shifted, tmp_path):
    """--eval-only, the chain of both files, and each image by itself."""
    own = ("--method", f"{place}/my.py:Shifted")
    names, both = ("colours", "tones"), f"{world.colours},{world.tones}"
    done = cli("--load", shifted / "tones.pth", *own, "--eval-only", "--eval-datasets", both, *BOTH, "--save",
               tmp_path / "alone")
    assert done.status == 0, done.err
    done = cli("--load", f"{shifted / 'colours.pth'},{shifted / 'tones.pth'}", *own, "--eval-only", "--eval-datasets",
               both, *BOTH, "--save", tmp_path / "chain")
    assert done.status == 0, done.err
    for name in names:
        trained = table(shifted, name)
        assert {trained[task, space]["scored_by"] for task in names for space in ("task", "all")} == {"logits:Shifted"}
        assert table(tmp_path / "alone", name) == table(shifted, name, "tones")
        assert table(tmp_path / "chain", name) == trained
        for file in (f"predictions_{name}.csv", f"predictions_{name}_all.csv"):
            assert (tmp_path / "alone" / file).read_bytes() == (shifted / file).read_bytes()
    plain = {row["image"]: row for row in csv.DictReader((shifted / "predictions_tones.csv").open())}
    images = world.root / "tones" / "test"
    for number, name in enumerate(sorted(TONES)):
        done = cli("--load", shifted / "tones.pth", *own, "--eval-single", images / name, "--precision", "fp64",
                   "--workers", 0, "--save", tmp_path / str(number))
        assert done.status == 0 and "note: scored by logits:Shifted" in done.out, done.err
        found = {row["image"]: row for row in rows(tmp_path / str(number) / "predictions.csv")}
        assert len(found) == 4
        for image, row in found.items():
            expected = plain[f"{name}/{image.rpartition('/')[2]}"]
            assert row["class_1"] == expected["prediction"]
            assert f"{float(row['probability_1']):.6f}" == expected["probability"]


def test_a_method_may_act_on_the_label_space_in_one_pass(cli, place, world, tmp_path, monkeypatch):
    """The other dataset's classes are no answer in "all", so its row there is that of "task", and the images of the
    other have no hit; "task" is CLIP's own."""
    calls, original = [], CLIP.encode_image
    monkeypatch.setattr(CLIP, "encode_image", lambda model, *arguments, **options: (
        calls.append(len(arguments[0])) or original(model, *arguments, **options)))
    words = ("--load", world.model, "--eval-only", "--eval-datasets", f"{world.colours},{world.tones}", *BOTH)
    found, known = {}, ("--method", f"{place}/my.py:Known", "--set", "dataset=colours")
    for name, own in (("plain", ()), ("known", known), ("leaves", (*known, "--set", "leaves=True"))):
        calls.clear()
        done = cli(*words, *own, "--save", tmp_path / name)
        assert done.status == 0, done.err
        found[name] = {dataset: {space: row for (_, space), row in table(tmp_path / name, dataset).items()}
                       for dataset in ("colours", "tones")}
        assert calls == [12, 8] if name != "leaves" else sorted(calls) == [8, 8, 12, 12]  # once for CLIP's own scores
    plain, known, leaves = found["plain"], found["known"], found["leaves"]
    for dataset in plain:
        assert {**known[dataset]["task"], "scored_by": 0} == {**plain[dataset]["task"], "scored_by": 0}
        assert known[dataset]["task"]["scored_by"] == known[dataset]["all"]["scored_by"] == "logits:Known"
        assert leaves[dataset]["task"] == plain[dataset]["task"] and leaves[dataset]["all"] == known[dataset]["all"]
    assert known["tones"]["all"]["top1"] == "0.0000" and float(plain["tones"]["task"]["top1"]) > 0
    assert known["colours"]["all"]["top1"] == plain["colours"]["task"]["top1"] != plain["colours"]["all"]["top1"]


def test_scores_that_do_not_fit_are_one_line(cli, place, world, tmp_path):
    done = cli("--load", world.model, "--method", f"{place}/my.py:Wrong", "--eval-only", "--eval-datasets",
               world.colours, "--workers", 0, "--save", tmp_path / "out")
    assert done.status == 2 and done.err.count("\n") == 0 and not (tmp_path / "out").exists()
    assert "Wrong.scores returns (12, 768) in label space task; 12 images and 3 classes need" in done.err


@pytest.mark.parametrize("words", [
    ("--train-dataset", "COLOURS", "--iterations", 1, "--lr", "1e-5", "--batch-size", 4),
    ("--train-dataset", "COLOURS", "--iterations", 1, "--lr", "1e-5", "--batch-size", 4, "--dry-run"),
    ("--eval-only", "--eval-datasets", "COLOURS"),
    ("--eval-single", "IMAGE", "--class-names", "a,b"),
], ids=["train", "dry run", "eval only", "eval single"])
def test_a_class_with_logits_is_rejected_before_anything_is_written(cli, place, world, tmp_path, words):
    words = [{"COLOURS": world.colours, "IMAGE": world.image}.get(word, word) for word in words]
    done = cli("--load", world.model, "--method", f"{place}/my.py:Old", *words, "--workers", 0, "--save",
               tmp_path / "out")
    assert done.status == 2 and len(done.err.splitlines()) <= 1 and not (tmp_path / "out").exists(), done.err
    reason = "Old defines logits, which nothing calls any more; scores(self, state, images, spaces) takes its place"
    assert f"--method {place}/my.py:Old: {reason}" in done.err + done.out


def test_classes_of_single_images_are_of_the_task_that_has_them(cli, place, shifted, world, tmp_path):
    """Other class names are of no dataset, even where one is called "images"."""
    asked = sys.modules["own_method_my"].ASKED
    write_pictures(tmp_path / "images" / "train", COLOURS, 2)
    write_pictures(tmp_path / "images" / "test", COLOURS, 1)
    own = ("--method", f"{place}/my.py:Shifted")
    done = cli("--load", shifted / "tones.pth", *own, "--train-dataset", f"folder:{tmp_path / 'images'}",
               "--iterations", 1, "--batch-size", 4, "--lr", "1e-5", "--warmup-length", 0, "--workers", 0, "--save",
               tmp_path / "out")
    assert done.status == 0, done.err
    for given, name, source in (("cold,warm", "tones", world.tones), ("warm,cold,light", "", "")):
        asked.clear()
        done = cli("--load", tmp_path / "out" / "images.pth", *own, "--eval-single", world.image, "--class-names",
                   given, "--prompt", "the {}", "--workers", 0)
        assert done.status == 0, done.err
        (part,), = (spaces["task"] for spaces in asked)
        assert (part.name, part.source, part.templates) == (name, source, ["the {c}"])
        assert list(part.classnames) == given.split(",") and part.weights.shape == (16, len(part.classnames))
