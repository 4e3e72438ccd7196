"""Derive seeds, and draw with them: orders of epochs, and subsets and halves balanced over the classes.

Everything random is a function of (seed, purpose, epoch, index), never of how long a process has run or how
many workers load.
"""

import hashlib


def seed_of(*parts):
    """Return a 63-bit seed from anything printable: equal parts give equal seeds on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def order_of_epoch(size, seed, epoch):
    """Return a permutation of range(size), the same for the same (seed, epoch)."""
    import torch
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(size, generator=generator).tolist()


def balanced_subset(labels, count, seed):
    """Return ``count`` indices spread as evenly over the classes as possible, sorted; all of them if there are
    fewer."""
    if count >= len(labels):
        return list(range(len(labels)))
    queues = shuffled_classes(labels, seed)
    chosen, depth = [], 0
    while len(chosen) < count:
        level = [queue[depth] for queue in queues if depth < len(queue)]
        chosen += level[:count - len(chosen)]
        depth += 1
    return sorted(chosen)


def balanced_halves(labels, fraction, seed):
    """Return (first, second) sorted index lists.

    The first holds ``fraction`` of each class, rounded, and at least one image of every class that has two.
    """
    first, second = [], []
    for members in shuffled_classes(labels, seed):
        cut = min(max(1, round(fraction * len(members))), max(1, len(members) - 1))
        first += members[:cut]
        second += members[cut:]
    return sorted(first), sorted(second)


def shuffled_classes(labels, seed):
    """Return, for each label in order, its indices in the order of a seeded shuffle of all."""
    import torch
    by_class = {label: [] for label in sorted(set(labels))}
    for index in torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist():
        by_class[labels[index]].append(index)
    return list(by_class.values())
