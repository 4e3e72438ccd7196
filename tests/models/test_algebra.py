"""Bases grown by an energy rule, against numpy's decompositions of whole matrices and hand cases."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from decompositions import projector
from tf32 import under_tf32

from src.machine.distributed import World
from src.models import algebra


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basis_of(d, m, seed=1):
    return algebra.orthonormal(drawn(d, m, seed=seed))


@pytest.mark.parametrize(("share", "below", "reach"), [
    (.85, 2, 3), (.4, 0, 1), (.5, 0, 1), (.79, 1, 2), (1.0, 2, 3), (1.1, 3, 3)])
def test_leading_on_a_hand_case(share, below, reach):
    energies = torch.tensor([.5, .25, .25], dtype=torch.float64)  # parts .5, .75, 1, exact in binary
    if share == .79:
        energies = torch.tensor([.5, .3, .2], dtype=torch.float64)
    assert algebra.leading(energies, share) == below
    assert algebra.leading(energies, share, reach=True) == reach


def test_the_published_hand_case():
    energies = torch.tensor([.5, .3, .2], dtype=torch.float64)
    assert algebra.leading(energies, .85) == 2
    assert max(algebra.leading(energies, .4), 1) == 1


@pytest.mark.parametrize("share", [.5, .9, .99, .999])
@pytest.mark.parametrize("m", [0, 1, 5])
def test_grow_is_the_rule_on_whole_matrices(m, share):
    matrix, basis = drawn(12, 40) * torch.logspace(0, -2, 12, dtype=torch.float64)[:, None], basis_of(12, m)
    rest = matrix - basis @ (basis.mT @ matrix)
    vectors, values, _ = np.linalg.svd(rest.numpy(), full_matrices=False)
    total, own, count = float((matrix ** 2).sum()), float((rest ** 2).sum()), 0
    while (total - own + (values[:count] ** 2).sum()) / total < share:
        count += 1
    grown = algebra.grow(basis, matrix @ matrix.T, share)
    assert grown.shape == (12, m + count)
    assert torch.equal(grown[:, :m], basis)
    expected = projector(basis) + projector(torch.from_numpy(vectors[:, :count]))
    assert torch.allclose(projector(grown), expected, rtol=0, atol=1e-10)
    assert torch.allclose(grown.mT @ grown, torch.eye(m + count, dtype=torch.float64), rtol=0, atol=1e-12)


def test_grow_adds_nothing_to_what_holds_enough_and_no_rounding_errors():
    low_rank = drawn(8, 2) @ drawn(2, 30, seed=3)
    basis = algebra.grow(drawn(8, 0), low_rank @ low_rank.T, 1.0)
    assert basis.shape == (8, 2)
    assert algebra.grow(basis, low_rank @ low_rank.T, 1.0).shape == (8, 2)
    whole = torch.eye(8, dtype=torch.float64)
    assert torch.equal(algebra.grow(whole, drawn(8, 8), 1.0), whole)


@pytest.mark.parametrize("share", [.3, .6, .9, .99])
def test_shrink_is_the_rule_on_whole_matrices(share):
    matrix, basis = drawn(12, 40) * torch.logspace(0, -1, 12, dtype=torch.float64)[:, None], basis_of(12, 5)
    inside = basis @ (basis.mT @ matrix)
    vectors, values, _ = np.linalg.svd(inside.numpy(), full_matrices=False)
    left, total, count = float((inside ** 2).sum()), float((matrix ** 2).sum()), 0
    while left / total >= 1 - share:
        left, count = left - values[count] ** 2, count + 1
    shrunk = algebra.shrink(basis, matrix @ matrix.T, share)
    assert shrunk.shape == (12, 5 - count)
    expected = projector(basis) - projector(torch.from_numpy(vectors[:, :count]))
    assert torch.allclose(projector(shrunk), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("m", [0, 3, 8])
def test_the_complement(m):
    basis = basis_of(8, m)
    other = algebra.complement(basis)
    assert other.shape == (8, 8 - m)
    assert torch.allclose(projector(basis) + projector(other), torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-12)


def test_without_leaves_nothing_in_the_span():
    basis, matrix = basis_of(9, 4), drawn(9, 6)
    matrix = matrix + 1e6 * basis @ drawn(4, 6, seed=5)
    assert (basis.mT @ algebra.without(basis, matrix)).abs().max() < 1e-12


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_decomposition_that_fails_is_done_by_another_driver(monkeypatch, kind):
    """In double precision; a second call of the first driver would fail again."""
    def fails(matrix, full_matrices):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "svd", fails)
    matrix = drawn(4, 6).to(kind)
    U, S, Vh = algebra.svd(matrix)
    assert {U.dtype, S.dtype, Vh.dtype} == {kind} and (U.shape, S.shape, Vh.shape) == ((4, 4), (4,), (4, 6))
    tolerance = 1e-13 if kind == torch.float64 else 1e-6
    assert torch.allclose(U @ S.diag() @ Vh, matrix, rtol=0, atol=tolerance)
    assert np.allclose(S, np.linalg.svd(matrix.double().numpy())[1], rtol=0, atol=tolerance)
    assert torch.allclose(U.mT @ U, torch.eye(4, dtype=kind), rtol=0, atol=tolerance)
    assert torch.allclose(Vh @ Vh.mT, torch.eye(4, dtype=kind), rtol=0, atol=tolerance)


def test_what_is_not_finite_has_no_decomposition():
    with pytest.raises(torch.linalg.LinAlgError, match="non-finite"):
        algebra.svd(torch.full((3, 3), torch.nan, dtype=torch.float64))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_ridge_solves_the_normal_equations_and_leaves_its_sums(kind):
    x, y = drawn(40, 7).to(kind), drawn(40, 3, seed=2).to(kind)
    gram, targets = x.T @ x, x.T @ y
    kept = gram.clone()
    found = algebra.ridge(gram, targets, .3)
    expected = np.linalg.solve(kept.double().numpy() + .3 * np.eye(7), targets.double().numpy())
    assert found.dtype == torch.float64 and torch.equal(gram, kept)
    tolerance = 1e-12 if kind == torch.float64 else 1e-6  # where a product by blocks is not symmetric to the bit
    assert np.allclose(found.numpy(), expected, rtol=0, atol=tolerance)


def test_ridge_in_place_uses_up_its_gram_matrix():
    x, y = drawn(9, 5), drawn(9, 2, seed=2)
    gram = x.T @ x
    place, expected = gram.data_ptr(), torch.linalg.solve(gram + .5 * torch.eye(5), x.T @ y)
    assert torch.allclose(algebra.ridge_(gram, x.T @ y, .5), expected, rtol=0, atol=1e-12)
    lower = torch.linalg.cholesky(x.T @ x + .5 * torch.eye(5))
    assert gram.data_ptr() == place and torch.allclose(gram.mT.tril(), lower, rtol=0, atol=1e-12)


def test_ridge_refuses_what_is_not_positive_definite():
    with pytest.raises(torch.linalg.LinAlgError):
        algebra.ridge(-torch.eye(3, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64), .1)


def test_sums_of_a_task_that_is_met_again_are_added():
    earlier, found = torch.ones(2, dtype=torch.float32), torch.full((2,), 2.0, dtype=torch.float64)
    assert torch.equal(algebra.added(None, found), found)
    assert torch.equal(algebra.added(earlier, found), torch.full((2,), 3.0, dtype=torch.float64))


def test_ridge_sums_are_solved_again_once_a_task_is_added():
    sums, like = algebra.RidgeSums(.3), torch.zeros(4, dtype=torch.float64)
    x, labels = drawn(10, 4), torch.arange(10) % 2
    for name in ("first", "second"):
        sums.add(SimpleNamespace(name=name, classnames="ab"), World(), like, [(x, labels)])
        answer = sums.solution(torch.device("cpu"))[name]
    y = np.tile(np.eye(2)[labels], 2)
    expected = np.linalg.solve(2 * (x.T @ x).numpy() + .3 * np.eye(4), x.numpy().T @ y)
    assert np.allclose(answer.numpy(), expected[:, 2:], rtol=0, atol=1e-12)


def test_ridge_sums_are_never_in_tf32():
    sums, like, labels = algebra.RidgeSums(.3), torch.zeros(4), torch.zeros(3).long()
    with under_tf32() as allowed:
        sums.add(SimpleNamespace(name="first", classnames="ab"), World(), like, [(torch.ones(3, 4), labels)])
    assert allowed == [False, False]


def test_the_density_of_a_gaussian_is_torch_s():
    """And by hand: at the mean of a plane with variances 1 and 4 it is 1 / (4 pi)."""
    root = drawn(6, 6)
    covariance = root @ root.T + 1e-7 * torch.eye(6, dtype=torch.float64)
    rows, mean = drawn(9, 6, seed=2), drawn(6, seed=3)
    found = algebra.log_density(rows, mean, torch.linalg.cholesky(covariance))
    torch.testing.assert_close(found, torch.distributions.MultivariateNormal(mean, covariance).log_prob(rows),
                               rtol=1e-11, atol=0)
    plane = algebra.log_density(torch.zeros(1, 2), torch.zeros(2), torch.diag(torch.tensor([1.0, 2.0])))
    torch.testing.assert_close(plane.exp(), torch.tensor([1 / (4 * np.pi)], dtype=torch.float32))
