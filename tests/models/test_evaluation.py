"""Zero-shot classification against slow renderings: accuracy, subsets, label spaces, other scores, one image."""

import dataclasses
import os

import pandas
import pytest
import slow_reference as slow
import torch
from slow_zeroshot import NAMES, SEVEN, pixels, slow_weights

from src.datasets.cache import ImageCache
from src.datasets.common import Split
from src.datasets.seeds import balanced_subset
from src.errors import UserError
from src.machine.device import Device
from src.models import evaluation
from src.models.classifiers import classifier, zeroshot_weights
from src.models.evaluation import SUBSET_SEED, Scores, classify_image, evaluate_each, mean_per_class
from src.models.modeling import compile_image_tower, frozen_copy, image_features, in_eval_mode, set_training


def evaluate(*arguments, **options):
    """Scores among the task's own classes."""
    return evaluation.evaluate(*arguments, **options)["task"]


def seven_classes(task):
    """A task of seven classes, so that top-5 is less than everything."""
    split = task.split("test")
    labels = [index * 5 % 7 for index in range(len(split))]
    return dataclasses.replace(task, classnames=SEVEN, splits={"test": Split(split.image, labels)})


def slow_scores(model, task, device, ks, indices=None, split="test"):
    split = task.split(split)
    indices = range(len(split)) if indices is None else indices
    weights = slow_weights(model, task.classnames, task.templates)
    images = pixels(device, [split.image(index) for index in indices])
    return slow.accuracies(model, images, [split.labels[index] for index in indices], weights, ks)


@pytest.mark.parametrize("batch_size", [1, 7, 128])
def test_top_1_and_top_5_equal_the_slow_rendering(kind, batch_size, make_model, task, device):
    model, task = make_model(kind), seven_classes(task)
    scores = evaluate(model, task, device, batch_size=batch_size)
    top1, top5 = slow_scores(model, task, device, (1, 5))
    assert scores == Scores(pytest.approx(top1, rel=1e-12), pytest.approx(top5, rel=1e-12), 5, 31,
                            per_class=scores.per_class)
    assert 0 < top1 < top5 < 100  # the comparison means something


@pytest.mark.parametrize("classes", [2, 4])
def test_with_fewer_than_five_classes_top_5_is_over_all_of_them(classes, make_model, make_task, device):
    model, task = make_model("vit"), make_task(classes)
    scores = evaluate(model, task, device)
    assert scores == Scores(pytest.approx(slow_scores(model, task, device, (1,))[0], rel=1e-12), 100.0, classes, 31,
                            per_class=scores.per_class)


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
    assert scores == Scores(pytest.approx(top1, rel=1e-12), pytest.approx(top5, rel=1e-12), 5, 14,
                            per_class=scores.per_class)
    assert scores == evaluate(model, task, device, max_size=14)


def test_a_subset_as_large_as_the_split_is_the_split(make_model, task, device):
    model = make_model("vit")
    assert evaluate(model, task, device, max_size=31) == evaluate(model, task, device)
    assert evaluate(model, task, device, max_size=1000).n == 31


def test_other_scores_take_the_place_of_the_models_own(make_model, task, device):
    asked = []

    def first_class(images, spaces):
        classes, = spaces["task"]
        assert spaces.keys() == {"task"} and (classes.name, classes.source) == ("tiny", "")
        asked.append((tuple(images.shape), tuple(classes.weights.shape)))
        return {"task": torch.tensor([4.0, 3.0, 2.0, 1.0]).expand(len(images), 4)}
    scores = evaluate(make_model("vit"), task, device, batch_size=20, method=first_class)
    labels = task.split("test").labels
    assert scores.top1 == pytest.approx(100 * sum(label == 0 for label in labels) / 31)
    assert asked == [((20, 3, 16, 16), (8, 4)), ((11, 3, 16, 16), (8, 4))]


def test_no_other_scores_leave_the_models_own(make_model, task, device):
    model = make_model("vit")
    for nothing in (None, {}):
        found = evaluate(model, task, device, method=lambda images, spaces, nothing=nothing: nothing)
        assert found == evaluate(model, task, device)


def test_classes_given_to_other_scores_have_prompts_and_zeroshot_weights(make_model, task, device):
    model, seen = make_model("vit"), []
    evaluate(model, task, device, method=lambda images, spaces: seen.extend(spaces["task"]))
    torch.testing.assert_close(seen[0].weights, zeroshot_weights(model, task.classnames, task.templates))
    assert (seen[0].classnames, seen[0].templates) == (task.classnames, task.templates)


@pytest.mark.parametrize("given", [(), ("task",), ("task", "all"), ("seen", "task", "all")], ids=len)
def test_label_spaces_that_are_left_out_are_those_of_clip(given, make_model, three_tasks, device, monkeypatch):
    """One pass through the image tower gives all that are left; none is made where nothing is."""
    model, passes, features_of = make_model("vit", seed=3), [], evaluation.image_features
    classifiers = {part: classifier(model, task, device) for part, task in three_tasks.items()}
    spaces = {"task": ("one",), "seen": ("one", "two"), "all": tuple(NAMES)}
    arguments = model, three_tasks["one"], device
    options = {"classifiers": classifiers, "spaces": spaces, "batch_size": 31}
    plain = evaluation.evaluate(*arguments, **options)
    monkeypatch.setattr(evaluation, "image_features",
                        lambda model, images: passes.append(len(images)) or features_of(model, images))

    def first_class(images, asked):
        assert {space: tuple(part.name for part in parts) for space, parts in asked.items()} == spaces
        sizes = {space: sum(len(part.classnames) for part in parts) for space, parts in asked.items()}
        return {space: torch.eye(sizes[space])[0].expand(len(images), -1) for space in given}
    found = evaluation.evaluate(*arguments, **options, method=first_class)
    labels = three_tasks["one"].split("test").labels
    first = 100 * labels.count(0) / 31
    expected = {space: first if space in given else plain[space].top1 for space in spaces}
    assert {space: scores.top1 for space, scores in found.items()} == pytest.approx(expected)
    assert all(found[space] == plain[space] for space in spaces if space not in given)
    assert passes == [31] * (len(given) < 3) and first not in [scores.top1 for scores in plain.values()]


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

    def watched(images, spaces):
        seen.append(torch.is_grad_enabled())
    evaluate(make_model("vit"), task, device, method=watched)
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
                                min(5, len(weights)), 31, per_class=scores.per_class)
    if name == "one":
        assert len({scores.top1 for scores in found.values()}) > 1, "the comparison means something"


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


# -- several datasets from one pool ------------------------------------------------------------------------------------


@pytest.fixture
def seen_by(three_tasks, tmp_path):
    """-> (three tasks whose images know which process opened them, seen(name): the ids of these processes)."""
    def marked(name, split):
        def image(index):
            (tmp_path / name / str(os.getpid())).touch()
            return split.image(index)
        (tmp_path / name).mkdir()
        return dataclasses.replace(split, image=image)
    tasks = {name: dataclasses.replace(task, splits={"test": marked(name, task.split("test"))})
             for name, task in three_tasks.items()}
    return tasks, lambda name: {int(path.name) for path in (tmp_path / name).iterdir()}


def test_several_datasets_share_their_workers_and_score_as_one_at_a_time(make_model, seen_by, device):
    model, (tasks, seen) = make_model("vit", seed=3), seen_by
    classifiers = {name: classifier(model, task, device) for name, task in tasks.items()}
    spaces = {name: {"task": (name,), "all": tuple(tasks)} for name in tasks}
    found = list(evaluate_each(model, tasks, device, classifiers, spaces, batch_size=4,
                               workers={"one": 2, "two": 0, "three": 2}))
    assert seen("one") == seen("three") and len(seen("one")) == 2
    assert seen("two") == {os.getpid()} and os.getpid() not in seen("one")
    assert found == [evaluation.evaluate(model, task, device, batch_size=4, classifiers=classifiers,
                                         spaces=spaces[name], name=name) for name, task in tasks.items()]
    assert len({scores["task"].top1 for scores in found}) > 1, "the comparison means something"


def test_decoded_images_are_read_without_workers(make_model, seen_by, device, tmp_path, monkeypatch):
    model, (tasks, seen), pools, joined = make_model("vit", seed=3), seen_by, [], evaluation.joined_evaluation_batches
    monkeypatch.setattr(evaluation, "joined_evaluation_batches", lambda parts, batch_size, workers: (
        pools.append((len(parts), workers)) or joined(parts, batch_size, workers)))
    classifiers = {name: classifier(model, task, device) for name, task in tasks.items()}
    spaces = {name: {"task": (name,)} for name in tasks}
    options = {"batch_size": 4, "workers": dict.fromkeys(tasks, 1)}
    plain = list(evaluate_each(model, tasks, device, classifiers, spaces, **options))
    first = seen("one")
    for name, task in tasks.items():
        splits = {part: dataclasses.replace(split, content=lambda name=name: name, in_memory=False)
                  for part, split in task.splits.items()}
        tasks[name] = dataclasses.replace(task, splits=splits, in_memory=False)
    kept = [list(evaluate_each(model, tasks, device, classifiers, spaces, cache=ImageCache(tmp_path), **options))
            for _ in range(2)]
    assert plain == kept[0] == kept[1] and pools == [(3, 1)] * 3
    assert len(first) == 1 and len(seen("one")) == 2, "by a worker each of the first two times"
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".npy"] * 3


def test_a_dataset_without_a_label_space_is_not_read(make_model, seen_by, device):
    model, (tasks, seen) = make_model("vit"), seen_by
    classifiers = {name: classifier(model, task, device) for name, task in tasks.items()}
    spaces = {name: {"seen": ("one", "three")} for name in tasks}
    found = list(evaluate_each(model, tasks, device, classifiers, spaces))
    assert list(map(list, found)) == [["seen"], [], ["seen"]] and seen("two") == set()


def test_what_happens_between_two_datasets_is_as_it_was_before(make_model, three_tasks, device):
    """The training loop continues between them, with gradients and in training mode."""
    model = make_model("resnet")
    set_training(model, "train")
    classifiers = {name: classifier(model, task, device) for name, task in three_tasks.items()}
    for _ in evaluate_each(model, three_tasks, device, classifiers, {name: {"task": (name,)} for name in three_tasks}):
        assert torch.is_grad_enabled() and model.visual.bn1.training


# -- classifiers that are kept -----------------------------------------------------------------------------------------


def test_evaluation_runs_compiled_as_a_frozen_model_does(make_model):
    """And uncompiled with gradient, or where a module has a place in a block; what trains trains again behind it."""
    model, compiled, images = make_model("vit").train(), [], torch.zeros(2, 3, 16, 16, dtype=torch.float64)
    trained = [parameter.requires_grad for parameter in model.parameters()]

    def backend(module, inputs):
        compiled.append(module)
        return module.forward
    compile_image_tower(model, backend)
    block = model.visual.transformer.resblocks[0]
    try:
        with in_eval_mode(model):
            model.encode_image(images)
        with in_eval_mode(model), torch.no_grad():
            model.encode_image(images)
        with torch.no_grad():
            vars(block)["beside"] = torch.nn.Identity()
            with in_eval_mode(model):
                model.encode_image(images)
            del vars(block)["beside"]
            assert not compiled
            for one in (model, frozen_copy(model)):
                compile_image_tower(one, backend)
                with in_eval_mode(one):
                    one.encode_image(images)
        assert len(compiled) == 1
        assert [parameter.requires_grad for parameter in model.parameters()] == trained
        model.encode_image(images)
        assert len(compiled) == 2
    finally:
        torch._dynamo.reset()


@pytest.mark.parametrize("spaces", [{"task": ("tiny",)}, {"all": ("other", "tiny")}], ids=str)
def test_predictions_equal_the_slow_rendering_image_by_image(spaces, kind, make_model, make_task, task, device):
    """Softmax and ranks of one image at a time; pandas counts the classes, which have 1 to 9 images."""
    model, task = make_model(kind), seven_classes(task)
    other = dataclasses.replace(make_task(2, "other"), classnames=("ship", "lamp"))  # no name of the task's
    labels = [min(6, index // 4) if index else 3 for index in range(31)]
    split = dataclasses.replace(task.split("test"), labels=labels, files=[f"{index}.png" for index in range(31)])
    task = dataclasses.replace(task, splits={**task.splits, "test": split})
    tasks, kept = {"tiny": task, "other": other}, {}
    classifiers = {name: classifier(model, found, device) for name, found in tasks.items()}
    found = next(evaluate_each(model, {"tiny": task}, device, classifiers, {"tiny": spaces}, batch_size=7,
                               keep=lambda name, space, images: kept.update({(name, space): images})))
    (space, parts), predicted = next(iter(spaces.items())), kept.pop(("tiny", next(iter(spaces))))
    weights = [row for part in parts for row in slow_weights(model, tasks[part].classnames, tasks[part].templates)]
    owners = [(part, number) for part in parts for number in range(len(tasks[part].classnames))]
    first, scale = owners.index(("tiny", 0)), model.logit_scale.exp()
    assert not kept and predicted.places == list(range(31)) and predicted.labels == labels
    for index in range(31):
        feature = image_features(model, pixels(device, [split.image(index)]))[0]
        logits = torch.stack([scale * feature @ weight for weight in weights]).detach()
        best, own = int(logits.argmax()), first + labels[index]
        assert predicted.predictions[index] == owners[best]
        assert predicted.probabilities[index] == pytest.approx(float(logits.softmax(0)[best]), rel=1e-9)
        assert predicted.losses[index] == pytest.approx(-float(logits.softmax(0)[own].log()), rel=1e-9)
        assert predicted.ranks[index] == 1 + int((logits > logits[own]).sum())
    table = pandas.DataFrame({"label": labels, "hit": [rank == 1 for rank in predicted.ranks]}).groupby("label")["hit"]
    assert predicted.hits == [int(table.sum().get(label, 0)) for label in range(7)]
    assert predicted.support == [int(table.count().get(label, 0)) for label in range(7)]
    assert found[space].per_class == pytest.approx(100 * table.mean().mean(), rel=1e-12)


def test_predictions_of_a_subset_have_the_numbers_of_the_whole_split(make_model, task, device):
    model, task, kept = make_model("vit"), seven_classes(task), []
    whole = task.split("test")
    chosen = balanced_subset(whole.labels, 9, SUBSET_SEED)
    next(evaluate_each(model, {"tiny": task}, device, {"tiny": classifier(model, task, device)},
                       {"tiny": {"task": ("tiny",)}}, batch_size=4, max_size=9,
                       keep=lambda name, space, images: kept.append(images)))
    predicted, = kept
    assert predicted.places == list(chosen) != list(range(9)) and len(predicted.images) == len(whole)
    assert predicted.labels == [whole.labels[number] for number in chosen]


def test_the_mean_over_classes_weighs_each_the_same():
    """One class of 90 of 100 images hides nothing: (100 + 0 + 50) / 3; a class without images does not count."""
    assert mean_per_class([90, 0, 4, 0], [90, 2, 8, 0]) == pytest.approx(50.0)


# -- features that are kept --------------------------------------------------------------------------------------------


def kept_split(model, task, device, method=None, spaces=None, classifiers=None):
    """-> ({space: Scores}, KeptSplit)"""
    kept = {}
    classifiers = classifiers or {task.name: classifier(model, task, device)}
    found = next(evaluate_each(model, {task.name: task}, device, classifiers,
                               {task.name: spaces or {"task": (task.name,)}}, batch_size=7, max_size=20, method=method,
                               keep_rows=kept.__setitem__))
    return found, kept[task.name]


def test_kept_features_are_those_that_are_scored(kind, make_model, task, device):
    """With the numbers of the images in their split, and the ranks behind the hits."""
    model = make_model(kind)
    found, kept = kept_split(model, task, device)
    assert kept.places.tolist() == balanced_subset(task.split("test").labels, 20, SUBSET_SEED)
    assert kept.labels.tolist() == [task.split("test").labels[place] for place in kept.places]
    images = pixels(device, [task.split("test").image(place) for place in kept.places])
    expected = torch.stack([slow.image_feature(model, image) for image in images]).detach()
    assert kept.features.dtype == torch.float16
    torch.testing.assert_close(kept.features.double(), expected, atol=2 ** -11, rtol=0)
    assert 100 * (kept.ranks["task"] == 1).double().mean().item() == pytest.approx(found["task"].top1)
    assert torch.equal(kept.best["task"][:, 0] == kept.labels, kept.ranks["task"] == 1)


def test_exact_features_give_the_scores_again(make_model, make_task, device, monkeypatch):
    """To the last digit, in a label space of two datasets too; fp16 ones within the share of an image or two."""
    model, two = make_model("vit"), make_task(4, "two")
    one = dataclasses.replace(make_task(3, "one"), classnames=["a drawing", "photo", "small house"])  # no equal names
    classifiers = {task.name: classifier(model, task, device) for task in (one, two)}
    spaces = {"task": ("two",), "all": ("one", "two")}

    def again():
        found, kept = kept_split(model, two, device, None, spaces, classifiers)
        split = Split(None, kept.labels.tolist())
        return found, evaluation.evaluate_features(
            model, "two", split, kept.places.tolist(), kept.features.to(device.weight_type), device, classifiers,
            spaces, batch_size=6)
    found, close = again()
    assert all(abs(close[space].top1 - found[space].top1) <= 10 for space in spaces)
    monkeypatch.setattr("src.models.features.STORED", torch.float64)
    found, exact = again()
    assert exact == found and found["all"].top1 < found["task"].top1


def test_a_method_that_encodes_other_images_keeps_no_features(make_model, task, device):
    """Half of the batch is encoded: the features of the others are not known."""
    model = make_model("vit")

    def method(images, spaces):
        features = image_features(model, images[::2]).repeat_interleave(2, dim=0)[:len(images)]
        return {"task": features @ spaces["task"][0].weights}
    assert evaluate(model, task, device, method=method)
    with pytest.raises(UserError, match="--keep-features: the method encodes other images"):
        kept_split(model, task, device, method)
