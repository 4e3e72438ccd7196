"""Features of a split."""

import dataclasses
import threading

import pytest
import slow_reference as slow
import torch
from slow_zeroshot import pixels

from src.machine.batch import Batch
from src.machine.distributed import World
from src.models import features as module
from src.models.features import KeptRows, encode_split, features_as_images, recorded
from src.models.modeling import image_features


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


def test_what_a_model_encodes_is_recorded_and_replaced_for_a_time(make_model):
    model, images = make_model("vit"), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    plain = model.encode_image(images)
    with recorded(model) as seen:
        assert torch.equal(model.encode_image(images), plain)
    assert len(seen) == 1 and torch.equal(seen[0], plain)
    with features_as_images(model):
        torch.testing.assert_close(image_features(model, 5 * plain), image_features(model, plain))
    assert torch.equal(model.encode_image(images), plain) and len(seen) == 1


# -- rows that are kept ------------------------------------------------------------------------------------------------

FEATURES = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).half()
SCORES = torch.tensor([[3., 1, 2], [1, 1, 0], [0, 0, 0], [5, 6, 7], [2, 2, 2], [1, 0, 4], [0, 9, 9]])
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2])
RANKS_AND_BEST = [[1, 0, 2], [2, 0, 1], [3, 0, 1], [3, 2, 1], [2, 0, 1], [1, 2, 0], [2, 1, 2]]  # equal ones by number


class Both:
    """Two processes in two threads: ``sum`` waits for the other."""

    def __init__(self, rank, given, barrier):
        self.rank, self.size, self.given, self.barrier = rank, 2, given, barrier

    def sum(self, tensor):
        self.given[self.rank] = tensor
        self.barrier.wait(timeout=300)
        total = self.given[0] + self.given[1]
        self.barrier.wait(timeout=300)
        return total


def kept(world, missing=(), size=7):
    """What KeptRows has of a share of the seven images, two at a time, without those that cannot be decoded."""
    rows, own = KeptRows(size, 3, {"task": 2}, torch.device("cpu"), world), range(world.rank, size, world.size)
    pairs = [(place, image) for place, image in enumerate(own) if image not in missing]
    for pair in (pairs[first:first + 2] for first in range(0, len(pairs), 2)):
        places, images = map(list, zip(*pair, strict=True))
        batch = Batch(None, LABELS[images], indices=torch.tensor(places))
        rows.add(batch, FEATURES[images], {"task": SCORES[images]}, {"task": LABELS[images]})
    return rows.whole()


@pytest.mark.parametrize("missing", [(), (2, 3)])
def test_ranks_and_best_classes_by_hand(missing):
    positions, columns = kept(World(), missing)
    left = [image for image in range(7) if image not in missing]
    assert positions.tolist() == left and torch.equal(columns["features"], FEATURES[left])
    assert columns["task"].tolist() == [RANKS_AND_BEST[image] for image in left]


@pytest.mark.parametrize("missing, size", [((), 7), ((1, 4), 7), ((), 1)])
def test_two_processes_keep_the_rows_of_one(missing, size, monkeypatch):
    """In blocks of three rows; where there is a single image the second process has none."""
    monkeypatch.setattr(module, "BLOCK", 9)
    given, barrier, found = [None, None], threading.Barrier(2), [None, None]

    def run(rank):
        found[rank] = kept(Both(rank, given, barrier), missing, size)
    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    positions, columns = kept(World(), missing, size)
    for other_positions, other in found:
        assert torch.equal(other_positions, positions)
        assert all(torch.equal(other[name], columns[name]) for name in columns)
