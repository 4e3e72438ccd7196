"""Wrapped layers: what a method's file defines trains, resumes, merges and is scored as a plain CLIP."""

import copy
import threading
from pathlib import Path

import pytest
import torch
import wrapping
from cli_files import rows, same_weights
from conftest import tiny_clip
from decompositions import flipped
from torch import nn

import clip
from clip.model import CLIP
from src.errors import UserError
from src.models.attached import is_dropout
from src.models.averaging import WeightEnsemble
from src.models.finetune import Finetune
from src.models.hooks import Hooks
from src.models.lora_injection import adapter_state, inject_lora, inject_peft
from src.models.memory import resting_weights, weight_copies
from src.models.modeling import image_features, select_trainable, text_features, tokens_of
from src.models.penalties import L2
from src.models.resuming import WatchedWeights, moving_tensors, restore, state_of_run
from src.models.training import begin, train
from src.models.wrapped import (
    Factors,
    Pair,
    WrappedLayer,
    is_wrapped,
    merge,
    plain_weights,
    sites,
    squared_update,
    start_of_updates,
    wrap,
)

pytest_plugins = ["cli_fixtures"]

METHODS = {"inputs": wrapping.FrozenInputs, "core": wrapping.NullCore, "split": wrapping.Split}
PATH = Path(wrapping.__file__)
ATTENTION, MLP = ("attn.q", "attn.k", "attn.v", "attn.o"), ("mlp.c_fc", "mlp.c_proj")


class OuterProduct(WrappedLayer):
    """A linear layer with the update 2 u v^T: no class of the framework's but the family's own."""

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.column = nn.Parameter(torch.randn(base_layer.out_features, 1, dtype=torch.float64))
        self.register_buffer("row", torch.randn(1, base_layer.in_features, dtype=torch.float64))

    def forward(self, x):
        return self.base_layer(x) + 2 * (x @ self.row.T) @ self.column.T

    def updates(self):
        update = Factors()
        update.A, update.B, update.scale = self.row, self.column, 2.0
        return [("weight", slice(None), update)]


class Dropping(WrappedLayer):
    """Adds nothing that a merge would have to keep."""

    def __init__(self, base_layer):
        super().__init__(base_layer)
        self.dropout = nn.Dropout(0.5)

    def forward(self, *inputs):
        return self.dropout(self.base_layer(*inputs))


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


@pytest.fixture
def plain(make_model):
    model = make_model("vit")
    select_trainable(model, "whole")
    return model


def features(model, seed=3):
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    texts = tokens_of(model, ["a photo of a cat.", "the red bird", "blue"])
    return torch.cat([image_features(model, images), text_features(model, texts)])


def close(one, other, tolerance=1e-12):
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def drawn_pairs(model, names=None):
    """{site: a Pair of rank 2 whose A is frozen}, all values drawn."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return {site: Pair(draw(2, weight.shape[1]) / 4, nn.Parameter(draw(weight.shape[0], 2) / 4), 0.7)
            for site, weight in sites(model).items() if names is None or site.endswith(names)}


@torch.no_grad()
def by_hand(model, pairs):
    """A plain model whose weights are W + 0.7 B A."""
    model = copy.deepcopy(model)
    for site, pair in pairs.items():
        place, _, part = site.rpartition(".")
        name = {"o": f"{place}.out_proj.weight"}.get(part, f"{place}.in_proj_weight" if part in "qkv" else
                                                     f"{site}.weight")
        rows = slice(16 * "qkv".index(part), 16 * "qkv".index(part) + 16) if part in "qkv" else slice(None)
        model.get_parameter(name)[rows] += 0.7 * pair.B @ pair.A
    return model


def trainable(model):
    return {name for name, value in model.named_parameters() if value.requires_grad}


# -- sites and factors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "towers"), [("whole", 3), ("image", 2), ("text", 1)])
def test_sites_are_those_of_the_towers_that_train(make_model, mode, towers):
    model = make_model("vit")
    select_trainable(model, mode)
    image = [f"visual.transformer.resblocks.{block}.{part}" for block in range(2) for part in ATTENTION + MLP]
    text = [f"transformer.resblocks.0.{part}" for part in ATTENTION + MLP]
    assert list(sites(model)) == [*(text if mode != "image" else ()), *(image if mode != "text" else ())] or list(
        sites(model)) == [*(image if mode != "text" else ()), *(text if mode != "image" else ())]
    assert len(sites(model)) == 6 * towers


def test_what_is_written_into_a_site_changes_the_clip(plain):
    weights = sites(plain)
    weights["transformer.resblocks.0.attn.k"] += 1
    attention = tiny_clip("vit").transformer.resblocks[0].attn
    moved = plain.transformer.resblocks[0].attn.in_proj_weight - attention.in_proj_weight
    expected = torch.zeros(48, 16, dtype=torch.float64)
    expected[16:32] = 1
    assert close(moved, expected)


@pytest.mark.parametrize("names", [None, ("attn.q",), ("attn.o",), ("attn.k", "attn.v"), ("attn.v", "attn.o", "c_fc"),
                                   ("c_proj",)])
def test_wrapped_merged_and_set_by_hand_are_one(plain, names):
    pairs = drawn_pairs(plain, names)
    expected, before = by_hand(plain, pairs), features(plain)
    wrap(plain, pairs)
    assert close(features(plain), features(expected)) and not close(features(plain), before, 1e-3)
    merged = merge(plain)
    assert close(features(merged), features(expected)) and same_weights(merged.state_dict(), plain_weights(plain))
    assert [type(module) for module in merged.modules()] == [type(module) for module in expected.modules()]
    CLIP(**merged.architecture).load_state_dict(merged.state_dict(), strict=True)


def test_factors_train_as_they_are_given(plain):
    pairs = drawn_pairs(plain, MLP)
    wrap(plain, pairs)
    names = {f"{site}.lora_pair" for site in pairs}
    assert trainable(plain) == {f"{name}.B" for name in names}
    assert {f"{name}.A" for name in names} <= dict(plain.named_buffers()).keys()
    assert not sites(plain)  # nothing else trains
    with pytest.raises(ValueError, match="'transformer.resblocks.0.mlp.c_fc' is not among sites"):
        wrap(plain, {"transformer.resblocks.0.mlp.c_fc": pairs["transformer.resblocks.0.mlp.c_fc"]})


def test_a_dropout_acts_on_what_the_branch_is_given_in_training_only():
    generator = torch.Generator().manual_seed(2)
    A, B, x = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((2, 5), (4, 2), (3, 5)))
    pair = Pair(A, nn.Parameter(B), 0.7, dropout=0.25)
    torch.manual_seed(0)
    kept = nn.functional.dropout(torch.ones(3, 5, dtype=torch.float64), 0.25)
    torch.manual_seed(0)
    assert close(pair(x), 0.7 * (kept * x) @ A.T @ B.T) and not kept.all()
    assert close(pair.eval()(x), 0.7 * x @ A.T @ B.T)
    assert any(map(is_dropout, pair.modules()))
    assert not any(map(is_dropout, Pair(A, B).modules()))


def test_a_frozen_factor_is_a_copy(plain):
    """A view would keep all singular vectors, and change with them."""
    everything = torch.eye(8, dtype=torch.float64)
    pair = Pair(everything[:2], nn.Parameter(torch.zeros(4, 2).double()))
    everything.zero_()
    assert pair.A.sum() == 2 and pair.A.untyped_storage().nbytes() == 2 * 8 * 8


@pytest.mark.parametrize("change", [
    lambda pair: (pair.A.T, pair.B), lambda pair: (pair.A, pair.B[:3]), lambda pair: (pair.A[:1], pair.B),
    lambda pair: (pair.A.float(), pair.B.float()), lambda pair: (pair.A.to("meta"), pair.B)])
def test_factors_that_do_not_fit(plain, change):
    site = "transformer.resblocks.0.mlp.c_fc"
    with pytest.raises(ValueError, match=rf"wrap: the factors of {site}.*do not fit its weight \(64, 16\) torch"):
        wrap(plain, {site: Pair(*change(drawn_pairs(plain)[site]))})
    assert not is_wrapped(plain)


@pytest.mark.parametrize("inject", [inject_lora, inject_peft])
def test_adapters_of_the_flag_are_there_first(plain, inject):
    pairs = drawn_pairs(plain)
    inject(plain, ("mlp.c_fc",))
    for call in (lambda: sites(plain), lambda: wrap(plain, pairs)):
        with pytest.raises(UserError, match="--lora: the method wraps layers .* leave --lora out"):
            call()


def test_a_low_precision_stays_low(make_model):
    """What is not wrapped of q, k and v does not widen the rest under autocast."""
    model = make_model("vit", dtype=torch.float32)
    select_trainable(model, "whole")
    wrap(model, {site: Pair(pair.A.float(), nn.Parameter(pair.B.detach().float()))
                 for site, pair in drawn_pairs(model, ("attn.k",)).items()})
    seen = []
    model.transformer.resblocks[0].attn.base_layer.out_proj.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text_features(model, tokens_of(model, ["blue"]))
    assert seen == [torch.bfloat16]


# -- any member --------------------------------------------------------------------------------------------------------


def with_own_members(model):
    """One of a method's own classes in each tower, and around a whole block in which another is."""
    torch.manual_seed(0)
    for name in ("visual.transformer.resblocks.1.mlp.c_proj", "transformer.resblocks.0.mlp.c_fc"):
        model.set_submodule(name, OuterProduct(model.get_submodule(name)))
    model.transformer.resblocks[0] = Dropping(model.transformer.resblocks[0])
    return model.eval()


def test_members_that_only_a_method_knows_merge(plain):
    names, before = list(plain.state_dict()), features(plain)
    model = with_own_members(plain)
    merged = merge(model)
    assert is_wrapped(model) and not is_wrapped(merged) and list(merged.state_dict()) == names
    assert close(features(merged), features(model)) and not close(features(model), before, 1e-3)
    assert same_weights(merged.state_dict(), plain_weights(model))
    assert set(resting_weights(model)) <= set(names)
    update = adapter_state(model)["updates"]["transformer.resblocks.0.mlp.c_fc.weight"][0]
    moved = merged.transformer.resblocks[0].mlp.c_fc.weight - tiny_clip("vit").transformer.resblocks[0].mlp.c_fc.weight
    assert update["rows"] == (0, 64) and close(update["scale"] * update["B"] @ update["A"], moved)


def test_the_update_s_size(plain):
    """|W after - W before|^2 of all weights, from zero and from what the factors were."""
    old = {name: value.clone() for name, value in merge(with_own_members(copy.deepcopy(plain))).state_dict().items()}
    model = with_own_members(plain)
    start = start_of_updates(model)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("column"):
                value.mul_(-3)
    new = merge(model).state_dict()
    for since, before in ((start, old), ((), tiny_clip("vit").state_dict())):
        expected = sum((new[name] - before[name]).square().sum() for name in new)
        assert expected > 1 and close(squared_update(model, since), expected)
    assert start_of_updates(tiny_clip("vit")) == []


def test_a_shared_movement_counts_at_each_site(plain):
    """One pair in two layers, moved from factors that are not zero: twice the square of one."""
    names = [f"visual.transformer.resblocks.{number}.mlp.c_fc" for number in (0, 1)]
    layer = plain.get_submodule(names[0])
    A, B = (nn.Parameter(torch.randn(*shape, dtype=torch.float64))
            for shape in ((2, layer.in_features), (layer.out_features, 2)))
    pair = Pair(A, B, 0.5)
    wrap(plain, dict.fromkeys(names, pair))
    start, before = start_of_updates(plain), 0.5 * B.detach() @ A.detach()
    with torch.no_grad():
        A.mul_(1.5).add_(1)
    expected = 2 * (0.5 * B @ A - before).square().sum()
    assert close(squared_update(plain, start), expected)


# -- what begin may do to a CLIP ---------------------------------------------------------------------------------------


def lose_a_parameter(model):
    layer = Dropping(model.transformer.resblocks[0].mlp.c_fc)
    layer.gate = nn.Parameter(torch.zeros(3))
    model.transformer.resblocks[0].mlp.c_fc = layer


def lose_a_tensor(model):
    layer = OuterProduct(model.transformer.resblocks[0].mlp.c_fc)
    layer.direction = torch.zeros(3)
    model.transformer.resblocks[0].mlp.c_fc = layer


def lose_a_layer(model):
    model.transformer.resblocks[0].mlp.c_fc = nn.Identity()


def beside_a_layer(model):
    model.transformer.resblocks[0].mlp.c_fc.gate = nn.Parameter(torch.zeros(3))


@pytest.mark.parametrize(("change", "words"), [
    (lose_a_parameter, "Finetune wraps .*c_fc and trains its parameter gate, on which none of its updates"),
    (lose_a_tensor, "Finetune wraps .*c_fc and keeps the tensor direction as a plain attribute"),
    (lose_a_layer, r"Finetune removes transformer.*c_fc.(bias|weight) from the CLIP"),
    (beside_a_layer, "Finetune adds the parameter transformer.*c_fc.gate to the CLIP.*wrapped layers")])
def test_what_would_be_lost_is_refused(plain, change, words):
    watched = WatchedWeights(plain)
    change(plain)
    with pytest.raises(UserError, match=words):
        watched.refuse_new(Finetune())


def test_wrapped_layers_are_no_addition(plain):
    watched = WatchedWeights(plain)
    with_own_members(plain)
    wrap(plain, drawn_pairs(plain, ("attn.q", "attn.o")))
    watched.refuse_new(Finetune())


def test_a_class_of_a_method_s_own_beside_the_flag(plain):
    inject_lora(plain, ("attn",))
    watched = WatchedWeights(plain)
    with_own_members(plain)
    with pytest.raises(UserError, match="leave --lora out"):
        watched.refuse_new(Finetune())


# -- methods -----------------------------------------------------------------------------------------------------------


def wrapped_state(make_state, make_model, method, *add_ons, seed=0, **settings):
    """-> (a state before its first step, its hooks)"""
    return make_state(make_model("vit"), **{"warmup": 0, **settings}), [method(), *add_ons]


def test_nothing_moves_but_what_trains(make_state, make_model, method):
    """Frozen factors and the CLIP's own weights have the bits that begin left; the first step starts at the weights at
    load; what is scored is a plain CLIP that gives what the wrapped one gives."""
    state, hooks = wrapped_state(make_state, make_model, method)
    before, seen = features(state.model), {}

    def begun(state, hooks):
        seen.update({name: value.clone() for name, value in state.model.state_dict().items()})
        seen["trained"], seen["start"] = trainable(state.model), features(state.final_model)
    train(state, hooks, begun=begun)
    assert close(seen["start"], before, 1e-10)
    moved = {name for name, value in state.model.state_dict().items() if not torch.equal(value, seen[name])}
    assert moved == seen["trained"] and {name.rpartition(".")[2] for name in moved} <= {"B", "core"}
    assert {value for group in state.optimizer.param_groups for value in group["params"]} == {
        state.model.get_parameter(name) for name in moved}
    final = state.final_model
    assert type(final) is CLIP and list(final.state_dict()) == list(make_model("vit").state_dict())
    state.model.eval()
    assert close(features(final), features(state.model), 1e-10) and not close(features(final), before, 1e-3)


def test_a_step_is_the_full_gradient_s_in_the_span_of_a(make_state, make_model):
    """One step of SGD: the weight moves by -lr G A^T A, G the gradient that the whole weight has."""
    state, hooks = wrapped_state(make_state, make_model, wrapping.FrozenInputs, iterations=1, optimizer="sgd", lr=0.1,
                                 schedule="constant")
    free, _ = wrapped_state(make_state, make_model, Finetune, iterations=1, optimizer="sgd", lr=0.1,
                            schedule="constant")
    gradients = {}
    watch = type("Watch", (Hooks,), {"after_backward": lambda hook, state: gradients.update(
        {name: value.grad.clone() for name, value in state.named_parameters() if value.grad is not None})})()
    train(free, [Finetune(), watch])
    start = make_model("vit").state_dict()
    train(state, hooks)
    final, found = state.final_model.state_dict(), dict(state.model.named_buffers())
    for block in ("transformer.resblocks.0", "visual.transformer.resblocks.1"):
        for part in MLP:
            name, A = f"{block}.{part}.weight", found[f"{block}.{part}.lora_pair.A"]
            assert close(A @ A.T, torch.eye(3).double() / 3, 1e-10)
            expected = -0.1 * gradients[name] @ A.T @ A
            assert expected.abs().max() > 1e-6 and close(final[name] - start[name], expected, 1e-10)
        name, A = f"{block}.attn.in_proj_weight", found[f"{block}.attn.lora_pairs.v.A"]
        expected = -0.1 * gradients[name][32:] @ A.T @ A
        assert expected.abs().max() > 1e-6 and close(final[name][32:] - start[name][32:], expected, 1e-10)


def test_a_core_leaves_the_leading_part_alone(make_state, make_model):
    """U_p^T dW = 0, dW V_p = 0 and rank k, U_p and V_p the leading singular vectors of the weight at load."""
    state, hooks = wrapped_state(make_state, make_model, wrapping.NullCore)
    train(state, hooks)
    start, final = make_model("vit").state_dict(), state.final_model.state_dict()
    for name in ("transformer.resblocks.0.mlp.c_fc.weight", "visual.transformer.resblocks.0.attn.out_proj.weight"):
        U, _, Vh = torch.linalg.svd(start[name], full_matrices=False)
        moved = final[name] - start[name]
        assert moved.norm() > 1e-3 and torch.linalg.matrix_rank(moved, atol=1e-12) == 4
        assert (U[:, :-4].T @ moved).abs().max() < 1e-12 and (moved @ Vh[:-4].T).abs().max() < 1e-12


def test_memory_and_resume_points_have_frozen_factors(make_state, make_model, method):
    state, hooks = wrapped_state(make_state, make_model, method)
    begin(state, hooks)
    frozen = {name for name, _ in state.model.named_buffers()} - {"token_rows"}
    moving = moving_tensors(state)
    assert len(frozen) == 3 * len(ATTENTION + MLP) * (2 if method is wrapping.NullCore else 1)  # of three blocks
    assert frozen | trainable(state.model) <= moving.keys()
    bases = {name for name in moving if ".base_layer." in name}
    assert len(bases) == (12 if method is wrapping.Split else 0)  # of three blocks: in_proj, out_proj, c_fc, c_proj
    found = weight_copies(state, hooks)
    assert found.copies["AdamW"] * found.unit == 2 * sum(value.nbytes for value in state.trained())


ADD_ONS = {"none": lambda: [], "l2": lambda: [L2(0.3)], "average": lambda: [WeightEnsemble(avg_freq=1)]}


@pytest.mark.parametrize("add_ons", ADD_ONS.values(), ids=ADD_ONS)
def test_a_resumed_run_has_the_same_bits_though_vectors_flip(make_state, make_model, method, add_ons, monkeypatch):
    states = []
    for number in range(2):
        state, hooks = wrapped_state(make_state, make_model, method, *add_ons())
        points = {}

        def keep(state, losses, hooks=hooks, points=points):
            points[state.iteration] = copy.deepcopy(state_of_run(state, hooks))
        if number == 0:
            train(state, hooks, keep)
            kept = points[3]
        else:
            monkeypatch.setattr(torch.linalg, "svd", flipped)
            train(state, hooks, interrupted=kept)
        states.append(state)
    one, other = (state.final_model.state_dict() for state in states)
    assert same_weights(one, other) and not same_weights(one, make_model("vit").state_dict())


def test_a_resume_point_of_another_size_is_refused(make_state, make_model):
    state, hooks = wrapped_state(make_state, make_model, lambda: wrapping.NullCore(rank=2))
    begin(state, hooks)
    kept = {"moving": {name: value.clone() for name, value in moving_tensors(state).items()}}
    other, hooks = wrapped_state(make_state, make_model, wrapping.NullCore)
    begin(other, hooks)
    with pytest.raises(UserError, match=r"--resume: .* has the shape .*4.* begin chose another size"):
        restore(other, hooks, kept)


def test_a_copy_of_the_weights_at_load_resumes_with_what_begin_made(make_state, make_model):
    """An add-on that asks for them after a method has changed weights, by a draw that no seed repeats."""
    class Moves(Finetune):
        def begin(self, state):
            torch.seed()
            sites(state.model)["transformer.resblocks.0.attn.o"].add_(torch.rand(()))
            super().begin(state)

    runs = []
    for kept in (None, "the first one's"):
        state, hooks = wrapped_state(make_state, make_model, Moves, L2(0.5))
        points = []
        train(state, hooks, lambda state, losses, hooks=hooks, points=points: points.append(
            copy.deepcopy(state_of_run(state, hooks))), interrupted=kept and runs[0][1][2])
        runs.append((state.final_model.state_dict(), points))
    assert same_weights(runs[0][0], runs[1][0])


def test_a_merge_of_begin_is_not_scored_after_a_resume(make_state, make_model):
    """A hook looks at the plain CLIP as it begins, in the step that the run resumes after."""
    class Looks(wrapping.NullCore):
        def begin(self, state):
            super().begin(state)
            self.seen = features(state.final_model)

    state, hooks = wrapped_state(make_state, make_model, Looks)
    points = []
    train(state, hooks, lambda state, losses: points.append(copy.deepcopy(state_of_run(state, hooks))))
    other, hooks = wrapped_state(make_state, make_model, Looks)
    seen = []
    train(other, hooks, interrupted=points[-1], resumed=lambda: seen.append(features(other.final_model)))
    assert torch.equal(seen[0], features(state.final_model)) and not close(seen[0], hooks[0].seen, 1e-4)


def test_an_average_is_that_of_the_merged_weights(make_state, make_model, method):
    """--we with every step: (load + w1 + ... + w6) / 7 of the plain weights that each step leaves."""
    state, hooks = wrapped_state(make_state, make_model, method, WeightEnsemble(avg_freq=1))
    seen = [make_model("vit").state_dict()]
    train(state, hooks, lambda state, losses: seen.append(
        {name: value.clone() for name, value in merge(state.model).state_dict().items()}))
    assert len(seen) == 7 and type(state.final_model) is CLIP
    for name, value in state.final_model.state_dict().items():
        if value.is_floating_point():
            assert close(value, sum(weights[name] for weights in seen) / 7, 1e-10), name


def test_the_penalty_is_on_the_movement_of_the_weights(make_state, make_model, method):
    """At each step 0.5 |W - W at load|^2 of the merged weights that the one before has left."""
    state, hooks = wrapped_state(make_state, make_model, method, L2(0.5))
    start, terms, moved = make_model("vit").state_dict(), [], [0.0]

    def report(state, losses):
        terms.append(losses["l2"].item())
        now = merge(state.model).state_dict()
        moved.append(0.5 * sum((now[name] - start[name]).square().sum().item() for name in now))
    train(state, hooks, report)
    assert terms == pytest.approx(moved[:-1], rel=1e-6, abs=1e-20) and terms[-1] > 1e-4


# -- command lines -----------------------------------------------------------------------------------------------------

STEPS = "--lr 1e-2 --warmup-length 0 --iterations 3 --batch-size 4 --workers 0 --precision fp64".split()


def words_of(method, *words):
    return ("--method", f"{PATH}:{method.__name__}", *STEPS, *words)


def loaded(path):
    return torch.load(path, weights_only=True)


def test_a_sequence_equals_a_chain_and_export_is_plain(cli, world, method, tmp_path):
    both = f"{world.colours},{world.tones}"
    done = cli("--load", world.model, *words_of(method, "--dataset-order", both, "--save", tmp_path / "one"))
    assert done.status == 0, done.err
    start = world.model
    for name, task in (("colours", world.colours), ("tones", world.tones)):
        done = cli("--load", start, *words_of(method, "--train-dataset", task, "--eval-datasets", both, "--save",
                                              tmp_path / "chain"))
        assert done.status == 0, done.err
        start = tmp_path / "chain" / f"{name}.pth"
        assert same_weights(loaded(start)["state_dict"], loaded(tmp_path / "one" / f"{name}.pth")["state_dict"])
    last = tmp_path / "one" / "tones.pth"
    first = loaded(world.model)["state_dict"]
    assert loaded(last)["state_dict"].keys() == first.keys() and "scorer" not in loaded(last)
    assert not (tmp_path / "one" / "tones.lora.pth").exists()
    cli("--load", last, "--eval-only", "--eval-datasets", both, "--workers", 0, "--precision", "fp64", "--save",
        tmp_path / "scored")
    for table in ("metrics_colours.csv", "metrics_tones.csv"):
        assert rows(tmp_path / "scored" / table)[-1] == rows(tmp_path / "one" / table)[-1]
    assert cli("--load", last, "--export", tmp_path / "exported").status == 0
    exported = next((tmp_path / "exported").glob("*.safetensors"))
    one, other = (features(clip.load(str(path))[0].double()) for path in (last, exported))
    assert close(one, other, 1e-10) and torch.isfinite(one).all()


def test_an_interrupted_command_ends_with_the_same_bits(cli, world, method, interrupt, monkeypatch, tmp_path):
    words = ("--load", world.model, *words_of(method, "--train-dataset", world.colours, "--l2", "0.1"))
    assert cli(*words, "--save", tmp_path / "whole").status == 0
    interrupt("colours", 2)
    words = (*words, "--save", tmp_path / "broken", "--resume", "--save-interval", 1)
    assert cli(*words).status == 130
    for thread in threading.enumerate():  # resume points are written by one, which a process that ends would wait for
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    interrupt(None)
    monkeypatch.setattr(torch.linalg, "svd", flipped)
    done = cli(*words)
    assert done.status == 0 and "resumes after step" in done.out, done.err
    whole, broken = (loaded(tmp_path / name / "colours.pth")["state_dict"] for name in ("whole", "broken"))
    assert same_weights(whole, broken)


def test_the_flag_beside_a_method_that_wraps(cli, world, method, tmp_path):
    done = cli("--load", world.model, *words_of(method, "--train-dataset", world.colours, "--lora", "--save",
                                                tmp_path / "out"))
    assert done.status == 2 and "--lora: the method wraps layers of CLIP itself" in done.err
    assert "Traceback" not in done.err and not list(tmp_path.glob("out/*.pth"))


def test_a_dry_run_counts_what_will_train(cli, world, tmp_path):
    done = cli("--load", world.model, *words_of(wrapping.NullCore, "--train-dataset", world.colours, "--dry-run"))
    assert done.status == 0 and " 192 of " in done.out, done.out  # two blocks, six sites, cores of 4 x 4
