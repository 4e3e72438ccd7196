"""The tables of methods and add-ons, and methods of the user's own."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cli_files import BATCH, SIDE, STEPS, lines, read_json, rows, same_weights, train_chain, weights

from clip.loader import build, read_checkpoint
from src.cli.flags import FLAGS
from src.datasets import open_task
from src.datasets.transforms import EvalTransform
from src.machine.device import Device
from src.models import ADD_ONS, METHODS, active_add_ons, find_method, takes
from src.models.hooks import Hooks
from src.models.modeling import image_features

pytest_plugins = ["cli_fixtures"]
ROOT = Path(__file__).resolve().parents[2]
MINE = '''
from dataclasses import dataclass
from src.models.finetune import Finetune


class Mine(Finetune):
    def __init__(self, factor=1.0, name="none"):
        super().__init__()
        self.factor, self.name = factor, name

    def losses(self, state, batch):
        return {self.name: self.factor * super().losses(state, batch)["task"]}


@dataclass
class Other:
    needed: int
'''


@pytest.mark.parametrize("row", [*METHODS.values(), *ADD_ONS.values()], ids=lambda row: row.target)
def test_every_row_builds_hooks_from_the_defaults_of_its_flags(row):
    values = {key: FLAGS[key].default for key in row.uses}
    assert isinstance(row.build(values | {key: "DTD" for key in row.needs}), Hooks)


def test_add_ons_are_switched_on_by_their_flag_and_keep_their_order():
    values = dict.fromkeys([*ADD_ONS, *(key for add_on in ADD_ONS.values() for key in add_on.switches)], False)
    assert active_add_ons(values) == {}
    assert list(active_add_ons(values | {"orthogonal_gradients_path": "a.pth"})) == ["orthogonal_gradients"]
    assert list(active_add_ons(values | {"wise_merge": True, "l2": 0.5, "we": True})) == ["l2", "we", "wise_merge"]


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE, encoding="utf-8")
    return path


def test_a_custom_method_gets_its_keywords(train, mine, tmp_path):
    done = train(tmp_path / "out", "--method", f"{mine}:Mine", "--set", "factor=2.5", "--set", "name=own",
                 "--log-interval", 1)
    assert done.status == 0 and "own" in lines(tmp_path / "out" / "log_colours.jsonl")[0]
    train(tmp_path / "plain", "--method", f"{mine}:Mine", "--log-interval", 1)
    own, plain = (lines(tmp_path / name / "log_colours.jsonl")[0][term] for name, term in (("out", "own"),
                                                                                        ("plain", "none")))
    assert own == pytest.approx(2.5 * plain)


@pytest.mark.parametrize(("method", "words", "fragments"), [
    ("{mine}:Absent", "", ["--method", "Absent", "Mine, Other"]), ("{mine}:Other", "", ["--method", "needed", "--set"]),
    ("{mine}:Mine", "--set size=3", ["--method", "size", "--set"]),
    ("/no/such.py:Mine", "", ["--method", "no such file"]), ("finetune", "--set factor=2", ["--set", "finetune"])])
def test_a_method_that_cannot_be_built(train, mine, tmp_path, method, words, fragments):
    done = train(tmp_path / "out", "--method", method.format(mine=mine), *words.split())
    assert done.status == 2 and all(fragment in done.err for fragment in fragments)
    assert len(done.err.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_the_worked_example_of_the_documentation(cli, world, tmp_path, monkeypatch):
    """EWC as docs/your-method.md shows it, from a file outside the package: a sequence equals a chain, bit for bit, and
    the second task moves less than without it."""
    write_example(0, tmp_path / "my.py")
    shared = ["--iterations", STEPS, "--batch-size", BATCH, "--lr", "1e-3", "--workers", 0]
    own = ["--method", f"{tmp_path}/my.py:EWC", "--set", "strength=1e6"]
    both = f"{world.colours},{world.tones}"
    cli("--load", world.model, "--dataset-order", both, "--save", tmp_path / "seq", *shared, *own)
    start = world.model
    for name in (world.colours, world.tones):
        done = cli("--load", start, "--train-dataset", name, "--save", tmp_path / "chain", *shared, *own)
        assert done.status == 0, done.err
        start = tmp_path / "chain" / f"{Path(name).name}.pth"
    saved = weights(tmp_path / "seq" / "tones.pth")
    assert same_weights(saved, weights(start))
    assert "ewc" in lines(tmp_path / "seq" / "log_tones.jsonl")[-1]
    cli("--load", world.model, "--dataset-order", both, "--save", tmp_path / "plain", *shared)
    first, plain = weights(tmp_path / "plain" / "colours.pth"), weights(tmp_path / "plain" / "tones.pth")
    assert moved(first, saved) < moved(first, plain)


def write_example(number, path):
    """One of the Python examples of docs/your-method.md as a file."""
    text = (ROOT / "docs" / "your-method.md").read_text(encoding="utf-8")
    path.write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[number], encoding="utf-8")


def test_the_closed_form_example_of_the_documentation(cli, world, tmp_path, monkeypatch):
    """Ridge regression by its own scores against scikit-learn's, over two tasks in one process, in a chain, and scored
    again without training. It takes no step, and says so wherever steps are counted."""
    from sklearn.linear_model import Ridge
    write_example(1, tmp_path / "my.py")
    both, own = f"{world.colours},{world.tones}", ["--method", f"{tmp_path}/my.py:Ridge", "--set", "strength=0.5"]
    shared = [*own, "--batch-size", 3, "--workers", 0]
    assert cli("--load", world.model, "--dataset-order", both, "--save", tmp_path / "seq", *shared).status == 0
    start = train_chain(cli, world, tmp_path / "chain", *shared)
    sequence, chain = (torch.load(tmp_path / name / "tones.pth", weights_only=True) for name in ("seq", "chain"))
    assert same_weights(sequence["state_dict"], weights(world.model)), "nothing is trained"
    assert torch.equal(sequence["carry"]["Ridge"]["gram"], chain["carry"]["Ridge"]["gram"])
    for name in ("colours", "tones"):
        ran = read_json(tmp_path / "seq" / f"run_{name}.json")
        assert (ran["iterations"], ran["trainable_tensors"], ran["trainable_values"]) == (0, 0, 0)
        assert (tmp_path / "seq" / f"log_{name}.jsonl").read_bytes() == b"" and sequence["iteration"] == 0
        assert {row["iteration"] for row in rows(tmp_path / "seq" / f"metrics_{name}.csv")} == {"0"}

    model, features, labels, tests = build(read_checkpoint(world.model)).eval(), [], [], {}
    for number, name in enumerate((world.colours, world.tones)):
        task = open_task(name, tmp_path)
        features += [feature(model, task.split("train").image(index)) for index in range(len(task.split("train")))]
        labels += [3 * number + label for label in task.split("train").labels]
        tests[task.name] = task.split("test")
    expected = Ridge(alpha=0.5, fit_intercept=False).fit(torch.stack(features), F.one_hot(torch.tensor(labels), 5))
    for number, (name, split) in enumerate(tests.items()):
        answers = expected.predict(torch.stack([feature(model, split.image(index)) for index in range(len(split))]))
        right = answers[:, 3 * number:3 * number + 3].argmax(axis=1) == split.labels
        top1 = f"{100 * right.mean():.4f}"
        assert [row["top1"] for row in rows(tmp_path / "seq" / f"metrics_{name}.csv")][-1] == top1
        assert [row["top1"] for row in rows(tmp_path / "chain" / f"metrics_{name}.csv")][-1] == top1
        cli("--load", start, *own, "--eval-only", "--eval-datasets", both, "--save", tmp_path / "again", "--workers", 0)
        assert [row["top1"] for row in rows(tmp_path / "again" / f"metrics_{name}.csv")] == [top1]


def test_the_example_of_own_modules_of_the_documentation(cli, world, tmp_path):
    """The CLIP stays, one vector for each block of the text tower trains."""
    write_example(2, tmp_path / "my.py")
    done = cli("--load", world.model, "--method", f"{tmp_path}/my.py:Biases", "--train-dataset", world.colours,
               "--iterations", STEPS, "--batch-size", BATCH, "--lr", "1e-3", "--workers", 0, "--save", tmp_path / "out")
    assert done.status == 0, done.err
    found = torch.load(tmp_path / "out" / "colours.pth", weights_only=True)
    assert same_weights(found["state_dict"], weights(world.model))
    (name, vector), = found["own"]["Biases"].items()
    assert name == "vectors.0.vector.weight" and vector.abs().max() > 1e-5
    ran = read_json(tmp_path / "out" / "run_colours.json")
    assert (ran["trainable_tensors"], ran["trainable_values"]) == (1, len(vector))


@pytest.fixture
def ridge(cli, world, tmp_path):
    """ridge(words) -> a run of the closed-form example on one task, into tmp_path / "out"."""
    write_example(1, tmp_path / "my.py")
    return lambda *words: cli("--load", world.model, "--method", f"{tmp_path}/my.py:Ridge", "--train-dataset",
                              world.colours, "--batch-size", 3, "--workers", 0, "--save", tmp_path / "out", *words)


@pytest.mark.parametrize("words", [
    "--iterations 3", "--epochs 1", "--lr 1e-3", "--optimizer sgd", "--warmup-length 0", "--l2 0.1", "--lora", "--we",
    "--train-mode fc", "--eval-interval 2", "--orthogonal-gradients 2"])
def test_a_closed_form_rejects_what_acts_in_steps(ridge, tmp_path, words):
    done = ridge(*words.split())
    reason = f"{words.split()[0]} with --method {tmp_path}/my.py:Ridge: a closed form"
    assert done.status == 2 and reason in done.err
    assert len(done.err.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_method_with_steps_needs_a_length(cli, world, mine, tmp_path):
    done = cli("--load", world.model, "--train-dataset", world.colours, "--method", f"{mine}:Mine", "--save",
               tmp_path / "out")
    assert done.status == 2 and "--iterations N or --epochs N" in done.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["on", "probe"])
def test_a_closed_form_in_a_dry_run(ridge, tmp_path, mode):
    """A protocol's number of steps is not its own."""
    done = ridge(f"--dry-run={mode}")
    assert done.status == 0 and "Ridge, a closed form: it takes no steps" in done.out, done.out
    assert "no steps: a closed form passes over the images" in done.out and "trains 0 of " in done.out
    assert ("not run: a closed form has no steps" in done.out) == (mode == "probe")
    assert not (tmp_path / "out").exists()


def test_a_closed_form_of_a_protocol_with_steps(cli, tmp_path):
    write_example(1, tmp_path / "my.py")
    done = cli("--method", f"{tmp_path}/my.py:Ridge", "--dataset-order", "toy", "--dry-run")
    assert done.status == 0 and "no steps: a closed form" in done.out, done.out


def test_an_interrupted_pass_is_repeated(ridge, tmp_path, monkeypatch, capsys):
    """The signal comes within the pass of ``end``; what the interrupted run counted is not counted again."""
    assert ridge().status == 0
    expected = torch.load(tmp_path / "out" / "colours.pth", weights_only=True)["carry"]["Ridge"]
    text = (tmp_path / "my.py").read_text(encoding="utf-8")
    line = "                answers = F.one"
    signal = "                if os.path.exists('ask'): os.remove('ask'), os.kill(os.getpid(), 10)\n"
    assert line in text
    (tmp_path / "my.py").write_text("import os\n" + text.replace(line, signal + line), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ask").touch()
    done = ridge("--overwrite")
    assert done.status == 75 and not (tmp_path / "ask").exists(), done.err
    assert "colours has no steps to resume from, and starts again with the same command and --resume" in done.err
    (tmp_path / "out" / "colours.pth").unlink(missing_ok=True)
    assert ridge("--resume").status == 0
    again = torch.load(tmp_path / "out" / "colours.pth", weights_only=True)["carry"]["Ridge"]
    assert torch.equal(again["gram"], expected["gram"])
    assert torch.equal(again["targets"]["colours"], expected["targets"]["colours"])


@pytest.mark.parametrize("row", [found for row in METHODS.values() for found in (row, row.on_pairs) if found],
                         ids=lambda row: row.target)
def test_the_table_repeats_what_the_classes_of_methods_declare(row):
    assert (row.closed_form, row.data) == (row.hook().closed_form, row.hook().data)


@pytest.mark.parametrize("row", ADD_ONS.values(), ids=lambda row: row.target)
def test_every_add_on_goes_with_either_kind_of_data(row):
    assert row.hook().data == "both"


@pytest.mark.parametrize(("data", "pairs", "classes"), [("classes", False, True), ("pairs", True, False),
                                                        ("both", True, True)])
def test_which_data_a_declaration_takes(data, pairs, classes):
    assert (takes(data, pairs=True), takes(data, pairs=False)) == (pairs, classes)


DECLARED = """
from src.models.finetune import Finetune
from src.models.modx import Contrastive
from src.models.hooks import Hooks


class Silent(Finetune):
    pass


class Heir(Contrastive):
    pass


class Wide(Hooks):
    data = "both"
    all_used = True

    def begin(self, state):
        state.model.logit_scale.requires_grad_(True)

    def losses(self, state, batch):
        return {"pull": sum(value.square().sum() for value in state.trained())}


class Odd(Finetune):
    data = "images"
"""


@pytest.fixture
def declared(cli, world, pairs, tmp_path):
    """declared(name, kind, *words) -> a run of a class of DECLARED on "pairs" or "classes", into tmp_path / "out"."""
    (tmp_path / "my.py").write_text(DECLARED, encoding="utf-8")
    return lambda name, kind, *words: cli(
        "--load", world.model, "--method", f"{tmp_path}/my.py:{name}", "--train-dataset",
        pairs if kind == "pairs" else world.colours, "--iterations", 2, "--batch-size", BATCH, "--lr", "1e-5",
        "--warmup-length", 0, "--workers", 0, "--save", tmp_path / "out", *words)


@pytest.mark.parametrize(("name", "kind", "fragments"), [
    ("Silent", "pairs", ["is not for image-text pairs", "Silent takes class data", 'data = "both"', 'data = "pairs"']),
    ("Heir", "classes", ["is not for class data", "Heir takes image-text pairs", 'data = "both"', 'data = "classes"']),
    ("Odd", "classes", ["Odd declares data = 'images'", '"classes", "pairs" or "both"'])])
@pytest.mark.parametrize("words", ["", "--dry-run"])
def test_a_custom_method_is_refused_on_data_that_it_does_not_declare(declared, tmp_path, name, kind, fragments, words):
    done = declared(name, kind, *words.split())
    assert done.status == 2 and all(fragment in done.err + done.out for fragment in fragments)
    assert not (tmp_path / "out").exists() and (words or len(done.err.splitlines()) == 1)


def test_data_are_not_opened_for_a_method_that_is_not_for_them(declared, tmp_path, monkeypatch):
    monkeypatch.setattr("src.run.datasets.Datasets._as_it_comes", lambda *_: pytest.fail("opened"))
    assert declared("Heir", "classes").status == 2


@pytest.mark.parametrize(("name", "kind"), [("Heir", "pairs"), ("Wide", "pairs"), ("Wide", "classes")])
def test_a_custom_method_trains_on_data_that_it_declares(declared, tmp_path, name, kind):
    assert declared(name, kind).status == 0 and list((tmp_path / "out").glob("*.pth"))


def test_pairs_have_no_classes_for_a_head_whatever_the_method(declared, tmp_path):
    done = declared("Heir", "pairs", "--train-mode", "fc")
    assert done.status == 2 and "--train-mode fc: image-text pairs have no classes for a head" in done.err
    assert not (tmp_path / "out").exists()


def feature(model, image):
    """(D,) under the evaluation transform."""
    with torch.no_grad():
        return image_features(model, Device("cpu", "fp32").images(EvalTransform(SIDE)(image)[None]))[0]


def moved(one, other):
    return sum(torch.dist(one[name].double(), other[name].double()).item() ** 2 for name in one)


def test_an_own_method_is_named_like_its_row():
    assert find_method("finetune") is METHODS["finetune"] and find_method("a/b.py:C").target == "a/b.py:C"


def test_a_sequence_with_a_method_that_cannot_be_built_writes_nothing(cli, world, mine, tmp_path):
    done = cli("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", 1,
               "--save", tmp_path / "out", "--workers", 0, "--method", f"{mine}:Absent")
    assert done.status == 2 and not (tmp_path / "out").exists()
