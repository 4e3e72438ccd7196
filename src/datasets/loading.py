"""Load Splits as Batches: how many an epoch has, which images each has, and the loaders.

A stream that starts at step k equals one that ran k steps.
"""

import itertools
import os

from src.datasets.seeds import order_of_epoch, seed_of
from src.errors import UserError
from src.machine.batch import Batch
from src.machine.interruption import serve_to_the_end

MOST_WORKERS = 8


def batches_per_epoch(size, batch_size, rest=False):
    """Return the number of full batches, plus with ``rest`` a smaller one of the remaining images.

    A dataset smaller than one batch is one batch.
    """
    return max(1, -(-size // batch_size) if rest else size // batch_size)


def keeps_rest(task, batch_size, last_batch):
    """Return whether the last batch of an epoch of a Task holds the remaining images, fewer than
    ``batch_size``.

    On class data ``last_batch`` decides, "keep" or "drop"; images that fill no batch are kept. Image-text pairs
    come in full batches only: their loss depends on the number of pairs that it compares.
    """
    return not task.pairs and (last_batch == "keep" or len(task.split("train")) < batch_size)


def steps_per_epoch(task, batch_size, last_batch="keep"):
    """Return the steps of an epoch: one pass over a Task's training images, or with ``last_batch`` "drop" its
    full batches.

    A training set smaller than a batch is one step.
    """
    return batches_per_epoch(len(task.split("train")), batch_size, keeps_rest(task, batch_size, last_batch))


def rest_of_epoch(task, batch_size, last_batch="keep"):
    """Return the number of images in the smaller last batch of an epoch, 0 without one."""
    size = len(task.split("train"))
    return size % batch_size if size >= batch_size and keeps_rest(task, batch_size, last_batch) else 0


def require_shares(size, batch_size, processes):
    """Refuse batches of ``batch_size`` from ``size`` images that processes cannot share evenly."""
    if min(size, batch_size) % processes:
        raise UserError(f"the {size} images to replay or compare on, or pairs to train on, form one batch "
                        f"(--batch-size or --ref-batch-size {batch_size}), which does not divide among {processes} "
                        "processes; run one process")


def worker_count(workers, split):
    """Return the number of processes that read a Split, or the splits of a Task, for a value of --workers: a number, or
    "auto", which is none where reading costs nothing."""
    if workers != "auto":
        return workers
    return 0 if split.in_memory else min(MOST_WORKERS, os.cpu_count() or 1)


def share_of(batch, part):
    """Return the rows of a list that belong to process ``part`` = (rank, number of processes).

    They are contiguous; the first processes have one more if the rows do not divide.
    """
    each, more = divmod(len(batch), part[1])
    first, last = (number * each + min(number, more) for number in (part[0], part[0] + 1))
    return batch[first:last]


class SeededBatches:
    """Sample batches: steps ``start`` to ``stop`` of an endless shuffled stream, as lists of (epoch, index).

    ``rest``: the last batch of an epoch holds the remaining images, so that each comes once per epoch;
    otherwise they are dropped. ``part`` (rank, number of processes): which rows of every batch belong to this
    process; of a rest, the first processes may have one row more than the last, which may have none. Raises
    UserError if a full batch, or without ``rest`` a dataset smaller than one, cannot be shared evenly.
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
        """Return this process's rows of a whole batch."""
        return share_of(batch, self.part)

    @property
    def full_share(self):
        """The fewest rows that a process has in a full batch."""
        return max(1, min(self.size, self.batch_size) // self.part[1])

    def rows(self, step):
        """Return the number of rows, over all processes, of the batch at a step."""
        return min(self.batch_size, self.size - step % self.per_epoch * self.batch_size)

    def whole(self):
        """Yield the batches of all processes together."""
        epoch, order = None, None
        for step in range(self.start, self.stop):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                order = order_of_epoch(self.size, self.seed, epoch)
            first = step % self.per_epoch * self.batch_size
            yield [(epoch, index) for index in order[first:first + self.batch_size]]

    def first_visits(self):
        """Yield this process's batches that have an index which none before them had."""
        seen = set()
        for batch in self:
            before = len(seen)
            seen.update(index for _, index in batch)
            if len(seen) > before:
                yield batch
            if len(seen) == self.size:
                return


class TransformedSplit:
    """Map (epoch, index) to (uint8 (3, R, R), label, index), a map-style dataset; randomness is seeded by
    (seed, epoch, index)."""

    def __init__(self, split, transform, seed):
        self.split, self.transform, self.seed = split, transform, seed

    def __getitem__(self, key):
        epoch, index = key
        image = self.split.image(index)
        if image is None:  # from a tolerant split
            return None
        return self.transform(image, seed_of(self.seed, epoch, index)), self.split.labels[index], index


class CaptionedSplit(TransformedSplit):
    """Act like TransformedSplit, but with the number of a caption, counted over all images, as the label.

    ``choice``: "random" draws one of the image's captions by (seed, epoch, index), "first" always takes its
    first.
    """

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
    """Join several map-style datasets: (part, key) -> the item of that dataset at ``key``."""

    def __init__(self, parts):
        self.parts = parts

    def __getitem__(self, place):
        part, key = place
        return self.parts[part][key]


def training_batches(split, transform, batch_size, seed, start, stop, workers=0, captions=None, part=(0, 1),
                     rest=False):
    """Iterate over Batches (uint8 on the host) of steps ``start`` to ``stop``, shuffled again in each epoch.

    ``captions``: "random" or "first", to have caption numbers as labels. ``part``, ``rest``: see SeededBatches;
    a share of a rest without an image is a Batch of 0 rows.
    """
    dataset = _transformed(split, transform, seed, captions)
    order = SeededBatches(len(split), batch_size, seed, start, stop, part, rest)
    batches = _loader(dataset, order, workers)
    if rest:
        batches = _with_empty(batches, transform.resolution, order.full_share)
    return _noting_skipped(batches)


def first_visits(split, transform, batch_size, seed, stop, workers=0, part=(0, 1)):
    """Return the ``training_batches`` of steps 0 to ``stop`` that have an image which none before them had."""
    batches = SeededBatches(len(split), batch_size, seed, 0, stop, part).first_visits()
    return _noting_skipped(_loader(TransformedSplit(split, transform, seed), list(batches), workers))


def batches_of_pass(size, batch_size, seed, shuffle=False, drop_last=False):
    """Return the batches of one pass over ``size`` images, of all processes together, as lists of (0, index).

    They are in order, or with ``shuffle`` in an order drawn by the seed. The last one has the remaining images,
    unless ``drop_last``; then a set smaller than one batch has none.
    """
    order = order_of_epoch(size, seed, 0) if shuffle else range(size)
    stop = size - size % batch_size if drop_last else size
    return [[(0, index) for index in order[first:min(first + batch_size, stop)]]
            for first in range(0, stop, batch_size)]


def pass_batches(split, transform, batches, seed, workers=0, part=(0, 1), captions=None):
    """Iterate over Batches (uint8 on the host): this process's rows of each of ``batches``, from
    ``batches_of_pass``.

    A share without rows is a Batch of 0 rows, so that every process has equally many; a batch without a
    decodable image is left out. ``captions`` as in ``training_batches``.
    """
    own = [share_of(batch, part) for batch in batches]
    loaded = _loader(_transformed(split, transform, seed, captions), own, workers)
    return _noting_skipped(_with_empty(loaded, transform.resolution, full_share=1), leave_out=True)


def evaluation_batches(split, transform, batch_size, workers=0):
    """Iterate over Batches (uint8 on the host), every image once, in order; a batch without a decodable image
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
        yield _noting_skipped(own, leave_out=True)
        for _ in own:  # use up the rest, so that the next part begins at its first batch
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
    """Return a split labelled by the numbers of ``captions`` ("random" or "first"), or by its own labels for None."""
    if captions is None:
        return TransformedSplit(split, transform, seed)
    return CaptionedSplit(split, transform, seed, captions)


def _loader(dataset, batch_sampler, workers):
    import torch
    from torch.utils.data import DataLoader
    return DataLoader(dataset, batch_sampler=batch_sampler, num_workers=workers, collate_fn=_collate,
                      worker_init_fn=serve_to_the_end,
                      # Functions in a Split are not pickled, as Python's default since 3.14 would have it.
                      multiprocessing_context="fork" if workers else None,
                      # The global generator belongs to the model, for dropout.
                      pin_memory=torch.cuda.is_available(), generator=torch.Generator())


def _with_empty(batches, resolution, full_share):
    """Yield the batches; one with fewer rows than a ``full_share`` becomes 0 rows if none of them is an image."""
    import torch
    for batch in batches:
        if batch.images is None and batch.skipped < full_share:
            none = torch.zeros(0, dtype=torch.long)
            batch = Batch(torch.zeros(0, 3, resolution, resolution, dtype=torch.uint8), none, batch.skipped,
                          indices=none)
        yield batch


def _noting_skipped(batches, leave_out=False):
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
