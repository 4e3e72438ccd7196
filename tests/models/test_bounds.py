"""Class means and ridge regression on frozen features, in float64, against loops over images and scikit-learn."""

import numpy as np
import pytest
import slow_reference as slow
import torch
from conftest import random_images, tiny_clip
from sklearn.linear_model import Ridge

from src.datasets.common import Split, Task
from src.datasets.transforms import EvalTransform
from src.machine.batch import Batch
from src.models.bounds import ClassMeans, FrozenRidge
from src.models.classifiers import classifier
from src.models.training import train

CLASSES = {"first": ("cat", "red bird", "dog"), "second": ("car", "small blue house"), "third": ("blue", "drawing")}


@pytest.fixture
def tasks():
    """Of "first" no training image is a dog."""
    found = {}
    for seed, (name, classnames) in enumerate(CLASSES.items()):
        splits = {part: Split(random_images(11, 10 * seed + number).__getitem__,
                              [index % 2 for index in range(11)]) for number, part in enumerate(("train", "test"))}
        found[name] = Task(name, classnames, ("a photo of a {c}.",), splits, in_memory=True)
    return found


@pytest.fixture
def model():
    return tiny_clip("vit")


@torch.no_grad()
def features_of(task, split, model, device):
    """(N, D): unit features, image by image."""
    part, transform = task.split(split), EvalTransform(model.image_resolution)
    images = [device.batch(Batch(transform(part.image(index))[None], torch.zeros(1, dtype=torch.long))).images[0]
              for index in range(len(part))]
    return torch.stack([slow.image_feature(model, image) for image in images]), torch.stack(images)


@pytest.fixture
def score(make_state, tasks, model, device):
    """-> score(hook, name): once "first" and "second" are trained, scores of a task's test images."""
    classes = {name: classifier(model, task, device).named(name, name).classes for name, task in tasks.items()}

    @torch.no_grad()
    def call(hook, name):
        for trained in ("first", "second"):
            state = make_state(model)
            state.task = tasks[trained]
            train(state, [hook])
        images = features_of(tasks[name], "test", model, device)[1]
        return hook.scores(state, images, {"task": [classes[name]], "all": [*classes.values()]})
    return call


def test_class_means(score, tasks, model, device):
    features, _ = features_of(tasks["first"], "train", model, device)
    means = [features[number::2].mean(dim=0) for number in range(2)]
    test, _ = features_of(tasks["first"], "test", model, device)
    expected = [[100 * torch.dot(row, slow.unit(mean)) for mean in means] + [torch.tensor(0.0)] for row in test]
    torch.testing.assert_close(score(ClassMeans(), "first")["task"], torch.tensor(expected, dtype=torch.float64),
                               rtol=0, atol=1e-10)


def test_ridge_on_features(score, tasks, model, device):
    rows = [features_of(tasks[name], "train", model, device)[0] for name in ("first", "second")]
    targets = np.zeros((22, 5))
    targets[np.arange(11), np.arange(11) % 2] = targets[11 + np.arange(11), 3 + np.arange(11) % 2] = 1
    peer = Ridge(alpha=0.7, fit_intercept=False).fit(torch.cat(rows), targets)
    for name, (first, last) in {"first": (0, 3), "second": (3, 5)}.items():
        expected = peer.predict(features_of(tasks[name], "test", model, device)[0])[:, first:last]
        torch.testing.assert_close(score(FrozenRidge(0.7), name)["task"], torch.from_numpy(expected), rtol=0,
                                   atol=1e-10)


@pytest.mark.parametrize("kind", [ClassMeans, FrozenRidge])
def test_zero_shot_clip_decides_which_images_are_of_trained_classes(score, tasks, model, device, kind):
    """An image of theirs has no score in untrained ones; any other has zero-shot probabilities."""
    texts = torch.cat([classifier(model, task, device).classes.weights for task in tasks.values()], dim=1)
    trained = 0
    for name in CLASSES:
        test, _ = features_of(tasks[name], "test", model, device)
        found, cosines = score(kind(), name)["all"], test @ texts
        chosen = cosines.argmax(dim=1) < 5
        trained += int(chosen.sum())
        assert found[chosen, 5:].eq(-torch.inf).all() and found[chosen, :5].isfinite().all()
        torch.testing.assert_close(found[~chosen], (100 * cosines).softmax(dim=1)[~chosen], rtol=0, atol=1e-10)
    assert 0 < trained < 33


@pytest.mark.parametrize("kind", [ClassMeans, FrozenRidge])
def test_untrained_datasets_have_zero_shot_logits_to_the_bit(score, tasks, model, device, kind):
    found = score(kind(), "third")["task"]
    with torch.no_grad():
        features = torch.nn.functional.normalize(
            model.encode_image(features_of(tasks["third"], "test", model, device)[1]), dim=-1)
        assert torch.equal(found, classifier(model, tasks["third"], device)(features, model.logit_scale.exp()))
