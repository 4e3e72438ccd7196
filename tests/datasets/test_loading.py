"""Streams: functions of their seed alone, whatever the number of workers."""

import collections
import multiprocessing
import os
import subprocess

import pytest
import slow_reference as slow
import torch

from src.datasets.common import Split, Task
from src.datasets.loading import (
    CaptionedSplit,
    SeededBatches,
    TransformedSplit,
    _loader,
    batches_per_epoch,
    evaluation_batches,
    joined_evaluation_batches,
    rest_of_epoch,
    steps_per_epoch,
    training_batches,
    worker_count,
)
from src.datasets.seeds import order_of_epoch
from src.datasets.transforms import EvalTransform, TrainTransform
from src.errors import UserError
from src.machine.batch import Batch
from src.machine.interruption import HEARD


def batches(size, batch_size, start, stop, seed=7):
    return list(SeededBatches(size, batch_size, seed, start, stop))


@pytest.mark.parametrize("size, batch_size, count, left", [
    (12, 4, 3, 0), (11, 4, 2, 3), (9, 4, 2, 1), (4, 4, 1, 0), (3, 4, 1, 0), (1, 64, 1, 0)])
def test_batches_per_epoch_are_full_ones_and_at_least_one(size, batch_size, count, left):
    """The rest is one more where the task trains on classes."""
    assert batches_per_epoch(size, batch_size) == count
    assert batches_per_epoch(size, batch_size, rest=True) == count + bool(left)
    for pairs in (False, True):
        opened = Task("t", ["a"], ["{c}"], {"train": Split(None, [0] * size)}, pairs=pairs)
        assert steps_per_epoch(opened, batch_size) == count + (bool(left) and not pairs)
        assert rest_of_epoch(opened, batch_size) == (0 if pairs else left)
        assert steps_per_epoch(opened, batch_size, last_batch="drop") == count
        assert rest_of_epoch(opened, batch_size, last_batch="drop") == 0


@pytest.mark.parametrize("size, steps", [(1020, 16), (1880, 30), (3334, 53)])
def test_an_epoch_has_the_published_number_of_steps(size, steps):
    """Flowers, DTD and Aircraft in batches of 64."""
    assert batches_per_epoch(size, 64, rest=True) == steps


@pytest.mark.parametrize("size, batch_size", [(11, 4), (12, 4), (9, 4), (47, 10), (3, 8), (5, 1), (1, 1)])
def test_with_the_rest_each_image_comes_once_an_epoch(size, batch_size):
    per_epoch, orders = len(range(0, size, batch_size)), []
    order = SeededBatches(size, batch_size, 7, 0, 3 * per_epoch, rest=True)
    drawn = list(order)
    for epoch in range(3):
        these = drawn[epoch * per_epoch:(epoch + 1) * per_epoch]
        assert [len(batch) for batch in these[:-1]] == [batch_size] * (per_epoch - 1)
        assert sorted(index for batch in these for _, index in batch) == list(range(size))
        assert {number for batch in these for number, _ in batch} == {epoch}
        orders.append([index for batch in these for _, index in batch])
    assert orders == [order_of_epoch(size, 7, epoch) for epoch in range(3)]
    assert [order.rows(step) for step in range(len(drawn))] == list(map(len, drawn))
    for start in range(len(drawn)):
        assert list(SeededBatches(size, batch_size, 7, start, len(drawn), rest=True)) == drawn[start:]


@pytest.mark.parametrize("processes", [2, 3, 4, 8])
@pytest.mark.parametrize("size, batch_size", [(23, 8), (25, 24), (31, 24), (5, 24), (1, 24)])
def test_processes_share_the_rest(size, batch_size, processes):
    """In the order of their ranks; the first have at most one row more than the last."""
    steps = 2 * len(range(0, size, batch_size))
    parts = [list(SeededBatches(size, batch_size, 7, 0, steps, (rank, processes), rest=True))
             for rank in range(processes)]
    whole = list(SeededBatches(size, batch_size, 7, 0, steps, rest=True))
    assert [sum(rows, []) for rows in zip(*parts, strict=True)] == whole
    for rows in zip(*parts, strict=True):
        counts = list(map(len, rows))
        assert counts == sorted(counts, reverse=True) and counts[0] - counts[-1] <= 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_share_without_a_row_is_an_empty_batch(workers, task):
    """23 images in batches of 22, for the second of two processes."""
    loaded = list(training_batches(task.split("train"), TrainTransform(16), 22, 3, 0, 3, workers, part=(1, 2),
                                   rest=True))
    assert [batch.images.shape for batch in loaded] == [(11, 3, 16, 16), (0, 3, 16, 16), (11, 3, 16, 16)]
    assert [len(batch.labels) for batch in loaded] == [len(batch.indices) for batch in loaded] == [11, 0, 11]
    assert loaded[1].images.dtype == torch.uint8 and loaded[1].labels.dtype == torch.long and not loaded[1].skipped


def test_a_rest_without_an_image_that_can_be_decoded_is_empty_and_counted(task, capsys):
    """A full batch without one, or all there is, ends the stream."""
    last = order_of_epoch(9, 3, 0)[8]

    def loaded(bad, size=9, start=0, stop=4):
        split = Split(lambda index: None if index in bad else task.split("train").image(index), [0] * size)
        return list(training_batches(split, EvalTransform(16), 4, 3, start, stop, rest=True))
    assert [(len(batch.images), batch.skipped) for batch in loaded({last}, stop=3)] == [(4, 0), (4, 0), (0, 1)]
    assert capsys.readouterr().out == "note: 1 images could not be decoded and were skipped\n"
    assert [len(batch.images) for batch in loaded({last}, start=2, stop=3)] == [0], "where an interrupted run resumes"
    for bad, size in ((order_of_epoch(9, 3, 0)[4:8], 9), (range(3), 3)):
        with pytest.raises(UserError, match="none of the images of a batch"):
            loaded(set(bad), size)


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_each_index_comes_once_an_epoch(epoch):
    drawn = batches(12, 4, 3 * epoch, 3 * epoch + 3)
    assert all(number == epoch for batch in drawn for number, _ in batch)
    assert sorted(index for batch in drawn for _, index in batch) == list(range(12))


def test_the_remainder_of_an_epoch_is_dropped_and_differs_from_epoch_to_epoch():
    dropped = set()
    for epoch in range(20):
        drawn = [index for batch in batches(11, 4, 2 * epoch, 2 * epoch + 2) for _, index in batch]
        assert len(drawn) == len(set(drawn)) == 8
        dropped |= set(range(11)) - set(drawn)
    assert dropped == set(range(11))


def test_a_set_smaller_than_a_batch_is_one_batch_a_step():
    drawn = batches(3, 8, 0, 4)
    assert [sorted(index for _, index in batch) for batch in drawn] == [[0, 1, 2]] * 4
    assert [batch[0][0] for batch in drawn] == [0, 1, 2, 3]


@pytest.mark.parametrize("size, batch_size", [(11, 4), (12, 4), (3, 8), (5, 1)])
@pytest.mark.parametrize("start, stop", [(0, 9), (1, 9), (3, 7), (8, 9), (9, 9)])
def test_a_stream_that_starts_later_is_the_rest_of_an_uninterrupted_one(size, batch_size, start, stop):
    assert batches(size, batch_size, start, stop) == batches(size, batch_size, 0, 9)[start:stop]
    assert len(SeededBatches(size, batch_size, 7, start, stop)) == stop - start


def all_batches(loader):
    return [(batch.images, batch.labels) for batch in loader]


def test_a_signal_to_all_processes_of_a_run_ends_no_worker(task):
    """The process that trains hears it, and ends with the step; torch's own handler ends a worker, and the run in an
    error. It is sent by another process than the parent, whose SIGTERM torch takes for the end of its loader."""
    batches = training_batches(task.split("train"), TrainTransform(16), 2, 3, 0, 6, workers=1)
    found = [next(batches)]
    worker, = multiprocessing.active_children()
    for name in HEARD:
        subprocess.run(["sh", "-c", f"kill -{name.removeprefix('SIG')} {worker.pid}"], check=True)
    assert len([*found, *batches]) == 6


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_no_bit(workers, task):
    split = task.split("train")
    for make in (lambda count: training_batches(split, TrainTransform(16), 4, 3, 2, 9, count),
                 lambda count: evaluation_batches(split, EvalTransform(16), 4, count)):
        alone, together = all_batches(make(0)), all_batches(make(workers))
        assert len(alone) == len(together)
        for (images, labels), (other_images, other_labels) in zip(alone, together, strict=True):
            assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


def test_training_batches_are_uint8_images_and_whole_labels(task):
    batch = next(iter(training_batches(task.split("train"), TrainTransform(16), 4, 0, 0, 1)))
    assert isinstance(batch, Batch)
    assert batch.images.shape == (4, 3, 16, 16) and batch.images.dtype == torch.uint8
    assert batch.labels.shape == (4,) and batch.labels.dtype == torch.long


def test_the_same_image_is_cut_anew_in_each_epoch(task):
    split = task.split("train").subset([5])
    crops = [batch.images for batch in training_batches(split, TrainTransform(16), 1, 0, 0, 4)]
    assert len({crop.numpy().tobytes() for crop in crops}) > 1


def test_evaluation_batches_hold_every_image_once_in_order(task):
    split, transform = task.split("train"), EvalTransform(16)
    loaded = list(evaluation_batches(split, transform, 8))
    assert [len(batch.labels) for batch in loaded] == [8, 8, 7]
    assert torch.cat([batch.labels for batch in loaded]).tolist() == split.labels
    expected = torch.stack([transform(split.image(index)) for index in range(len(split))])
    assert torch.equal(torch.cat([batch.images for batch in loaded]), expected)


def three_parts(task):
    """Of 23, 0 and 31 images."""
    train = task.split("train")
    return [(part, EvalTransform(16)) for part in (train, train.subset([]), task.split("test"))]


@pytest.mark.parametrize("workers", [0, 2])
def test_joined_parts_are_each_as_alone(task, workers):
    joined = [list(batches) for batches in joined_evaluation_batches(three_parts(task), 8, workers)]
    assert list(map(len, joined)) == [3, 0, 4]
    for found, (split, transform) in zip(joined, three_parts(task), strict=True):
        for one, other in zip(found, evaluation_batches(split, transform, 8), strict=True):
            assert all(map(torch.equal, (one.images, one.labels, one.indices),
                           (other.images, other.labels, other.indices)))


def test_joined_parts_come_from_the_same_processes_which_then_end(task):
    def process(image, seed):
        return torch.tensor([os.getpid()])
    parts = [(split, process) for split, _ in three_parts(task)]
    seen = [{number for batch in batches for number in batch.images.flatten().tolist()}
            for batches in joined_evaluation_batches(parts, 2, 2)]
    assert len(seen[0]) == 2 and seen[0] == seen[2] and os.getpid() not in seen[0]
    assert not multiprocessing.active_children()


def test_a_part_that_is_not_used_up_leaves_the_next_one_whole(task):
    parts = joined_evaluation_batches(three_parts(task), 8)
    next(next(parts))
    next(parts)
    assert torch.cat([batch.labels for batch in next(parts)]).tolist() == task.split("test").labels


def test_joined_parts_count_what_they_skip_each_for_itself(task, capsys):
    def without(*bad):
        return Split(lambda index: None if index in bad else task.split("train").image(index), range(23)), \
            EvalTransform(16)
    parts = joined_evaluation_batches([without(3), without(0, 1, 22), without(), without(*range(23)), without(2)], 8)
    printed = []
    for count, batches in zip((22, 20, 23), parts, strict=False):
        assert sum(len(batch.labels) for batch in batches) == count
        printed.append(capsys.readouterr().out)
    assert printed == ["note: 1 images could not be decoded and were skipped\n",
                    "note: 3 images could not be decoded and were skipped\n", ""]
    parts = joined_evaluation_batches([without(3), without(*range(23)), without(2)], 8)
    assert len(list(next(parts))) == 3
    with pytest.raises(UserError, match="none of the images could be decoded"):
        list(next(parts))
    assert sum(len(batch.labels) for batch in next(parts)) == 22


CAPTIONS = [["a"], ["b", "c", "d"], ["e", "f"], ["g", "h", "i", "j", "k"]]
OWNERS = [row for row, texts in enumerate(CAPTIONS) for _ in texts]


def captioned(task, captions=CAPTIONS):
    """The first training images of a task with captions."""
    split = task.split("train")
    return Split(split.image, [0] * len(captions), captions=captions)


def shown(key):
    """-> number of the caption that a plain image gets at (epoch, index)."""
    split = Split(lambda index: index, [0] * len(CAPTIONS), captions=CAPTIONS)
    return CaptionedSplit(split, lambda image, seed: image, 5)[key][1]


def test_captions_are_numbered_through_all_images_and_drawn_from_the_images_own():
    for index, texts in enumerate(CAPTIONS):
        numbers = {shown((epoch, index)) for epoch in range(100)}
        assert numbers == {number for number, owner in enumerate(OWNERS) if owner == index}
        assert len(numbers) == len(texts)


def test_a_caption_is_a_function_of_seed_epoch_and_index():
    keys = [(epoch, index) for epoch in range(20) for index in range(4)]
    numbers = [shown(key) for key in keys]
    assert numbers == [slow.drawn_caption(CAPTIONS, 5, *key) for key in keys]
    assert numbers[::-1] == [shown(key) for key in keys[::-1]]
    assert numbers != [slow.drawn_caption(CAPTIONS, 6, *key) for key in keys]


@pytest.mark.parametrize("index, limit", [(1, 13.8), (2, 10.8), (3, 18.5)])
def test_each_caption_is_as_likely_as_another(index, limit):
    """Chi-square, of which chance alone exceeds the limit once in a thousand."""
    counts = collections.Counter(shown((epoch, index)) for epoch in range(3000))
    expected = 3000 / len(CAPTIONS[index])
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < limit
    assert len(counts) == len(CAPTIONS[index])


def test_the_captions_of_two_images_are_drawn_independently():
    captions = [["a", "b"]] * 2
    split = Split(lambda index: index, [0, 0], captions=captions)
    rows = CaptionedSplit(split, lambda image, seed: image, 1)
    counts = collections.Counter((rows[epoch, 0][1], rows[epoch, 1][1]) for epoch in range(2000))
    assert set(counts) == {(0, 2), (0, 3), (1, 2), (1, 3)} and min(counts.values()) > 425


def test_the_first_caption_can_be_taken_always(task):
    batches = list(training_batches(captioned(task), EvalTransform(16), 2, 3, 0, 8, captions="first"))
    firsts = [OWNERS.index(row) for row in range(4)]
    assert {number for batch in batches for number in batch.labels.tolist()} == set(firsts)


def test_captions_change_neither_order_nor_crops(task):
    split = task.split("train").subset(range(4))
    plain = list(training_batches(Split(split.image, range(4)), TrainTransform(16), 2, 3, 1, 9))
    drawn = list(training_batches(captioned(task), TrainTransform(16), 2, 3, 1, 9, captions="random"))
    assert len(plain) == len(drawn) == 8
    for one, two in zip(plain, drawn, strict=True):
        assert torch.equal(one.images, two.images) and two.labels.dtype == torch.long
        assert one.labels.tolist() == [OWNERS[number] for number in two.labels]


def test_a_later_start_draws_the_captions_of_an_uninterrupted_stream(task):
    whole, rest = (all_batches(training_batches(captioned(task), EvalTransform(16), 2, 3, start, 9, captions="random"))
                   for start in (0, 5))
    for (images, labels), (other_images, other_labels) in zip(whole[5:], rest, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


def test_worker_processes_draw_the_same_captions(task):
    alone, together = (all_batches(training_batches(captioned(task), TrainTransform(16), 2, 3, 2, 9, workers,
                                                    captions="random")) for workers in (0, 1))
    assert len(alone) == len(together) == 7
    for (images, labels), (other_images, other_labels) in zip(alone, together, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


def test_an_image_that_cannot_be_decoded_takes_its_caption_with_it(task):
    split = captioned(task)
    broken = Split(lambda index: None if index == 1 else split.image(index), split.labels, captions=CAPTIONS)
    batch = next(training_batches(broken, EvalTransform(16), 4, 3, 0, 1, captions="random"))
    order = [index for index in order_of_epoch(4, 3, 0) if index != 1]
    assert batch.skipped == 1 and batch.labels.tolist() == [slow.drawn_caption(CAPTIONS, 3, 0, row) for row in order]
    assert torch.equal(batch.images, torch.stack([EvalTransform(16)(split.image(row)) for row in order]))


def test_a_subset_keeps_captions_beside_their_images(task):
    part = captioned(task).subset([3, 1])
    assert part.captions == [CAPTIONS[3], CAPTIONS[1]]
    batch = next(training_batches(part, EvalTransform(16), 2, 3, 0, 1, captions="first"))
    assert batch.labels.tolist() == [{0: 0, 1: 5}[row] for row in order_of_epoch(2, 3, 0)]


# -- who reads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cores", "in_memory", "expected"), [(4, False, 4), (64, False, 8), (None, False, 1),
                                                              (4, True, 0)])
def test_workers(monkeypatch, cores, in_memory, expected):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    split = Split(None, [0, 0], in_memory=in_memory)
    assert worker_count("auto", split) == worker_count("auto", split.subset([1])) == expected
    assert worker_count(2, split) == 2


def test_splits_of_a_task_in_memory_are_in_memory():
    files, embedded = (Task("t", ["a"], ["{c}"], {"train": Split(None, [0]), "test": lambda: Split(None, [0])},
                            in_memory=where) for where in (False, True))
    assert not files.split("train").in_memory and not files.split("test").in_memory
    assert embedded.split("train").in_memory and embedded.split("test").in_memory


def whose(parity):
    """A Split whose images have the process that reads them as their label."""
    class Pids:
        def __getitem__(self, index):
            return os.getpid()
    return Split(lambda index: torch.full((3, 16, 16), index % parity, dtype=torch.uint8), Pids())


def test_workers_are_forked_whatever_python_would_do(monkeypatch):
    """Functions in a Split cannot be pickled, as "spawn" and "forkserver" would have to."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        loaded = _loader(TransformedSplit(whose(2), EvalTransform(16), 0), [[(0, 1)], [(0, 2)]], 1)
        pids = {int(pid) for batch in loaded for pid in batch.labels}
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert len(pids) == 1 and os.getpid() not in pids
