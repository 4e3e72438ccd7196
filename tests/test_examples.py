"""The example methods of ``examples/methods/`` train: to the same bits interrupted or not, in one run or several, in a
file or among METHODS. What they score is in test_examples_scored.py."""

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from example_runs import (
    COMMON,
    EXAMPLES,
    FOLDER,
    OWN,
    STEPPING,
    STEPS,
    TASKS,
    assert_as_if_never_interrupted,
    broken,
    equal,
    last_rows,
    loaded,
    quick,
    those,
    wait_for_writers,
)

import clip
from src.args import parse
from src.cli.flags import FLAGS
from src.datasets import open_task
from src.datasets.seeds import seed_of
from src.datasets.transforms import EvalTransform
from src.models import METHODS, Method
from src.models.penalties import L2

pytest_plugins = ["cli_fixtures", "example_fixtures"]


def test_documents_name_them(name, example):
    """With a command in each head that is one, and in a file that is read at once."""
    text = (FOLDER / example.file).read_text(encoding="utf-8")
    command, = re.findall(r"^    python -m src.main (.*)$", text, re.MULTILINE)
    assert parse(command.split()).method == f"examples/methods/{example.file}:{example.kind}"
    assert len(text.splitlines()) < 150
    document = (FOLDER.parents[1] / "docs" / "your-method.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| \[(\w+\.py)\]", document, re.MULTILINE)
    assert sorted(table) == sorted(path.name for path in FOLDER.glob("*.py")) and example.file in table


@those(OWN)
def test_own_modules_train_beside_a_clip_that_stays(finished, world, name, example):
    """And keep training in each task."""
    folder, start = finished(name), loaded(world.model)
    checkpoints = [loaded(folder / f"{task}.pth") for task in TASKS]
    for checkpoint in checkpoints:
        assert checkpoint["state_dict"].keys() == start["state_dict"].keys()
        assert all(torch.equal(value.double(), start["state_dict"][name].double())
                   for name, value in checkpoint["state_dict"].items())
        assert checkpoint["own"].keys() == {example.kind}
        assert checkpoint["scorer"]["method"] == example.method[1]
    first, second, third = (checkpoint["own"][example.kind] for checkpoint in checkpoints)
    for key in first.keys() - {"router.weight"}:
        assert not torch.equal(first[key], second[key]) and not torch.equal(second[key], third[key]), key


@quick("ewc", "ridge", "experts")
def test_a_sequence_equals_a_chain(finished, chain, name, example):
    for checkpoint in chain(*example.words):
        assert equal(loaded(checkpoint), loaded(finished(name) / checkpoint.name), {"config", "history"})


# -- interrupted -------------------------------------------------------------------------------------------------------


QUICK = {("ewc", "pass"), ("ridge", "pass"), ("experts", "begin"), ("prompts", "end")}
MOMENTS = [(name, moment) for name in EXAMPLES for moment in ("begin", "end", "pass")
           if moment != "pass" or name in ("ewc", "ridge")]


@pytest.mark.parametrize(("name", "moment"), [
    pytest.param(*row, marks=() if row in QUICK else pytest.mark.slow) for row in MOMENTS], indirect=["name"])
def test_interrupted_where_hooks_act(finished, cli, world, trio, name, example, moment, tmp_path):
    """In the second task, which begins with what the first has left."""
    words = ("--load", world.model, *example.words, *COMMON, "--dataset-order", ",".join(trio.values()), "--save",
             tmp_path, "--resume", "--save-interval", 1)
    with broken(example.hook(), moment, "tones"):
        assert cli(*words).status == 130
    assert (tmp_path / "colours.pth").is_file() and not (tmp_path / "tones.pth").exists()
    done = cli(*words)
    assert done.status == 0, done.err
    assert_as_if_never_interrupted(tmp_path, finished(name))


@quick("ewc", "prefixes", among=STEPPING)
def test_interrupted_after_a_step(finished, cli, world, trio, name, example, interrupt, tmp_path):
    words = ("--load", world.model, *example.words, *COMMON, "--dataset-order", ",".join(trio.values()), "--save",
             tmp_path, "--resume", "--save-interval", 1)
    interrupt("tones", 2)
    assert cli(*words).status == 130
    wait_for_writers()
    assert (tmp_path / "resume_tones.pth").is_file()
    interrupt(None)
    done = cli(*words)
    assert done.status == 0 and "after step 1 of 3" in done.out, done.err
    assert_as_if_never_interrupted(tmp_path, finished(name))


@pytest.mark.slow
@those(["experts"])
def test_averaged_modules_resume_and_are_scored(sequence, finished, cli, world, trio, name, example, interrupt,
                                                tmp_path):
    """The checkpoint, its rows and those of an evaluation alone are of the average, which every resume point has."""
    averages = ("--moving-avg", "--mv-avg-decay", "0.5", "--save-interval", 1)
    expected = sequence("out", *example.words, *averages)
    assert not equal(loaded(expected / "tones.pth")["own"], loaded(finished(name) / "tones.pth")["own"])
    words = ("--load", world.model, *example.words, *COMMON, "--dataset-order", ",".join(trio.values()), *averages,
             "--save", tmp_path / "broken", "--resume")
    interrupt("tones", 2)
    assert cli(*words).status == 130
    wait_for_writers()
    interrupt(None)
    assert cli(*words).status == 0
    assert_as_if_never_interrupted(tmp_path / "broken", expected)
    done = cli("--load", expected / "shades.pth", *example.method, "--eval-only", "--eval-datasets",
               ",".join(trio.values()), *COMMON, "--save", tmp_path / "scored")
    assert done.status == 0, done.err
    assert last_rows(tmp_path / "scored", *TASKS) == last_rows(expected, *TASKS)


MOVES = """
import torch
from src.models.finetune import Finetune


class Moves(Finetune):
    \"\"\"Changes weights at rest by a draw that no seed repeats.\"\"\"

    def begin(self, state):
        state.model.visual.requires_grad_(False)
        drawn = torch.rand((), generator=torch.Generator().manual_seed(torch.seed() % 2 ** 60))
        state.model.visual.proj.data.add_(drawn)
        with open({log!r}, "a") as file:
            print(drawn.item(), file=file)
        super().begin(state)
"""


def test_weights_at_rest_that_begin_changed_are_resumed(cli, world, interrupt, tmp_path):
    (tmp_path / "my.py").write_text(MOVES.replace("{log!r}", repr(str(tmp_path / "log"))))
    words = ("--load", world.model, "--method", f"{tmp_path / 'my.py'}:Moves", *COMMON, *STEPS, "--train-dataset",
             world.colours, "--save", tmp_path / "out", "--resume", "--save-interval", 1)
    interrupt("colours", 2)
    assert cli(*words).status == 130
    wait_for_writers()
    interrupt(None)
    assert cli(*words).status == 0
    first, second = map(float, (tmp_path / "log").read_text().split())
    moved = loaded(tmp_path / "out" / "colours.pth")["state_dict"]["visual.proj"] - loaded(
        world.model)["state_dict"]["visual.proj"].double()
    assert abs(first - second) > 1e-6 and moved.mean().item() == pytest.approx(first, abs=1e-6)


# -- moved into the framework ------------------------------------------------------------------------------------------


@pytest.fixture
def promoted(example, monkeypatch):
    """The name of the example among METHODS, its file a module of src.models."""
    module = f"src.models.example_{example.kind.lower()}"
    spec = importlib.util.spec_from_file_location(module, FOLDER / example.file)
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module, found)
    spec.loader.exec_module(found)
    uses = ("ls",) if example.steps else ()
    monkeypatch.setitem(METHODS, "promoted", Method(f"{module}:{example.kind}", uses, closed_form=not example.steps))
    monkeypatch.setitem(FLAGS, "method", replace(FLAGS["method"], choices=tuple(METHODS)))
    return "promoted"


@quick("ridge", "experts")
def test_promoted_it_computes_the_same_bits(cli, world, trio, example, promoted, tmp_path):
    """From the start, from what the file has left, and where that is scored. ``--ls`` is what both can be given."""
    set_, flag = (("--set", "ls=0.1"), ("--ls", "0.1")) if example.steps else ((), ())
    both = "--eval-datasets", f"{trio['colours']},{trio['tones']}"

    def trained(words, start, task, save):
        done = cli("--load", start, *words, *example.length, *COMMON, "--train-dataset", trio[task], *both, "--save",
                   tmp_path / save)
        assert done.status == 0, done.err
        return tmp_path / save / f"{task}.pth"

    by_file, by_name = (*example.method, *set_), ("--method", promoted, *flag)
    first = trained(by_file, world.model, "colours", "file")
    same = trained(by_name, world.model, "colours", "name")
    assert equal(loaded(same), loaded(first), {"config", "scorer"})
    second = trained(by_file, first, "tones", "file")
    assert equal(loaded(trained(by_name, first, "tones", "after the file")), loaded(second), {"config", "scorer"})
    plain = ["warning: --method has no effect in an evaluation run: promoted is scored as plain CLIP"]
    for path, words in ((second, by_name[:2]), (trained(by_name, same, "tones", "name"), ())):
        done = cli("--load", path, *words, "--eval-only", *both, *COMMON[2:], "--save", tmp_path / "scored")
        assert done.status == 0 and done.warnings == (plain if words and example.scored_by == "zeroshot" else [])
        rows = last_rows(tmp_path / "scored", "colours", "tones")
        assert rows == last_rows(tmp_path / "file", "colours", "tones")
        assert {row["scored_by"] for row in rows.values()} == {example.scored_by}


# -- beside other parts of the framework -------------------------------------------------------------------------------


@those(["prompts", "prefixes"])
@pytest.mark.parametrize("flag", ["--we", "--moving-avg", "--wise-merge", "--we-wise"])
def test_averages_are_refused(cli, world, example, tmp_path, flag):
    done = cli("--load", world.model, *example.words, *COMMON, "--train-dataset", world.colours, flag, "--save",
               tmp_path / "out")
    assert done.status == 2 and f"{flag} averages or merges weights" in done.err
    assert not list(Path(tmp_path).glob("out/*.pth"))


@those(["ridge"])
def test_averages_of_no_steps_are_refused(cli, world, example, tmp_path):
    done = cli("--load", world.model, *example.words, *COMMON, "--train-dataset", world.colours, "--we", "--save",
               tmp_path / "out")
    assert done.status == 2 and "--we with --method" in done.err and "takes no step" in done.err


@those(["ewc"])
@pytest.mark.parametrize("words", [
    ("--we", "--avg-freq", "1"), pytest.param(("--wise-merge",), marks=pytest.mark.slow)])
def test_averages_are_the_anchor(sequence, world, trio, example, words):
    """What the next task starts from, and is pulled to: not the weights of the last step."""
    folder = sequence("out", *example.words, *words)
    for task in TASKS:
        checkpoint = loaded(folder / f"{task}.pth")
        anchor = checkpoint["carry"]["EWC"]["anchor"]
        assert len(anchor) > 20 and all(torch.equal(value, checkpoint["state_dict"][name])
                                        for name, value in anchor.items())


@those(["ewc"])
@pytest.mark.parametrize("flag", ["--joint", "--lora"])
def test_what_the_fisher_pass_cannot_be_of(cli, world, example, flag, tmp_path):
    trained = f"{world.colours},{world.tones}" if flag == "--joint" else world.colours
    done = cli("--load", world.model, *example.words, *COMMON, flag, "--train-dataset", trained, "--save", tmp_path)
    assert done.status == 2 and f"leave {flag} out" in done.err


@those(OWN)
def test_flags_for_a_clip_that_stays_are_named(cli, world, example, tmp_path):
    done = cli("--load", world.model, *example.words, *COMMON, "--train-dataset", world.colours, "--lora",
               "--train-mode", "image", "--save", tmp_path)
    assert done.status == 0, done.err
    assert f"note: --lora and --train-mode: no effect, {example.kind} keeps all of the CLIP frozen" in done.out
    assert "adapts no layer" not in done.out


TAUGHT = """
import torch
from src.machine.code_files import load_file
from src.models.finetune import {base}
from src.models.modeling import image_features, text_features

Experts = load_file({experts!r}).Experts


class Taught({base}):
    \"\"\"Experts that learn from a teacher, and the distance of both from what the teacher was as the task began.\"\"\"

    def build(self, model):
        return Experts().build(model)

    def begin(self, state):
        state.model.requires_grad_(False)
        super().begin(state)
        self.images, self.before = next(state.stream(state.task.split("train"), "probe", 4)).images, None

    @torch.no_grad()
    def distance(self, model):
        return image_features(model, self.images), text_features(model, self.reference_tokens)

    def losses(self, state, batch):
        now, live = self.distance(self.teacher), self.distance(state.model)
        self.before = self.before or now
        moved = [max((one - other).abs().max().item() for one, other in zip(found, self.before))
                 for found in (now, live)]
        with open({log!r}, "a") as file:
            print(*moved, file=file)
        return super().losses(state, batch)
"""


@pytest.mark.parametrize(("base", "words"), [
    ("ZSCL", ("--set", "ref_dataset={loose}", "--set", "ref_model={model}")), ("LwF", ())])
def test_a_teacher_stays_while_experts_train(cli, world, base, words, tmp_path):
    """One that shares its weights with the live CLIP, in whose blocks the experts stand: LwF's, or the same file's."""
    (tmp_path / "my.py").write_text(TAUGHT.format(base=base, experts=str(FOLDER / "experts.py"),
                                                  log=str(tmp_path / "log")))
    words = [word.format(loose=world.loose, model=world.model) for word in words]
    done = cli("--load", world.model, "--method", f"{tmp_path / 'my.py'}:Taught", *words, *COMMON, *STEPS,
               "--train-dataset", world.colours, "--save", tmp_path / "out")
    assert done.status == 0, done.err
    teacher, student = zip(*(map(float, line.split()) for line in (tmp_path / "log").read_text().splitlines()),
                           strict=True)
    assert teacher == (0.0, 0.0, 0.0) and student[0] == 0.0 and min(student[1:]) > 1e-4


def test_a_method_that_adds_to_the_clip_is_refused(cli, world, tmp_path):
    path = tmp_path / "my.py"
    path.write_text("import torch\nfrom src.models.finetune import Finetune\n\n\nclass Prompted(Finetune):\n"
                    "    def begin(self, state):\n        super().begin(state)\n"
                    "        state.model.prompt = torch.nn.Parameter(torch.zeros(3))\n")
    done = cli("--load", world.model, "--method", f"{path}:Prompted", *COMMON, *STEPS, "--train-dataset",
               world.colours, "--save", tmp_path / "out")
    assert done.status == 2 and "Prompted adds the parameter prompt to the CLIP" in done.err
    assert "Prompted.build" in done.err


def test_an_add_on_has_no_modules(cli, world, monkeypatch):
    monkeypatch.setattr(L2, "build", lambda hook, model: None)
    with pytest.raises(ValueError, match="L2: an add-on may not build modules"):
        cli("--load", world.model, "--l2", "0.1", *COMMON, *STEPS, "--train-dataset", world.colours)


PAIRS = """
import torch
from torch import nn
from src.models.modx import Contrastive


class Turned(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.layer = nn.Linear(model.transformer.width, model.transformer.width)

    def forward(self, x):
        return self.layer(x)

    def places(self, model):
        return [(model.transformer.resblocks[-1], "beside", self)]


class Beside(Contrastive):
    def build(self, model):
        return Turned(model)

    def begin(self, state):
        state.model.requires_grad_(False)
        super().begin(state)
"""


def test_drift_is_that_of_the_modules_too(cli, world, pairs, tmp_path):
    """The CLIP stays where it was: texts turn by the module beside it alone."""
    (tmp_path / "my.py").write_text(PAIRS)
    done = cli("--load", world.model, "--method", f"{tmp_path / 'my.py'}:Beside", *COMMON[:-2], *STEPS,
               "--train-dataset", pairs, "--save", tmp_path / "out")
    assert done.status == 0, done.err
    drift, = json.loads((tmp_path / "out" / "run_stream.json").read_text())["drift"].values()
    assert drift["text_angle"] > 1 and drift["image_angle"] == pytest.approx(0, abs=1e-3), drift


def test_drift_of_another_method_is_from_the_plain_clip(cli, world, pairs, tmp_path):
    """A task by a built-in method begins at the CLIP of a checkpoint; the modules of another do not act beside it."""
    (tmp_path / "my.py").write_text(PAIRS)
    words = (*COMMON[:-2], *STEPS, "--train-dataset", pairs, "--save")
    assert cli("--load", world.model, "--method", f"{tmp_path / 'my.py'}:Beside", *words, tmp_path / "out").status == 0
    done = cli("--load", tmp_path / "out" / "stream.pth", *words, tmp_path / "next")
    assert done.status == 0, done.err
    without = {key: value for key, value in loaded(tmp_path / "out" / "stream.pth").items()
               if key not in ("own", "scorer")}
    torch.save(without, tmp_path / "without.pth")
    plain = cli("--load", tmp_path / "without.pth", *words, tmp_path / "plain")
    assert plain.status == 0, plain.err
    after, alone = (json.loads((tmp_path / name / "run_stream.json").read_text())["drift"]
                    for name in ("next", "plain"))
    assert after == alone


# -- right values ------------------------------------------------------------------------------------------------------


@those(["ridge"])
def test_ridge_is_its_normal_equations(finished, sequence, world, trio, name, example):
    """The sums over the images of all tasks, to 1e-10, whatever the batch."""
    kept = loaded(finished(name) / "shades.pth")["carry"]["Ridge"]
    other = loaded(sequence("by seven", *example.words, "--batch-size", "7") / "shades.pth")["carry"]["Ridge"]
    model = clip.load(str(world.model))[0].double()
    features = {task: features_of(model, open_task(trio[task], "")) for task in TASKS}
    torch.testing.assert_close(kept["gram"], sum(x.T @ x for x, _ in features.values()), rtol=0, atol=1e-10)
    torch.testing.assert_close(other["gram"], kept["gram"], rtol=0, atol=1e-10)
    for task, (x, labels) in features.items():
        expected = x.T @ torch.nn.functional.one_hot(labels).double()
        torch.testing.assert_close(kept["targets"][task], expected, rtol=0, atol=1e-10)


@torch.no_grad()
def features_of(model, task):
    """-> ((N, D) unit features of the training images, their labels)"""
    split, transform = task.split("train"), EvalTransform(model.image_resolution)
    pixels = torch.stack([transform(split.image(index)) for index in range(len(split))]).double() / 255
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (model.mean, model.std))
    features = model.encode_image((pixels - mean) / std)
    return features / features.norm(dim=1, keepdim=True), torch.tensor(split.labels)


@those(["ewc"])
def test_fisher_information_of_some_weights_by_differences(finished, world, name):
    """The mean over images of (log p(y | x; theta + h) - log p(y | x; theta - h))^2 / 4 h^2, y drawn as there."""
    folder, task = finished(name), open_task(world.colours, "")
    fisher = loaded(folder / "colours.pth")["carry"]["EWC"]["fisher"]
    model = clip.load(str(folder / "colours.pth"))[0].double().requires_grad_(False)
    drawn = [torch.Generator().manual_seed(seed_of(seed_of(42, task.name, "labels"), place)) for place in range(18)]
    labels = torch.stack([torch.multinomial(row.exp(), 1, generator=generator)[0]
                          for row, generator in zip(log_probabilities(model, task), drawn, strict=True)])
    for weight_name, place in (("visual.proj", (3, 5)), ("text_projection", (1, 2)), ("ln_final.weight", (4,))):
        weight, values = model.get_parameter(weight_name), []
        for step in (1e-5, -2e-5):
            weight[place] += step
            values.append(log_probabilities(model, task).gather(1, labels[:, None])[:, 0])
        weight[place] += 1e-5
        expected = ((values[0] - values[1]) / 2e-5).square().mean()
        assert expected > 1e-12
        assert fisher[weight_name][place] == pytest.approx(expected.item(), rel=1e-4), weight_name


def log_probabilities(model, task):
    """(N, C) of the training images, by one prompt per class."""
    texts = model.encode_text(clip.tokenize(task.prompts()))
    texts = texts / texts.norm(dim=1, keepdim=True)
    return (model.logit_scale.exp() * features_of(model, task)[0] @ texts.T).log_softmax(dim=1)
