"""Every combination of method, train mode, add-on and adapters trains what it should, or is refused with its reason."""

import itertools
from pathlib import Path

import pytest
import torch
from cli_files import BATCH

from src.args import EARLIER_METHODS, parse
from src.cli import checks
from src.errors import UserError
from src.models import METHODS, takes
from src.models.training import train
from src.run.build import build_device, build_task, command_of, weights_of
from src.run.datasets import Datasets
from src.run.weights import ZeroshotOpener, starting_checkpoint
from src.store.checkpoint import finished_checkpoint

pytest_plugins = ["cli_fixtures"]

DOCUMENT = (Path(__file__).parents[2] / "docs" / "combinations.md").read_text(encoding="utf-8")
MODES = {"whole": ("image", "text"), "image": ("image",), "text": ("text",), "image-fc": ("image",),
         "image-fc-fixed": ("image",), "fc": ()}
LORA = {"weights": "", "peft": "--lora", "shared": "--lora --lora-shared"}
ADD_ONS = {"nothing": "", "l2": "--l2 0.5", "we": "--we --avg-freq 1", "we-wise": "--we-wise --avg-freq 1",
           "ema": "--moving-avg", "merge": "--wise-merge", "ogd": "--orthogonal-gradients 2",
           "texts": "--distill-text-tower"}
DISTILLING = ("lwf", "ZSCL", "icarl")
FROM_ONE_START = ("condu", "condu-lora")  # whose checkpoints have the weights that they started from
WRAPPING = [name for name, method in METHODS.items() if method.wraps]
FROZEN = [name for name, method in METHODS.items() if method.frozen]
# All pairs and triples that can meet, without the full product: add-ons with methods and modes, and with adapters.
# Closed forms take nothing that acts in steps: tests/models/test_models.py.
STEPPING = [name for name, method in METHODS.items() if not method.closed_form]
CLASS_METHODS = [name for name in STEPPING if takes(METHODS[name].data, pairs=False)]
COMBINATIONS = sorted({
    *((method, mode, "weights", add_on) for method, mode, add_on in itertools.product(CLASS_METHODS, MODES, ADD_ONS)),
    *((method, mode, lora, "nothing") for method, mode, lora in itertools.product(CLASS_METHODS, MODES, LORA)),
    *(("lwf", mode, lora, add_on) for mode, lora, add_on in itertools.product(("whole", "image-fc"), LORA, ADD_ONS))})


def reason(method, mode, lora, add_on):
    """Why a combination is refused, in the words of docs/combinations.md; None where it runs."""
    texts = add_on == "texts" and method in DISTILLING
    if method in FROM_ONE_START:
        return reason_of_one_start(method, mode, lora, add_on)
    if lora != "weights" and add_on == "ogd":
        return "adapters are drawn again after merging"
    if method == "ewc" and lora != "weights":
        return "each task merges its adapters and the next one trains new ones"
    if method == "ewc" and mode == "fc":
        return "its penalty is on the towers, and this mode trains neither"
    if method in DISTILLING and mode == "fc":
        return "its distillation reaches the towers, and this mode trains neither"
    if method in DISTILLING and mode == "text" and not texts:
        return "its distillation reaches only the image tower"
    if texts and "text" not in MODES[mode]:
        return "this mode does not train the text tower"
    if method in WRAPPING:
        return reason_of_wrapping(method, mode, lora, add_on)
    if method in FROZEN:
        return reason_of_frozen(mode, lora, add_on)
    if lora != "weights" and mode == "fc":
        return "adapters sit in the towers, and this mode trains neither"
    if add_on == "ogd" and mode == "fc":
        return "it protects the towers, and this mode trains neither"
    return None


def reason_of_wrapping(method, mode, lora, add_on):
    """Of a method that wraps layers itself."""
    if lora != "weights":
        return "it wraps layers of CLIP itself, and two kinds of factors would train the same weights"
    if add_on == "ogd":
        return "each task starts new factors, so a basis would protect nothing"
    if mode == "fc":
        return "it adapts the towers, and this mode trains neither"
    if method == "keeplora-plus" and mode in ("image-fc", "image-fc-fixed"):
        return "its heads add to the scores of class prompts, and this mode has no prompts"
    return None


def reason_of_frozen(mode, lora, add_on):
    """Of a method that trains modules beside a frozen CLIP."""
    if lora != "weights":
        return "it keeps CLIP frozen, adapters too"
    if add_on in ("we", "we-wise", "ema", "merge"):
        return "it keeps CLIP frozen, and its modules are not averaged"
    if mode in ("fc", "image-fc", "image-fc-fixed") and add_on not in ("l2", "ogd"):
        return "its modules act on images and on class prompts, and this mode has no class prompts"
    return {"l2": "it keeps CLIP frozen, so nothing would be pulled back",
            "ogd": "each task trains new parameters, so a basis would protect nothing"}.get(add_on)


def reason_of_one_start(method, mode, lora, add_on):
    """Of a method that starts every task from the same weights."""
    if method in WRAPPING and (lora != "weights" or add_on == "ogd"):
        return reason_of_wrapping(method, mode, lora, add_on)
    if lora != "weights":
        return "its deltas are of weights"
    if method in WRAPPING and add_on in ("we", "we-wise", "ema", "merge"):
        return "its deltas are of factors, while averages and merges act on merged weights"
    if mode in ("fc", "image-fc", "image-fc-fixed"):
        return "its experts score by class prompts, and this mode trains a head"
    return None


@pytest.fixture(scope="module")
def first_task(world):
    """The checkpoint of a first icarl task, so that a second one has a memory."""
    config = parse(words(world, "icarl", "whole", "weights", "nothing", world.tones))
    return run(config, world.tones, starting_checkpoint(weights_of(config)))[1]


def words(world, method, mode, lora, add_on, dataset):
    return ["--load", str(world.model), "--method", method, "--train-mode", mode, "--train-dataset", dataset,
            *LORA[lora].split(), *ADD_ONS[add_on].split(), "--iterations", "2", "--batch-size", str(BATCH), "--lr",
            "5e-3", "--warmup-length", "0", "--workers", "0", "--save", "nowhere", "--ref-dataset", world.loose,
            "--ref-model", str(world.model), "--memory-size", "20", "--ddas-features", "clip", "--ddas-iterations", "2"]


def run(config, name, start):
    command = command_of(config)
    device, datasets = build_device(command.hardware), Datasets(command.data)
    opener = ZeroshotOpener(command.weights, start, device)
    state, hooks = build_task(command.training, datasets, name, start, device, opener)
    terms, before = [], {}
    train(state, hooks, lambda state, losses: terms.append(losses), lambda state, hooks: before.update(
        {key: value.detach().clone() for key, value in named_parameters(state.model)}))
    carry = {type(hook).__name__: hook.carry() for hook in hooks}
    finished = finished_checkpoint(state.final_model, start, dataset=state.task.name, source=name, task=state.task,
                                   metrics={}, iteration=2, carry=carry, config={}, name=None)
    return (state, before, terms), finished


def named_parameters(model):
    """A factor that both towers share (they are of one width here) under each of its names."""
    return model.named_parameters(remove_duplicate=False)


def assert_refused(config, expected):
    with pytest.raises(UserError) as caught:
        checks.check(config)
    assert expected in str(caught.value) and f"| {expected}" in DOCUMENT


def is_slow(method, mode, lora, add_on):
    """Of newer methods one mode, and what fc refuses, are fast tests. Of those that run every second is: the black
    fields of a chessboard, on which each method still meets each of its modes and each add-on."""
    if method not in EARLIER_METHODS and mode not in ("whole", "fc"):
        return True
    places = [list(values).index(value) for values, value in (
        (METHODS, method), (MODES, mode), (LORA, lora), (ADD_ONS, add_on))]
    return sum(places) % 2 == 1 and reason(method, mode, lora, add_on) is None


def test_the_fast_ones_hold_every_part():
    """Every pair of a method with a mode and with an add-on, every kind of adapters, every reason: of what is fast but
    for the chessboard."""
    fast = [each for each in COMBINATIONS if not is_slow(*each)]
    every = [each for each in COMBINATIONS if each[0] in EARLIER_METHODS or each[1] in ("whole", "fc")]
    assert {(method, mode) for method, mode, *_ in fast} == {(method, mode) for method, mode, *_ in every}
    assert {(method, add_on) for method, *_, add_on in fast} == set(itertools.product(CLASS_METHODS, ADD_ONS))
    assert {lora for *_, lora, _ in fast} == {*LORA}
    assert {reason(*each) for each in fast} == {reason(*each) for each in every}


@pytest.mark.parametrize("combination", [
    pytest.param(each, marks=pytest.mark.slow if is_slow(*each) else (), id="-".join(each)) for each in COMBINATIONS])
def test_it_runs_or_is_refused(world, first_task, combination):
    method, mode, lora, add_on = combination
    config = parse(words(world, method, mode, lora, add_on, world.colours))
    expected = reason(method, mode, lora, add_on)
    if expected:
        assert_refused(config, expected)
        return
    checks.check(config)
    (state, before, terms), finished = run(config, world.colours, first_task)
    assert len(terms) == 2 and all(value.isfinite() for losses in terms for value in losses.values())
    assert ("image_kl" in terms[0]) == (method in DISTILLING and mode != "text")
    assert ("replay" in terms[0]) == (method == "icarl")
    assert ("text_tower_image_kl" in terms[0]) == (add_on == "texts" and method in DISTILLING)
    moved = {key for key, value in named_parameters(state.model) if not torch.equal(value, before[key])}
    trained = {key for key, value in named_parameters(state.model) if value.requires_grad}
    if method in FROZEN:
        assert not moved and not trained and any(value.requires_grad for value in state.trained())
        return
    assert moved and moved <= trained
    parts = {"image" if key.startswith("visual.") else "head" if key.startswith("head.") else "text" for key in moved}
    assert parts == {*MODES[mode]} | ({"head"} if mode in ("image-fc", "fc") else set())
    if lora != "weights" or method in WRAPPING:
        assert all(".lora_" in key or key.startswith("head.") for key in moved)
    assert finished["state_dict"].keys() == first_task["state_dict"].keys()
    changed = any(not torch.equal(value, first_task["state_dict"][key])
                  for key, value in finished["state_dict"].items())
    assert changed == (bool(MODES[mode]) and method not in FROM_ONE_START)
    assert mode not in ("image-fc", "fc") or "colours" in finished["heads"]


# -- image-text pairs --------------------------------------------------------------------------------------------------

PAIR_COMBINATIONS = sorted({
    *((method, mode, lora, "nothing") for method, mode, lora in itertools.product(STEPPING, MODES, LORA)),
    *((method, "whole", "weights", add_on) for method, add_on in itertools.product(STEPPING, ADD_ONS))})


def reason_on_pairs(method, mode, lora, add_on):
    if method in DISTILLING:
        return "it distils over class prompts"
    if METHODS[method].data == "classes" and not METHODS[method].on_pairs:
        return "it learns over class prompts"
    if method == "ewc" and lora != "weights" and mode in ("whole", "image", "text"):
        return "each task merges its adapters and the next one trains new ones"
    if mode not in ("whole", "image", "text"):
        return "image-text pairs have no classes for a head"
    return None


@pytest.mark.parametrize("combination", PAIR_COMBINATIONS, ids="-".join)
def test_it_runs_on_pairs_or_is_refused(world, pairs, combination):
    method, mode, lora, add_on = combination
    config = parse(words(world, method, mode, lora, add_on, pairs))
    expected = reason_on_pairs(*combination)
    if expected:
        assert_refused(config, expected)
        return
    checks.check(config)
    start = starting_checkpoint(weights_of(config))
    (state, before, terms), finished = run(config, pairs, start)
    assert all(value.isfinite() for losses in terms for value in losses.values())
    assert ("off_diagonal" in terms[0]) == (method == "modx") and "contrastive" in terms[0]
    moved = {key for key, value in named_parameters(state.model) if not torch.equal(value, before[key])}
    assert "logit_scale" in moved and finished["state_dict"].keys() == start["state_dict"].keys()
    parts = {"image" if key.startswith("visual.") else "text" for key in moved - {"logit_scale"}}
    assert parts == {*MODES[mode]}
