"""Custom hooks beside a method, by --hooks: what they do in a run, and where they are refused. Whole runs of a tiny
model; ``hooks=[...]`` of Python is in tests/api/test_given.py."""

import re

import pytest
import torch
from cli_files import STEPS, lines, read_json
from example_runs import wait_for_writers

from src.main import main

pytest_plugins = ["cli_fixtures"]

FILE = """
import torch

from src.models.finetune import Finetune
from src.models.helpers import similarity
from src.models.hooks import Hooks
from src.models.modeling import image_features

FACTOR = 2.0


def size(model):
    return FACTOR * model.text_projection.square().mean()


class Pull(Hooks):
    other_terms = ("pull",)

    def __init__(self, strength=1.0):
        self.strength = strength

    def losses(self, state, batch):
        return {"pull": self.strength * size(state.model)}


class Pulled(Finetune):
    other_terms = ("pull",)

    def losses(self, state, batch):
        return super().losses(state, batch) | {"pull": 0.5 * size(state.model)}


class Growing(Hooks):
    '''Its term grows by the steps of this task and of all before.'''

    other_terms = ("grown",)

    def __init__(self, every=1):
        self.every, self.steps, self.noise = every, 0, 0.0

    def begin(self, state):
        self.drawn = torch.rand(()).item()

    def losses(self, state, batch):
        return {"grown": (self.drawn + self.noise + self.steps) * size(state.model)}

    def after_backward(self, state):
        for parameter in state.trained():
            if parameter.grad is not None:
                parameter.grad.mul_(1.5)

    def after_step(self, state):
        self.steps += 1
        self.noise = torch.rand(()).item()
        if state.iteration % self.every == 0:
            state.metrics["steps"] = torch.tensor(float(self.steps))

    def state_dict(self):
        return {"steps": self.steps, "noise": self.noise}

    def load_state_dict(self, content):
        self.steps, self.noise = content["steps"], content["noise"]

    def carry(self):
        return {"steps": self.steps}

    def load_carry(self, content):
        self.steps = content.get("steps", 0)


class Best(Hooks):
    router, scores_features = "none", True

    def __init__(self, best=0):
        self.best = best

    def scores(self, state, images, spaces):
        features = image_features(state.final_model, images)
        found = {}
        for space, joined in spaces.items():
            found[space] = torch.cat([similarity(features, part.weights.T, 1.0) for part in joined], dim=1)
            found[space][:, self.best] = 100.0
        return found


class Shift(Hooks):
    def build(self, model):
        return Beside(model)


class Beside(torch.nn.Module):
    token_by_token = True

    def __init__(self, model):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((model.visual.transformer.width,), 0.1))

    def forward(self, x):
        return self.weight.expand_as(x)

    def places(self, model):
        return [(model.visual.transformer.resblocks[0], "beside", self)]


class Task(Hooks):
    def losses(self, state, batch):
        return {"task": size(state.model)}


class Pairs(Pull):
    data = "pairs"
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(FILE, encoding="utf-8")
    return tmp_path / "own.py"


@pytest.fixture
def sequence(cli, world, own):
    """sequence(save, word, ...): a run of two tasks in the folder of own.py."""
    def call(save, *words):
        return cli("--load", world.model, "--dataset-order", f"{world.colours},{world.tones}", "--iterations", STEPS,
                   "--batch-size", 8, "--lr", 1e-3, "--warmup-length", 0, "--workers", 0, "--log-interval", 1, "--save",
                   save, *words)
    return call


def loaded(path):
    return torch.load(path, weights_only=True)


def same(one, other):
    one, other = (loaded(path)["state_dict"] for path in (one, other))
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_term_beside_a_method_is_that_of_a_method_with_it(train, own):
    """And it is the part of that term of what is minimised."""
    assert train("beside", "--hooks", "own.py:Pull(strength=0.5)").status == 0
    assert train("within", "--method", "own.py:Pulled").status == train("plain").status == 0
    assert same("beside/colours.pth", "within/colours.pth") and not same("beside/colours.pth", "plain/colours.pth")


def test_they_resume_bit_for_bit(sequence, interrupt):
    """With what they drew, what they hold after a step, and what they carry from task to task."""
    hooks = ("--hooks", "own.py:Growing(every=2),own.py:Pull")
    assert sequence("whole", *hooks).status == 0
    interrupt("tones", 2)
    assert sequence("broken", *hooks, "--resume", "--save-interval", 1).status == 130
    wait_for_writers()
    interrupt(None)
    done = sequence("broken", *hooks, "--resume", "--save-interval", 1)
    assert done.status == 0 and "after step 1 of" in done.out, done.err
    assert same("whole/tones.pth", "broken/tones.pth")
    assert loaded("broken/tones.pth")["carry"]["Growing"] == {"steps": 2 * STEPS}
    whole, broken = (lines(f"{folder}/log_tones.jsonl") for folder in ("whole", "broken"))
    assert [line | {"images_per_second": 0} for line in whole] == [line | {"images_per_second": 0} for line in broken]
    assert whole[1]["steps"] == STEPS + 2 and whole[0].keys() >= {"task", "grown", "pull"}


def test_they_are_in_the_records_as_the_method_is(sequence):
    assert sequence("run", "--hooks", "own.py:Growing(every=2)", "--hooks", "own.py:Pull").status == 0
    texts = ["own.py:Growing(every=2)", "own.py:Pull"]
    for file in ("run.json", "run_tones.json"):
        assert read_json(f"run/{file}")["flags"]["hooks"] == {"value": texts, "origin": "flag"}
    assert list(loaded("run/tones.pth")["config"]["hooks"]) == texts
    page = open("run/report.html", encoding="utf-8").read()
    assert "finetune + own.py:Growing(every=2) + own.py:Pull" in page
    done = sequence("run", "--hooks", "own.py:Growing(every=2),own.py:Pull")
    assert done.status == 0 and done.out.count("already finished") == 2
    done = sequence("run", "--hooks", "own.py:Growing(every=3),own.py:Pull")
    assert done.status == 2 and (
        "--hooks own.py:Growing(every=2),own.py:Pull there, own.py:Growing(every=3),own.py:Pull here" in done.err)
    assert "--hooks own.py:Growing(every=2),own.py:Pull there, none here" in sequence("run").err


@pytest.mark.parametrize("words", [("--hooks", "own.py:Pull"), ("--method", "own.py:Pulled")], ids=["hooks", "method"])
def test_changed_code_is_refused(train, own, words):
    """In a function of the file that the class only calls, and in a constant of it; not in what it does not name."""
    assert train("run", *words).status == 0
    own.write_text(FILE.replace("(Hooks):\n    router", "(Hooks):\n    more = 1\n    router"), encoding="utf-8")
    assert "already finished" in train("run", *words).out
    own.write_text(FILE.replace("FACTOR = 2.0", "FACTOR = 3.00"), encoding="utf-8")
    done = train("run", *words)
    kind = "Pull (.*) of --hooks" if "--hooks" in words else "Pulled"
    assert done.status == 2 and re.search(f"began with another content of the class {kind.split(' ')[0]}", done.err)


def test_a_dry_run_shows_where_they_act(sequence):
    done = sequence("run", "--hooks", "own.py:Growing(every=2)", "--l2", 1, "--dry-run")
    assert done.status == 0 and "Finetune -> own.py:Growing(every=2) -> L2, in this order at each step" in done.out


# -- scores ------------------------------------------------------------------------------------------------------------


def top1(done, name="colours"):
    return float(re.search(rf"\| {name} +\| +\S+ \| +([\d.]+)", done.out)[1])


def test_one_that_scores_is_asked_in_every_mode(train, cli, world, own):
    """The checkpoint says its class and keywords; the code is given again."""
    done = train("run", "--hooks", "own.py:Best(best=1)")
    assert done.status == 0 and top1(done) == pytest.approx(100 / 3, abs=0.1)
    checkpoint = "run/colours.pth"
    assert loaded(checkpoint)["scorer"] == {"method": "own.py:Best", "keywords": {"best": 1}, "flag": "--hooks"}
    evaluation = ("--load", checkpoint, "--eval-only", "--workers", 0, "--save", "scores")
    done = cli(*evaluation)
    assert done.status == 2 and "may not choose code to run: give --hooks own.py:Best yourself" in done.err
    for words in (("--hooks", "own.py:Best"), ("--method", "own.py:Best")):
        done = cli(*evaluation, *words)
        assert done.status == 0 and top1(done) == pytest.approx(100 / 3, abs=0.1), done.err
        assert "router none" in done.out
    assert "logits:Best" in open("scores/metrics_colours.csv", encoding="utf-8").read()
    assert not cli(*evaluation, "--hooks", "own.py:Best(best=1)").out.count("note: the checkpoint was made by")
    single = cli("--load", checkpoint, "--eval-single", world.image, "--hooks", "own.py:Best")
    assert single.status == 0 and "note: scored by logits:Best" in single.out
    plain = cli(*evaluation, "--method", "finetune")
    assert "note: the checkpoint was made by --hooks own.py:Best, which defines its own scores; --method finetune" in (
        plain.out)
    assert "without what --hooks own.py:Best trained" in cli("--load", checkpoint, "--export", "exported").out


def test_modules_of_its_own_train_and_score(train, cli, own):
    done = train("run", "--hooks", "own.py:Shift")
    assert done.status == 0, done.err
    kept = loaded("run/colours.pth")["own"]["Shift"]["weight"]
    assert not torch.equal(kept, torch.full_like(kept, 0.1))
    again = cli("--load", "run/colours.pth", "--eval-only", "--workers", 0, "--hooks", "own.py:Shift", "--save", "e")
    assert again.status == 0 and top1(again) == top1(done)
    assert "with:Shift" in open("e/metrics_colours.csv", encoding="utf-8").read()
    refused = train("averaged", "--hooks", "own.py:Shift", "--we")
    assert refused.status == 2 and "set averaged = True in Shift" in refused.err


def test_what_is_rescored_needs_them_again(train, cli, own):
    """The folder of a run chooses no code, neither by its hooks nor by its method."""
    for words in (("--hooks", "own.py:Best"), ("--method", "own.py:Best")):
        folder = words[0].strip("-")
        assert train(folder, *words, "--keep-features").status == 0
        done = cli("--rescore", folder, "--save", f"{folder}-tables")
        assert done.status == 2 and f"may not choose code to run: give {words[0]} own.py:Best yourself" in done.err
        done = cli("--rescore", folder, "--save", f"{folder}-tables", *words)
        assert done.status == 0 and "to the last digit" in done.out, done.err
    done = cli("--rescore", "hooks", "--save", "others", "--hooks", "nowhere.py:Best")
    assert done.status == 2 and "--hooks nowhere.py:Best: no such file" in done.err
    assert train("pull", "--hooks", "own.py:Pull", "--keep-features").status == 0
    assert cli("--rescore", "pull", "--save", "pull-tables").status == 0
    done = cli("--rescore", "pull", "--save", "pull-again", "--hooks", "own.py:Pull")
    assert done.status == 2 and "--hooks own.py:Pull: acts while a task trains" in done.err


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "message"), [
    ("--hooks own.py:Best,own.py:Shift", "Best and Shift each have scores or modules"),
    ("--method own.py:Best --hooks own.py:Shift", "Best and Shift each have scores or modules"),
    ("--method diki --hooks own.py:Best", "DIKI and Best each have scores"),
    ("--hooks own.py:Pairs", "--hooks own.py:Pairs is not for class data"),
    ("--hooks own.py:Pulled", "two hooks give a loss term 'task'"),
    ("--hooks own.py:Task", "two hooks give a loss term 'task': Finetune and Task"),
    ("--hooks nowhere.py:Pull", "--hooks nowhere.py:Pull: no such file; give path/to/file.py:Class"),
    ("--hooks own.py:Push", "--hooks own.py:Push: the file has no class Push; it has "),
    ("--hooks own.py:Pull(force=2)", "unexpected keyword argument 'force'; give its keywords in the bracket"),
    ("--method own.py:Pulled --hooks other/own.py:Pulled", "another hook of this run is called Pulled too"),
    ("--method ridge --hooks own.py:Pull", "--hooks with --method ridge: a closed form takes no steps")])
def test_what_is_refused(own, world, words, message, capsys):
    (own.parent / "other").mkdir()
    (own.parent / "other/own.py").write_text(FILE, encoding="utf-8")
    length = () if "ridge" in words else ("--iterations", "2")
    assert main(["--load", str(world.model), "--train-dataset", world.colours, *length, "--workers", "0", "--save",
                 "run", *words.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("words", "message"), [
    ("--hooks own.py:Pull", "--hooks own.py:Pull: acts while a task trains, and here none does"),
    ("--hooks own.py:Best --method own.py:Pulled", None),
    ("--hooks own.py:Best --method diki", "Best and DIKI each have scores"),
    ("--hooks own.py:Best --linear-eval toy-colours", "--hooks and --linear-eval exclude each other")])
def test_what_an_evaluation_refuses(own, world, words, message, cli):
    done = cli("--load", world.model, "--eval-only", "--eval-datasets", world.colours, "--workers", 0, *words.split())
    assert done.status == (2 if message else 0) and (message or "") in done.err, done.err


@pytest.mark.slow
def test_tasks_are_shared_as_long_as_the_file_is_the_same(sequence, own):
    def taken(save, hooks):
        done = sequence(save, "--hooks", hooks, "--task-cache", "cache")
        assert done.status == 0, done.err
        return done.out.count("taken from --task-cache")
    assert taken("one", "own.py:Growing") == 0 and taken("two", "own.py:Growing") == 2
    assert same("one/tones.pth", "two/tones.pth")
    assert taken("three", "own.py:Growing(every=2)") == 0
    own.write_text(FILE.replace("mul_(1.5)", "mul_(1.25)"), encoding="utf-8")
    assert taken("four", "own.py:Growing") == 0
