"""KeepLoRA: its invariants on a ViT of two blocks in float64, two tasks against plain torch and numpy, and its runs."""

import copy

import pytest
import torch
from conftest import tiny_clip, tiny_task
from decompositions import flipped, projector
from example_runs import (
    COMMON,
    TASKS,
    assert_as_if_never_interrupted,
    broken,
    equal,
    last_rows,
    loaded,
    wait_for_writers,
)
from keeplora_reference import Reference, by_site, cross_entropy
from tf32 import under_tf32

import clip
from clip.model import CLIP
from src.datasets.common import Split, Task
from src.errors import UserError
from src.machine.device import Device
from src.main import main
from src.models import algebra
from src.models.finetune import Finetune
from src.models.keeplora import KeepLoRA
from src.models.modeling import select_trainable
from src.models.state import Settings, TrainingState
from src.models.training import begin, train
from src.models.wrapped import sites, updates_by_site

pytest_plugins = ["cli_fixtures", "example_fixtures"]

TIGHT = dict(rtol=0, atol=1e-9)
STEPS = "--schedule onecycle --lr 1e-2 --wd 0.01 --iterations 3 --keeplora-rank 3".split()
METHODS = ("keeplora", "keeplora-plus")


def state_of(model, task=None, **settings):
    """A state before its first step: six steps of four images."""
    select_trainable(model, "whole")
    task = task or tiny_task()
    found = dict(iterations=6, lr=1e-2, batch_size=4, wd=0.01, warmup=0, schedule="onecycle") | settings
    return TrainingState(model=model, task=task, source=task.name, device=Device("cpu", "fp64"),
                         settings=Settings(**found))


def weights_of(model):
    """{site: weight (16, 16)} of q, k, v and o of a plain CLIP, copies."""
    model = copy.deepcopy(model).requires_grad_(True)
    return {site: weight.clone() for site, weight in sites(model).items() if ".attn." in site}


def features(model):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(3, 3, model.image_resolution, model.image_resolution, generator=generator).double()
    tokens = clip.tokenize(["a photo of a cat.", "a drawing of the dog."], model.context_length)
    with torch.no_grad():
        return torch.cat([model.encode_image(images), model.encode_text(tokens)])


# -- the invariants ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_tasks():
    """The second of two tasks: what was before it, its Pairs at the start, what is there afterwards."""
    model, first, hook = tiny_clip("vit"), tiny_task(), KeepLoRA(keeplora_rank=3)
    state = state_of(model, first)
    train(state, [hook])
    before = CLIP(**model.architecture).double().eval()
    before.load_state_dict(state.final_model.state_dict())
    second = KeepLoRA(keeplora_rank=3)
    second.load_carry(hook.carry())
    state = state_of(copy.deepcopy(before), tiny_task(3, "second"))
    at_start = {}

    def begun(state, hooks):
        at_start.update(features=features(state.final_model), tensors=copy.deepcopy(state.model.state_dict()))
    train(state, [second], begun=begun)
    return dict(before=before, bases=hook.bases, at_start=at_start, model=state.model, after=state.final_model,
                grown=second.bases)


def pairs(model):
    return {f"{name}.{part}": pair for name, module in model.named_modules() if hasattr(module, "lora_pairs")
            for part, pair in module.lora_pairs.items()}


def test_a_task_begins_with_the_features_of_the_one_before(two_tasks):
    torch.testing.assert_close(two_tasks["at_start"]["features"], features(two_tasks["before"]), **TIGHT)
    assert (features(two_tasks["after"]) - features(two_tasks["before"])).abs().max() > 1e-3


def test_factors_lie_outside_of_the_bases(two_tasks):
    found = pairs(two_tasks["model"])
    assert len(found) == 12 and found.keys() == two_tasks["bases"].keys()
    assert any(pair.A.any() for pair in found.values())
    for site, pair in found.items():
        assert (pair.A @ two_tasks["bases"][site]).abs().max() < 1e-10, site
        live = pair.A[pair.A.any(dim=1)]
        torch.testing.assert_close(live @ live.mT, torch.eye(len(live)).double(), **TIGHT)


def test_a_task_moves_no_weight_along_what_is_protected(two_tasks):
    old, new = weights_of(two_tasks["before"]), weights_of(two_tasks["after"])
    moved = {site: new[site] - old[site] for site in old}
    for site, change in moved.items():
        assert (change @ two_tasks["bases"][site]).norm() <= 1e-9 * max(change.norm(), 1e-3), site
        assert torch.linalg.matrix_rank(change, atol=1e-9) <= 3
    assert max(change.norm() for change in moved.values()) > 1e-2


def test_bases_are_orthonormal_and_grow(two_tasks):
    for site, basis in two_tasks["bases"].items():
        grown = two_tasks["grown"][site]
        for columns in (basis, grown):
            torch.testing.assert_close(columns.mT @ columns, torch.eye(columns.shape[1]).double(), **TIGHT)
        assert torch.equal(grown[:, :basis.shape[1]], basis) and grown.shape[1] <= 16
    assert any(two_tasks["grown"][site].shape[1] > basis.shape[1] for site, basis in two_tasks["bases"].items())


def test_only_B_moves(two_tasks):
    start, end = two_tasks["at_start"]["tensors"], two_tasks["model"].state_dict()
    moved = {name for name, value in end.items() if not torch.equal(value, start[name])}
    assert moved and all(name.endswith(".B") for name in moved)
    assert {name for name, value in two_tasks["model"].named_parameters() if value.requires_grad} >= moved
    assert {name.replace(".B", ".A") for name in moved} <= dict(two_tasks["model"].named_buffers()).keys()
    outside = [name for name, value in two_tasks["before"].state_dict().items()
               if not torch.equal(value, two_tasks["after"].state_dict()[name])]
    assert outside and all(name.endswith(("attn.in_proj_weight", "attn.out_proj.weight")) for name in outside)


def test_a_step_of_sgd_is_the_projected_step_of_the_weight():
    """dW = -lr s^2 dCE/dW A^T A, s = 2 / 5."""
    model = tiny_clip("vit")
    options = dict(iterations=1, optimizer="sgd", schedule="constant", wd=0.0, lr=0.1)
    state, hook = state_of(copy.deepcopy(model), **options), KeepLoRA(keeplora_rank=5, keeplora_alpha=2.0)
    train(state, [hook])
    plain = state_of(copy.deepcopy(model), **options)
    batch = next(plain.training_stream())
    cross_entropy(plain.model, dict(plain.model.named_parameters()), batch, plain.task).backward()
    gradients = by_site({name: value.grad for name, value in plain.model.named_parameters()})
    old, new = weights_of(model), weights_of(state.final_model)
    for site, pair in pairs(state.model).items():
        expected = -0.1 * 0.4 ** 2 * gradients[site] @ pair.A.mT @ pair.A
        torch.testing.assert_close(new[site] - old[site], expected, **TIGHT)
    assert max((new[site] - old[site]).abs().max() for site in old) > 1e-5


def test_a_note_where_fewer_directions_are_left_than_the_rank(capsys):
    for rank, count in ((1, 0), (16, 12)):
        hook, state = KeepLoRA(keeplora_rank=rank), state_of(tiny_clip("vit"))
        begin(state, [hook])
        printed = capsys.readouterr().out
        assert printed.count("note: ") == (count > 0)
    assert "note: 12 of 12 weights have fewer than 16 directions (--keeplora-rank) that tiny would change" in printed
    fewest = min(int(A.any(dim=1).sum()) for A, _, _ in updates_by_site(state.model))
    assert 0 < fewest and f"has the fewest, {fewest} of 16" in printed


def test_nothing_trains_where_all_is_protected(capsys):
    model, hook = tiny_clip("vit"), KeepLoRA()
    hook.load_carry({"bases": {site: torch.linalg.qr(torch.randn(16, 16).double())[0] for site in weights_of(model)}})
    state = state_of(copy.deepcopy(model))
    train(state, [hook])
    assert ("that are not protected: visual.transformer.resblocks.0.attn.q has the fewest, 0 of 16"
            in capsys.readouterr().out)
    for name, value in state.final_model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert all(basis.shape == (16, 16) for basis in hook.bases.values())


@pytest.mark.parametrize(("energy", "count"), [(.85, 2), (.4, 1), (.5, 1), (.81, 2), (.01, 1)])
@pytest.mark.parametrize("side", ["input", "output"])
def test_the_leading_directions_of_a_weight_on_a_hand_case(energy, count, side):
    """Shares .5, .3 and .2 of the energy. The images' share is not the texts'."""
    U, V = (torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed)).double())[0][:, :3]
            for seed in (1, 2))
    weight = U @ torch.tensor([.5, .3, .2]).double().sqrt().diag() @ V.mT
    hook = KeepLoRA(keeplora_image_energy=energy, keeplora_text_energy=0.0, keeplora_weight_side=side)
    basis = hook.leading_directions("visual.transformer.resblocks.0.attn.q", weight)
    expected = (V if side == "input" else U)[:, :count]
    torch.testing.assert_close(projector(basis), projector(expected), **TIGHT)
    assert hook.leading_directions("transformer.resblocks.0.attn.q", weight).shape == (6, 1)


def test_the_output_side_leaves_the_inputs_of_a_weight_unprotected():
    """Where the two spaces of a weight are orthogonal, an update along its inputs passes the basis of its outputs."""
    basis = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).double())[0]
    weight = basis[:, :2] @ torch.tensor([1.0, 0.02]).double().diag() @ basis[:, 2:4].mT
    gradient = torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).double()
    effects = {}
    for side in ("input", "output"):
        hook = KeepLoRA(keeplora_rank=8, keeplora_weight_side=side, keeplora_image_energy=0.999)
        pair = hook.factors("visual.q", weight, gradient)
        effects[side] = (pair.A @ basis[:, 2]).abs().max()
    assert effects["input"] < 1e-10 < 0.1 < effects["output"]


def test_spare_directions_stay_zero():
    """A gradient of rank 2 inside and outside of the basis has no third one, whatever a decomposition gives."""
    hook, generator = KeepLoRA(keeplora_rank=5), torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=generator).double())[0]
    hook.bases["site"] = basis[:, :3]
    left = torch.randn(8, 3, generator=generator).double()
    pair = hook.factors("site", torch.zeros(8, 8).double(), left @ basis[:, 2:5].mT)
    assert pair.A.shape == (5, 8) and pair.B.shape == (8, 5)
    assert not pair.A[2:].any() and not pair.B[:, 2:].any() and pair.A[:2].any(dim=1).all()
    torch.testing.assert_close(pair.B @ pair.A, left[:, 1:] @ basis[:, 3:5].mT, **TIGHT)
    optimizer = torch.optim.AdamW([pair.B], lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        pair(torch.randn(4, 8, generator=generator).double()).square().sum().backward()
        optimizer.step()
    assert not pair.B[:, 2:].any() and (pair.A @ hook.bases["site"]).abs().max() < 1e-10


def test_a_gradient_that_is_not_finite():
    with pytest.raises(UserError, match=r"the gradient of visual\.q before the first step is not finite.*--load"):
        KeepLoRA().factors("visual.q", torch.eye(4), torch.full((4, 4), torch.nan))


def test_fewer_images_than_a_batch_are_one():
    """Whose gradient is the mean over all of them."""
    task = tiny_task()
    few = Task("few", task.classnames, task.templates, {"train": task.split("train").subset([0, 1, 2])}, in_memory=True)
    hook, state = KeepLoRA(), state_of(tiny_clip("vit"), few)
    found = [batch.indices.tolist() for batch in hook.batches(state, "any")]
    assert [sorted(batch) for batch in found] == [[0, 1, 2]]
    train(state, [hook])
    whole = [batch.indices.tolist() for batch in hook.batches(state_of(tiny_clip("vit"), task), "any")]
    assert [len(batch) for batch in whole] == [4] * 5 and len(set(sum(whole, []))) == 20


@pytest.mark.parametrize("number", range(5))
def test_an_image_that_cannot_be_decoded_may_be_in_any_batch(number):
    """With --skip-bad-images. Of a batch with fewer images the inputs are added to the first ones of the others."""
    task, hook, model = tiny_task(), KeepLoRA(), tiny_clip("vit")
    whole = [batch.indices.tolist() for batch in hook.batches(state_of(model, task), "keeplora features")]
    bad, split = whole[number][1], task.split("train")
    damaged = Split(lambda index: None if index == bad else split.image(index), split.labels)
    state = state_of(model, Task("tiny", task.classnames, task.templates, {"train": damaged}, in_memory=True))
    sizes, total = [], torch.zeros(4, 5, 16).double()                        # images of 16 pixels in patches of 8
    attention, name = model.visual.transformer.resblocks[1].attn, "visual.transformer.resblocks.1.attn"
    with torch.no_grad():
        for batch in hook.batches(state, "keeplora features"):
            handle = attention.register_forward_pre_hook(
                lambda _, inputs: total[:len(inputs[0])].add_(inputs[0]))
            model.encode_image(batch.images)
            handle.remove()
            sizes.append(len(batch.images))
        found = hook.inputs(state)[name][0]
    assert sizes == [4 - (index == number) for index in range(5)]
    torch.testing.assert_close(found, total.flatten(0, 1).mT @ total.flatten(0, 1), **TIGHT)


def test_its_passes_are_never_in_tf32():
    hook, state = KeepLoRA(), state_of(tiny_clip("vit"))
    Finetune.begin(hook, state)
    for work in (lambda: hook.gradients(state, {}), lambda: hook.inputs(state)):
        with under_tf32() as allowed:
            work()
        assert len(allowed) > 20 and not any(allowed)


# -- two tasks by plain torch and numpy --------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "rank"), [("input", 3), ("output", 16)])
def test_two_tasks_are_those_of_the_reference(side, rank):
    reference, model, carried = Reference(tiny_clip("vit"), rank, side), tiny_clip("vit"), {}
    for task in (tiny_task(), tiny_task(3, "second")):
        reference.task(state_of(tiny_clip("vit"), task))
        hook, state = KeepLoRA(keeplora_rank=rank, keeplora_weight_side=side), state_of(copy.deepcopy(model), task)
        hook.load_carry(carried)
        train(state, [hook])
        for name, value in state.final_model.state_dict().items():
            torch.testing.assert_close(value, reference.model.state_dict()[name], **TIGHT, msg=name)
        for site, basis in hook.bases.items():
            torch.testing.assert_close(projector(basis), projector(reference.bases[site]), **TIGHT, msg=site)
        model, carried = state.final_model, hook.carry()
    moved = [(one - other).abs().max() for one, other in
             zip(weights_of(model).values(), weights_of(tiny_clip("vit")).values(), strict=True)]
    assert max(moved) > 1e-3


# -- what it runs on, and what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "towers"), [("whole", 2), ("image", 1), ("text", 1)])
def test_bases_are_of_the_towers_that_train(mode, towers):
    model, hook = tiny_clip("vit"), KeepLoRA(keeplora_rank=2)
    state = state_of(model)
    select_trainable(model, mode)
    train(state, [hook])
    found = {site.startswith("visual.") for site in hook.bases}
    assert len(found) == towers and (mode == "whole" or found == {mode == "image"})
    values = [value.numel() for value in state.model.parameters() if value.requires_grad]
    assert sum(values) == 16 * 2 * len(hook.bases)


def test_of_a_resnet_the_text_tower_trains(capsys):
    hook, state = KeepLoRA(), state_of(tiny_clip("resnet"))
    train(state, [hook])
    assert "keeplora adapts q, k, v and o of the text tower alone (blocks: 1)" in capsys.readouterr().out
    assert sorted(hook.bases) == [f"transformer.resblocks.0.attn.{part}" for part in "koqv"]
    state = state_of(tiny_clip("resnet"))
    select_trainable(state.model, "image")
    with pytest.raises(UserError, match="--method keeplora: .* is a ResNet, which has none; give --train-mode"):
        begin(state, [KeepLoRA()])


def test_memory_flags_act_on_the_pass_before_the_task():
    """To the same factors."""
    found = []
    for settings in ({}, {"grad_accum": 2}, {"grad_checkpointing": True}):
        state = state_of(tiny_clip("vit"), **settings)
        begin(state, [KeepLoRA(keeplora_rank=3)])
        found.append({site: (pair.B @ pair.A).detach() for site, pair in pairs(state.model).items()})
    for other in found[1:]:
        for site, update in found[0].items():
            torch.testing.assert_close(other[site], update, **TIGHT)


def test_a_dry_run_counts_and_decomposes_nothing(monkeypatch):
    monkeypatch.setattr(algebra, "svd", lambda matrix: pytest.fail("decomposed"))
    state, hook = state_of(tiny_clip("vit")), KeepLoRA()
    state.planned = True
    begin(state, [hook])
    assert sum(value.numel() for value in state.trained()) == 12 * 16 * 16 and not hook.bases


@pytest.mark.slow
def test_trained_values_of_a_vit_b_16(cli, tmp_path):
    done = cli("--recipe", "keeplora", "--init", "scratch", "--model", "ViT-B/16", "--train-dataset", "toy-colours",
               "--dry-run", "--device", "cpu")
    assert done.status == 0 and " trains 96 of " in done.out and " tensors, 983,040 of " in done.out, done.out


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(world, trio, tmp_path_factory):
    """-> whole(method): the folder of the three tasks in one process; no test may change it."""
    folders = {}

    def of(method):
        if method not in folders:
            folders[method] = tmp_path_factory.mktemp("whole") / method
            words = ["--load", world.model, "--method", method, *STEPS, *COMMON, "--dataset-order",
                     ",".join(trio.values()), "--save", folders[method]]
            assert main([str(word) for word in words]) == 0
        return folders[method]
    return of


def quick(method):
    """One of the two fast, the other slow: they share what a run is."""
    return pytest.mark.parametrize("method", [name if name == method else pytest.param(name, marks=pytest.mark.slow)
                                              for name in METHODS])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_sequence_equals_a_chain(whole, chain, method):
    for checkpoint in chain("--method", method, *STEPS):
        assert equal(loaded(checkpoint), loaded(whole(method) / checkpoint.name), {"config", "history"})


@quick("keeplora")
def test_what_is_scored_in_training_is_scored_alone(whole, cli, trio, method, tmp_path):
    """Of several label spaces at once, by the method that the checkpoint names."""
    done = cli("--load", whole(method) / "shades.pth", "--eval-only", "--eval-datasets", ",".join(trio.values()),
               *COMMON, "--save", tmp_path)
    assert done.status == 0, done.err
    found = last_rows(tmp_path, *TASKS)
    assert found == last_rows(whole(method), *TASKS) and len(found) == 6
    marks = {space: {row["scored_by"] for (_, named), row in found.items() if named == space}
             for space in ("task", "all")}
    assert marks == ({"task": {"zeroshot"}, "all": {"zeroshot"}} if method == "keeplora" else
                     {"task": {"logits:KeepLoRAPlus"}, "all": {"zeroshot"}})


MOMENTS = [(method, moment) for method in METHODS
           for moment in ("begin", "end", "keeplora gradient", "keeplora features", "keeplora head")
           if moment != "keeplora head" or method == "keeplora-plus"]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "moment"), MOMENTS)
def test_interrupted_in_a_pass(whole, cli, world, trio, method, moment, tmp_path):
    words = ("--load", world.model, "--method", method, *STEPS, *COMMON, "--dataset-order", ",".join(trio.values()),
             "--save", tmp_path, "--resume", "--save-interval", 1)
    with broken(KeepLoRA, moment, "tones"):
        assert cli(*words).status == 130
    assert (tmp_path / "colours.pth").is_file() and not (tmp_path / "tones.pth").exists()
    done = cli(*words)
    assert done.status == 0, done.err
    assert_as_if_never_interrupted(tmp_path, whole(method))


@pytest.mark.parametrize(("method", "task"), [
    ("keeplora", "colours"), pytest.param("keeplora", "tones", marks=pytest.mark.slow),
    pytest.param("keeplora-plus", "colours", marks=pytest.mark.slow),
    pytest.param("keeplora-plus", "shades", marks=pytest.mark.slow)])
def test_interrupted_after_a_step(whole, cli, world, trio, method, task, interrupt, monkeypatch, tmp_path):
    """The decompositions of the run that resumes have other signs, those of later tasks the same again."""
    expected = whole(method)  # before anything is patched
    words = ("--load", world.model, "--method", method, *STEPS, *COMMON, "--dataset-order", ",".join(trio.values()),
             "--save", tmp_path, "--resume", "--save-interval", 1)
    interrupt(task, 2)
    assert cli(*words).status == 130
    wait_for_writers()
    interrupt(None)
    original = KeepLoRA.begin

    def begins(hook, state):
        with pytest.MonkeyPatch.context() as patched:
            if state.task.name == task:
                patched.setattr(torch.linalg, "svd", flipped)
            original(hook, state)
    monkeypatch.setattr(KeepLoRA, "begin", begins)
    done = cli(*words)
    assert done.status == 0 and "after step " in done.out, done.err
    assert_as_if_never_interrupted(tmp_path, expected)
