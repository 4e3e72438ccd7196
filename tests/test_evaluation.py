"""Zero-shot classification against slow renderings: weights, accuracy, subsets, other scores, one image."""

import dataclasses

import pytest
import slow_reference as slow
import torch

import clip
from src.datasets.common import Split, balanced_subset
from src.datasets.transforms import EvalTransform
from src.device import Device
from src.errors import UserError
from src.models import evaluation
from src.models.evaluation import (
    SUBSET_SEED,
    Scores,
    classifier,
    classify_image,
    encode_split,
    zeroshot_head,
    zeroshot_weights,
)
from src.models.modeling import set_training

SEVEN = ("cat", "dog", "red bird", "old tree", "car", "small blue house", "green tree")


def evaluate(*arguments, **options):
    """Scores among the task's own classes."""
    return evaluation.evaluate(*arguments, **options)["task"]


def seven_classes(task):
    """A task of seven classes, so that top-5 is less than everything."""
    split = task.split("test")
    labels = [index * 5 % 7 for index in range(len(split))]
    return dataclasses.replace(task, classnames=SEVEN, splits={"test": Split(split.image, labels)})


def slow_weights(model, classnames, templates):
    return slow.zeroshot_weights(model, [
        clip.tokenize([template.replace("{c}", name) for template in templates], 14) for name in classnames])


def pixels(device, images):
    transform = EvalTransform(16)
    return device.images(torch.stack([transform(image) for image in images]))


def slow_scores(model, task, device, ks, indices=None, split="test"):
    split = task.split(split)
    indices = range(len(split)) if indices is None else indices
    weights = slow_weights(model, task.classnames, task.templates)
    images = pixels(device, [split.image(index) for index in indices])
    return slow.accuracies(model, images, [split.labels[index] for index in indices], weights, ks)


@pytest.mark.parametrize("templates", [1, 3])
@pytest.mark.parametrize("classes", [1, 4, 7])
def test_zeroshot_weights_equal_one_prompt_at_a_time(classes, templates, make_model, task):
    model, names = make_model("vit"), SEVEN[:classes]
    weights = zeroshot_weights(model, names, task.templates[:templates])
    expected = torch.stack(slow_weights(model, names, task.templates[:templates])).T
    assert weights.shape == (8, classes) and not weights.requires_grad
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("batch_size", [1, 7, 128])
def test_top_1_and_top_5_equal_the_slow_rendering(kind, batch_size, make_model, task, device):
    model, task = make_model(kind), seven_classes(task)
    scores = evaluate(model, task, device, batch_size=batch_size)
    top1, top5 = slow_scores(model, task, device, (1, 5))
    assert scores == Scores(pytest.approx(top1, rel=1e-12), pytest.approx(top5, rel=1e-12), 5, 31)
    assert 0 < top1 < top5 < 100  # the comparison means something


@pytest.mark.parametrize("classes", [2, 4])
def test_with_fewer_than_five_classes_top_5_is_over_all_of_them(classes, make_model, make_task, device):
    model, task = make_model("vit"), make_task(classes)
    scores = evaluate(model, task, device)
    assert scores == Scores(pytest.approx(slow_scores(model, task, device, (1,))[0], rel=1e-12), 100.0, classes, 31)


def test_another_split_is_scored_where_it_is_named(make_model, task, device):
    model = make_model("vit", seed=1)
    scores = evaluate(model, task, device, split="val")
    top1, = slow_scores(model, task, device, (1,), split="val")
    assert (scores.top1, scores.n) == (pytest.approx(top1, rel=1e-12), 6)


def test_a_subset_is_balanced_seeded_and_scored_alone(make_model, task, device):
    model, task = make_model("vit"), seven_classes(task)
    labels = task.split("test").labels
    indices = balanced_subset(labels, 14, SUBSET_SEED)
    assert sorted(labels[index] for index in indices) == [label for label in range(7) for _ in range(2)]
    scores = evaluate(model, task, device, max_size=14)
    top1, top5 = slow_scores(model, task, device, (1, 5), indices)
    assert scores == Scores(pytest.approx(top1, rel=1e-12), pytest.approx(top5, rel=1e-12), 5, 14)
    assert scores == evaluate(model, task, device, max_size=14)


def test_a_subset_as_large_as_the_split_is_the_split(make_model, task, device):
    model = make_model("vit")
    assert evaluate(model, task, device, max_size=31) == evaluate(model, task, device)
    assert evaluate(model, task, device, max_size=1000).n == 31


def test_other_scores_take_the_place_of_the_models_own(make_model, task, device):
    asked = []

    def first_class(images, heads, names):
        assert names == ["tiny"]
        asked.append((tuple(images.shape), [tuple(head.shape) for head in heads]))
        return [torch.tensor([4.0, 3.0, 2.0, 1.0]).expand(len(images), 4)]
    scores = evaluate(make_model("vit"), task, device, batch_size=20, logits=first_class)
    labels = task.split("test").labels
    assert scores.top1 == pytest.approx(100 * sum(label == 0 for label in labels) / 31)
    assert asked == [((20, 3, 16, 16), [(8, 4)]), ((11, 3, 16, 16), [(8, 4)])]


def test_no_other_scores_leave_the_models_own(make_model, task, device):
    model = make_model("vit")
    assert evaluate(model, task, device, logits=lambda images, heads, names: None) == evaluate(model, task, device)


def test_heads_given_to_other_scores_are_the_zeroshot_weights(make_model, task, device):
    model, seen = make_model("vit"), []
    evaluate(model, task, device, logits=lambda images, heads, names: seen.extend(heads))
    torch.testing.assert_close(seen[0], zeroshot_weights(model, task.classnames, task.templates))


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_training_flags_are_as_before_and_weights_untouched(batch_norm, make_model, task, device):
    model = make_model("resnet")
    set_training(model, batch_norm)
    model.ln_final.eval()
    flags = {name: module.training for name, module in model.named_modules()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = evaluate(model, task, device)
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert scores == evaluate(model.eval(), task, device)  # evaluated in eval mode whatever the flags said


def test_a_model_in_eval_mode_stays_in_it(make_model, task, device):
    model = make_model("resnet").eval()
    evaluate(model, task, device)
    assert not any(module.training for module in model.modules())


def test_evaluation_leaves_no_gradient(make_model, task, device):
    seen = []

    def watched(images, heads, names):
        seen.append(torch.is_grad_enabled())
    evaluate(make_model("vit"), task, device, logits=watched)
    assert seen == [False] and torch.is_grad_enabled()


def test_low_precision_scores_come_from_autocast(make_model, task, monkeypatch):
    model, seen = make_model("vit", dtype=torch.float32), []
    monkeypatch.setattr(evaluation, "image_features", lambda model, images: (
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        or torch.zeros(len(images), 8)))
    evaluate(model, task, Device("cpu", "bf16"))
    evaluate(model, task, Device("cpu", "fp32"))
    assert seen == [torch.bfloat16, None]


def test_one_image_gets_the_probabilities_of_the_slow_rendering(kind, make_model, task, device):
    model, image = make_model(kind), task.split("test").image(3)
    ranked = classify_image(model, image, task.classnames, device)
    weights = slow_weights(model, task.classnames, ["a photo of a {c}."])
    feature = slow.image_feature(model, pixels(device, [image])[0])
    logs = slow.log_softmax(slow.scores([feature], weights, model.logit_scale.exp())[0])
    expected = {name: log.exp().item() for name, log in zip(task.classnames, logs, strict=True)}
    assert [name for name, _ in ranked] == sorted(expected, key=expected.get, reverse=True)
    assert dict(ranked) == pytest.approx(expected, rel=1e-12)
    assert sum(value for _, value in ranked) == pytest.approx(1, rel=1e-12)


def test_one_image_gets_at_most_the_five_best_classes(make_model, task, device):
    model, image = make_model("vit"), task.split("test").image(0)
    five, whole = (classify_image(model, image, names, device) for names in (SEVEN, SEVEN[:5]))
    assert len(five) == 5 and sum(value for _, value in five) < 1
    assert sum(value for _, value in whole) == pytest.approx(1)
    values = [value for _, value in five]
    assert values == sorted(values, reverse=True)


def test_one_image_takes_another_prompt(make_model, task, device):
    model, image = make_model("vit"), task.split("test").image(0)
    plain, other = (dict(classify_image(model, image, SEVEN[:3], device, template))
                    for template in ("a photo of a {c}.", "a drawing of the {c}."))
    assert plain != other


def test_one_image_is_scored_in_eval_mode(make_model, task, device):
    model, image = make_model("resnet"), task.split("test").image(0)
    expected = classify_image(model, image, SEVEN[:3], device)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert classify_image(model.train(), image, SEVEN[:3], device) == expected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_evaluation_batches_reach_the_model_normalised(make_model, task, device, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluation, "image_features",
                        lambda model, images: seen.append(images) or torch.zeros(len(images), 8, dtype=torch.float64))
    evaluate(make_model("vit"), task, device, batch_size=31)
    split = task.split("test")
    torch.testing.assert_close(seen[0], pixels(device, [split.image(index) for index in range(31)]))


# -- label spaces and heads --------------------------------------------------------------------------------------------

NAMES = {"one": ("cat", "dog", "red bird"), "two": ("car", "cat"), "three": ("old tree", "small blue house", "dog")}


@pytest.fixture
def three_tasks(task):
    """Three tasks of which two pairs share a class name, each with templates of its own."""
    tests = {name: Split(task.split("test").image, [(number + index) % len(classnames) for index in range(31)])
             for number, (name, classnames) in enumerate(NAMES.items())}
    return {name: dataclasses.replace(task, name=name, classnames=classnames, templates=task.templates[number:],
                                      splits={"test": tests[name]})
            for number, (name, classnames) in enumerate(NAMES.items())}


@pytest.mark.parametrize("name", NAMES)
def test_label_spaces_equal_brute_force_from_one_pass(name, make_model, three_tasks, device, monkeypatch):
    model, passes, features_of = make_model("vit", seed=3), [], evaluation.image_features
    classifiers = {part: classifier(model, task, device) for part, task in three_tasks.items()}
    spaces = {"task": (name,), "seen": ("one", "two"), "all": tuple(NAMES)}
    monkeypatch.setattr(evaluation, "image_features",
                        lambda model, images: passes.append(len(images)) or features_of(model, images))
    task = three_tasks[name]
    found = evaluation.evaluate(model, task, device, batch_size=31, classifiers=classifiers, spaces=spaces)
    assert passes == [31]
    assert found.keys() == {space for space, parts in spaces.items() if name in parts}
    split = task.split("test")
    images = pixels(device, [split.image(index) for index in range(31)])
    for space, scores in found.items():
        weights, first = [], 0
        for part in spaces[space]:
            first = len(weights) if part == name else first
            weights += slow_weights(model, three_tasks[part].classnames, three_tasks[part].templates)
        top1, top5 = slow.accuracies(model, images, [first + label for label in split.labels], weights,
                                     (1, min(5, len(weights))))
        assert scores == Scores(pytest.approx(top1, rel=1e-12), pytest.approx(top5, rel=1e-12),
                                min(5, len(weights)), 31)
    if name == "one":
        assert len({scores.top1 for scores in found.values()}) > 1, "the comparison means something"


def test_a_zeroshot_head_scores_as_the_zeroshot_classifier(kind, make_model, task, device):
    model = make_model(kind)
    head = zeroshot_head(model, task, device).packed()
    assert head.shape == (4, 9) and not head[:, -1].any()
    plain, by_head = classifier(model, task, device), classifier(model, task, device, head)
    features = torch.randn(5, 8, dtype=torch.float64)
    scale = model.logit_scale.exp()
    torch.testing.assert_close(by_head(features, scale), plain(features, scale))
    torch.testing.assert_close(by_head.weights, plain.weights)


def test_a_trained_head_scores_its_dataset(make_model, task, device):
    model, head = make_model("vit"), torch.randn(4, 9, dtype=torch.float64)
    found = evaluate(model, task, device, classifiers={"tiny": classifier(model, task, device, head)})
    split, hits = task.split("test"), 0
    for index, image in enumerate(pixels(device, [split.image(index) for index in range(31)])):
        feature = slow.image_feature(model, image).detach()
        logits = [float(torch.dot(row[:8], feature) + row[8]) for row in head]
        hits += logits.index(max(logits)) == split.labels[index]
    assert found.top1 == pytest.approx(100 * hits / 31)
    with pytest.raises(UserError, match="head of tiny"):
        classifier(model, task, device, head[:3])


def test_features_of_a_split_know_their_places(kind, make_model, task, device):
    """One image that cannot be decoded leaves a gap and moves nothing."""
    model, split = make_model(kind), task.split("test")
    holed = dataclasses.replace(split, image=lambda index: None if index == 2 else split.image(index))
    positions, features = encode_split(model.train(), holed, device, batch_size=7)
    assert model.training and positions == [index for index in range(31) if index != 2]
    model.eval()
    expected = [slow.image_feature(model, image)
                for image in pixels(device, [split.image(index) for index in positions])]
    torch.testing.assert_close(features, torch.stack(expected).detach())
