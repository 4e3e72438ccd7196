"""NuSA-CL: its invariants on a tiny ViT in float64, one task written out by hand, and what a method is promised."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cli_files import same_weights
from decompositions import flipped
from example_runs import (
    COMMON,
    STEPS,
    TASKS,
    assert_as_if_never_interrupted,
    broken,
    last_rows,
    loaded,
    wait_for_writers,
)
from torch.func import functional_call

from clip.model import CLIP
from src.errors import UserError
from src.models.modeling import image_features, text_features, tokens_of
from src.models.nusa import Core, NuSA, least_used
from src.models.resuming import drawn_by_process, state_of_run
from src.models.training import begin, train
from src.models.wrapped import sites

pytest_plugins = ["cli_fixtures", "example_fixtures"]

QKVO = ("attn.q", "attn.k", "attn.v", "attn.o")
ENERGY, RANK = 0.8, 4
SCALE = 2 / math.sqrt(RANK)


def nusa(**options):
    return NuSA(**{"nusa_rank": RANK, "nusa_energy": ENERGY, "nusa_dropout": 0.0, **options})


@torch.no_grad()
def features(model, seed=3):
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    texts = tokens_of(model, ["a photo of a cat.", "the red bird", "blue"])
    return torch.cat([image_features(model, images), text_features(model, texts)])


def attention_weights(model):
    """{site: its weight (16, 16)} of a plain CLIP, read from its tensors by name."""
    found = {}
    for name, value in model.state_dict().items():
        if name.endswith("attn.in_proj_weight"):
            found |= dict(zip((name.replace("in_proj_weight", part) for part in "qkv"), value.split(16), strict=True))
        elif name.endswith("attn.out_proj.weight"):
            found[name.replace("out_proj.weight", "o")] = value
    return found


def leading_count(values):
    """The fewest leading singular values whose squares sum up to ENERGY of all, by a loop."""
    held, total = 0.0, sum(float(value) ** 2 for value in values)
    for count, value in enumerate(values, 1):
        held += float(value) ** 2
        if held >= ENERGY * total:
            return count
    raise AssertionError


@pytest.fixture
def trained(make_state, make_model):
    """-> trained(**options): what a task of six steps has left."""
    def call(**options):
        state, hook = make_state(make_model("vit"), warmup=0, wd=0.01), nusa(**options)
        seen = {}
        train(state, [hook], begun=lambda state, hooks: seen.update(
            {name: value.clone() for name, value in state.model.state_dict().items()}))
        start, final = (attention_weights(model) for model in (make_model("vit"), state.final_model))
        return SimpleNamespace(state=state, begun=seen, start=start, moved={
            site: value - start[site] for site, value in final.items()}, hook=hook)
    return call


# -- the update --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["whole", "image", "text"])
def test_begin_changes_no_bit_of_what_is_computed(make_state, make_model, mode):
    state = make_state(make_model("vit"), mode)
    before = features(state.model)
    begin(state, [nusa()])
    towers = {"whole": ("visual.", "transformer."), "image": ("visual.",), "text": ("transformer.",)}[mode]
    cores = {name for name, value in state.model.named_parameters() if value.requires_grad}
    assert cores == {f"{site[:-2]}.lora_pairs.{site[-1]}.M" for site in attention_weights(make_model("vit"))
                     if site.startswith(towers)}
    assert torch.equal(features(state.model), before) and torch.equal(features(state.final_model), before)


def test_the_leading_part_stays(trained):
    """U_p^T dW = 0, dW V_p = 0, rank dW <= k; the p leading singular values and vectors of W + dW are those of W as
    long as the block that moves is smaller than the last of them."""
    done = trained()
    assert done.moved.keys() == done.start.keys() and len(done.moved) == 12
    for site, moved in done.moved.items():
        U, S, Vh = np.linalg.svd(done.start[site].numpy())
        p, moved = leading_count(S), moved.numpy()
        k = min(16 - p, RANK)
        assert 1 <= k and np.abs(moved).max() > 1e-4
        assert np.abs(U[:, :p].T @ moved).max() < 1e-15 and np.abs(moved @ Vh[:p].T).max() < 1e-15
        assert np.abs(U[:, p:-k].T @ moved).max(initial=0) < 1e-15
        assert np.linalg.matrix_rank(moved, tol=1e-12) <= k
        block = U[:, p:].T @ (done.start[site].numpy() + moved) @ Vh[p:].T
        assert np.linalg.norm(block, 2) < S[p - 1]
        after, values, others = np.linalg.svd(done.start[site].numpy() + moved)
        assert np.abs(values[:p] - S[:p]).max() < 1e-13
        assert np.abs(np.abs(np.diag(U[:, :p].T @ after[:, :p])) - 1).max() < 1e-12
        assert np.abs(np.abs(np.diag(Vh[:p] @ others[:p].T)) - 1).max() < 1e-12


def test_the_inner_product_with_the_weight(trained):
    """<W, dW> = s <S_n, M>, at most s sigma_(p+1) sqrt(k) |M|."""
    done, cores = trained(), dict(trained().state.model.named_parameters())
    for site, moved in done.moved.items():
        S = torch.linalg.svdvals(done.start[site])
        p = leading_count(S)
        k = min(16 - p, RANK)
        M = cores[f"{site[:-2]}.lora_pairs.{site[-1]}.M"].detach()
        found = (done.start[site] * moved).sum()
        assert M.shape == (RANK, RANK) and torch.equal(M[k:], torch.zeros_like(M[k:])) and not M[:, k:].any()
        assert abs(found - SCALE * (S[-k:] * M.diagonal()[:k]).sum()) < 1e-14
        assert 1e-8 < abs(found) <= SCALE * S[p] * math.sqrt(k) * M.norm()


@pytest.mark.parametrize(("trains", "names"), [("m", "M"), ("m,vn", "MV"), ("m,un,vn", "MUV")])
def test_only_what_trains_moves(trained, trains, names):
    done = trained(nusa_train=trains)
    moved = {name for name, value in done.state.model.state_dict().items() if not torch.equal(value, done.begun[name])}
    assert moved == {f"{site[:-2]}.lora_pairs.{site[-1]}.{name}" for site in done.start for name in names}
    for site, change in done.moved.items():
        U, _, Vh = torch.linalg.svd(done.start[site])
        sides = [(U[:, :-RANK].T @ change).abs().max() < 1e-14, (change @ Vh[:-RANK].T).abs().max() < 1e-14]
        assert sides == ["U" not in names, "V" not in names], site


# -- which directions --------------------------------------------------------------------------------------------------


def rotated(values, seed=0):
    """A matrix with these singular values."""
    draw = np.random.default_rng(seed).normal
    left, right = (np.linalg.qr(draw(size=(len(values),) * 2))[0] for _ in range(2))
    return torch.from_numpy(left * np.array(values) @ right)


@pytest.mark.parametrize(("energy", "rank", "number", "acting"), [
    (0.7, 128, 2, 2), (0.79, 128, 2, 2), (0.81, 128, 1, 1), (0.4, 128, 3, 3), (0.4, 2, 3, 2), (0.995, 128, 0, 0)])
def test_directions_by_hand(energy, rank, number, acting):
    """Shares .5, .3, .19 and .01 of the energy: one reaches .4, two reach .79, three .81, four .995."""
    weight = rotated([math.sqrt(share) for share in (0.5, 0.3, 0.19, 0.01)])
    U, V, found = least_used(weight, energy, rank)
    left, _, right = np.linalg.svd(weight.numpy())
    size = min(rank, 4)
    assert found == number and U.shape == (4, size) and V.shape == (size, 4)
    assert not U[:, acting:].any() and not V[acting:].any()
    for ours, theirs in ((U.numpy(), left[:, 4 - acting:]), (V.numpy().T, right[4 - acting:].T)):
        np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-14)


def test_a_flat_spectrum_leaves_a_few():
    """All 50 values alike: 48 reach .95, and two are left."""
    assert least_used(rotated([3.0] * 50), 0.95, 128)[2] == 2
    draw = torch.randn(64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert least_used(draw, 0.95, 128)[2] > 2
    assert least_used(torch.zeros(8, 8, dtype=torch.float64), 0.95, 4)[2] == 7


def test_what_it_adapts_and_where_room_is_short(make_state, make_model, capsys):
    begin(make_state(make_model("vit")), [nusa(nusa_energy=0.5)])
    assert capsys.readouterr().out == (
        "nusa-cl adapts q, k, v and o of the image tower (blocks: 2) and the text tower (blocks: 1)\n")
    model = make_model("vit")
    with torch.no_grad():
        model.transformer.resblocks[0].attn.out_proj.weight.copy_(rotated([2.0] * 16))
    begin(make_state(model), [nusa(nusa_energy=0.9)])  # 15 of 16 equal values reach .9
    note = capsys.readouterr().out.splitlines()[1]
    assert note.startswith("note: ") and note.endswith(
        "of 12 weights have fewer than 4 directions (--nusa-rank) beside those that reach 90 % of the energy "
        "(--nusa-energy): transformer.resblocks.0.attn.o has the fewest, 1 of 16")
    with pytest.raises(UserError, match="--nusa-energy 0.999999: .* give a smaller share"):
        begin(make_state(make_model("vit")), [nusa(nusa_energy=0.999999)])


def test_a_resnet_has_nothing_to_adapt(make_state, make_model, capsys):
    state = make_state(make_model("resnet"))
    start = {name: value.clone() for name, value in state.model.visual.state_dict().items()}
    train(state, [nusa()])
    assert "of the text tower alone (blocks: 1)" in capsys.readouterr().out
    assert same_weights(state.final_model.visual.state_dict(), start)
    with pytest.raises(UserError, match="--method nusa-cl: .* is a ResNet, which has none; give --train-mode whole"):
        begin(make_state(make_model("resnet"), "image"), [nusa()])


# -- dropout -----------------------------------------------------------------------------------------------------------


def test_dropout_is_of_the_input_in_training():
    shapes, draw = ((6, 3), (3, 5), (3, 3), (7, 5)), torch.Generator().manual_seed(0)
    U, V, M, x = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes)
    core = Core(U, V, 0.5, 0.25, "M")
    with torch.no_grad():
        core.M.copy_(M)
    expected = 0.5 * U @ M @ V
    torch.testing.assert_close(core.eval()(x), x @ expected.T, rtol=0, atol=1e-13)
    torch.manual_seed(4)
    found = core.train()(x)
    torch.manual_seed(4)
    dropped = F.dropout(x, 0.25)
    assert 0 < (dropped == 0).sum() < 20
    torch.testing.assert_close(found, dropped @ expected.T, rtol=0, atol=1e-13)


def test_each_site_draws_its_own_mask_by_the_step(make_state, make_model):
    """And a run has the same bits again, resumed too; each of several processes draws, so their number may not change.
    """
    masks = {}

    def watch(state, hooks):
        for name, module in state.model.named_modules():
            if isinstance(module, torch.nn.Dropout):
                module.register_forward_hook(
                    lambda module, inputs, output, name=name: masks.setdefault(name, []).append(output == 0))

    runs, points = [], {}
    for resumed in (None, 3):
        state, hooks = make_state(make_model("vit"), warmup=0), [nusa(nusa_dropout=0.25)]
        train(state, hooks, lambda state, losses, hooks=hooks: points.setdefault(
            state.iteration, copy.deepcopy(state_of_run(state, hooks))), watch, interrupted=points.get(resumed))
        runs.append(state.final_model.state_dict())
        assert "dropout" in drawn_by_process(state, hooks) and drawn_by_process(state, [nusa()])
    assert same_weights(*runs) and len(masks) == 12
    first = [found[0] for name, found in masks.items() if name.startswith("visual.transformer.resblocks.0")]
    assert len(first) == 4 and len({str(mask.shape) for mask in first}) == 1
    assert all(not torch.equal(one, other) for index, one in enumerate(first) for other in first[:index])
    assert all(not torch.equal(found[0], found[1]) for name, found in masks.items() if name.startswith("visual."))
    without = make_state(make_model("vit"))
    begin(without, [nusa()])
    assert drawn_by_process(without, [nusa()]) is None


# -- a whole task, written out -----------------------------------------------------------------------------------------


def test_a_task_by_hand(make_state, make_model, stream_of, task):
    """Losses and merged weights of six steps: numpy's decomposition, the plain CLIP at W + s U M V, AdamW as its
    formula has it."""
    steps, ls, wd, lr, warmup = 6, 0.2, 0.01, 3e-2, 2
    state, losses = make_state(make_model("vit"), lr=lr, wd=wd, warmup=warmup, iterations=steps, eps=1e-6), []
    train(state, [nusa(ls=ls)], lambda state, terms: losses.append(terms["task"].item()))

    model = make_model("vit").requires_grad_(False)
    bases, cores = {}, {}
    for site, weight in attention_weights(model).items():
        U, S, Vh = np.linalg.svd(weight.numpy())
        k = min(16 - leading_count(S), RANK)
        bases[site] = torch.from_numpy(U[:, -k:].copy()), torch.from_numpy(Vh[-k:].copy())
        cores[site] = torch.zeros(k, k, dtype=torch.float64, requires_grad=True)
    first, second = ({site: torch.zeros_like(core) for site, core in cores.items()} for _ in range(2))
    texts = tokens_of(model, task.prompts())
    expected = []
    for step, batch in enumerate(stream_of(task.split("train"), "train", steps, train_transform=True)):
        weights = moved_weights(model, bases, cores)
        scores, _ = functional_call(model, weights, (batch.images, texts), tie_weights=False)
        loss = F.cross_entropy(scores, batch.labels, label_smoothing=ls)
        expected.append(loss.item())
        rate = lr * (step + 1) / warmup if step < warmup else lr * (1 + math.cos(
            math.pi * (step - warmup) / (steps - warmup))) / 2
        for (site, core), slope in zip(cores.items(), torch.autograd.grad(loss, [*cores.values()]), strict=True):
            first[site] = 0.9 * first[site] + 0.1 * slope
            second[site] = 0.999 * second[site] + 0.001 * slope ** 2
            mean, square = first[site] / (1 - 0.9 ** (step + 1)), second[site] / (1 - 0.999 ** (step + 1))
            with torch.no_grad():
                core.mul_(1 - rate * wd).sub_(rate * mean / (square.sqrt() + 1e-6))
    assert losses == pytest.approx(expected, abs=1e-10) and len({round(loss, 3) for loss in losses}) == steps
    final = state.final_model.state_dict()
    for name, value in moved_weights(model, bases, cores).items():
        torch.testing.assert_close(final[name], value.detach(), rtol=0, atol=1e-9)
        assert (final[name] - model.state_dict()[name]).abs().max() > 1e-3


def moved_weights(model, bases, cores):
    """{name of a weight: W + s U M V}"""
    delta = {site: SCALE * U @ cores[site] @ V for site, (U, V) in bases.items()}
    found = {}
    for name, value in model.state_dict().items():
        if name.endswith("attn.in_proj_weight"):
            found[name] = value + torch.cat([delta[name.replace("in_proj_weight", part)] for part in "qkv"])
        elif name.endswith("attn.out_proj.weight"):
            found[name] = value + delta[name.replace("out_proj.weight", "o")]
    return found


# -- what every method is promised -------------------------------------------------------------------------------------

METHOD = ("--method", "nusa-cl", "--nusa-rank", "3", "--nusa-energy", "0.8", "--wd", "0.01", *STEPS)


@pytest.fixture
def words(world, trio, tmp_path):
    """-> words(folder): the three tasks as one command."""
    return lambda name: ("--load", world.model, *METHOD, *COMMON, "--dataset-order", ",".join(trio.values()), "--save",
                         tmp_path / name, "--resume", "--save-interval", 1)


def test_a_sequence_its_evaluation_and_a_chain(cli, world, trio, words, monkeypatch, tmp_path):
    """Nothing is carried; both label spaces take one pass over the images; checkpoints are plain CLIPs."""
    done = cli(*words("one"))
    assert done.status == 0, done.err
    folder, everything = tmp_path / "one", ("--eval-datasets", ",".join(trio.values()))
    for task in TASKS:
        checkpoint = loaded(folder / f"{task}.pth")
        assert not checkpoint.get("carry") and "own" not in checkpoint and "scorer" not in checkpoint
        assert checkpoint["state_dict"].keys() == loaded(world.model)["state_dict"].keys()
    images, encode = [], CLIP.encode_image
    monkeypatch.setattr(CLIP, "encode_image", lambda model, batch: images.append(len(batch)) or encode(model, batch))
    done = cli("--load", folder / "shades.pth", "--eval-only", *everything, *COMMON[2:], "--save", tmp_path / "scored")
    assert done.status == 0 and sum(images) == 28, done.err
    rows = last_rows(tmp_path / "scored", *TASKS)
    assert rows == last_rows(folder, *TASKS) and {row["scored_by"] for row in rows.values()} == {"zeroshot"}
    start = world.model
    for task in TASKS:
        done = cli("--load", start, *METHOD, *COMMON, "--train-dataset", trio[task], *everything, "--save",
                   tmp_path / "chain")
        assert done.status == 0, done.err
        start = tmp_path / "chain" / f"{task}.pth"
        assert same_weights(loaded(start)["state_dict"], loaded(folder / f"{task}.pth")["state_dict"])


@pytest.mark.parametrize("moment", ["steps", pytest.param("begin", marks=pytest.mark.slow),
                                    pytest.param("end", marks=pytest.mark.slow)])
def test_interrupted_it_ends_with_the_same_bits(cli, words, interrupt, monkeypatch, moment, tmp_path):
    """In the second task, and with other signs of the singular vectors where it resumes."""
    assert cli(*words("whole")).status == 0
    if moment == "steps":
        interrupt("tones", 2)
        assert cli(*words("broken")).status == 130
        interrupt(None)
        wait_for_writers()
    else:
        with broken(NuSA, moment, "tones"):
            assert cli(*words("broken")).status == 130
    assert (tmp_path / "broken" / "colours.pth").is_file() and not (tmp_path / "broken" / "tones.pth").exists()
    if moment != "begin":
        monkeypatch.setattr(torch.linalg, "svd", late_flip())
    done = cli(*words("broken"))
    assert done.status == 0 and (moment == "begin" or "resumes after step" in done.out), done.err
    assert_as_if_never_interrupted(tmp_path / "broken", tmp_path / "whole")


def late_flip(sites_of_a_task=12):
    """Flips the decompositions of the task that is resumed, not those of the next one."""
    calls = []

    def svd(matrix, **options):
        calls.append(matrix)
        return flipped(matrix, **options) if len(calls) <= sites_of_a_task else real(matrix, **options)
    real = torch.linalg.svd
    return svd


@pytest.mark.slow
def test_trained_values_of_a_vit(cli, tmp_path):
    """24 blocks x 4 x 128^2, as published: all of ViT-B/16."""
    done = cli("--method", "nusa-cl", "--model", "ViT-B/16", "--init", "scratch", "--train-dataset", "toy-colours",
               "--iterations", 2, "--save", tmp_path / "out", "--dry-run")
    assert done.status == 0 and " 1,572,864 of " in done.out, done.out
    assert not (tmp_path / "out").exists()


def test_sites_are_read_as_the_framework_names_them(make_state, make_model):
    """``attention_weights`` above and ``sites`` agree."""
    state = make_state(make_model("vit"))
    found = {site: weight for site, weight in sites(state.model).items() if site.endswith(QKVO)}
    assert same_weights(found, attention_weights(make_model("vit")))
