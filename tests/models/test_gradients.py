"""Gradient projection: bases against torch's SVD, projections against least squares, and runs through the real loop."""

import dataclasses
import pickle

import pytest
import torch
from torch import nn

from clip.model import Attention
from src.errors import UserError
from src.machine.device import Device
from src.models import gradients
from src.models.finetune import Finetune
from src.models.gradients import (
    BasisGroup,
    GradientTracker,
    alike,
    basis_from_gradients,
    chained,
    project,
    project_batched,
    project_one_by_one,
    read_gradients,
    snapshot_steps,
    tracked_parameters,
    within_budget,
)
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


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def skewness(rows):
    """max |B B^T - I|, in float64."""
    rows = rows.double()
    return (rows @ rows.T - torch.eye(len(rows), dtype=torch.float64)).abs().max().item() if len(rows) else 0.0


def same_directions(basis, vectors, tolerance):
    """Row by row, up to a sign."""
    cosines = basis.double() @ vectors.T                                                 # (k, N) x (N, m) -> (k, m)
    torch.testing.assert_close(cosines.abs(), torch.eye(*cosines.shape, dtype=torch.float64), rtol=0, atol=tolerance)


def part_inside(vector, rows):
    """|part of the vector in the rows' span| / |vector|, in float64."""
    vector = vector.double().flatten()
    directions = torch.linalg.qr(rows.double().T)[0]
    return ((directions.T @ vector).norm() / vector.norm()).item()


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


# -- bases -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("energy", "count"), [(0.5, 1), (0.64, 1), (0.65, 2), (1.0, 2)])
def test_a_basis_by_hand(energy, count):
    """Singular values 4 and 3, hence 16/25 = 0.64 of the energy in the first."""
    basis = basis_from_gradients(torch.tensor([[3.0, 0, 0], [0, 4.0, 0]]), energy)
    torch.testing.assert_close(basis["basis"].abs(), torch.tensor([[0.0, 1, 0], [1, 0, 0]])[:count])
    torch.testing.assert_close(basis["energy"], torch.tensor([16.0, 9.0])[:count])


@pytest.mark.parametrize(("m", "n"), [(1, 5), (6, 40), (12, 7)])
@pytest.mark.parametrize("energy", [0.3, 0.8, 0.97, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_span_and_energy_are_those_of_the_svd(m, n, energy, dtype, tolerance):
    rows = normal(m, n, dtype=dtype) * torch.logspace(0, -1, n, dtype=dtype)
    _, values, vectors = torch.linalg.svd(rows.double(), full_matrices=False)
    share = values.square().cumsum(0) / values.square().sum()
    count = next(k for k in range(1, len(values) + 1) if share[k - 1] >= energy - 1e-12)
    basis = basis_from_gradients(rows, energy)
    assert basis["basis"].shape == (count, n) and basis["energy"].shape == (count,)
    assert basis["basis"].dtype == basis["energy"].dtype == dtype
    torch.testing.assert_close(basis["energy"].double(), values[:count].square(), rtol=tolerance, atol=0)
    same_directions(basis["basis"], vectors, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exactly_collinear_rows_are_one_row(dtype):
    gradient = normal(500, dtype=dtype)
    basis = basis_from_gradients(torch.stack([gradient, 2 * gradient, -gradient, 0.3 * gradient]), energy=1.0)
    assert basis["basis"].shape == (1, 500)
    torch.testing.assert_close(basis["energy"][0], 6.09 * gradient.square().sum())
    assert part_inside(gradient, basis["basis"]) == pytest.approx(1, abs=1e-6) and skewness(basis["basis"]) < 1e-6


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-5])
def test_nearly_collinear_rows(spread):
    """A plain Gram basis loses orthogonality here, or this test would show nothing."""
    rows = (normal(1, 3000) + spread * normal(6, 3000, seed=1)).float()
    squares, vectors = torch.linalg.eigh(rows @ rows.T)
    plain = vectors.T @ rows / squares.clamp(min=1e-30).sqrt()[:, None]
    basis = basis_from_gradients(rows, energy=1.0)["basis"]
    assert len(basis) == 6 and skewness(basis) < 1e-6 < 1e-5 < skewness(plain)
    singular = torch.linalg.svd(rows.double(), full_matrices=False)[2]
    assert torch.linalg.svdvals(basis.double() @ singular.T).min() > 1 - 1e-6  # cosines of the angles between the spans


@pytest.mark.parametrize(("spread", "count"), [(1e-5, 4), (1e-7, 1)])
def test_rounding_errors_are_no_directions(spread, count):
    """Rows that differ by what fp32 cannot resolve are one, even where all the energy is asked for."""
    rows = normal(1, 300) + spread * normal(4, 300, seed=1)
    assert len(basis_from_gradients(rows, energy=1.0)["basis"]) == count


@pytest.mark.parametrize("m", [0, 1, 3])
def test_zero_rows_have_no_basis(m):
    basis = basis_from_gradients(torch.zeros(m, 7))
    assert basis["basis"].shape == (0, 7) and basis["energy"].shape == (0,)
    mixed = basis_from_gradients(torch.cat([torch.zeros(m, 7), torch.full((1, 7), 2.0)]))
    torch.testing.assert_close(mixed["basis"].abs(), torch.full((1, 7), 7 ** -0.5))
    torch.testing.assert_close(mixed["energy"], torch.tensor([28.0]))


# -- projection --------------------------------------------------------------------------------------------------------


def test_projection_by_hand():
    basis = torch.tensor([[0.0, 1, 0, 0], [0.6, 0, 0.8, 0]])
    given = torch.tensor([[1.0, 2], [3, 4]])  # 0.6 * 1 + 0.8 * 3 = 3 in the second row
    torch.testing.assert_close(project(given, basis), torch.tensor([[1 - 1.8, 0], [3 - 2.4, 4]]))
    assert torch.equal(given, torch.tensor([[1.0, 2], [3, 4]]))


def test_projection_is_the_residual_of_least_squares():
    rows, given = normal(5, 60), normal(3, 4, 5, seed=1)
    solution = torch.linalg.lstsq(rows.T, given.reshape(60, 1)).solution                 # (5, 1)
    expected = (given.flatten() - rows.T @ solution[:, 0]).view(3, 4, 5)
    torch.testing.assert_close(project(given, basis_from_gradients(rows, 1.0)["basis"]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("tensor", "basis", "bound"), [
    (torch.float64, torch.float64, 1e-10), (torch.float64, torch.float32, 1e-10), (torch.float32, torch.float32, 1e-6),
    (torch.float32, torch.float64, 1e-6)])
@pytest.mark.parametrize("outside", [1.0, 1e-3, 1e-5])
def test_what_remains_has_no_part_in_the_span(tensor, basis, bound, outside):
    """Also of a gradient that lies in the span but for a thousandth, where one pass is not enough."""
    rows = basis_from_gradients(normal(10, 4000), 1.0)["basis"].to(basis)
    given = (rows.double().T @ normal(10, seed=1) + outside * normal(4000, seed=2) / 4000 ** 0.5).to(tensor)
    rest = project(given, rows)
    assert rest.dtype == tensor and rest.norm() > outside / 2
    assert part_inside(rest, rows) < bound < part_inside(given, rows)


def test_projection_keeps_the_type_of_half_precision():
    given = normal(8, dtype=torch.bfloat16)
    rest = project(given, torch.eye(8)[:2])
    assert rest.dtype == torch.bfloat16 and torch.equal(rest[2:], given[2:]) and not rest[:2].any()


@pytest.mark.parametrize("way", [project_one_by_one, project_batched])
def test_each_vector_of_a_stack_loses_its_own_part(way):
    rows = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0]], [[0, 0, 0, 1], [0.6, 0, 0.8, 0]]])
    values = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4]])  # 0.6 * 1 + 0.8 * 3 = 3 in the second stack's second row
    way(values, rows)
    torch.testing.assert_close(values, torch.tensor([[0, 0, 3.0, 4], [1 - 1.8, 2, 3 - 2.4, 0]]))


@pytest.mark.parametrize("piece", [4096, 500, 7])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
@pytest.mark.parametrize("outside", [1.0, 1e-3, 1e-5])
def test_batched_products_leave_no_part_either(dtype, bound, outside, piece, pieces_of):
    pieces_of(piece)
    rows = torch.stack([basis_from_gradients(normal(10, 4000, seed=seed), 1.0)["basis"] for seed in range(3)]).to(dtype)
    inside = torch.bmm(normal(3, 1, 10), rows.double())[:, 0]                            # (3, 4000)
    given = (inside + outside * normal(3, 4000, seed=5) / 4000 ** 0.5).to(dtype)
    rest = given.clone()
    project_batched(rest, rows)
    for one, vector, basis in zip(rest, given, rows, strict=True):
        assert part_inside(one, basis) < bound < part_inside(vector, basis)
        torch.testing.assert_close(one, project(vector, basis), rtol=0, atol=3e-6 if dtype == torch.float32 else 1e-14)


@pytest.fixture
def pieces_of(monkeypatch):
    """Return a function that sets the least length of a piece."""
    def set_length(values):
        monkeypatch.setattr(gradients, "PIECE", values)
        gradients.piece_count.cache_clear()
    yield set_length
    gradients.piece_count.cache_clear()


@pytest.mark.parametrize(("values", "count"), [
    (3072 * 768, 576), (2304 * 768, 432), (768, 1), (4095, 1), (8192, 2), (2 * 4099, 2), (999_983, 1)])
def test_pieces_are_equal_and_as_many_as_the_length_allows(values, count):
    assert gradients.piece_count(values) == count and values % count == 0


def test_two_passes_in_pieces_leave_what_float64_leaves():
    """As a CUDA device does it, at a length of many pieces: 5e-8 of a gradient that lies in the span but for 1e-3."""
    values = 64 * 4096
    rows = torch.linalg.qr(normal(values, 20)).Q.T.reshape(2, 10, values)
    inside = torch.bmm(normal(2, 1, 10, seed=1), rows)[:, 0]
    given = (inside + 1e-3 * normal(2, values, seed=2) / values ** 0.5).float()
    exact = given.double()
    project_batched(exact, rows)
    rest, stored = given.clone(), rows.float()
    project_batched(rest, stored)
    assert ((rest - exact).norm(dim=1) / given.norm(dim=1)).max() < 1e-7
    left = torch.bmm(stored.double(), rest.double()[:, :, None]).norm(dim=(1, 2))
    assert (left / rest.double().norm(dim=1)).max() < 5e-8


def test_rows_for_batched_products_are_laid_out_once(monkeypatch):
    """The order of a GPU: no product copies the bases, and the entries stay views of the stack."""
    monkeypatch.delitem(gradients.PROJECTIONS, "cpu")
    entries = {name: {"basis": basis_from_gradients(normal(3, 8192, seed=seed), 1.0)["basis"]}
               for seed, name in enumerate("ab")}
    expected = {name: entry["basis"].clone() for name, entry in entries.items()}
    group = BasisGroup(["a", "b"], entries, normal(8192), room=float("inf"))
    assert group.rows.shape == (2, 3, 8192) and group.rows.stride() == (8192, 2 * 8192, 1)
    stack, seen = group.rows.untyped_storage().data_ptr(), []
    monkeypatch.setattr(torch, "bmm", lambda rest, rows, bmm=torch.bmm: seen.append(rows) or bmm(rest, rows))
    given = [normal(8192, seed=7), normal(8192, seed=8)]
    wanted = [project(tensor, basis) for tensor, basis in zip(given, expected.values(), strict=True)]
    group.project(given)
    assert [rows.shape for rows in seen] == [(4, 4096, 3)] * 2
    assert all(rows.untyped_storage().data_ptr() == stack for rows in seen)
    for name, entry in entries.items():
        assert entry["basis"].untyped_storage().data_ptr() == stack and torch.equal(entry["basis"], expected[name])
    for tensor, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(tensor, other, rtol=0, atol=1e-14)


def test_batched_products_are_never_in_tf32(monkeypatch):
    seen, matmul = [], torch.backends.cuda.matmul
    monkeypatch.setattr(torch, "bmm", lambda *given, bmm=torch.bmm: seen.append(matmul.allow_tf32) or bmm(*given))
    for allowed in (True, False):
        matmul.allow_tf32 = allowed
        project_batched(normal(1, 6), torch.eye(6).double()[None, :2])
        assert matmul.allow_tf32 == allowed
    assert seen == [False] * 4


def test_groups_are_of_equal_shapes_and_bounded(monkeypatch):
    shapes = {"a": (2, 8), "b": (3, 8), "c": (2, 8), "d": (2, 16), "e": (2, 8), "f": torch.Size((3, 8))}
    assert list(alike(shapes, 4)) == [["a", "c", "e"], ["b", "f"], ["d"]]
    monkeypatch.setattr(gradients, "STACK", 2 * 2 * 8 * 4)  # two of (2, 8), one of (3, 8)
    assert list(alike(shapes, 4)) == [["a", "c"], ["e"], ["b"], ["f"], ["d"]]
    assert list(alike(shapes, 8)) == [["a"], ["c"], ["e"], ["b"], ["f"], ["d"]]


def test_a_group_projects_tensors_of_any_shape_and_layout():
    entries = {name: {"basis": basis_from_gradients(normal(3, 24, seed=seed), 1.0)["basis"]}
               for seed, name in enumerate("ab")}
    given = [normal(24, seed=7), normal(4, 6, seed=8).T]  # the second does not lie in one piece, row by row
    expected = [project(tensor, entry["basis"]) for tensor, entry in zip(given, entries.values(), strict=True)]
    group = BasisGroup(["a", "b"], entries, given[0], room=0)
    group.project(given)
    for tensor, other in zip(given, expected, strict=True):
        torch.testing.assert_close(tensor, other, rtol=0, atol=1e-14)


def test_chained_by_hand():
    old = {"basis": torch.tensor([[1.0, 0, 0, 0]]), "energy": torch.tensor([5.0])}
    entry = chained(old, torch.tensor([[7.0, 3, 0, 0], [0, 0, 4, 0]]), energy=1.0)
    torch.testing.assert_close(entry["basis"].abs(), torch.eye(4, dtype=torch.float64)[[0, 2, 1]])
    torch.testing.assert_close(entry["energy"], torch.tensor([5.0, 16, 9], dtype=torch.float64))
    assert len(chained(old, torch.tensor([[7.0, 3, 0, 0], [0, 0, 4, 0]]), energy=0.6)["basis"]) == 2


@pytest.mark.parametrize(("spread", "added"), [(0.0, 0), (1e-3, 4)])
def test_chaining_the_same_gradients_again(spread, added):
    """What the old basis holds but for rounding adds nothing; what is nearly in it adds orthonormal rows."""
    rows = normal(4, 900, dtype=torch.float32)
    old = basis_from_gradients(rows, 1.0)
    again = (rows * 3 + spread * normal(4, 900, seed=1)).float()
    entry = chained(old, again, 1.0)
    assert len(entry["basis"]) == len(entry["energy"]) == 4 + added and skewness(entry["basis"].float()) < 1e-6
    assert torch.equal(entry["basis"][:4].float(), old["basis"])
    assert max(project(row, entry["basis"]).norm() / row.norm() for row in again) < 1e-6


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stored", "given", "loss"), [
    (torch.float16, torch.float32, 1e-6), (torch.bfloat16, torch.float32, 1e-6), (torch.float32, torch.float32, 0),
    (torch.float64, torch.float64, 0)])
def test_rows_are_orthonormal_after_storage(tmp_path, stored, given, loss):
    """40 nearly collinear rows of 20,000 values; fp16 and bf16 really do lose it in the file."""
    rows = normal(1, 20_000, dtype=torch.float32) + 1e-2 * normal(40, 20_000, seed=1, dtype=torch.float32)
    basis = basis_from_gradients(rows, 1.0)
    file = {"a": {"basis": basis["basis"].to(stored), "energy": basis["energy"]}}
    assert skewness(file["a"]["basis"]) >= loss
    torch.save(file, tmp_path / "basis.pth")
    loaded = read_gradients(tmp_path / "basis.pth")["a"]
    assert loaded["basis"].dtype == given and loaded["basis"].shape == (40, 20_000)
    assert skewness(loaded["basis"]) < 1e-6 and torch.equal(loaded["energy"], basis["energy"])
    inside = (loaded["basis"].double() @ basis["basis"].double().T).diagonal().abs()  # row by row: energies stay theirs
    assert inside.min() > 0.999


@pytest.mark.parametrize("energy", [0.5, 0.97])
def test_raw_snapshots_are_recognised(tmp_path, energy):
    raw = {"a": {"snapshots": normal(5, 30, dtype=torch.float32)}, "b": {"snapshots": normal(3, 8, seed=1)},
           "c": {"snapshots": torch.zeros(3, 4)}}
    torch.save(raw, tmp_path / "raw.pth")
    loaded = read_gradients(tmp_path / "raw.pth", energy)
    for name, entry in raw.items():
        expected = basis_from_gradients(entry["snapshots"], energy)
        assert torch.equal(loaded[name]["basis"], expected["basis"])
        assert torch.equal(loaded[name]["energy"], expected["energy"])
    assert loaded["b"]["basis"].dtype == torch.float64 and loaded["c"]["basis"].shape == (0, 4)


def damaged_files():
    basis = {"basis": torch.eye(3)[:2], "energy": torch.ones(2)}
    return {
        "empty bytes": b"", "text": b"not a file of tensors", "pickled code": pickle.dumps(print),
        "no tensors": {}, "a checkpoint": {"state_dict": {"a": torch.ones(2)}}, "a list": [torch.ones(2)],
        "a mixture": {"a": basis, "b": {"snapshots": torch.ones(2, 3)}},
        "one energy": {"a": {**basis, "energy": torch.ones(1)}},
        "no energy": {"a": {"basis": torch.eye(3)}}, "vectors": {"a": {"snapshots": torch.ones(3)}},
        "not a number": {"a": {"snapshots": torch.tensor([[1.0, float("nan")]])}},
        "whole numbers": {"a": {"snapshots": torch.ones(2, 2, dtype=torch.long)}},
        "more rows than values": {"a": {"basis": torch.ones(3, 2), "energy": torch.ones(3)}},
    }


@pytest.mark.parametrize("case", [*damaged_files(), "cut", "missing", "a folder"])
def test_other_files_are_refused(tmp_path, case):
    path = tmp_path / "grad_DTD.pth"
    content = damaged_files().get(case)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    elif case == "cut":
        torch.save({"a": {"snapshots": torch.ones(50, 50)}}, path)
        path.write_bytes(path.read_bytes()[:4000])
    elif case == "a folder":
        path.mkdir()
    with pytest.raises(UserError) as error:
        read_gradients(path)
    message = str(error.value)
    assert message.startswith(f"--orthogonal-gradients-path {path}") and "\n" not in message and "; give " in message


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
    monkeypatch.delitem(gradients.PROJECTIONS, "cpu")  # as on a GPU
    monkeypatch.setattr(gradients, "project_batched", lambda *given: calls.append(0) or project_batched(*given))
    tracker = GradientTracker(None, basis_file)
    moved = run(make_state(make_model(kind), wd=0.1), tracker)
    assert len(calls) == 6 * 2 * len(tracker.groups) and len(tracker.groups) < len(tracker.protected)
    for name, value in plain.items():
        torch.testing.assert_close(moved[name], value, rtol=0, atol=1e-8)  # of steps of 1e-2, by AdamW's division
    assert max(inside_of(moved, basis_file).values()) < 1e-10


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("share", [0, 0.5])
def test_streamed_bases_give_the_same_bits(make_state, make_model, kind, basis_file, monkeypatch, capsys, share,
                                           batched):
    if batched:
        monkeypatch.delitem(gradients.PROJECTIONS, "cpu")
    resident, streamed = GradientTracker(3, basis_file), GradientTracker(3, basis_file)
    expected = run(make_state(make_model(kind), wd=0.1), resident)
    total = sum(group.rows.nbytes for group in resident.groups)
    assert all(group.resident for group in resident.groups) and "note" not in capsys.readouterr().out
    monkeypatch.setattr(gradients, "resident_bytes", lambda device: share * total)
    loads = []

    def copied(group):  # what a device would have: nothing of a streamed group from one use to the next
        loads.append(group.resident)
        return group.rows.clone()
    monkeypatch.setattr(BasisGroup, "_on_device", copied)
    moved = run(make_state(make_model(kind), wd=0.1), streamed)
    kept = sum(group.rows.nbytes for group in streamed.groups if group.resident)
    assert kept <= share * total and (kept > 0) == (share > 0) and len(loads) == 6 * 2 * len(streamed.groups)
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
        monkeypatch.delitem(gradients.PROJECTIONS, "cpu")
    names = [f"transformer.resblocks.0.ln_{number}.weight" for number in (1, 2)]
    entries = {name: basis_from_gradients(normal(3, 16, seed=seed, dtype=of_file), 1.0)
               for seed, name in enumerate(names)}
    torch.save(entries, tmp_path / "grad.pth")
    tracker = GradientTracker(None, tmp_path / "grad.pth")
    state = make_state(make_model("vit", dtype=torch.float32))
    tracker.begin(state)
    group, = tracker.groups
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
        monkeypatch.delitem(gradients.PROJECTIONS, "cpu")
    bias, other = "ln_final.bias", "transformer.resblocks.0.ln_1.weight"
    torch.save({name: entry(2, 16) for name in (bias, other)}, tmp_path / "grad.pth")
    tracker = GradientTracker(2, tmp_path / "grad.pth")
    state = make_state(make_model("vit", dtype=torch.float32))
    run(dataclasses.replace(state, device=Device("cpu", "fp32")), tracker)
    kept = tracker.files(True)["grad_{task}.pth"][bias]["basis"]
    assert [group.names for group in tracker.groups] == [[bias, other]]
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


@pytest.mark.parametrize(("budget", "kept", "dropped"), [
    (56, {"a": [9.0, 1.0], "b": [4.0, 3.0]}, 0), (55, {"a": [9.0], "b": [4.0, 3.0]}, 1),
    (40, {"a": [9.0], "b": [4.0, 3.0]}, 1), (39, {"a": [9.0], "b": [4.0]}, 2), (0, {"a": [], "b": []}, 4)])
def test_the_budget_by_hand(budget, kept, dropped):
    """Rows of 16 and of 12 bytes: 2 * 16 + 2 * 12 = 56; 1 goes first, then 3, 4 and 9."""
    entries = {"a": {"basis": torch.eye(4)[:2], "energy": torch.tensor([9.0, 1.0])},
               "b": {"basis": torch.eye(3)[1:], "energy": torch.tensor([4.0, 3.0])}}
    fitting, count = within_budget(entries, budget)
    assert {name: part["energy"].tolist() for name, part in fitting.items()} == kept and count == dropped
    for name, part in fitting.items():
        assert torch.equal(part["basis"], entries[name]["basis"][:len(kept[name])])


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
