"""From the resolved command line to objects."""

import types

import pytest
import torch
from cli_files import write_model

from clip import loader
from src.args import parse
from src.datasets.common import Split, Task
from src.errors import UserError
from src.machine.device import Device
from src.machine.distributed import World
from src.models.classifiers import classifier
from src.models.finetune import ZSCL, Finetune, LwF
from src.models.helpers import learning_rate
from src.models.hooks import Hooks
from src.models.modes import TRAIN_MODES
from src.models.state import Settings
from src.run import build, weights
from src.run.build import command_of
from src.run.datasets import Datasets
from src.templates.collections import SIMPLE

pytest_plugins = ["cli_fixtures"]

TASK = Task("DTD", ["a", "b"], SIMPLE, {"train": Split(lambda index: None, [0, 1] * 10)})


def config(words=""):
    return command_of(parse(words.split()))


class Scores(Hooks):
    def scores(self, state, images, spaces):
        return None


@pytest.mark.parametrize(("own", "hook", "message"), [
    ({"Experts": None}, Finetune(), "no counterpart for the modules of Experts"),
    ({}, Scores(), "--wise-ft mixes with zero-shot CLIP, and Scores scores by what it learnt"), ({}, Finetune(), None)],
    ids=["own modules", "own scores", "plain CLIP"])
def test_what_cannot_be_mixed_for_a_score(own, hook, message):
    if message is None:
        build.refuse_mixing(own, [hook])
        return
    with pytest.raises(UserError, match=message):
        build.refuse_mixing(own, [hook])


@pytest.mark.parametrize(("text", "iterations", "steps"), [
    ("100", 1000, 100), ("0", 10, 0), ("20%", 10, 2), ("15%", 10, 2), ("100%", 7, 7), ("0%", 7, 0), ("500", 10, 500)])
def test_warmup(text, iterations, steps):
    assert build.warmup_steps(text, iterations) == steps


@pytest.mark.parametrize(("words", "expected"), [
    ("--iterations 9", {"iterations": 9, "lr": 0.001, "batch_size": 8, "wd": 0, "warmup": 100, "seed": 42,
                        "beta2": 0.999, "eps": 1e-8, "max_grad_norm": None, "batch_norm": "eval"}),
    ("--epochs 3 --batch-size 6", {"iterations": 12}), ("--epochs 2 --batch-size 64", {"iterations": 2}),
    ("--iterations 1 --lr 1e-5,DTD=2e-5", {"lr": 2e-5}), ("--iterations 1 --lr 1e-5,MNIST=2e-5", {"lr": 1e-5}),
    ("--iterations 9", {"optimizer": "adamw", "schedule": "cosine", "lr_floor": 0.0}),
    ("--iterations 9 --optimizer sgd --lr-floor 1e-4", {"optimizer": "sgd", "lr_floor": 1e-4}),
    ("--iterations 9", {"crops": "random"}), ("--iterations 9 --crops none", {"crops": "none"}),
    ("--epochs 3,DTD=2 --batch-size 6", {"iterations": 8}), ("--epochs 3,MNIST=2 --batch-size 6", {"iterations": 12}),
    ("--epochs 3,DTD=2 --batch-size 6 --schedule late-cosine", {"iterations": 8, "epoch_steps": 4}),
    ("--epochs 3 --batch-size 6", {"last_batch": "keep"}),
    ("--epochs 3 --batch-size 6 --last-batch drop", {"iterations": 9, "last_batch": "drop"}),
    ("--epochs 3 --batch-size 64 --last-batch drop", {"iterations": 3}),
    ("--iterations 9 --schedule onecycle", {"schedule": "onecycle", "warmup": 0}),
    ("--epochs 3 --batch-size 6 --schedule late-cosine", {"iterations": 12, "epoch_steps": 4, "warmup": 0}),
    ("--epochs 3 --batch-size 6 --schedule late-cosine --last-batch drop", {"iterations": 9, "epoch_steps": 3}),
    ("--iterations 9 --schedule constant", {"schedule": "constant", "warmup": 100}),
    ("--iterations 40 --warmup-length 20%", {"warmup": 8}), ("--iterations 1 --init scratch", {"batch_norm": "train"}),
    ("--iterations 1 --init scratch --batch-norm eval", {"batch_norm": "eval"}),
    ("--iterations 1 --batch-norm train", {"batch_norm": "train"}),
    ("--iterations 1 --method modx --train-dataset coco", {"batch_norm": "train"}),
    ("--iterations 1 --train-dataset coco --load some.pth", {"batch_norm": "train"}),
    ("--iterations 1 --train-dataset coco --batch-norm eval", {"batch_norm": "eval"}),
    ("--iterations 1 --workers 3", {"workers": 3}),
    ("--dataset-order mtil-1", {"iterations": 1000, "lr": 1e-5, "batch_size": 64, "warmup": 100}),
    ("--dataset-order mtil-1 --epochs 1", {"iterations": 1}),
])
def test_settings(words, expected):
    """Of 20 images: three full batches of 6, and one of 2."""
    settings = build.build_settings(config(words).training, TASK)
    assert {key: getattr(settings, key) for key in expected} == expected


def test_a_cycle_of_one_step_is_rejected():
    with pytest.raises(UserError, match="--schedule onecycle: DTD has a single step"):
        build.build_settings(config("--iterations 1 --schedule onecycle").training, TASK)


@pytest.mark.parametrize(("batch_size", "left"), [
    (18, "2 images"), (19, "1 image"), (17, None), (20, None), (21, None)])
def test_a_last_batch_without_statistics_is_told(batch_size, left, make_model, make_state):
    """Of 20 images, 3 processes; two need no more than one of them."""
    words = f"--iterations 1 --batch-norm train --batch-size {batch_size}"
    for kind, mode, processes in (("resnet", "whole", 3), ("resnet", "whole", 1), ("vit", "whole", 3),
                                  ("resnet", "text", 3)):
        state = make_state(make_model(kind), mode)
        training = config(words).training
        state.task, state.settings, state.world = TASK, build.build_settings(training, TASK), World(0, processes)
        is_noted = (kind, mode) == ("resnet", "whole") and left and (processes == 3 or left == "1 image")
        assert build.silent_choices(training, state) == [
            f"the last batch of an epoch has {left}: its step normalises with the running statistics of batch norms"
        ] * bool(is_noted)


@pytest.mark.parametrize(("warmup", "iterations", "peak"), [
    (100, 20, 0.2), (100, 100, 1.0), (100, 101, 1.0), (0, 5, 1.0), (10, 1, 0.1)])
def test_the_peak_that_a_rate_reaches(warmup, iterations, peak):
    """By the rate of every step."""
    settings = Settings(iterations=iterations, lr=1.0, warmup=warmup)
    assert settings.peak_rate == peak
    assert max(learning_rate(step, iterations, warmup, 1.0) for step in range(iterations)) == pytest.approx(peak)


@pytest.mark.parametrize(("kind", "words", "fragments"), [
    ("vit", "", []), ("resnet", "", []), ("vit", "--init scratch", []),
    ("resnet", "--batch-norm eval", []), ("resnet", "--init scratch", ["updates", "(train): weights are random"]),
    ("resnet", "--train-dataset coco", ["updates", "(train): as published for image-text pairs"]),
    ("resnet", "--batch-norm eval --lora", ["--lora adapts no layer of this image tower", "mlp.c_proj"]),
    ("vit", "--lora", []), ("resnet", "--batch-norm eval --lora --train-mode text", [])])
def test_what_no_flag_says_is_said(make_model, make_state, kind, words, fragments):
    settings = config(f"--iterations 1 {words}").training
    state = make_state(make_model(kind), settings.train_mode)
    state.settings = build.build_settings(settings, TASK)
    if settings.lora:
        build.adapt(settings, state.model, 0)
    choices = build.silent_choices(settings, state)
    assert len(choices) == bool(fragments) and all(fragment in " ".join(choices) for fragment in fragments)


@pytest.mark.parametrize(("words", "kind", "attributes"), [
    ("--ls 0.1", Finetune, {"label_smoothing": 0.1}),
    ("--method lwf --T 3 --weight-adjust --feature-mse", LwF, {"T": 3.0, "weight": 0.5, "feature_mse": True}),
    ("--method lwf --image-loss", LwF, {"image_loss": True, "text_loss": False}),
    ("--method lwf", LwF, {"image_loss": True, "text_loss": True, "T": 2.0, "weight": 1.0, "ref_batch_size": None}),
    ("--method ZSCL --ref-dataset DTD --ref-model f --text-loss --ref-sentences random --ref-batch-size 3", ZSCL,
     {"ref_dataset": "DTD", "ref_model": "f", "image_loss": False, "text_loss": True, "ref_sentences": "random",
      "ref_batch_size": 3}),
    ("--method ZSCL --ref-dataset DTD --text-datasets A,B", ZSCL, {"text_datasets": ("A", "B")}),
])
def test_hooks(words, kind, attributes):
    hook, = build.build_hooks(config(words).training, {})
    assert type(hook) is kind
    assert {name: getattr(hook, name) for name in attributes} == attributes


def test_a_hook_gets_what_it_carried(monkeypatch):
    class Memory(Hooks):
        def load_carry(self, content):
            self.content = content
    row = types.SimpleNamespace(uses=(), build=lambda values: Memory())
    monkeypatch.setattr("src.args.find_method", lambda name, pairs=False: row)
    assert build.build_hooks(config().training, {"carry": {"Memory": {"a": 1}, "Other": {}}})[0].content == {"a": 1}
    assert build.build_hooks(config().training, {})[0].content == {}


class Taking(Hooks):
    def load_carry(self, content):
        pass


@pytest.mark.parametrize(("hooks", "carry", "named"), [
    ([Taking()], {"Taking": {"a": 1}}, None), ([Hooks()], {}, None), ([Hooks()], {"Taking": {}}, None),
    ([Hooks(), Taking()], {"Taking": {"a": 1}, "Other": {"b": 1}, "More": {"b": 1}}, "Other, More"),
    ([Hooks()], {"Hooks": {"a": 1}}, "Hooks"),  # which has no load_carry
    ([Taking()], {"mine.Taking": {"a": 1}}, "mine.Taking")])
def test_carry_that_no_hook_takes_is_told(hooks, carry, named):
    found = build.untaken_carry(hooks, {"carry": carry})
    assert found is None if named is None else f"what {named} carried from task to task" in found


def test_carry_that_was_left_out_is_needed_by_its_hook_alone():
    left = {"dataset": "DTD", "carry": {}, "carry_left_out": {"Taking": "MNIST.pth"}}
    with pytest.raises(UserError, match=r"DTD\.pth does not hold what Taking carries .* once MNIST\.pth was finished"):
        build._with_carry([Taking()], left)
    build._with_carry([Hooks()], left)
    build._with_carry([Taking()], left | {"carry": {"Taking": {"a": 1}}})


def test_deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    try:
        build.build_device(config("--deterministic --device cpu").hardware)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def state_of(settings, name, start, device):
    return build.build_state(settings.training, Datasets(settings.data), name, start, device,
                             weights.ZeroshotOpener(settings.weights, start, device))


def test_state_of_a_task(world, tmp_path):
    write_model(tmp_path / "model.pth")
    settings = config(f"--load {tmp_path}/model.pth --iterations 2 --train-mode image --train-dataset {world.colours}")
    start = weights.starting_checkpoint(settings.weights) | {"history": [{"dataset": "before"}]}
    state = state_of(settings, world.colours, start, Device("cpu", "fp32"))
    trained = {name for name, parameter in state.model.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("visual.") for name in trained)
    assert state.iteration == 0 and state.history == [{"dataset": "before"}]
    assert state.task.name == "colours" and state.open_task(world.tones).name == "tones"


@pytest.mark.parametrize(("name", "rate"), [
    ("DTD", 1.0), ("toy-colours", 2.0), ("toy-colours-1of4", 2.0), ("toy-colours-2of4", 3.0), ("toy-sizes-1of2", 1.0),
    ("folder:/a/toy-colours-1of4", 1.0), ("folder:/a/pets", 4.0), ("coco_phase1", 5.0), ("coco_phase2", 6.0)])
def test_rates(name, rate):
    rates = {None: 1.0, "toy-colours": 2.0, "toy-colours-2of4": 3.0, "folder:/a/pets": 4.0, "coco": 5.0,
             "coco_phase2": 6.0}
    assert build.value_of(rates, name) == rate
    assert build.value_of(7, name) == 7


@pytest.mark.parametrize("train_mode", TRAIN_MODES)
def test_a_state_has_a_head_in_the_fc_modes(world, train_mode):
    settings = config(f"--load {world.model} --iterations 2 --train-mode {train_mode} --train-dataset {world.colours}")
    start = weights.starting_checkpoint(settings.weights)
    state = state_of(settings, world.colours, start, Device("cpu", "fp64"))
    assert (state.head is not None) == TRAIN_MODES[train_mode].head and state.source == world.colours
    if state.head is not None:
        assert state.head is state.model.head and state.head.weight.dtype == torch.float64
        assert state.head.weight.requires_grad == (train_mode != "image-fc-fixed")


@pytest.mark.parametrize(("words", "heads", "expected"), [
    ("", {}, "zeroshot"), ("--fc-init zeroshot", {}, "zeroshot"), ("--fc-init zero", {}, "zero"),
    ("", {"colours": ["blue", "green", "red disc"]}, "kept"), ("", {"tones": 1}, "zeroshot"),
    ("", {"folder:colours": 1}, "zeroshot"), ("", {"colours": None}, "zeroshot"),
    ("", {"colours": ["blue", "red disc", "green"]}, "zeroshot"),
    ("", {"colours": ["fire", "grass", "sea"]}, "zeroshot"),
    ("--fc-init zeroshot", {"colours": ["blue", "green", "red disc"]}, "zeroshot"),
    ("--fc-init zero", {"colours": ["blue", "green", "red disc"]}, "zero")])
def test_first_heads(world, words, heads, expected):
    """A head is reused under the name of its dataset's files, if it was trained on the same classes."""
    kept = torch.arange(3 * 17.0).view(3, 17)
    settings = config(f"--load {world.model} --train-dataset {world.colours} {words}")
    history = [{"dataset": file, "classnames": names} for file, names in heads.items() if names]
    checkpoint = weights.starting_checkpoint(settings.weights)
    checkpoint |= {"heads": dict.fromkeys(heads, kept), "history": history}
    device = Device("cpu", "fp32")
    model, task = device.place(loader.build(checkpoint)), Datasets(settings.data).open(world.colours)
    found = build.first_head(settings.training, checkpoint, model, task, "colours", device).packed()
    scaled = model.logit_scale.exp() * classifier(model, task, device).classes.weights.T
    wanted = {"kept": kept, "zero": torch.zeros(3, 17), "zeroshot": torch.cat([scaled, torch.zeros(3, 1)], dim=1)}
    torch.testing.assert_close(found, wanted[expected].detach())
    assert torch.equal(kept, torch.arange(3 * 17.0).view(3, 17))


def test_a_scorer_is_a_method_of_one_s_own_with_what_it_carried(tmp_path):
    assert build.scoring_hooks(config("--eval-only").scoring, {"carry": {"Finetune": {"a": 1}}}) == []
    (tmp_path / "my.py").write_text("from src.models.hooks import Hooks\n\n\nclass Mine(Hooks):\n"
                                    "    def load_carry(self, content):\n        self.content = content\n",
                                    encoding="utf-8")
    checkpoint, scoring = {"carry": {"Mine": {"a": 1}}}, config(f"--eval-only --method {tmp_path}/my.py:Mine").scoring
    scorer, = build._with_carry(build.scoring_hooks(scoring, checkpoint), checkpoint)
    assert scorer.content == {"a": 1}
