"""Deltas of several tasks as one, against hand arithmetic and a slow rendering; and the one CLIP that holds experts."""

import copy

import pytest
import slow_reference as slow
import torch
from conftest import CLASSNAMES, TEMPLATES, tiny_clip

from clip.model import CLIP
from src.models.classifiers import Classes, zeroshot_weights
from src.models.condu_experts import Towers, Unified, packed, unify, unpacked
from src.models.modeling import image_features

SHAPES = {"a": (3, 5), "b": (7,), "c": (2, 2, 3)}


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def of_tasks(*deltas):
    found = Unified({}, {}, {})
    for task, delta in enumerate(deltas):
        found = found.with_task(f"task {task}", delta.items())
    return found


def bits(unified, task):
    return {name: unpacked(content, unified.values[name].shape) for name, content in unified.masks[task].items()}


def test_by_hand():
    """d = (1, -2, .5) and (3, 1, -.25): the signs of the sums are + - +."""
    deltas = [torch.tensor([1, -2, 0.5]).double(), torch.tensor([3, 1, -0.25]).double()]
    value, masks = unify(deltas)
    assert value.tolist() == [3, -2, 0.5]
    assert [mask.tolist() for mask in masks] == [[True, True, True], [True, False, False]]
    found = of_tasks(*({"w": delta} for delta in deltas))
    assert list(found.factors.values()) == pytest.approx([3.5 / 5.5, 4.25 / 3], abs=1e-15)
    assert found.delta("task 1", "w").tolist() == pytest.approx([4.25, 0, 0])


def test_means_of_tensors_are_summed():
    """|d| is 2 and 1 on average, |U m| 3 and 1: a tensor counts by its mean, whatever its size."""
    found = of_tasks({"a": torch.tensor([2.0]), "b": torch.ones(4)}, {"a": torch.tensor([3.0]), "b": torch.ones(4)})
    assert list(found.factors.values()) == pytest.approx([3 / 4, 1])


def test_a_sum_of_zero_is_negative():
    value, masks = unify([torch.tensor([1.0, 0.0, 2.0]), torch.tensor([-1.0, 0.0, -1.0])])
    assert value.tolist() == [-1, 0, 2] and [mask.tolist() for mask in masks] == [[False, False, True],
                                                                                  [True, False, False]]


def test_three_tasks_are_the_slow_rendering():
    deltas = [drawn(seed) for seed in range(3)]
    found, (values, masks, factors) = of_tasks(*deltas), slow.unified(deltas)
    for name in SHAPES:
        assert found.values[name].flatten().tolist() == pytest.approx(values[name], abs=1e-12)
        for task, mask in enumerate(masks):
            assert bits(found, f"task {task}")[name].flatten().tolist() == mask[name]
    assert list(found.factors.values()) == pytest.approx(factors, abs=1e-12)


def test_one_task_is_left_as_it_is():
    [delta] = deltas = [drawn(0)]
    found = of_tasks(*deltas)
    assert found.factors == {"task 0": 1.0}
    assert all(torch.equal(found.delta("task 0", name), value) for name, value in delta.items())


def test_a_mask_only_loses_ones():
    before, lost = of_tasks(drawn(0)), 0
    for seed in range(1, 6):
        after = before.with_task(f"task {seed}", drawn(seed).items())
        for task in before.factors:
            for name, mask in bits(before, task).items():
                assert not (bits(after, task)[name] & ~mask).any()
                lost += int((mask & ~bits(after, task)[name]).sum())
        before = after
    assert lost


def test_a_task_that_comes_again_takes_its_own_place():
    first, second, again = (drawn(seed) for seed in range(3))
    found = of_tasks(first, second).with_task("task 0", again.items())
    assert list(found.factors) == ["task 1", "task 0"]
    U, m = of_tasks(first, second), "task 1"
    rest = {name: U.delta(m, name) for name in SHAPES}
    expected = {name: unify([rest[name], again[name]])[0] for name in SHAPES}
    assert all(torch.equal(found.values[name], value) for name, value in expected.items())


def test_a_task_that_did_not_move_has_factor_1():
    still = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    assert of_tasks(still).factors == {"task 0": 1.0}
    found = of_tasks(drawn(0), still)
    assert found.factors["task 1"] == 1.0 and not any(found.delta("task 1", name).any() for name in SHAPES)


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (16, 3), (5, 2, 2, 1)])
def test_a_mask_is_one_bit_per_value(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    content = packed(mask)
    assert content.dtype == torch.uint8 and len(content) == -(-mask.numel() // 8)
    assert torch.equal(unpacked(content, mask.shape), mask)


def test_the_first_value_is_the_lowest_bit():
    assert packed(torch.tensor([True, False, False, True] + 4 * [False] + [True])).tolist() == [9, 1]


def test_it_is_kept_on_the_host_in_the_type_of_the_deltas():
    found = of_tasks(*({name: value.float() for name, value in drawn(seed).items()} for seed in range(2)))
    assert {value.dtype for value in found.values.values()} == {torch.float32}
    again = Unified(**found.carry())
    assert all(torch.equal(found.delta("task 0", name), again.delta("task 0", name)) for name in SHAPES)
    assert again.to(torch.zeros(1).double()).values["a"].dtype == torch.float64


# -- towers ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def experts():
    """th0 and two experts that differ from it in one tensor of each tower."""
    th0, names = tiny_clip("vit"), ("visual.proj", "text_projection")
    found = {None: th0}
    for task in ("one", "two"):
        found[task] = copy.deepcopy(th0)
        for name in names:
            value = found[task].get_parameter(name)
            value.data += 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(found))).double()
    return found, lambda task: ((name, found[task].get_parameter(name).data) for name in names)


@torch.no_grad()
def test_towers_hold_one_expert_after_the_other(experts, monkeypatch):
    """And encode the prompts of each once."""
    found, weights = experts
    texts = {task: zeroshot_weights(model, CLASSNAMES, TEMPLATES) for task, model in found.items()}
    encode, encoded = CLIP.encode_text, []
    monkeypatch.setattr(CLIP, "encode_text", lambda model, tokens: encoded.append(len(tokens)) or encode(model, tokens))
    towers, counts = Towers(found[None], weights), []
    classes = Classes("tiny", "tiny", CLASSNAMES, TEMPLATES, None)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    before = copy.deepcopy(found[None].state_dict())
    for task in ("one", None, "two", "one", None):
        features = towers.features(task, images)
        assert torch.equal(features, image_features(found[task], images))
        expected = found[task].logit_scale.exp() * features @ texts[task]
        torch.testing.assert_close(towers.logits(task, features, [classes]), expected, rtol=0, atol=1e-12)
        counts.append(sum(encoded))
    assert counts == [12, 24, 36, 36, 36]
    assert all(torch.equal(value, before[name]) for name, value in found[None].state_dict().items())
