"""Gradient projection through the real loop: snapshots, projected steps, memory, files."""

import dataclasses

import pytest
import torch
from row_spaces import normal, part_inside, same_directions, skewness
from torch import nn

from clip.model import Attention
from src.errors import UserError
from src.machine.device import Device
from src.models import bases
from src.models.bases import (
    BasisGroup,
    basis_from_gradients,
    chained,
    project,
    project_batched,
    read_gradients,
)
from src.models.finetune import Finetune
from src.models.gradients import GradientTracker, snapshot_steps, tracked_parameters
from src.models.hooks import Hooks
from src.models.penalties import L2
from src.models.training import train

CONVOLUTION = "visual.layer1.0.conv2.weight"
NORM = "ln_final.weight"


class Gradients(Hooks):
    """Writes down the gradients of each step as they are when its turn comes."""

    def __init__(self):
        self.steps = []

    def after_backward(self, state):
        self.steps.append({name: value.grad.clone() for name, value in state.model.named_parameters()
                           if value.grad is not None})


class Change(Hooks):
    """Calls change(parameters by name, step) after backward."""

    def __init__(self, change):
        self.change = change

    def after_backward(self, state):
        self.change(dict(state.model.named_parameters()), state.iteration)


class Interrupted(Hooks):
    """Keeps what an interruption after the last step would have written."""

    def __init__(self, tracker):
        self.tracker = tracker

    def after_step(self, state):
        self.raw = self.tracker.files(False)


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def run(state, *hooks):
    """Fine-tune with the hooks; -> how each parameter has moved."""
    start = weights(state.model)
    train(state, [Finetune(), *hooks])
    return {name: value.detach() - start[name] for name, value in state.model.named_parameters()}


def saved(tracker, folder, name="grad.pth"):
    torch.save(tracker.files(True)["grad_{task}.pth"], folder / name)
    return folder / name


@pytest.fixture
def basis_file(make_state, make_model, kind, tmp_path):
    """The basis of four gradients of an earlier task."""
    tracker = GradientTracker(4)
    run(make_state(make_model(kind), seed=7), tracker)
    return saved(tracker, tmp_path)


# -- what is tracked ---------------------------------------------------------------------------------------------------


def weights_by_module(model):
    found = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d | nn.Linear | nn.Conv2d):
            found.add(f"{name}.weight")
        elif isinstance(module, Attention):
            found.add(f"{name}.in_proj_weight")
    return found


def test_tracked(make_model, kind):
    model = make_model(kind)
    model.head = nn.Linear(8, 3)
    patches = {"visual.conv1.weight"} if kind == "vit" else set()
    assert set(tracked_parameters(model)) == weights_by_module(model) - patches - {"head.weight"}
    assert all(value is dict(model.named_parameters())[name] for name, value in tracked_parameters(model).items())


def test_tracked_by_name(make_model):
    vit, resnet = tracked_parameters(make_model("vit")), tracked_parameters(make_model("resnet"))
    assert len(vit) == 3 * 6 + 3  # three blocks of four matrices and two norms; ln_pre, ln_post, ln_final
    block = "visual.transformer.resblocks.1"
    assert {f"{block}.attn.in_proj_weight", f"{block}.attn.out_proj.weight", f"{block}.mlp.c_fc.weight",
            f"{block}.mlp.c_proj.weight", f"{block}.ln_1.weight", "visual.ln_pre.weight", NORM} <= set(vit)
    assert {"visual.conv1.weight", "visual.bn1.weight", CONVOLUTION, "visual.layer2.0.downsample.0.weight",
            "visual.layer2.0.downsample.1.weight", "visual.attnpool.q_proj.weight",
            "visual.attnpool.c_proj.weight", "transformer.resblocks.0.mlp.c_fc.weight"} <= set(resnet)


@pytest.mark.parametrize(("train_mode", "towers"), [("image", ("visual.",)), ("text", ("transformer.", "ln_final."))])
def test_only_what_is_trained_is_tracked(make_state, make_model, kind, train_mode, towers):
    both = set(tracked_parameters(make_model(kind)))
    only = set(tracked_parameters(make_state(make_model(kind), train_mode).model))
    assert only == {name for name in both if name.startswith(towers)} and only


# -- snapshots ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "iterations", "steps"), [
    (1, 10, [5]), (3, 6, [1, 3, 5]), (4, 1000, [125, 375, 625, 875]), (5, 5, [0, 1, 2, 3, 4]), (2, 7, [1, 5])])
def test_snapshots_are_evenly_spaced(count, iterations, steps, capsys):
    assert snapshot_steps(count, iterations) == steps and capsys.readouterr().out == ""


@pytest.mark.parametrize("target", ["update", "gradient"])
def test_snapshots_are_of_the_total_loss_and_unprojected(make_state, make_model, kind, basis_file, target):
    before, after = Gradients(), Gradients()
    tracker = GradientTracker(3, basis_file, target)
    interrupted = Interrupted(tracker)
    run(make_state(make_model(kind)), L2(0.5), before, tracker, after, interrupted)
    raw = interrupted.raw["grad_{task}.raw.pth"]
    assert set(raw) == set(tracked_parameters(make_model(kind)))
    for name, entry in raw.items():
        expected = torch.stack([before.steps[step][name].flatten() for step in (1, 3, 5)])
        assert torch.equal(entry["snapshots"], expected) and expected.any()
    assert not torch.equal(before.steps[1][NORM], after.steps[1][NORM])


def test_snapshots_see_every_term(make_state, make_model):
    """The penalty's gradient, of which the method's own loss knows nothing, is in them."""
    raws = []
    for penalty in ([], [L2(50.0)]):
        tracker = GradientTracker(2)
        interrupted = Interrupted(tracker)
        run(make_state(make_model("vit")), *penalty, tracker, interrupted)
        raws.append(interrupted.raw["grad_{task}.raw.pth"][NORM]["snapshots"])
    assert not torch.allclose(*raws, rtol=1e-3)


def test_snapshots_leave_training_alone(make_state, make_model, kind):
    plain, tracked = (run(make_state(make_model(kind)), *hooks) for hooks in ([], [GradientTracker(3)]))
    assert all(torch.equal(tracked[name], moved) for name, moved in plain.items()) and plain[NORM].any()


def test_more_snapshots_than_steps(make_state, make_model, capsys):
    tracker, gradients = GradientTracker(100), Gradients()
    interrupted = Interrupted(tracker)
    run(make_state(make_model("vit"), iterations=3), gradients, tracker, interrupted)
    assert len(interrupted.raw["grad_{task}.raw.pth"][NORM]["snapshots"]) == 3
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1 and "--orthogonal-gradients 100" in notes[0] and "3 steps" in notes[0]


def test_an_unused_weight_gives_zeros_and_is_not_projected(make_state, make_model, kind, basis_file):
    def unused(parameters, step):
        if step == 3:
            parameters[NORM].grad = None
    gradients, tracker = Gradients(), GradientTracker(3, basis_file, "gradient")
    interrupted = Interrupted(tracker)
    run(make_state(make_model(kind)), Change(unused), tracker, gradients, interrupted)
    rows = interrupted.raw["grad_{task}.raw.pth"][NORM]["snapshots"]
    assert [bool(row.any()) for row in rows] == [True, False, True] and NORM not in gradients.steps[3]


def test_a_gradient_that_overflowed_is_taken_a_step_later(make_state, make_model):
    def overflow(parameters, step):
        if step == 1:
            parameters[NORM].grad.fill_(float("inf"))

    def zero(parameters, step):
        if step == 1:
            parameters[NORM].grad.zero_()
    gradients, tracker = Gradients(), GradientTracker(3)
    interrupted = Interrupted(tracker)
    run(make_state(make_model("vit")), Change(overflow), gradients, tracker, Change(zero), interrupted)
    rows = interrupted.raw["grad_{task}.raw.pth"][NORM]["snapshots"]
    assert torch.equal(rows, torch.stack([gradients.steps[step][NORM] for step in (2, 3, 5)]))


# -- projection in a run -----------------------------------------------------------------------------------------------


def inside_of(moved, basis_file):
    """Relative part of each protected tensor's movement in its span."""
    basis = read_gradients(basis_file)
    return {name: part_inside(moved[name], entry["basis"]) for name, entry in basis.items()}


def test_updates_have_no_part_in_the_protected_space(make_state, make_model, kind, basis_file):
    """AdamW with momentum, warm-up, clipping and weight decay, in float64."""
    state = make_state(make_model(kind), iterations=8, wd=0.1, max_grad_norm=1.0)
    inside = inside_of(run(state, GradientTracker(None, basis_file)), basis_file)
    assert set(inside) == set(tracked_parameters(state.model)) and max(inside.values()) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("lr", [1e-3, 1e-5])
def test_updates_have_no_part_in_the_protected_space_in_fp32(make_state, make_model, kind, basis_file, lr):
    """Steps of 1e-5 are near what fp32 resolves at weights of 1: projected one by one they leave 5e-3 in a ResNet."""
    state = make_state(make_model(kind, dtype=torch.float32), iterations=30, lr=lr, wd=0.1)
    state = dataclasses.replace(state, device=Device("cpu", "fp32"))
    assert max(inside_of(run(state, GradientTracker(None, basis_file)), basis_file).values()) < 1e-3


def test_every_step_stays_outside(make_state, make_model, kind, basis_file):
    class Trail(Hooks):
        def begin(self, state):
            self.weights = [weights(state.model)]

        def after_step(self, state):
            self.weights.append(weights(state.model))
    trail = Trail()
    run(make_state(make_model(kind), wd=0.1), GradientTracker(None, basis_file), trail)
    for old, new in zip(trail.weights, trail.weights[1:], strict=False):
        moved = {name: new[name] - value for name, value in old.items()}
        assert max(inside_of(moved, basis_file).values()) < 1e-10


def test_projected_gradients_alone_do_not_give_projected_updates(make_state, make_model, kind, basis_file):
    gradients = Gradients()
    state = make_state(make_model(kind), iterations=8, wd=0.1)
    moved = run(state, GradientTracker(None, basis_file, "gradient"), gradients)
    inside = inside_of(moved, basis_file)
    assert min(inside.values()) > 1e-4 and max(inside.values()) > 1e-1


@pytest.mark.parametrize("target", ["update", "gradient"])
def test_the_optimiser_sees_gradients_outside(make_state, make_model, kind, basis_file, target):
    before, after = Gradients(), Gradients()
    run(make_state(make_model(kind)), before, GradientTracker(None, basis_file, target), after)
    for step in range(6):
        assert max(inside_of(after.steps[step], basis_file).values()) < 1e-10
        assert max(inside_of(before.steps[step], basis_file).values()) > 1e-1
        assert torch.equal(before.steps[step]["ln_final.bias"], after.steps[step]["ln_final.bias"])


def test_the_update_is_the_projected_step(make_state, make_model, kind, basis_file):
    """One step from equal weights: with "update", what "gradient" does, less its part in the span; the rest alike."""
    free, bound = (run(make_state(make_model(kind), iterations=1, wd=0.1), GradientTracker(None, basis_file, target))
                   for target in ("gradient", "update"))
    basis = read_gradients(basis_file)
    for name, moved in free.items():
        expected = moved
        if name in basis:
            solution = torch.linalg.lstsq(basis[name]["basis"].double().T, moved.reshape(-1, 1)).solution
            expected = moved - (basis[name]["basis"].double().T @ solution).view(moved.shape)
        torch.testing.assert_close(bound[name], expected, rtol=0, atol=1e-14)


def test_raw_snapshots_protect_as_their_basis_does(make_state, make_model, kind, tmp_path):
    tracker = GradientTracker(3)
    interrupted = Interrupted(tracker)
    run(make_state(make_model(kind), seed=7), tracker, interrupted)
    torch.save(interrupted.raw["grad_{task}.raw.pth"], tmp_path / "raw.pth")
    second = GradientTracker(None, tmp_path / "raw.pth", orthogonal_energy=1.0)
    moved = run(make_state(make_model(kind), wd=0.1), second)
    for name, entry in interrupted.raw["grad_{task}.raw.pth"].items():
        assert max(part_inside(row, second.protected[name]) for row in entry["snapshots"]) > 1 - 1e-9
        assert part_inside(moved[name], entry["snapshots"][:1]) < 1e-10


@pytest.mark.parametrize("stored", ["fp32", "fp16", "bf16"])
def test_three_chained_tasks(make_state, make_model, make_task, kind, tmp_path, stored, capsys):
    model, path, files = make_model(kind), None, []
    for number in range(3):
        state = dataclasses.replace(make_state(model, seed=number), task=make_task(4 - number))
        tracker = GradientTracker(3, path, orthogonal_dtype=stored)
        moved = run(state, tracker)
        if path:
            assert max(inside_of(moved, path).values()) < 1e-10
        path = saved(tracker, tmp_path, f"grad_{number}.pth")
        files.append(torch.load(path, weights_only=True))
        line = capsys.readouterr().out.splitlines()[-1]
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[stored]
    loaded, tolerance = read_gradients(path), {"fp32": 1e-6, "fp16": 2e-3, "bf16": 2e-2}[stored]
    for name, value in tracked_parameters(model).items():
        first, second, last = (file[name] for file in files)
        assert last["basis"].dtype == dtype and last["energy"].dtype == torch.float32
        assert 1 <= len(first["basis"]) and len(last["basis"]) == len(last["energy"])
        for before, after in ((first, second), (second, last)):  # one that spans all values has nowhere to grow
            assert len(before["basis"]) < len(after["basis"]) or len(before["basis"]) == value.numel()
        assert last["basis"].shape[1] == value.numel()
        assert skewness(loaded[name]["basis"]) < 1e-5
        assert torch.equal(last["energy"][:len(second["energy"])], second["energy"])
        rest = torch.stack([project(row.float(), loaded[name]["basis"]) for row in first["basis"]])
        assert rest.norm(dim=1).max() < tolerance
    rows = sum(len(entry["basis"]) for entry in files[-1].values())
    size = sum(entry["basis"].numel() for entry in files[-1].values()) * dtype.itemsize / 2 ** 20
    assert line == f"gradient basis: {len(loaded)} tensors, {rows} rows, {size:.1f} MiB in {stored}"


def test_a_resnet_protects_its_convolutions(make_state, make_model, tmp_path):
    tracker = GradientTracker(4, orthogonal_energy=1.0)
    run(make_state(make_model("resnet")), tracker)
    assert tracker.files(True)["grad_{task}.pth"][CONVOLUTION]["basis"].shape == (4, 8 * 8 * 3 * 3)
    moved = run(make_state(make_model("resnet"), wd=0.1), GradientTracker(None, saved(tracker, tmp_path)))
    assert moved[CONVOLUTION].any() and inside_of(moved, tmp_path / "grad.pth")[CONVOLUTION] < 1e-10


def test_tensors_that_are_frozen_now_are_kept(make_state, make_model, kind, basis_file):
    old, tracker = read_gradients(basis_file), GradientTracker(3, basis_file)
    run(make_state(make_model(kind), "image"), tracker)
    new = tracker.files(True)["grad_{task}.pth"]
    assert set(new) == set(old) and set(tracker.protected) == {name for name in old if name.startswith("visual.")}
    for name, entry in new.items():
        grown = len(entry["basis"]) - len(old[name]["basis"])
        assert grown > 0 if name.startswith("visual.") else (
            grown == 0 and torch.equal(entry["basis"], old[name]["basis"])
            and torch.equal(entry["energy"], old[name]["energy"]))


# -- memory and cost ---------------------------------------------------------------------------------------------------


def test_batched_products_train_as_products_one_by_one(make_state, make_model, kind, basis_file, monkeypatch):
    plain = run(make_state(make_model(kind), wd=0.1), GradientTracker(None, basis_file))
    calls = []
    monkeypatch.delitem(bases.PROJECTIONS, "cpu")  # as on a GPU
    monkeypatch.setattr(bases, "project_batched", lambda *given: calls.append(0) or project_batched(*given))
    tracker = GradientTracker(None, basis_file)
    moved = run(make_state(make_model(kind), wd=0.1), tracker)
    assert len(calls) == 6 * 2 * len(tracker.row_groups) and len(tracker.row_groups) < len(tracker.protected)
    for name, value in plain.items():
        torch.testing.assert_close(moved[name], value, rtol=0, atol=1e-8)  # of steps of 1e-2, by AdamW's division
    assert max(inside_of(moved, basis_file).values()) < 1e-10


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("share", [0, 0.5])
def test_streamed_bases_give_the_same_bits(make_state, make_model, kind, basis_file, monkeypatch, capsys, share,
                                           batched):
    if batched:
        monkeypatch.delitem(bases.PROJECTIONS, "cpu")
    resident, streamed = GradientTracker(3, basis_file), GradientTracker(3, basis_file)
    expected = run(make_state(make_model(kind), wd=0.1), resident)
    total = sum(group.rows.nbytes for group in resident.row_groups)
    assert all(group.resident for group in resident.row_groups) and "note" not in capsys.readouterr().out
    monkeypatch.setattr(bases, "resident_bytes", lambda device: share * total)
    loads = []

    def copied(group):  # what a device would have: nothing of a streamed group from one use to the next
        loads.append(group.resident)
        return group.rows.clone()
    monkeypatch.setattr(BasisGroup, "_on_device", copied)
    moved = run(make_state(make_model(kind), wd=0.1), streamed)
    kept = sum(group.rows.nbytes for group in streamed.row_groups if group.resident)
    assert kept <= share * total and (kept > 0) == (share > 0) and len(loads) == 6 * 2 * len(streamed.row_groups)
    assert f"note: {(total - kept) / 2 ** 20:.1f} MiB of the bases stay in host memory" in capsys.readouterr().out
    for name, value in expected.items():
        assert torch.equal(moved[name], value)
    for name, part in resident.basis.items():
        assert torch.equal(part["basis"], streamed.basis[name]["basis"])


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("of_file", "twice"), [(torch.float32, False), (torch.float64, True)])
def test_no_basis_is_in_memory_twice(make_state, make_model, tmp_path, of_file, twice, batched, monkeypatch):
    """But for one that the type of the weights could not hold exactly, of which the next file is made."""
    if batched:
        monkeypatch.delitem(bases.PROJECTIONS, "cpu")
    names = [f"transformer.resblocks.0.ln_{number}.weight" for number in (1, 2)]
    entries = {name: basis_from_gradients(normal(3, 16, seed=seed, dtype=of_file), 1.0)
               for seed, name in enumerate(names)}
    torch.save(entries, tmp_path / "grad.pth")
    tracker = GradientTracker(None, tmp_path / "grad.pth")
    state = make_state(make_model("vit", dtype=torch.float32))
    tracker.begin(state)
    group, = tracker.row_groups
    assert group.names == names and group.rows.shape == (2, 3, 16) and group.rows.dtype == torch.float32
    stack = group.rows.untyped_storage().data_ptr()
    for name in names:
        assert tracker.protected[name].untyped_storage().data_ptr() == stack
        assert (tracker.old[name]["basis"].untyped_storage().data_ptr() != stack) == twice
        torch.testing.assert_close(tracker.protected[name], entries[name]["basis"].float())


@pytest.mark.parametrize("batched", [False, True])
def test_files_hold_no_stack(make_state, make_model, tmp_path, batched, monkeypatch):
    """A basis that is passed on as it is, of a tensor that this run projects and does not track."""
    if batched:
        monkeypatch.delitem(bases.PROJECTIONS, "cpu")
    bias, other = "ln_final.bias", "transformer.resblocks.0.ln_1.weight"
    torch.save({name: entry(2, 16) for name in (bias, other)}, tmp_path / "grad.pth")
    tracker = GradientTracker(2, tmp_path / "grad.pth")
    state = make_state(make_model("vit", dtype=torch.float32))
    run(dataclasses.replace(state, device=Device("cpu", "fp32")), tracker)
    kept = tracker.files(True)["grad_{task}.pth"][bias]["basis"]
    assert [group.names for group in tracker.row_groups] == [[bias, other]]
    assert torch.equal(kept, torch.eye(16)[:2]) and kept.untyped_storage().nbytes() == kept.nbytes


def test_a_step_waits_for_no_device(make_state, make_model, kind, basis_file, monkeypatch):
    """Nothing is asked of a tensor's values on the host, but at a step that takes a snapshot."""
    state, tracker = make_state(make_model(kind)), GradientTracker(1, basis_file)
    tracker.begin(state)
    for value in state.model.parameters():
        value.grad = torch.ones_like(value)

    def refuse(*given, **named):
        raise AssertionError("the host waited")
    for way in ("item", "__bool__", "__float__", "__int__", "tolist", "cpu", "numpy", "nonzero"):
        monkeypatch.setattr(torch.Tensor, way, refuse)
    tracker.after_backward(state)
    tracker.after_step(state)
    state.iteration = 3
    with pytest.raises(AssertionError, match="the host waited"):
        tracker.after_backward(state)


# -- errors ------------------------------------------------------------------------------------------------------------


def entry(count, values):
    return {"basis": torch.eye(values)[:count], "energy": torch.ones(count)}


def refused(state, tracker):
    with pytest.raises(UserError) as error:
        train(state, [Finetune(), tracker])
    return str(error.value)


def test_tensors_that_do_not_fit_are_named(make_state, make_model, kind, tmp_path):
    torch.save({NORM: entry(1, 16), "visual.nowhere.weight": entry(1, 4), "visual.transformer.x": entry(1, 5),
                "transformer.resblocks.0.ln_1.weight": entry(1, 17)}, tmp_path / "grad.pth")
    message = refused(make_state(make_model(kind)), GradientTracker(None, tmp_path / "grad.pth"))
    assert message.startswith(f"--orthogonal-gradients-path {tmp_path / 'grad.pth'}: ") and NORM not in message
    for name, values, ours in (("visual.nowhere.weight", 4, "has none"), ("visual.transformer.x", 5, "has none"),
                               ("transformer.resblocks.0.ln_1.weight", 17, 16)):
        assert f"{name} ({values} values, the model {ours})" in message


@pytest.mark.parametrize(("train_mode", "rows"), [("image", 1), ("whole", 0)])
def test_a_projection_of_nothing_is_an_error(make_state, make_model, kind, tmp_path, train_mode, rows):
    torch.save({NORM: entry(rows, 16)}, tmp_path / "grad.pth")
    message = refused(make_state(make_model(kind), train_mode), GradientTracker(2, tmp_path / "grad.pth"))
    assert message.startswith(f"--orthogonal-gradients-path {tmp_path / 'grad.pth'}: would protect nothing")


def test_snapshots_of_nothing_are_an_error(make_state, make_model):
    state = make_state(make_model("vit"))
    state.model.requires_grad_(False).visual.proj.requires_grad_(True)
    assert refused(state, GradientTracker(5)).startswith("--orthogonal-gradients 5: ")


def test_the_file_is_told_at_the_start(make_state, make_model, kind, tmp_path, capsys):
    torch.save({NORM: entry(3, 16), "transformer.resblocks.0.ln_1.weight": entry(0, 16)}, tmp_path / "grad.pth")
    run(make_state(make_model(kind)), GradientTracker(None, tmp_path / "grad.pth"))
    assert capsys.readouterr().out == f"projection off {tmp_path / 'grad.pth'}: 1 of its 2 tensors, 3 rows, 0.0 MiB\n"


# -- budget, files, resume ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["fp32", "fp16"])
def test_a_run_within_a_budget(make_state, make_model, kind, stored, capsys):
    full = GradientTracker(4, orthogonal_energy=1.0, orthogonal_dtype=stored)
    run(make_state(make_model(kind)), full)
    energies = [(value, name) for name, part in full.basis.items() for value in part["energy"].tolist()]
    budget = sum(part["basis"].nbytes for part in full.basis.values()) // 2
    assert "dropped" not in capsys.readouterr().out
    small = GradientTracker(4, orthogonal_energy=1.0, orthogonal_dtype=stored, orthogonal_budget=budget / 2 ** 30)
    run(make_state(make_model(kind)), small)
    left = [(value, name) for name, part in small.basis.items() for value in part["energy"].tolist()]
    size = sum(part["basis"].nbytes for part in small.basis.values())
    gone = sorted(set(energies) - set(left))
    assert size <= budget < size + full.basis[gone[-1][1]]["basis"][0].nbytes  # the last one dropped had to go
    assert set(left) < set(energies) and gone[-1] < min(left) and len(gone) == len(energies) - len(left)
    assert f": {len(gone)} rows of the lowest energies were dropped" in capsys.readouterr().out


def test_files(make_state, make_model, kind, basis_file):
    unasked, tracker = GradientTracker(None, basis_file), GradientTracker(2)
    assert tracker.files(False) == {} == unasked.files(False)
    interrupted = Interrupted(tracker)
    run(make_state(make_model(kind)), unasked)
    assert unasked.files(True) == {} == unasked.files(False)
    run(make_state(make_model(kind)), tracker, interrupted)
    assert list(interrupted.raw) == ["grad_{task}.raw.pth"] and tracker.files(True)["grad_{task}.raw.pth"] is None
    basis = tracker.files(True)["grad_{task}.pth"]
    assert list(basis) == list(tracked_parameters(make_model(kind))) and tracker.files(False) == {}
    for name, part in basis.items():
        rows = interrupted.raw["grad_{task}.raw.pth"][name]["snapshots"]
        assert rows.shape == (2, part["basis"].shape[1]) and rows.dtype == torch.float64
        assert part["basis"].dtype == part["energy"].dtype == torch.float32  # also of a run in fp64
        values, vectors = torch.linalg.svd(rows, full_matrices=False)[1:]
        count = 1 + int(values[0] ** 2 < 0.97 * values.square().sum())
        torch.testing.assert_close(part["energy"].double(), values[:count].square(), rtol=1e-6, atol=0)
        same_directions(part["basis"], vectors[:count], 1e-6)


def test_an_interruption_while_bases_are_made_loses_no_snapshot(make_state, make_model, monkeypatch):
    calls = []

    def interrupt(old, rows, energy):
        calls.append(rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return chained(old, rows, energy)
    monkeypatch.setattr("src.models.gradients.chained", interrupt)
    tracker = GradientTracker(2)
    with pytest.raises(KeyboardInterrupt):
        run(make_state(make_model("vit")), tracker)
    raw = tracker.files(False)["grad_{task}.raw.pth"]
    assert set(raw) == set(tracked_parameters(make_model("vit")))
    assert all(torch.equal(rows, raw[name]["snapshots"]) for name, rows in zip(raw, calls, strict=False))


def test_an_exact_resume(make_state, make_model, kind, basis_file, tmp_path):
    """Three steps, a save, three more by another tracker: the weights, snapshots and basis of six steps, bit by bit."""
    def steps(state, tracker, numbers):
        for number in numbers:
            state.iteration = number
            for index, value in enumerate(state.model.parameters()):
                value.grad = normal(*value.shape, seed=1000 * number + index)
            tracker.after_backward(state)
            with torch.no_grad():
                for value in state.model.parameters():
                    value.sub_(0.1 * value.grad.sign() + 0.01 * value)
            state.iteration += 1
            tracker.after_step(state)
        return tracker.files(False)["grad_{task}.raw.pth"]

    def begun(model):
        state, tracker = make_state(model), GradientTracker(3, basis_file)
        tracker.begin(state)
        return state, tracker
    state, tracker = begun(make_model(kind))
    first_half = steps(state, tracker, range(3))
    torch.save({"model": state.model.state_dict(), "tracker": tracker.state_dict()}, tmp_path / "half.pth")
    raw = steps(state, tracker, range(3, 6))
    half = torch.load(tmp_path / "half.pth", weights_only=True)
    model = make_model(kind)
    model.load_state_dict(half["model"])
    again, resumed = begun(model)
    assert resumed.files(False) == {}
    resumed.load_state_dict(half["tracker"])
    raw_again = steps(again, resumed, range(3, 6))
    assert len(first_half[NORM]["snapshots"]) == 1 and len(raw[NORM]["snapshots"]) == 3
    for name, part in raw.items():
        assert torch.equal(part["snapshots"], raw_again[name]["snapshots"])
    for one, other in zip(state.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    tracker.end(state)
    resumed.end(again)
    assert all(torch.equal(part["basis"], resumed.basis[name]["basis"]) for name, part in tracker.basis.items())
