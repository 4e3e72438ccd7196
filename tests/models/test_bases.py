"""Bases of gradients against least squares and the SVD: their arithmetic, their stacks, their files."""

import pickle

import pytest
import torch
from row_spaces import normal, part_inside, same_directions, skewness

from src.errors import UserError
from src.models import bases
from src.models.bases import (
    BasisGroup,
    alike,
    basis_from_gradients,
    chained,
    project,
    project_batched,
    project_one_by_one,
    read_gradients,
    within_budget,
)


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
    """Rows that differ by what fp32 cannot resolve are one, even at an energy of 1."""
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
        monkeypatch.setattr(bases, "PIECE", values)
        bases.piece_count.cache_clear()
    yield set_length
    bases.piece_count.cache_clear()


@pytest.mark.parametrize(("values", "count"), [
    (3072 * 768, 576), (2304 * 768, 432), (768, 1), (4095, 1), (8192, 2), (2 * 4099, 2), (999_983, 1)])
def test_pieces_are_equal_and_as_many_as_the_length_allows(values, count):
    assert bases.piece_count(values) == count and values % count == 0


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
    monkeypatch.delitem(bases.PROJECTIONS, "cpu")
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
    monkeypatch.setattr(bases, "STACK", 2 * 2 * 8 * 4)  # two of (2, 8), one of (3, 8)
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


# -- budget ------------------------------------------------------------------------------------------------------------



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
