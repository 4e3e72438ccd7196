"""The breakdown of a step: every microsecond counted once, in the right kind and part."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import profile


def test_a_step_is_divided_into_kinds_and_parts(capsys):
    profile.main(["zscl", "--size", "test"])
    printed = capsys.readouterr().out
    for name in (*profile.KINDS, *profile.PARTS, "optimiser", "rest", "together"):
        assert f"| {name} |" in printed
    assert "ZSCL step" in printed and "test size" in printed


def test_only_the_published_step_asks_its_teacher_for_sentences():
    found = profile.profiled("zscl", "test")
    for side, asked in (("ours", False), ("peer", True)):
        kinds, parts = found[side]
        assert (parts["teacher, sentences"] > 0) == asked and parts["student, images"] > 0
        assert sum(kinds.values()) == pytest.approx(sum(parts.values())) and kinds["optimiser"] > 0


def test_plain_fine_tuning_has_no_teacher():
    for _, parts in profile.profiled("finetune", "test").values():
        assert set(parts) <= {"student, images", "student, class prompts", "optimiser", "rest"}


def test_the_backward_pass_belongs_to_the_part_of_its_forward_pass():
    weights = [torch.randn(300, 300, requires_grad=True) for _ in range(2)]
    large, small = (profile.labelled(part, work) for part, work in zip(
        profile.PARTS, (lambda x: x @ weights[0], lambda x: x[:2] @ weights[1]), strict=False))

    def step():
        x = torch.randn(300, 300)
        (large(x).sum() + small(x).sum()).backward()
    events = profile.events_of(step)
    forward = profile.forward_parts(events)
    products = [event for event in events if event.name == "aten::mm"]
    # forward of each, and one product for its weight in the backward pass
    assert sorted(profile.part_of(event, forward) for event in products) == [*[profile.PARTS[1]] * 2,
                                                                             *[profile.PARTS[0]] * 2]
    assert {profile.kind_of(event) for event in products} == {"linear, convolution"}


def event(name, parent=None):
    return SimpleNamespace(name=name, cpu_parent=parent)


@pytest.mark.parametrize("names, kind", [
    (["aten::addmm"], "linear, convolution"), (["aten::add_"], "elementwise"),
    (["aten::_scaled_dot_product_attention_math", "aten::bmm"], "attention"),
    (["aten::native_layer_norm_backward"], "layer norm"), (["aten::view"], "rest"), (["aten::copy_"], "copies, fills"),
    (["Optimizer.step#AdamW.step", "aten::mul_"], "optimiser")], ids=str)
def test_kinds(names, kind):
    last = None
    for name in names:
        last = event(name, last)
    assert profile.kind_of(last) == kind


def test_the_table_has_seconds_and_shares():
    text = profile.table("part", profile.Counter(a=1.0), profile.Counter(a=1.0, b=3.0))
    assert text.splitlines()[2:] == ["| b | 0 | 0.0 | 3 | 75.0 |", "| a | 1 | 100.0 | 1 | 25.0 |",
                                     "| together | 1 | | 4 | |"]
