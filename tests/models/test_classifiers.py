"""Classifiers against slow renderings, and how long they are kept."""

import dataclasses
import gc
import weakref

import pytest
import torch
from slow_zeroshot import SEVEN, slow_weights
from torch import nn

from clip.model import CLIP
from src.machine.device import Device
from src.models.classifiers import ZeroshotClassifiers, classifier, other_classes, zeroshot_head, zeroshot_weights
from src.models.fingerprints import text_fingerprint


@pytest.mark.parametrize("templates", [1, 3])
@pytest.mark.parametrize("classes", [1, 4, 7])
def test_zeroshot_weights_equal_one_prompt_at_a_time(classes, templates, make_model, task):
    model, names = make_model("vit"), SEVEN[:classes]
    weights = zeroshot_weights(model, names, task.templates[:templates])
    expected = torch.stack(slow_weights(model, names, task.templates[:templates])).T
    assert weights.shape == (8, classes) and not weights.requires_grad
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-14)


def test_a_zeroshot_head_scores_as_the_zeroshot_classifier(kind, make_model, task, device):
    model = make_model(kind)
    head = zeroshot_head(model, task, device).packed()
    assert head.shape == (4, 9) and not head[:, -1].any()
    plain, by_head = classifier(model, task, device), classifier(model, task, device, head)
    features = torch.randn(5, 8, dtype=torch.float64)
    scale = model.logit_scale.exp()
    torch.testing.assert_close(by_head(features, scale), plain(features, scale))
    torch.testing.assert_close(by_head.classes.weights, plain.classes.weights)


# -- classifiers that are kept -----------------------------------------------------------------------------------------



@pytest.fixture
def encoded(monkeypatch):
    """The models whose text tower was called, in order."""
    calls, original = [], CLIP.encode_text
    monkeypatch.setattr(CLIP, "encode_text", lambda model, tokens: calls.append(model) or original(model, tokens))
    return calls


def one_ulp_up(value):
    """Of the last element of a tensor, in place."""
    last = value.flatten()[-1:]
    value.view(-1)[-1:] = torch.nextafter(last, torch.full_like(last, torch.inf))


def test_a_classifier_is_built_once_for_a_text_tower(make_model, three_tasks, device, encoded):
    model, kept = make_model("vit"), ZeroshotClassifiers(device)
    first = kept(model, three_tasks)
    assert len(encoded) == 3
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith(("visual.", "logit_scale")):
                one_ulp_up(value)
    model.head = nn.Linear(8, 3)
    second = kept(model, three_tasks)
    assert len(encoded) == 3 and all(second[name] is first[name] for name in three_tasks)
    for name, task in three_tasks.items():
        fresh = classifier(model, task, device)
        assert torch.equal(second[name].classes.weights, fresh.classes.weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_ulp_of_any_text_tensor_builds_anew(make_model, dtype):
    model, seen = make_model("vit", dtype=dtype), set()
    names = [name for name, _ in model.named_parameters() if not name.startswith(("visual.", "logit_scale"))]
    assert len(names) == 17 and any(name == "token_embedding.weight" for name in names)
    seen.add(text_fingerprint(model))
    with torch.no_grad():
        for name in names:
            one_ulp_up(model.get_parameter(name))
            seen.add(text_fingerprint(model))
        model.token_rows[-1] += 1
        seen.add(text_fingerprint(model))
        model.architecture["transformer_heads"] = 1
        seen.add(text_fingerprint(model))
    assert len(seen) == len(names) + 3


def test_a_changed_tower_builds_anew_and_the_old_classifiers_go(make_model, task, device, encoded):
    model, kept = make_model("vit"), ZeroshotClassifiers(device)
    old = weakref.ref(kept(model, {"tiny": task})["tiny"].classes.weights)
    with torch.no_grad():
        one_ulp_up(model.text_projection)
        new = kept(model, {"tiny": task})["tiny"]
    assert len(encoded) == 2 and torch.equal(new.classes.weights, classifier(model, task, device).classes.weights)
    gc.collect()
    assert old() is None


def test_swapped_tensors_build_anew(make_model, task, device, encoded):
    model, kept = make_model("vit"), ZeroshotClassifiers(device)
    before = kept(model, {"tiny": task})["tiny"].classes.weights
    block = model.transformer.resblocks[0]
    block.ln_1.weight, block.ln_2.weight = block.ln_2.weight, block.ln_1.weight
    after = kept(model, {"tiny": task})["tiny"].classes.weights
    assert len(encoded) == 2 and not torch.equal(before, after)


def test_other_prompts_and_another_precision_build_anew(make_model, task, encoded):
    model, kept = make_model("vit", dtype=torch.float32), ZeroshotClassifiers(Device("cpu", "fp32"))
    kept(model, {"tiny": task})
    kept(model, {"fewer": dataclasses.replace(task, templates=task.templates[:2])})
    kept(model, {"renamed": dataclasses.replace(task, classnames=SEVEN[:4])})
    assert len(encoded) == 3
    kept(model, {"same words": dataclasses.replace(task, name="other")})
    assert len(encoded) == 3
    kept.device = Device("cpu", "bf16")
    low = kept(model, {"tiny": task})["tiny"].classes.weights
    assert len(encoded) == 4 and torch.equal(low, classifier(model, task, kept.device).classes.weights)


@pytest.mark.parametrize(("history", "reason"), [
    ([{"dataset": "images", "classnames": ["a", "b"]}], None),
    ([{"dataset": "images", "classnames": ["b", "a"]}, {"dataset": "images", "classnames": ["a", "b"]}], None),
    ([{"dataset": "images", "classnames": ["b", "a"]}], "number 1 of 2 is 'b' there, 'a' here"),
    ([{"dataset": "images", "classnames": ["a", "b", "c"]}], "number 3 of 3 is 'c' there, None here"),
    ([{"dataset": "others", "classnames": ["a", "b"]}], "does not record"),
    ([{"dataset": "images"}], "does not record")])
def test_a_head_belongs_to_class_names(history, reason):
    """The last entry of the name counts."""
    found = other_classes(history, "images", ("a", "b"))
    assert found is None if reason is None else reason in found
