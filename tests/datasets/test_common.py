"""Streams, subsets and splits: functions of their seed alone, whatever the number of workers."""

import collections
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import slow_reference as slow
import torch
from PIL import Image

from src.datasets.common import (
    Batch,
    CaptionedSplit,
    Entry,
    SeededBatches,
    Split,
    Task,
    balanced_halves,
    balanced_subset,
    batches_per_epoch,
    evaluation_batches,
    fill,
    joined_evaluation_batches,
    order_of_epoch,
    rest_of_epoch,
    seed_of,
    steps_per_epoch,
    training_batches,
)
from src.datasets.transforms import EvalTransform, TrainTransform
from src.errors import UserError

# Of this project's first day: other numbers here would be other streams in every run there ever was.
PINNED_SEED = 3364107826167696615
PINNED_ORDER = [0, 3, 4, 7, 5, 1, 6, 2]


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


def test_orders_differ_by_seed_and_by_epoch_and_repeat_otherwise():
    orders = [order_of_epoch(50, seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(map(tuple, orders))) == 4
    assert orders == [order_of_epoch(50, seed, epoch) for seed in (1, 2) for epoch in (0, 1)]


def test_seeds_are_the_same_on_every_machine():
    assert seed_of(42, "toy", "train") == PINNED_SEED
    code = "from src.datasets.common import seed_of; print(seed_of(42, 'toy', 'train'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONHASHSEED": "7"})
    assert int(other.stdout) == PINNED_SEED


def test_seeds_tell_their_parts_apart_and_fit_into_63_bits():
    parts = [(1, 2), (2, 1), (12,), ("1", 2), (1, "2"), ((1, 2),), (1, 2, None)]
    seeds = {seed_of(*each) for each in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2 ** 63 for seed in seeds)


def test_orders_are_the_same_on_every_machine():
    assert order_of_epoch(8, 1, 2) == PINNED_ORDER


def test_a_balanced_subset_has_classes_of_equal_size_where_it_can():
    labels = [0] * 50 + [1] * 3 + [2] * 20 + [3] * 1
    chosen = balanced_subset(labels, 14, 0)
    assert collections.Counter(labels[index] for index in chosen) == {0: 5, 1: 3, 2: 5, 3: 1}
    assert chosen == sorted(set(chosen))


def test_a_balanced_subset_that_does_not_come_out_even_differs_by_one():
    labels = [index % 4 for index in range(40)]
    counts = collections.Counter(labels[index] for index in balanced_subset(labels, 10, 0))
    assert sorted(counts.values()) == [2, 2, 3, 3]


@pytest.mark.parametrize("count", [6, 7, 1000])
def test_a_subset_of_at_least_everything_is_everything(count):
    assert balanced_subset([1, 0, 1, 1, 2, 0], count, 0) == [0, 1, 2, 3, 4, 5]


def test_a_balanced_subset_follows_its_seed_and_is_no_prefix():
    labels = [index // 25 for index in range(100)]
    one, again, other = (balanced_subset(labels, 20, seed) for seed in (0, 0, 1))
    assert one == again != other
    assert one != [25 * label + place for label in range(4) for place in range(5)]


def test_a_larger_balanced_subset_holds_the_smaller_one():
    labels = [index % 3 for index in range(60)]
    assert set(balanced_subset(labels, 9, 0)) < set(balanced_subset(labels, 18, 0))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_balanced_halves_split_every_class_by_the_fraction(fraction):
    labels = [index % 3 for index in range(120)]
    first, second = balanced_halves(labels, fraction, 0)
    assert sorted(first + second) == list(range(120))
    assert first == sorted(first) and second == sorted(second)
    assert collections.Counter(labels[index] for index in first) == dict.fromkeys(range(3), round(40 * fraction))


def test_both_halves_have_an_image_of_every_class_that_has_two():
    labels = [0] * 2 + [1] * 3 + [2] * 100
    for fraction in (0.01, 0.99):
        first, second = balanced_halves(labels, fraction, 0)
        assert {labels[index] for index in first} == {labels[index] for index in second} == {0, 1, 2}


def test_balanced_halves_follow_their_seed():
    labels = [index % 3 for index in range(60)]
    one, again, other = (balanced_halves(labels, 0.5, seed) for seed in (0, 0, 1))
    assert one == again != other


def all_batches(loader):
    return [(batch.images, batch.labels) for batch in loader]


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


def test_a_subset_keeps_images_beside_their_labels():
    split = Split(lambda index: Image.new("RGB", (index + 1, 1)), [10, 11, 12, 13])
    part = split.subset([3, 1])
    assert len(part) == 2 and list(part.labels) == [13, 11]
    assert [part.image(position).width for position in range(2)] == [4, 2]
    assert part.subset([1]).image(0).width == 2


def test_a_split_that_is_not_there_is_named_with_those_that_are(task):
    with pytest.raises(UserError, match="tiny has no video split; it has train, val, test"):
        task.split("video")


def test_the_reference_split_is_training_images_or_else_test_images(task):
    train, test = task.split("train"), task.split("test")
    assert task.reference_split is train
    assert Task("x", [], [], {"test": test}).reference_split is test
    with pytest.raises(UserError, match="no test split"):
        _ = Task("x", [], [], {"val": test}).reference_split


def test_prompts_are_made_by_the_first_template_unless_another_is_given(make_task):
    task = make_task(2)
    assert task.prompts() == ["a photo of a cat.", "a photo of a red bird."]
    assert task.prompts("the {c}, a {c}") == ["the cat, a cat", "the red bird, a red bird"]


def test_class_names_may_hold_what_looks_like_a_pattern():
    assert fill("a {c}.", r"100% \1 {x} [y]") == r"a 100% \1 {x} [y]."


def test_an_entry_opens_what_its_target_says():
    entry = Entry("builtins:divmod", classes=3)
    assert entry.open(7, 2) == (3, 1)
