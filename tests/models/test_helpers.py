"""The formulas, by hand arithmetic and against their slow renderings."""

import math

import pytest
import slow_reference as slow
import torch

from src.models.helpers import (
    distillation,
    divergence,
    image_pairs,
    interpolate_,
    l2_distance,
    learning_rate,
    similarity,
    similarity_between,
    teacher_entropy,
    top_k_hits,
)

NAN, INF = float("nan"), float("inf")


def random_logits(rows, columns, seed):
    return 5 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_similarity_is_scale_times_cosine():
    images = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    texts = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.8, 0.6]])
    expected = torch.tensor([[0.0, 10.0, 8.0], [8.0, 6.0, 9.6]])
    torch.testing.assert_close(similarity(images, texts, torch.tensor(10.0)), expected)


def test_similarity_between_two_classifiers():
    """By hand half of the way from (1, 0) to (0, 1); at both ends the bits of what they give alone."""
    images, ends = torch.tensor([[0.6, 0.8], [1.0, 0.0]]), torch.eye(2)[:, :, None]             # (D, 1) each
    half = similarity_between(images, *ends, torch.tensor([[0.5], [0.5]]), 10.0)
    torch.testing.assert_close(half, torch.tensor([[14.0], [10.0]]) / 2 ** 0.5)
    generator = torch.Generator().manual_seed(0)
    images, start, end = (torch.nn.functional.normalize(torch.randn(5, 7, generator=generator), dim=1)
                          for _ in range(3))
    shares = torch.tensor([0.0, 1.0, 0.25, 0.0, 0.9])[:, None]
    found = similarity_between(images, start.T, end.T, shares, 100.0)
    assert torch.equal(found[[0, 3]], similarity(images, start, 100.0)[[0, 3]])
    assert torch.equal(found[1], similarity(images, end, 100.0)[1])
    for row in (2, 4):
        mixed = torch.nn.functional.normalize((1 - shares[row]) * start + shares[row] * end, dim=1)
        torch.testing.assert_close(found[row], 100 * mixed @ images[row], rtol=0, atol=1e-4)


def test_similarity_is_never_computed_in_a_low_precision():
    images, texts = torch.tensor([[1.0, 2 ** -12]]), torch.tensor([[1.0, 1.0]])
    with torch.autocast("cpu", torch.bfloat16):
        assert similarity(images, texts, 100.0).item() == 100 * (1 + 2 ** -12)


def test_distillation_by_hand():
    # softmax of (2 ln 3, 0) / 2 is (3/4, 1/4); the student's is (1/2, 1/2): CE = ln 2, T^2 = 4.
    teacher, student = torch.tensor([[2 * math.log(3), 0.0]]), torch.tensor([[7.0, 7.0]])
    assert distillation(teacher, student, 2.0).item() == pytest.approx(4 * math.log(2))


def test_distillation_is_a_mean_over_rows():
    teacher = torch.tensor([[2 * math.log(3), 0.0], [0.0, 0.0]])
    student = torch.tensor([[0.0, 2 * math.log(3)], [1.0, 1.0]])
    rows = 0.75 * math.log(4) + 0.25 * math.log(4 / 3), math.log(2)
    assert distillation(teacher, student, 2.0).item() == pytest.approx(4 * sum(rows) / 2)


@pytest.mark.parametrize("T", [1.0, 2.0, 3.5])
def test_distillation_equals_the_slow_rendering(T):
    teacher, student = random_logits(5, 7, 0), random_logits(5, 7, 1)
    expected = slow.tempered_cross_entropy(list(teacher), list(student), T)
    assert distillation(teacher, student, T).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("T", [0.5, 1.0, 2.0, 10.0])
def test_divergence_equals_the_slow_rendering(T):
    teacher, student = random_logits(6, 4, 2), random_logits(6, 4, 3)
    found = divergence(teacher, student, T).item()
    assert found == pytest.approx(slow.tempered_divergence(list(teacher), list(student), T).item(), rel=1e-12)
    assert found > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_divergence_has_the_bits_of_the_gradient_of_distillation(dtype, weight):
    """The student's, and the teacher's where its scores have one."""
    gradients = []
    for loss in (divergence, distillation):
        teacher, student = (random_logits(6, 4, seed).to(dtype).requires_grad_() for seed in (2, 3))
        (weight * loss(teacher, student, 2.0)).backward()
        gradients.append((teacher.grad, student.grad))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other) and one.abs().max() > 0


def test_the_divergence_is_zero_for_a_perfect_student():
    logits = random_logits(6, 4, 4)
    assert divergence(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-14)


def test_teacher_entropy_by_hand():
    # Two rows: uniform over four has entropy ln 4; a certain one has none.
    teacher = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1000.0, 0.0, 0.0, 0.0]])
    assert teacher_entropy(teacher, 3.0).item() == pytest.approx(9 * math.log(4) / 2)


def test_image_pairs_by_hand():
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    expected = torch.tensor([[-1e4, 6.0, 0.0], [6.0, -1e4, 8.0], [0.0, 8.0, -1e4]])
    torch.testing.assert_close(image_pairs(features, torch.tensor(10.0)), expected)


def test_an_image_gets_no_gradient_from_itself():
    # d/df_0 of the sum over all pairs: each pair counts twice, f_0 f_0 not at all.
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
    image_pairs(features, 10.0).sum().backward()
    torch.testing.assert_close(features.grad, 20 * torch.tensor([[0.6, 1.8], [1.0, 1.0], [1.6, 0.8]]))


@pytest.mark.parametrize("step, factor", [
    (0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0),                    # warm-up, (k + 1) / 4
    (4, 1.0), (6, 0.5 * (1 + math.cos(math.pi / 3))), (7, 0.5), (9, 0.5 * (1 + math.cos(5 * math.pi / 6)))])
def test_learning_rate_warms_up_and_follows_the_cosine(step, factor):
    assert learning_rate(step, 10, 4, 3e-4) == pytest.approx(3e-4 * factor, rel=1e-12)


def test_learning_rate_without_warmup_starts_at_its_peak_and_ends_one_step_before_zero():
    rates = [learning_rate(step, 5, 0, 2.0) for step in range(5)]
    assert rates == pytest.approx([1 + math.cos(math.pi * step / 5) for step in range(5)])
    assert rates[0] == 2.0
    assert rates[-1] == pytest.approx(1 - math.cos(math.pi / 5))


@pytest.mark.parametrize("total", [1, 3, 4])
def test_learning_rate_of_a_run_no_longer_than_its_warmup(total):
    assert [learning_rate(step, total, 4, 1.0) for step in range(total)] == [(step + 1) / 4 for step in range(total)]


def test_learning_rate_of_a_single_step():
    assert learning_rate(0, 1, 0, 0.5) == 0.5
    assert learning_rate(0, 1, 1, 0.5) == 0.5
    assert learning_rate(0, 1, 100, 0.5) == pytest.approx(0.005)


def test_top_k_hits_by_hand():
    logits = torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.9, 0.5], [0.1, 0.9, 0.5]])
    hits = top_k_hits(logits, torch.tensor([1, 2, 0]), 3)
    assert hits.tolist() == [[True, True, True], [False, True, True], [False, False, True]]


def test_equal_scores_rank_by_class_number():
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0]]).repeat(4, 1)
    hits = top_k_hits(logits, torch.arange(4), 3)
    assert hits.tolist() == [[False, False, False], [True, True, True], [False, True, True], [False, False, True]]


def test_infinite_scores_rank_like_any_other():
    logits = torch.tensor([[-INF, INF, 0.0], [-INF, INF, 0.0], [INF, INF, -INF]])
    hits = top_k_hits(logits, torch.tensor([0, 1, 1]), 3)
    assert hits.tolist() == [[False, False, True], [True, True, True], [False, True, True]]


def test_a_score_that_is_not_a_number_is_never_a_hit():
    logits = torch.tensor([[NAN, 0.0, 1.0], [NAN, NAN, NAN], [NAN, 1.0, 0.0]])
    hits = top_k_hits(logits, torch.tensor([0, 2, 1]), 3)
    assert hits[:2].tolist() == [[False] * 3] * 2
    assert not hits[2, 0]  # nor does one help another class to the first place


def test_more_ranks_than_classes_are_all_hits():
    hits = top_k_hits(torch.tensor([[1.0, 2.0]]), torch.tensor([0]), 4)
    assert hits.tolist() == [[False, True, True, True]]


def test_top_k_hits_equal_the_slow_rank_and_argmax():
    logits = random_logits(200, 6, 5).round()  # rounded: many equal scores
    labels = torch.arange(200) % 6
    hits = top_k_hits(logits, labels, 5)
    ranks = [slow.rank_of(row.tolist(), label) for row, label in zip(logits, labels.tolist(), strict=True)]
    assert hits.tolist() == [[rank < k for k in range(1, 6)] for rank in ranks]
    first = torch.tensor([row.index(max(row)) for row in logits.tolist()])
    assert hits[:, 0].tolist() == (first == labels).tolist()


def test_l2_distance_by_hand():
    assert l2_distance([torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])],
                       [torch.tensor([0.0, 4.0]), torch.tensor([[0.0]])]).item() == 1 + 4 + 9


def test_interpolation_mixes_floats_and_leaves_counts():
    one, other = torch.nn.BatchNorm2d(1), torch.nn.BatchNorm2d(1)
    torch.nn.init.constant_(one.weight, 2.0)
    torch.nn.init.constant_(other.weight, 6.0)
    one.running_mean.fill_(1.0)
    other.num_batches_tracked.fill_(7)
    interpolate_(one, other.state_dict(), 0.75)
    assert one.weight.item() == 3.0 and one.running_mean.item() == 0.75 and one.num_batches_tracked.item() == 0
    assert other.weight.item() == 6.0
