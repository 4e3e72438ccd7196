"""The key of a task changes with all that its numbers depend on, and with nothing else."""

import pytest
import torch
from cli_files import write_model

from src.args import parse
from src.run.build import command_of
from src.run.sequence import Run
from src.run.task_key import key_of
from src.run.weights import starting_checkpoint
from src.store.resume import inputs_of

pytest_plugins = ["cli_fixtures"]


@pytest.fixture
def parts(world, tmp_path):
    """parts(word, ...) -> {what: digest} of the task ``colours``, the first of a sequence that may be longer."""
    def call(*words, order=None, start=None):
        length = () if "--epochs" in words else ("--iterations", 3)
        given = ["--load", world.model, "--dataset-order", order or world.colours, *length, "--batch-size", 4, "--lr",
                 "1e-4", "--device", "cpu", "--save", tmp_path / "run", "--task-cache", tmp_path / "cache", *words]
        command = command_of(parse([str(word) for word in given]))
        run, begins = Run(command), starting_checkpoint(command.weights)
        run.open(list(command.training.trained))
        run.claim(list(command.training.trained), begins)
        begins = begins | (start or {})
        return run.shared.keys.parts(world.colours, begins, inputs_of(begins), run.open_zeroshot)
    return call


def other(one, two):
    return {what for what in one if one[what] != two[what]}


CHANGES = {
    ("--seed", 2): {"flags", "settings"}, ("--lr", "2e-4"): {"settings"}, ("--iterations", 4): {"settings"},
    ("--batch-size", 2): {"flags", "settings"}, ("--warmup-length", 1): {"settings"}, ("--ls", 0.1): {"flags"},
    ("--l2", 0.1): {"flags"}, ("--method", "ewc"): {"flags"}, ("--train-mode", "image"): {"flags"},
    ("--shots", 2): {"flags", "data"}, ("--log-interval", 5): {"log"}, ("--crops", "none"): {"flags", "settings"},
    ("--precision", "bf16"): {"flags", "machine"},
    # Neither of these changes a bit of a task.
    ("--label-space", "all,task"): set(), ("--workers", 1): set(),
    ("--eval-split", "test"): set(), ("--max-evaluation-size", 5): set(), ("--eval-datasets", "toy-sizes"): set(),
    ("--save-interval", 1): set(), ("--grad-checkpointing",): set(), ("--keep-carry", "last"): set(),
    ("--batch-size-eval", 3): set(), ("--quiet",): set(),
}


def test_flags(parts):
    plain = parts()
    assert parts() == plain and key_of(parts()) == key_of(plain)
    assert {words: other(plain, parts(*words)) for words in CHANGES} == CHANGES


def test_an_epoch_is_so_many_steps(parts):
    """18 images in batches of 4 are 5 steps."""
    assert key_of(parts("--iterations", 5)) == key_of(parts("--epochs", 1))


def test_what_comes_later_changes_nothing(parts, world):
    plain = parts()
    assert parts(order=f"{world.colours},{world.tones}") == plain
    assert parts("--lr", f"1e-4,{world.tones}=1", order=f"{world.colours},{world.tones}") == plain
    assert other(plain, parts("--lr", f"1e-4,{world.colours}=1")) == {"settings"}


def test_what_it_starts_from(parts, world, tmp_path):
    plain, weights = parts(), torch.load(world.model, weights_only=True)["state_dict"]
    write_model(tmp_path / "same.pth")
    assert parts("--load", tmp_path / "same.pth") == plain
    moved = {name: value + (1e-6 if name == "logit_scale" else 0) for name, value in weights.items()}
    history = [{"dataset": "tones", "source": world.tones, "classnames": ["cold", "warm"], "train_data": "all",
                "metrics": {"tones": {"top1": 50.0}}}]
    for begins in ({"carry": {"EWC": {"w": torch.ones(2)}}}, {"heads": {"tones": torch.ones(2, 17)}},
                   {"own": {"E": {"w": torch.ones(1)}}}, {"history": history}):
        assert other(plain, parts(start=begins)) - {"inputs"} == {"start"}, begins
    assert other(plain, parts(start={"state_dict": moved})) == {"start", "inputs"}
    scored = [history[0] | {"metrics": {"tones": {"top1": 60.0}}}]
    assert parts(start={"history": history}) == parts(start={"history": scored})


def test_code_versions_and_machine(parts, monkeypatch):
    plain = parts()
    for where, what in (("code_digest", "code"), ("versions", "versions")):
        with monkeypatch.context() as patched:
            patched.setattr(f"src.run.task_key.{where}", lambda: "other")
            assert other(plain, parts()) == {what}
    monkeypatch.setattr("src.run.task_key.machine", lambda device: "other")
    assert other(plain, parts()) == {"machine"}


def test_a_teacher_and_references(parts, world):
    words = ("--method", "ZSCL", "--ref-sentences", "toy-reference", "--ref-model", world.model, "--ref-size", 20)
    plain = parts(*words, "--ref-dataset", "toy-reference")
    assert other(plain, parts(*words, "--ref-dataset", "toy-other-reference")) == {"flags", "other data"}


REPLAY = ("--method", "icarl", "--memory-size", 12)


def test_replayed_tasks_are_among_the_data(parts, world):
    history = [{"dataset": "tones", "source": world.tones, "classnames": ["cold", "warm"], "train_data": "all"}]
    plain = parts(*REPLAY)
    assert other(plain, parts(*REPLAY, start={"history": history})) == {"start", "other data"}
    assert other(parts(), parts(start={"history": history})) == {"start"}


CUSTOM = "from src.models.finetune import Finetune\n\nclass Mine(Finetune):\n    pass\n"


def test_a_custom_method_may_see_more(parts, world, tmp_path):
    (tmp_path / "mine.py").write_text(CUSTOM, encoding="utf-8")
    words, both = ("--method", f"{tmp_path / 'mine.py'}:Mine"), f"{world.colours},{world.tones}"
    plain = parts(*words)
    assert other(plain, parts(*words, order=both)) == {"data"}
    assert parts(*words, order=both) == parts(*words, order=f"{world.tones},{world.colours}")
    (tmp_path / "mine.py").write_text(CUSTOM + "# another text\n", encoding="utf-8")
    assert other(plain, parts(*words)) == {"method"}


def test_so_may_custom_hooks(parts, world, tmp_path):
    text = "from src.models.hooks import Hooks\n\n\nclass Mine(Hooks):\n    def end(self, state):\n        pass\n"
    (tmp_path / "hooks.py").write_text(text, encoding="utf-8")
    words, both = ("--hooks", f"{tmp_path / 'hooks.py'}:Mine"), f"{world.colours},{world.tones}"
    plain = parts(*words)
    assert other(plain, parts(*words, order=both)) == {"data"} and {"flags", "method"} <= other(plain, parts())
    (tmp_path / "hooks.py").write_text(text + "# another text\n", encoding="utf-8")
    assert other(plain, parts(*words)) == {"method"}
