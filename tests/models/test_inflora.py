"""InfLoRA against its formulas, written out with plain torch and numpy, in float64 on a ViT of two blocks."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cli_files import same_weights
from conftest import tiny_clip, tiny_task
from decompositions import flipped, projector
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

import clip
from src.main import main
from src.models.inflora import InfLoRA
from src.models.modeling import image_features, select_trainable, text_features, tokens_of
from src.models.resuming import state_of_run
from src.models.taps import Moments
from src.models.training import begin, train

pytest_plugins = ["cli_fixtures", "example_fixtures"]

BLOCKS = {"visual.transformer.resblocks.0": 16, "visual.transformer.resblocks.1": 16, "transformer.resblocks.0": 16}
NAMES = [f"{block}.attn" for block in BLOCKS]
EPS = 1e-4  # where a gradient is nothing but rounding, AdamW must not blow it up to a step
SIZES = {"tiny": 4, "tiny-other": 2, "tiny-third": 3}
FEW = {"inflora_rank": 3, "inflora_dropout": 0.0, "inflora_energy": 0.9}


def task_state(make_state, task, model, **settings):
    """A state of one of SIZES before its first step."""
    settings = {"warmup": 0, "schedule": "constant", "iterations": 3, "wd": 0.01, "eps": EPS, **settings}
    return dataclasses.replace(make_state(model, **settings), task=tiny_task(SIZES[task], task))


def run(make_state, tasks=("tiny", "tiny-other"), settings=(), seen=None, **keywords):
    """-> (the plain CLIP that a sequence leaves, the last hook); ``seen`` gets (state, hook) of each task."""
    model, carry, hook = tiny_clip("vit"), {}, None
    for task in tasks:
        hook = InfLoRA(**{**FEW, **keywords})
        hook.load_carry(copy.deepcopy(carry))
        state = task_state(make_state, task, model, **dict(settings))
        train(state, [hook])
        if seen is not None:
            seen.append((state, hook))
        model, carry = copy.deepcopy(state.final_model), hook.carry()
    return model, hook


def factors(model, projection):
    """{attention: (A, B)}"""
    return {name.removesuffix(f".lora_pairs.{projection}"): (pair.A.detach(), pair.B.detach())
            for name, pair in model.named_modules() if name.endswith(f".lora_pairs.{projection}")}


def weight(model, name, projection):
    """(16, 16) of q, k, v or o in a plain CLIP."""
    attention = model.get_submodule(name)
    if projection == "o":
        return attention.out_proj.weight.detach()
    return attention.in_proj_weight.detach().chunk(3)["qkv".index(projection)]


def close(one, other, tolerance=1e-10):
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance)


def drawn_moment(rank=16, seed=0, width=16):
    """A covariance (d, d) whose directions get weaker."""
    x = torch.randn(width, 60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x * torch.logspace(0, -1.5, width, dtype=torch.float64)[:, None]
    x[rank:] = 0
    turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed + 50),
                                       dtype=torch.float64))[0]
    return turn @ x @ x.T @ turn.T / 60


# -- a whole sequence, written out -------------------------------------------------------------------------------------


class Written:
    """The method from its formulas: no hook, no wrapped layer, no helper of the framework's but the data's."""

    def __init__(self, rank, share, step=0.0, code=False, sites="qkvo", scale=None):
        self.rank, self.share, self.increase, self.code = rank, share, step, code
        self.sites, self.scale = sites, 2 / math.sqrt(rank) if scale is None else scale
        self.protected, self.losses = {}, []  # {attention: (d, m) of what is protected, also where it is most of d}

    def task(self, number, state, drawn):
        """One task of a plain CLIP, in place. ``drawn`` {(attention, projection): A of q and o}."""
        model, names = state.model.requires_grad_(False), [*NAMES]
        tokens = clip.tokenize(state.task.prompts(), model.context_length)
        passes = lambda purpose: [batch.images for batch in state.once(  # noqa: E731
            state.task.split("train"), purpose, 4, train_transform=True)]
        before, A, B = self.sums(model, passes("inputs before"), tokens), {}, {}
        for name in names:
            left = before[name].numpy()
            if name in self.protected:
                basis = self.protected[name]
                left = left - basis @ (basis.T @ left)
            vectors, values, _ = np.linalg.svd(left)
            rows = np.where(values > 1e-6 * values[0], vectors, 0).T[:self.rank] / math.sqrt(3)
            for projection in self.sites:
                A[name, projection] = torch.from_numpy(rows) if projection in "kv" else drawn[name, projection]
                B[name, projection] = torch.zeros(16, self.rank, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.AdamW(B.values(), lr=state.settings.lr, weight_decay=state.settings.wd, eps=EPS,
                                      foreach=False)
        during = {name: torch.zeros(16, 16, dtype=torch.float64) for name in names}
        for batch in state.training_stream():
            if self.code:
                with torch.no_grad():
                    now = copy.deepcopy(model)
                    now.load_state_dict(self.weights(model, A, B))
                    for name, moment in self.sums(now, [batch.images], tokens).items():
                        during[name] += moment
            logits, _ = torch.func.functional_call(model, self.weights(model, A, B), (batch.images, tokens))
            loss = F.cross_entropy(logits, batch.labels, label_smoothing=0.2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.losses.append(loss.item())
        with torch.no_grad():
            model.load_state_dict(self.weights(model, A, B))
            after = self.sums(model, passes("inputs after"), tokens)
        share = min(1.0, self.share + number * self.increase)
        for name in names:
            self.update(name, (after[name] + during[name]).numpy(), share)

    def weights(self, model, A, B):
        """W + s B A of all sites, as a state dict."""
        found = {key: value.clone() for key, value in model.state_dict().items()}
        for (name, projection), down in A.items():
            update = self.scale * B[name, projection] @ down
            if projection == "o":
                found[f"{name}.out_proj.weight"] = found[f"{name}.out_proj.weight"] + update
            else:
                whole = torch.zeros(3, 16, 16, dtype=torch.float64)
                whole["qkv".index(projection)] = 1
                found[f"{name}.in_proj_weight"] = found[f"{name}.in_proj_weight"] + (whole * update).flatten(0, 1)
        return found

    def sums(self, model, batches, tokens):
        """Of the images once; of the prompts once, or with each batch."""
        found, handles = {name: torch.zeros(16, 16, dtype=torch.float64) for name in NAMES}, []
        for name in NAMES:
            def add(_, inputs, name=name):
                found[name] += torch.einsum("bli,blj->ij", inputs[0].detach(), inputs[0].detach())
            handles.append(model.get_submodule(name).register_forward_pre_hook(add))
        for number, images in enumerate(batches):
            model.encode_image(images)
            if self.code or not number:
                model.encode_text(tokens, cut=False)
        for handle in handles:
            handle.remove()
        return found

    def update(self, name, C, share):
        """GPM; where most of d is protected, DualGPM keeps the complement, by the same rule."""
        total = (np.linalg.svd(C)[1] ** 2).sum()
        if name not in self.protected:
            vectors, values, _ = np.linalg.svd(C)
            self.protected[name] = vectors[:, :max(1, int((np.cumsum(values ** 2 / total) < share).sum()))]
            return
        basis = self.protected[name]
        vectors, values, _ = np.linalg.svd(C - basis @ (basis.T @ C))
        held, count = 1 - (values ** 2).sum() / total, 0
        while held < share and count < 16 - basis.shape[1]:
            held, count = held + values[count] ** 2 / total, count + 1
        self.protected[name] = np.hstack([basis, vectors[:, :count]])


VARIANTS = {
    "the port": ({}, {}),
    "code": ({"inflora_statistics": "code"}, {"code": True}),
    "cil": ({"inflora_memory": "dualgpm", "inflora_sites": ("k", "v"), "inflora_scale": 1.0, "inflora_energy": 0.993,
             "inflora_energy_step": 0.002},
            {"share": 0.993, "step": 0.002, "sites": "kv", "scale": 1.0}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sequence_is_its_formulas(make_state, variant):
    keywords, written = VARIANTS[variant]
    seen = []
    model, hook = run(make_state, SIZES, seen=seen, ls=0.2, **keywords)
    expected, plain = Written(**{"rank": 3, "share": 0.9, **written}), tiny_clip("vit")
    for number, (task, (state, _)) in enumerate(zip(SIZES, seen, strict=True)):
        drawn = {(name, projection): A for projection in "qo"
                 for name, (A, _) in factors(state.model, projection).items()}
        expected.task(number, task_state(make_state, task, plain), drawn)
    for key, value in plain.state_dict().items():
        assert close(value, model.state_dict()[key]), key
    assert any(not close(value, tiny_clip("vit").state_dict()[key], 1e-3) for key, value in plain.state_dict().items())
    for name in NAMES:
        found, theirs = projector(hook.bases[name]), torch.from_numpy(expected.protected[name])
        if name in hook.allowed:
            found = torch.eye(16, dtype=torch.float64) - found
        assert close(found, projector(theirs), 1e-8), name
    assert bool(hook.allowed) == (variant == "cil")


# -- the start ---------------------------------------------------------------------------------------------------------


def test_it_starts_at_the_function_of_the_weights_at_load(make_state):
    state = task_state(make_state, "tiny", tiny_clip("vit"))
    images, tokens = torch.randn(2, 3, 16, 16, dtype=torch.float64), tokens_of(state.model, state.task.prompts())
    before = image_features(state.model, images), text_features(state.model, tokens)
    begin(state, [InfLoRA(inflora_rank=3)])
    state.model.eval()
    assert torch.equal(before[0], image_features(state.model, images))
    assert torch.equal(before[1], text_features(state.model, tokens))


def test_factors_of_two_tasks(make_state, capsys):
    """A A^T = I / 3 at k and v, which share A and keep off the memory; A of q and o is drawn, again in each task."""
    seen = []
    run(make_state, seen=seen)
    (first, one), (second, _) = seen
    assert "note:" not in capsys.readouterr().out  # enough directions are left
    for name in NAMES:
        (A, _), (same, _) = (factors(second.model, projection)[name] for projection in "kv")
        assert torch.equal(A, same)
        assert close(A @ A.T, torch.eye(3, dtype=torch.float64) / 3)
        assert (A @ one.bases[name]).abs().max() < 1e-12
        for projection in "qo":
            A, before = (factors(state.model, projection)[name][0] for state in (second, first))
            assert A.abs().max() <= 16 ** -0.5 < A.abs().max() * 1.2
            assert not torch.equal(A, before)
            assert (A @ one.bases[name]).abs().max() > 1e-2


def test_only_b_moves_and_only_off_the_memory(make_state):
    seen = []
    model, _ = run(make_state, seen=seen)
    (first, one), (second, _) = seen
    trained = {name for name, value in second.model.named_parameters() if value.requires_grad}
    assert len(trained) == 12 and {name.rpartition(".")[2] for name in trained} == {"B"}
    for name in NAMES:
        for projection in "qkvo":
            moved = weight(model, name, projection) - weight(first.final_model, name, projection)
            assert moved.norm() > 1e-4
            reached = (moved @ one.bases[name]).norm() / moved.norm()
            assert reached < 1e-12 if projection in "kv" else reached > 1e-3


def test_the_merged_weights_are_the_sum_over_the_tasks(make_state):
    seen = []
    model, _ = run(make_state, SIZES, seen=seen)
    for name in NAMES:
        for projection in "qkvo":
            pairs = [factors(state.model, projection)[name] for state, _ in seen]
            updates = [2 / math.sqrt(3) * B @ A for A, B in pairs]
            assert close(weight(model, name, projection), weight(tiny_clip("vit"), name, projection) + sum(updates))


# -- spare rows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kept", "rank", "live"), [("protected", 16, 4), ("allowed", 16, 12), ("none", 7, 7)])
def test_spare_rows_are_zero(kept, rank, live):
    """12 of 16 directions are protected, or allowed, or the inputs have only 7; the rank asks for 16."""
    hook, basis = InfLoRA(inflora_rank=16), torch.linalg.qr(drawn_moment(seed=3))[0][:, :12]
    if kept != "none":
        hook.bases["attn"] = basis
    hook.allowed = {"attn"} if kept == "allowed" else set()
    A = hook.directions("attn", drawn_moment(rank))
    assert A.shape == (16, 16)
    assert torch.equal(A.any(dim=1), torch.arange(16) < live)
    assert close(A[:live] @ A[:live].T, torch.eye(live, dtype=torch.float64) / 3)
    reached = A if kept == "protected" else A - A @ projector(basis) if kept == "allowed" else 0 * A
    assert (reached @ basis).abs().max() < 1e-9 if kept == "protected" else reached.abs().max() < 1e-9


def test_the_plan_of_memory_counts_what_it_keeps(make_state):
    state, hook = task_state(make_state, "tiny", tiny_clip("vit")), InfLoRA(inflora_rank=3, inflora_statistics="code")
    train(state, [hook])
    copies = hook.copies()
    assert copies["protected bases"] is hook.bases and copies["protected bases"]
    assert all(basis.untyped_storage().nbytes() == basis.nbytes for basis in hook.bases.values())
    assert copies["inputs of the steps"] is hook.steps


def test_columns_of_spare_rows_stay_zero(make_state, capsys):
    """Under weight decay too. A rank above the width is one reason; a note is printed."""
    seen = []
    run(make_state, seen=seen, inflora_rank=20, inflora_energy=0.9999)
    text = capsys.readouterr().out
    assert "note: 3 of 3 attentions have fewer than 20 directions (--inflora-rank)" in text
    for name in NAMES:
        for projection in "kv":
            A, B = factors(seen[1][0].model, projection)[name]
            live = A.any(dim=1)
            assert 0 < live.sum() < 16
            assert not B[:, ~live].any() and B[:, live].any(dim=0).all()


# -- memory ------------------------------------------------------------------------------------------------------------


def test_the_first_task_keeps_what_stays_below_the_share():
    """Singular values of C whose squares have the shares .5, .3 and .2; at least one direction."""
    C = torch.diag(torch.tensor([.5, .3, .2], dtype=torch.float64).sqrt())
    for share, count in ((.85, 2), (.75, 1), (.4, 1)):
        hook = InfLoRA()
        hook.remember("attn", C, share)
        assert hook.bases["attn"].shape == (3, count)
    hook.remember("attn", C, .85)  # a later task reaches it
    assert hook.bases["attn"].shape == (3, 3)


@pytest.mark.parametrize("share", [.97, .999, .99999])
def test_dual_memory_protects_what_gpm_does(share):
    """Before and behind the switch, and at an update of what is allowed: what is free is the same."""
    hooks = [InfLoRA(inflora_memory=memory) for memory in ("gpm", "dualgpm")]
    for number in range(6):
        for hook in hooks:
            hook.remember("attn", drawn_moment(seed=number), share)
        free = [hook.free("attn", torch.eye(16, dtype=torch.float64)) for hook in hooks]
        assert close(*free, 1e-6)
        gpm, dual = (hook.bases["attn"].shape[1] for hook in hooks)
        assert dual == (16 - gpm if hooks[1].allowed else gpm) <= 8
        assert close(hooks[1].bases["attn"].mT @ hooks[1].bases["attn"], torch.eye(dual, dtype=torch.float64))
    assert hooks[1].allowed == {"attn"} and not hooks[0].allowed


@pytest.mark.parametrize(("count", "allowed"), [(1, False), (2, True), (3, True)])
def test_the_first_task_is_dual_from_half_of_the_width_on(count, allowed):
    C = torch.diag(torch.tensor([4., 3, 2, 1], dtype=torch.float64))
    share = float((C.diagonal() ** 2)[:count].sum() / (C ** 2).sum()) + 1e-3
    hook = InfLoRA(inflora_memory="dualgpm")
    hook.remember("attn", C, share)
    basis = torch.eye(4, dtype=torch.float64)[:, count:] if allowed else torch.eye(4, dtype=torch.float64)[:, :count]
    assert bool(hook.allowed) == allowed
    assert close(projector(hook.bases["attn"]), projector(basis))


def test_a_step_of_energy_counts_tasks_of_the_method(make_state, monkeypatch):
    shares = []
    monkeypatch.setattr(InfLoRA, "remember", lambda hook, name, moment, share: (
        shares.append(share), hook.bases.update({name: torch.eye(16, dtype=torch.float64)[:, :2]})))
    run(make_state, SIZES, inflora_energy=0.98, inflora_energy_step=0.015)
    assert shares[::3] == pytest.approx([0.98, 0.995, 1.0]) and len(shares) == 9


@pytest.mark.parametrize("statistics", ["clean", "code"])
def test_only_published_statistics_know_of_dropout(make_state, monkeypatch, statistics):
    """Clean ones are those of the plain CLIP that the task leaves."""
    seen = {}
    monkeypatch.setattr(InfLoRA, "remember", lambda hook, name, moment, share: (
        seen.update({name: moment}), hook.bases.update({name: moment})))
    state, hook = task_state(make_state, "tiny", tiny_clip("vit")), InfLoRA(
        inflora_rank=3, inflora_dropout=0.5, inflora_statistics=statistics)
    train(state, [hook])
    alone = Moments(dict.fromkeys(NAMES, 16), state.model.logit_scale)
    for batch in state.once(state.task.split("train"), "inputs after", 4, train_transform=True):
        alone.add(state.final_model, batch.images)
    alone.add(state.final_model, tokens=clip.tokenize(state.task.prompts(), state.model.context_length))
    for name, moment in alone.sums.items():
        steps = hook.steps.get(name, 0)
        assert close(seen[name] - steps, moment) == (statistics == "clean" or name == NAMES[0]), name


# -- one tower, other towers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "names"), [("image", NAMES[:2]), ("text", NAMES[2:]), ("image-fc-fixed", NAMES[:2])])
def test_a_tower_that_does_not_train_has_no_memory(make_state, mode, names):
    model = tiny_clip("vit")
    state, hook = task_state(make_state, "tiny", model), InfLoRA(**FEW)
    select_trainable(model, mode)
    train(state, [hook])
    assert sorted(hook.bases) == sorted(names)
    assert sorted(factors(state.model, "k")) == sorted(names)


# -- resuming ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", ["clean", "code"])
def test_a_resumed_task_has_the_same_bits_though_vectors_flip(make_state, monkeypatch, statistics):
    found, kept = [], None
    for number in range(2):
        state = task_state(make_state, "tiny", tiny_clip("vit"))
        hook = InfLoRA(inflora_rank=3, inflora_statistics=statistics)
        points = []
        if number:
            monkeypatch.setattr(torch.linalg, "svd", flipped)
        train(state, [hook], lambda state, losses, hook=hook, points=points: points.append(
            copy.deepcopy(state_of_run(state, [hook]))), interrupted=kept)
        kept = kept or points[1]
        found.append((state.final_model.state_dict(), hook.bases))
    assert same_weights(found[0][0], found[1][0]) and same_weights(found[0][1], found[1][1])


# -- by the command line -----------------------------------------------------------------------------------------------

WORDS = ("--method", "inflora", "--inflora-rank", 3, "--inflora-energy", 0.999, "--inflora-memory", "dualgpm",
         "--inflora-energy-step", 0.0004, *STEPS)
CODE = ("--inflora-statistics", "code")


def command(world, trio, save, *words):
    return [str(word) for word in ("--load", world.model, *WORDS, *COMMON, "--dataset-order", ",".join(trio.values()),
                                   "--save", save, *words)]


@pytest.fixture(scope="module")
def left(world, trio, tmp_path_factory):
    """-> left(words): the folder of the three tasks, run once; no test may change it."""
    folders = {}

    def of(*words):
        if words not in folders:
            folders[words] = tmp_path_factory.mktemp("left") / "out"
            assert main(command(world, trio, folders[words], *words)) == 0
        return folders[words]
    return of


@pytest.mark.slow
def test_a_chain_is_the_sequence(left, chain, tmp_path):
    *_, last = chain(*WORDS)
    assert_as_if_never_interrupted(tmp_path, left(), {"config", "history"})
    carry = loaded(last)["carry"]["InfLoRA"]
    assert carry["tasks"] == 3 and carry["allowed"] and len(carry["bases"]) == 2
    assert all(basis.untyped_storage().nbytes() == basis.nbytes for basis in carry["bases"].values())


def test_an_evaluation_has_the_scores_of_training(left, cli, trio, tmp_path):
    """In both label spaces, by plain CLIP."""
    done = cli("--load", left() / "shades.pth", "--eval-only", "--eval-datasets", ",".join(trio.values()), *COMMON,
               "--save", tmp_path)
    assert done.status == 0, done.err
    rows = last_rows(tmp_path, *TASKS)
    assert rows == last_rows(left(), *TASKS) and {space for _, space in rows} == {"task", "all"}
    assert {row["scored_by"] for row in rows.values()} == {"zeroshot"}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(("moment", "words"), [
    ("inputs after", ()), pytest.param("begin", (), marks=SLOW), pytest.param("inputs before", (), marks=SLOW),
    pytest.param("end", (), marks=SLOW), pytest.param("inputs after", CODE, marks=SLOW)])
def test_interrupted_where_it_passes_over_images(left, cli, world, trio, moment, words, tmp_path):
    """In the second task, which begins with what the first has left."""
    words = command(world, trio, tmp_path, *words, "--resume", "--save-interval", 1)
    with broken(InfLoRA, moment, "tones"):
        assert cli(*words).status == 130
    assert (tmp_path / "colours.pth").is_file() and not (tmp_path / "tones.pth").exists()
    done = cli(*words)
    assert done.status == 0, done.err
    assert_as_if_never_interrupted(tmp_path, left(*(CODE if CODE[0] in words else ())))


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), CODE])
def test_interrupted_after_a_step(left, cli, world, trio, interrupt, words, tmp_path):
    words = command(world, trio, tmp_path, *words, "--resume", "--save-interval", 1)
    interrupt("tones", 2)
    assert cli(*words).status == 130
    wait_for_writers()
    interrupt(None)
    done = cli(*words)
    assert done.status == 0 and "after step 1 of 3" in done.out, done.err
    assert_as_if_never_interrupted(tmp_path, left(*(CODE if CODE[0] in words else ())))


@pytest.mark.parametrize(("words", "reason"), [
    (("--lora",), "two kinds of factors would train the same weights"),
    (("--train-mode", "fc"), "it adapts the towers, and this mode trains neither"),
    (("--inflora-sites", "k,x"), "x is not one of q, k, v, o"),
    (("--inflora-energy", "1.1"), "expected a number, above 0 and at most 1"),
    ((*CODE, "--compile"), "--inflora-statistics code with --compile")])
def test_what_is_refused(cli, world, tmp_path, words, reason, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)  # a compiler
    done = cli("--load", world.model, *WORDS, *COMMON, "--train-dataset", world.colours, *words, "--save",
               tmp_path / "out")
    assert done.status == 2 and reason in done.err, done.err
    assert not list(tmp_path.rglob("*.pth"))


def test_a_resnet_s_image_tower_stays(cli, tmp_path):
    words = ("--model", "toy", "--train-dataset", "toy-sizes", "--iterations", 1, "--batch-size", 8, "--method",
             "inflora", "--max-evaluation-size", 8, "--lr", 1e-5)
    done = cli(*words, "--save", tmp_path / "out")
    assert done.status == 0 and "the method wraps no layer of the image tower, which stays unchanged" in done.out
    assert all(name.startswith("transformer.") for name in loaded(
        tmp_path / "out" / "toy-sizes.pth")["carry"]["InfLoRA"]["bases"])
    done = cli(*words, "--train-mode", "image", "--save", tmp_path / "image")
    assert done.status == 2 and "the tower that trains is a ResNet" in done.err


@pytest.mark.slow
def test_trained_values_on_vit_b_16(cli):
    """12 blocks of width 768 and 12 of 512, four projections, B of rank 128."""
    done = cli("--recipe", "inflora", "--dataset-order", "mtil-1", "--init", "scratch", "--dry-run")
    assert "7,864,320 of 157,485,057 values" in done.out
