"""Linear evaluation against a slow rendering, cached and not, on one process and on several simulated ones."""

import copy
import dataclasses
import math
import threading

import pytest
import slow_reference as slow
import torch
from conftest import TEXT, VISION

import clip
from clip.model import CLIP
from src.datasets.common import Split, Task
from src.datasets.seeds import order_of_epoch, seed_of
from src.datasets.splits import tolerant
from src.datasets.toy import open_toy
from src.datasets.transforms import AugmentTransform, EvalTransform
from src.errors import UserError
from src.machine.device import Device
from src.models import linear_probe
from src.models.evaluation import Scores
from src.models.linear_probe import linear_evaluation, score_head, train_head
from src.models.modeling import set_training

SHORT = 18  # 16 * 256 / 224, rounded
RECIPE = {"epochs": 4, "lr": 0.3, "wd": 0.1, "batch_size": 5, "seed": 7}


@pytest.fixture
def without_augmentation(monkeypatch):
    class Plain(EvalTransform):
        def __init__(self, resolution):
            super().__init__(resolution, SHORT)
    monkeypatch.setattr(linear_probe, "AugmentTransform", Plain)


@pytest.fixture
def tower_calls(monkeypatch):
    """-> watch(model): the batch sizes that its image tower is given."""
    def watch(model):
        sizes, encode = [], model.encode_image

        def encode_image(images):
            sizes.append(len(images))
            features = encode(images)
            assert not features.requires_grad and not torch.is_grad_enabled()
            assert not any(module.training for module in model.modules())
            return features
        monkeypatch.setattr(model, "encode_image", encode_image)
        return sizes
    return watch


@torch.no_grad()
def feature(model, device, image, transform, seed=None):
    return model.encode_image(device.images(transform(image, seed)[None]))[0]


def slow_head(feature_of, labels, classes, width, epochs, lr, wd, batch_size, seed):
    """(weight, bias) as lists of floats: every product, gradient and update of SGD by itself.
    ``feature_of(epoch, row)`` is a list."""
    generator = torch.Generator().manual_seed(seed_of(seed, "weights"))
    start = torch.randn(classes, width, generator=generator, dtype=torch.float64).tolist()
    table = [[0.01 * value for value in row] + [0.0] for row in start]              # the bias is the last column
    momentum = [[0.0] * (width + 1) for _ in range(classes)]
    for epoch in range(epochs):
        rate = lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        order = order_of_epoch(len(labels), seed, epoch)
        for first in range(0, len(order), batch_size):
            rows = order[first:first + batch_size]
            gradient = [[0.0] * (width + 1) for _ in range(classes)]
            for row in rows:
                inputs = [*feature_of(epoch, row), 1.0]
                scores = [math.fsum(w * x for w, x in zip(line, inputs, strict=True)) for line in table]
                total = math.fsum(math.exp(score - max(scores)) for score in scores)
                for number, score in enumerate(scores):
                    error = math.exp(score - max(scores)) / total - (number == labels[row])
                    for column, x in enumerate(inputs):
                        gradient[number][column] += error * x / len(rows)
            for number in range(classes):
                for column in range(width + 1):
                    decayed = gradient[number][column] + wd * table[number][column]
                    momentum[number][column] = 0.9 * momentum[number][column] + decayed
                    table[number][column] -= rate * momentum[number][column]
    return torch.tensor(table, dtype=torch.float64)


@pytest.mark.parametrize("cached", [True, False])
def test_the_whole_training_equals_the_slow_rendering(kind, cached, make_model, task, device):
    model, split = make_model(kind), task.split("train")
    if cached:
        rows = [feature(model, device, split.image(row), EvalTransform(16, SHORT)) for row in range(len(split))]
        assert min((row.norm() - 1).abs() for row in rows) > 0.01  # they are not normalised

        def feature_of(epoch, row):
            return rows[row].tolist()
    else:
        def feature_of(epoch, row):
            return feature(model, device, split.image(row), AugmentTransform(16), seed_of(7, epoch, row)).tolist()
    head = train_head(model, split, 4, device, cache_features=cached, **RECIPE)
    expected = slow_head(feature_of, split.labels, 4, 8, **RECIPE)                  # 23 images: 5, 5, 5, 5, 3
    assert (head.weight.detach().norm(dim=1) > 0.05).all()  # it has moved
    torch.testing.assert_close(head.packed(), expected, rtol=1e-9, atol=1e-12)


def test_scores_equal_one_image_at_a_time(kind, make_model, task, device):
    """Seven classes, so that top-5 is less than everything; 31 images in batches of 5 leave one."""
    split = task.split("test")
    task = dataclasses.replace(task, classnames="abcdefg", splits={
        "train": task.split("train"), "test": Split(split.image, [index * 5 % 7 for index in range(31)])})
    model = make_model(kind)
    scores = linear_evaluation(model, task, device, **RECIPE)
    head = train_head(model, task.split("train"), 7, device, **{
        **RECIPE, "seed": seed_of(7, "tiny", "linear evaluation")})
    ranks = []
    for index, label in enumerate(task.split("test").labels):
        inputs = feature(model, device, split.image(index), EvalTransform(16, SHORT))
        ranks.append(slow.rank_of([line[:-1] @ inputs + line[-1] for line in head.packed()], label))
    expected = [100 * sum(rank < k for rank in ranks) / 31 for k in (1, 5)]
    labels = task.split("test").labels
    shares = [sum(rank < 1 for rank, own in zip(ranks, labels, strict=True) if own == label) / labels.count(label)
              for label in range(7)]
    assert scores == Scores(pytest.approx(expected[0]), pytest.approx(expected[1]), 5, 31,
                            per_class=pytest.approx(100 * sum(shares) / 7))
    assert 0 < expected[0] < expected[1] < 100


def test_cached_equals_uncached_without_augmentation(kind, make_model, task, device, without_augmentation):
    model, heads, lines = make_model(kind), [], {True: [], False: []}
    for cached, log in lines.items():
        heads.append(train_head(model, task.split("train"), 4, device, cache_features=cached, log=log.append, **RECIPE))
    torch.testing.assert_close(heads[0].packed(), heads[1].packed(), rtol=1e-10, atol=1e-13)
    assert [line["loss"] for line in lines[True]] == pytest.approx([line["loss"] for line in lines[False]], rel=1e-10)
    assert [line["lr"] for line in lines[True]] == pytest.approx([0.3, 0.2560660171779821, 0.15, 0.04393398282201787])
    assert [line["epoch"] for line in lines[True]] == [0, 1, 2, 3]
    scores = [linear_evaluation(model, task, device, cache_features=cached, **RECIPE) for cached in (True, False)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("cached", [True, False])
def test_how_often_the_tower_is_called(cached, make_model, task, device, tower_calls):
    model = make_model("vit")
    sizes = tower_calls(model)
    scores = linear_evaluation(model, task, device, cache_features=cached, **RECIPE)
    assert sizes == [5, 5, 5, 5, 3] * (1 if cached else 4) + [5, 5, 5, 5, 5, 5, 1]
    assert scores.n == 31 and scores.k == 4 and scores.top5 == 100


@pytest.mark.parametrize("cached", [True, False])
def test_the_model_stays_bit_for_bit(kind, cached, make_model, task, device, tower_calls):
    model = make_model(kind)
    set_training(model, "eval")  # training flags that differ from module to module
    model.visual.requires_grad_(True), model.transformer.requires_grad_(False)
    flags = [module.training for module in model.modules()], [value.requires_grad for value in model.parameters()]
    weights, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert tower_calls(model) == []  # from here on each call is looked at
    linear_evaluation(model, task, device, cache_features=cached, **RECIPE)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
    assert flags == ([module.training for module in model.modules()],
                     [value.requires_grad for value in model.parameters()])
    assert torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("cached", [True, False])
def test_seeds_decide_and_nothing_else(cached, make_model, task, device):
    def head(seed):
        return train_head(make_model("vit"), task.split("train"), 4, device, cache_features=cached,
                          **{**RECIPE, "seed": seed}).packed()
    first = head(1)
    torch.randn(3)
    assert torch.equal(first, head(1)) and not torch.equal(first, head(2))


def test_worker_processes_change_no_bit(make_model, task, device):
    heads = [train_head(make_model("vit"), task.split("train"), 4, device, workers=workers, **{**RECIPE, "epochs": 2})
             for workers in (0, 2)]
    assert torch.equal(heads[0].packed(), heads[1].packed())


@pytest.mark.parametrize("width", [8, 12])
def test_the_layer_starts_as_published_at_the_models_width(width, task, device):
    model = CLIP(**{**TEXT, "embed_dim": width}, **VISION["vit"]).double()
    head = train_head(model, task.split("train"), 1000, device, epochs=0)
    assert head.weight.shape == (1000, width) and not head.bias.any()
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.03) and head.weight.mean().abs() < 5e-4
    single = train_head(model.float(), task.split("train"), 1000, Device("cpu", "fp32"), epochs=0)
    assert torch.equal(single.weight, head.weight.float())  # the same start in every precision


def test_in_half_precision_only_the_tower_is(make_model, task):
    device, model = Device("cpu", "bf16"), make_model("vit", dtype=torch.float32)
    head = train_head(model, task.split("train"), 4, device, **RECIPE)
    assert head.weight.dtype == torch.float32 and score_head(model, head, task.split("test"), device).n == 31


# -- shares and splits -------------------------------------------------------------------------------------------------


@pytest.fixture
def chosen(monkeypatch, make_model, device):
    """-> indices of a task's 1010 images (class c has 100 + 10 (c == 9) of them) that the training is given."""
    labels = [min(index % 101 // 10, 9) for index in range(1010)]
    train = Split(lambda index: None, labels, [str(index) for index in range(1010)])
    seen = []
    monkeypatch.setattr(linear_probe, "train_head", lambda model, split, *rest: seen.append(split))
    monkeypatch.setattr(linear_probe, "score_head", lambda *rest: None)

    def choose(percent, seed=42):
        linear_evaluation(None, Task("t", "0123456789", (), {"train": train, "test": train}), None, percent=percent,
                          seed=seed)
        files = [int(name) for name in seen[-1].files]
        assert seen[-1].labels == [labels[index] for index in files]
        return files, [seen[-1].labels.count(number) for number in range(10)]
    return choose


def test_shares_are_balanced_seeded_and_nested(chosen):
    (everything, _), (ten, tens), (one, ones) = chosen(100), chosen(10), chosen(1)
    assert everything == list(range(1010))
    assert sorted(tens) == [10] * 9 + [11] and ones == [1] * 10
    assert set(one) < set(ten) and ten == sorted(ten)
    assert chosen(10)[0] == ten and chosen(10, seed=1)[0] != ten


def test_every_class_keeps_an_image(monkeypatch, make_model, task, device):
    kept = []
    monkeypatch.setattr(linear_probe, "train_head", lambda model, split, *rest: kept.extend(split.labels))
    monkeypatch.setattr(linear_probe, "score_head", lambda *rest: None)
    linear_evaluation(make_model("vit"), task, device, percent=1)
    assert sorted(kept) == [0, 1, 2, 3]


@pytest.mark.parametrize("percent", [0, 50, 1000])
def test_other_shares_are_refused(percent, make_model, task, device):
    with pytest.raises(UserError, match=f"--linear-percent {percent}: give one of 100, 10, 1"):
        linear_evaluation(make_model("vit"), task, device, percent=percent)


def test_which_images_are_scored(make_model, task, device):
    model, recipe = make_model("vit"), {**RECIPE, "epochs": 1, "cache_features": True}
    assert linear_evaluation(model, task, device, **recipe).n == 31
    assert linear_evaluation(model, task, device, split="val", **recipe).n == 6
    lacking = dataclasses.replace(task, splits={name: task.splits[name] for name in ("train", "val")})
    assert linear_evaluation(model, lacking, device, **recipe).n == 6
    with pytest.raises(UserError, match="tiny has no ood split"):
        linear_evaluation(model, task, device, split="ood", **recipe)


def with_bad_images(task, positions):
    """The task, tolerant, with images at these positions of each split that cannot be decoded."""
    def damaged(split):
        def image(index):
            if index in positions:
                raise UserError("cannot be decoded")
            return split.image(index)
        return dataclasses.replace(split, image=image)
    return tolerant(dataclasses.replace(task, splits={name: damaged(split) for name, split in task.splits.items()}))


def test_images_that_cannot_be_decoded_count_nowhere(make_model, task, device, without_augmentation):
    model, split = make_model("vit"), with_bad_images(task, (3, 22)).split("train")
    heads, lines = [], []
    for cached in (True, False):
        heads.append(train_head(model, split, 4, device, cache_features=cached, log=lines.append, **RECIPE).packed())
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-10, atol=1e-13)
    assert lines[0]["loss"] == pytest.approx(lines[4]["loss"], rel=1e-10)
    assert not torch.equal(heads[0], train_head(model, task.split("train"), 4, device, **RECIPE).packed())
    assert linear_evaluation(model, with_bad_images(task, (3, 22)), device, **RECIPE).n == 29


# -- several processes -------------------------------------------------------------------------------------------------


class ThreadWorld:
    """One of several threads that meet at each sum."""

    def __init__(self, rank, board, barrier):
        self.rank, self.size, self.board, self.barrier = rank, len(board), board, barrier

    def sum(self, tensor):
        self.board[self.rank] = tensor.detach().clone()
        self.barrier.wait(timeout=300)
        total = sum(self.board)
        self.barrier.wait(timeout=300)  # no process writes before all have read
        return total

    def average_gradients(self, module):
        for value in module.parameters():
            value.grad = self.sum(value.grad) / self.size


def on_ranks(size, work):
    """[work(world)] of each rank, run at once."""
    board, barrier, results, errors = [None] * size, threading.Barrier(size), [None] * size, []

    def run(rank):
        try:
            results[rank] = work(ThreadWorld(rank, board, barrier))
        except Exception as error:
            errors.append(error)
            barrier.abort()
    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(("size", "batch_size"), [(2, 4), (2, 22), (3, 6), (3, 60)])
def test_several_processes_equal_one(size, batch_size, cached, make_model, task, device):
    """23 images: shares of unequal size, with batches of 22 also an empty one. One process logs, the others do not."""
    recipe = {**RECIPE, "batch_size": batch_size, "cache_features": cached}
    bad = (4,) if batch_size == 60 else ()  # in small shares it may be alone, which is an error
    task = with_bad_images(task, bad)
    models = [make_model("vit") for _ in range(size)]  # not in the threads, whose global generator is one

    def work(world, log=None):
        model = models[world.rank if world else 0]
        head = train_head(model, task.split("train"), 4, device, world=world, log=log, **recipe)
        return head.packed(), linear_evaluation(model, task, device, world=world, **recipe)
    alone, together = [], []
    head, scores = work(None, alone.append)
    for other, others in on_ranks(size, lambda world: work(world, None if world.rank else together.append)):
        torch.testing.assert_close(other, head, rtol=1e-10, atol=1e-13)
        assert others == scores
    assert [line["loss"] for line in together] == pytest.approx([line["loss"] for line in alone], rel=1e-10)
    assert len(together) == 4 and scores.n == 31 - len(bad)


def test_each_image_is_encoded_by_one_process(make_model, task, device, tower_calls):
    models = [make_model("vit"), make_model("vit")]
    sizes = [tower_calls(model) for model in models]
    on_ranks(2, lambda world: linear_evaluation(models[world.rank], task, device, cache_features=True, world=world,
                                                **{**RECIPE, "batch_size": 8}))
    assert sizes == [[4, 4, 4] + [4, 4, 4, 4], [4, 4, 3] + [4, 4, 4, 3]]


def test_a_batch_that_cannot_be_shared_is_refused(make_model, task, device):
    world = ThreadWorld(0, [None, None], None)
    with pytest.raises(UserError, match="--linear-batch-size 5 must divide by the number of processes, 2"):
        train_head(make_model("vit"), task.split("train"), 4, device, batch_size=5, world=world)


# -- it learns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_toy_model_tells_shapes_apart(cached):
    model, task = clip.load("toy")[0], open_toy("toy-shapes", "")
    scores = linear_evaluation(model, task, Device("cpu", "fp32"), epochs=5, lr=0.03, cache_features=cached)
    assert scores.n == 504 and scores.top1 >= 5 * 100 / len(task.classnames)
