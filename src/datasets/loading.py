"""Splits -> Batches: how many an epoch has, which images each has, and the loaders.

A stream that starts at step k is the same as one that ran k steps.
"""

import itertools
import os

from src.datasets.seeds import order_of_epoch, seed_of
from src.errors import UserError
from src.machine.batch import Batch

MOST_WORKERS = 8


def batches_per_epoch(size, batch_size, rest=False):
    """Full batches, and with ``rest`` a smaller one of the images that are left; a dataset smaller than one batch is
    one batch."""
    return max(1, -(-size // batch_size) if rest else size // batch_size)


def keeps_rest(task, batch_size, last_batch):
    """Return whether the last batch of an epoch of a Task has the images that are left, fewer than ``batch_size``.

    On class data ``last_batch`` decides, "keep" or "drop"; images that fill no batch are kept. Image-text pairs come in
    full batches only: their loss depends on the number of pairs that it compares.
    """
    return not task.pairs and (last_batch == "keep" or len(task.split("train")) < batch_size)


def steps_per_epoch(task, batch_size, last_batch="keep"):
    """Return the steps of an epoch: those in which a Task's training images are passed once, or with ``last_batch``
    "drop" its full batches. A training set smaller than a batch is one step."""
    return batches_per_epoch(len(task.split("train")), batch_size, keeps_rest(task, batch_size, last_batch))


def rest_of_epoch(task, batch_size, last_batch="keep"):
    """Return the number of images in the smaller last batch of an epoch, 0 without one."""
    size = len(task.split("train"))
    return size % batch_size if size >= batch_size and keeps_rest(task, batch_size, last_batch) else 0


def require_shares(size, batch_size, processes):
    """Refuse full batches of ``batch_size`` of ``size`` images that processes cannot share evenly."""
    if min(size, batch_size) % processes:
        raise UserError(f"the {size} images to replay or compare on, or pairs to train on, are one batch (--batch-size "
                        f"or --ref-batch-size {batch_size}), which does not divide among {processes} processes; run "
                        "one")


def worker_count(workers, split):
    """Return the number of processes that read a Split, or the splits of a Task, for a value of --workers: a number, or
    "auto", which is none where reading costs nothing."""
    if workers != "auto":
        return workers
    return 0 if split.in_memory else min(MOST_WORKERS, os.cpu_count() or 1)


def share_of(batch, part):
    """Return the rows of a list that belong to process ``part`` = (rank, number of processes): neighbours, of which the
    first processes have one more where the rows do not divide."""
    each, more = divmod(len(batch), part[1])
    first, last = (number * each + min(number, more) for number in (part[0], part[0] + 1))
    return batch[first:last]


class SeededBatches:
    """Batch sampler: steps ``start`` to ``stop`` of an endless shuffled stream, as lists of (epoch, index).

    ``rest``: the last batch of an epoch has what is left of the images, so that each comes once an epoch; without, what
    is left is dropped. ``part`` (rank, number of processes): of every batch the rows that are this process's; of a rest
    the first processes may have one row more than the last, which may have none. UserError where a full batch, or
    without ``rest`` a dataset smaller than one, cannot be shared evenly.
    """

    def __init__(self, size, batch_size, seed, start, stop, part=(0, 1), rest=False):
        self.size, self.batch_size, self.seed, self.start, self.stop = size, batch_size, seed, start, stop
        self.part, self.per_epoch = part, batches_per_epoch(size, batch_size, rest)
        if not rest:
            require_shares(size, batch_size, part[1])

    def __len__(self):
        return self.stop - self.start

    def __iter__(self):
        return map(self.own, self.whole())

    def own(self, batch):
        """The rows of a whole batch that are this process's."""
        return share_of(batch, self.part)

    @property
    def full_share(self):
        """The least rows that a process has of a full batch."""
        return max(1, min(self.size, self.batch_size) // self.part[1])

    def rows(self, step):
        """Return the number of rows that the batch of all processes has at a step."""
        return min(self.batch_size, self.size - step % self.per_epoch * self.batch_size)

    def whole(self):
        """The batches of all processes together."""
        epoch, order = None, None
        for step in range(self.start, self.stop):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                order = order_of_epoch(self.size, self.seed, epoch)
            first = step % self.per_epoch * self.batch_size
            yield [(epoch, index) for index in order[first:first + self.batch_size]]

    def first_visits(self):
        """Those of the own batches that have an index which none before them had."""
        seen = set()
        for batch in self:
            before = len(seen)
            seen.update(index for _, index in batch)
            if len(seen) > before:
                yield batch
            if len(seen) == self.size:
                return


class TransformedSplit:
    """Map-style dataset: (epoch, index) -> (uint8 (3, R, R), label, index), any randomness seeded by (seed, epoch,
    index)."""

    def __init__(self, split, transform, seed):
        self.split, self.transform, self.seed = split, transform, seed

    def __getitem__(self, key):
        epoch, index = key
        image = self.split.image(index)
        if image is None:  # of a tolerant split
            return None
        return self.transform(image, seed_of(self.seed, epoch, index)), self.split.labels[index], index


class CaptionedSplit(TransformedSplit):
    """As TransformedSplit, but the label is the number of a caption, counted through all images: one of the image's own
    drawn by (seed, epoch, index), or always its first (``choice`` "random", "first")."""

    def __init__(self, split, transform, seed, choice="random"):
        super().__init__(split, transform, seed)
        self.choice, self.counts = choice, [len(captions) for captions in split.captions]
        self.first = [0, *itertools.accumulate(self.counts)]

    def __getitem__(self, key):
        epoch, index = key
        row = super().__getitem__(key)
        drawn = 0 if self.choice == "first" else seed_of(self.seed, epoch, index, "caption") % self.counts[index]
        return row and (row[0], self.first[index] + drawn, index)


class JoinedSplits:
    """Several map-style datasets as one: (part, key) -> what the dataset of that number has at ``key``."""

    def __init__(self, parts):
        self.parts = parts

    def __getitem__(self, place):
        part, key = place
        return self.parts[part][key]


def training_batches(split, transform, batch_size, seed, start, stop, workers=0, captions=None, part=(0, 1),
                     rest=False):
    """Iterator over Batches (uint8 on the host) of steps ``start`` to ``stop``, shuffled again in each epoch.
    ``captions``: "random" or "first", to have numbers of captions as labels. ``part``, ``rest``: see SeededBatches;
    a share of a rest without an image is a Batch of 0 rows."""
    dataset = _transformed(split, transform, seed, captions)
    order = SeededBatches(len(split), batch_size, seed, start, stop, part, rest)
    batches = _loader(dataset, order, workers)
    if rest:
        batches = _with_empty(batches, transform.resolution, order.full_share)
    return _telling_skipped(batches)


def first_visits(split, transform, batch_size, seed, stop, workers=0, part=(0, 1)):
    """Those of the ``training_batches`` of steps 0 to ``stop`` that have an image which none before them had."""
    batches = SeededBatches(len(split), batch_size, seed, 0, stop, part).first_visits()
    return _telling_skipped(_loader(TransformedSplit(split, transform, seed), list(batches), workers))


def batches_of_pass(size, batch_size, seed, shuffle=False, drop_last=False):
    """Return the batches of one pass over ``size`` images, of all processes together, as lists of (0, index): in order,
    or with ``shuffle`` in the order that the seed gives. The last one has the images that are left, unless
    ``drop_last``; then a set smaller than one batch has none."""
    order = order_of_epoch(size, seed, 0) if shuffle else range(size)
    stop = size - size % batch_size if drop_last else size
    return [[(0, index) for index in order[first:min(first + batch_size, stop)]]
            for first in range(0, stop, batch_size)]


def pass_batches(split, transform, batches, seed, workers=0, part=(0, 1), captions=None):
    """Iterator over Batches (uint8 on the host): this process's rows of each of ``batches``, which ``batches_of_pass``
    gives. A share without a row is a Batch of 0 rows, so that every process has as many; a batch of which no image can
    be decoded is left out. ``captions`` as in ``training_batches``."""
    own = [share_of(batch, part) for batch in batches]
    loaded = _loader(_transformed(split, transform, seed, captions), own, workers)
    return _telling_skipped(_with_empty(loaded, transform.resolution, full_share=1), leave_out=True)


def evaluation_batches(split, transform, batch_size, workers=0):
    """Iterator over Batches (uint8 on the host), every image once, in order; a batch of which no image can be decoded
    is left out."""
    return next(joined_evaluation_batches([(split, transform)], batch_size, workers))


def joined_evaluation_batches(parts, batch_size, workers=0):
    """For each (split, transform) of ``parts``, in order, the iterator that ``evaluation_batches`` gives. All parts
    come from the same worker processes, which are ahead with the next part while one ends. Requesting the
    next part ends one that is not used up. What is kept ready (``Split.rows``) is read in slices, by this process."""
    orders = [[[(part, (0, index)) for index in range(first, min(first + batch_size, len(split)))]
               for first in range(0, len(split), batch_size)] if not _is_ready(split, transform) else []
              for part, (split, transform) in enumerate(parts)]
    dataset = JoinedSplits([TransformedSplit(split, transform, 0) for split, transform in parts])
    batches = iter(_loader(dataset, list(itertools.chain.from_iterable(orders)), workers if any(orders) else 0))
    for order, (split, transform) in zip(orders, parts, strict=True):
        if _is_ready(split, transform):
            yield _ready_batches(split, batch_size)
            continue
        own = itertools.islice(batches, len(order))
        yield _telling_skipped(own, leave_out=True)
        for _ in own:  # what is left, so that the next part begins at its first batch
            pass


def _is_ready(split, transform):
    """Whether the results of a transform are kept of a split."""
    return split.rows is not None and split.rows.transform == transform.name


def _ready_batches(split, batch_size):
    """Iterator over Batches of a split whose images are kept ready, in order."""
    import torch
    for first in range(0, len(split), batch_size):
        last = min(first + batch_size, len(split))
        yield Batch(split.rows.read(first, last), torch.tensor(split.labels[first:last]),
                    indices=torch.arange(first, last))


def _transformed(split, transform, seed, captions):
    """A split whose labels are the numbers of ``captions`` ("random" or "first"), or its own for None."""
    if captions is None:
        return TransformedSplit(split, transform, seed)
    return CaptionedSplit(split, transform, seed, captions)


def _loader(dataset, batch_sampler, workers):
    import torch
    from torch.utils.data import DataLoader
    return DataLoader(dataset, batch_sampler=batch_sampler, num_workers=workers, collate_fn=_collate,
                      # Functions in a Split are not pickled, as Python's default since 3.14 would have it.
                      multiprocessing_context="fork" if workers else None,
                      # The global generator is the model's, for dropout.
                      pin_memory=torch.cuda.is_available(), generator=torch.Generator())


def _with_empty(batches, resolution, full_share):
    """The batches; one of fewer rows than a ``full_share`` has 0 rows where none of them is an image."""
    import torch
    for batch in batches:
        if batch.images is None and batch.skipped < full_share:
            none = torch.zeros(0, dtype=torch.long)
            batch = Batch(torch.zeros(0, 3, resolution, resolution, dtype=torch.uint8), none, batch.skipped,
                          indices=none)
        yield batch


def _telling_skipped(batches, leave_out=False):
    skipped, given = 0, False
    try:
        for batch in batches:
            skipped += batch.skipped
            if batch.images is not None:
                given = True
                yield batch
            elif not leave_out:
                raise UserError("none of the images of a batch could be decoded")
        if skipped and not given:
            raise UserError("none of the images could be decoded")
    finally:
        if skipped:
            print(f"note: {skipped} images could not be decoded and were skipped")


def _collate(rows):
    import torch
    decoded = [row for row in rows if row is not None]
    if not decoded:
        return Batch(None, None, len(rows))
    images, labels, indices = zip(*decoded, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels), len(rows) - len(decoded), indices=torch.tensor(indices))
