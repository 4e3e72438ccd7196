"""Image-text retrieval: ranks of captions for an image, and of images for a caption."""

import statistics
from bisect import bisect_left
from dataclasses import asdict, dataclass

import torch

from src.errors import UserError
from src.models.features import encode_split, uncounted
from src.models.helpers import similarity
from src.models.modeling import constant_text_features, in_eval_mode, tokens_of

RECALLS = (1, 5, 10)
FOLD = 1000
FOLDS = {"5k": 0, "1k": 1, "1k-fold5": 5}  # number of folds by --retrieval-split; 0: all images at once
CHUNK = 2 ** 21  # scores in memory at a time


@dataclass(frozen=True)
class RetrievalScores:
    """From images to captions (i2t) and back (t2i): recall at 1, 5 and 10 in percent, median and mean rank
    counted from 1; ``rsum`` is the sum of the six recalls. ``images`` and ``captions``: number searched."""

    i2t_r1: float
    i2t_r5: float
    i2t_r10: float
    t2i_r1: float
    t2i_r5: float
    t2i_r10: float
    i2t_medr: float
    t2i_medr: float
    i2t_meanr: float
    t2i_meanr: float
    rsum: float
    images: float
    captions: float

    def summary(self):
        """Return what a checkpoint's history records."""
        return {"i2t_r1": self.i2t_r1, "t2i_r1": self.t2i_r1, "rsum": self.rsum}

    def __str__(self):
        return f"i2t {self.i2t_r1:.1f} t2i {self.t2i_r1:.1f} rsum {self.rsum:.1f}"


def ranks(image_features, text_features, owner, chunk=CHUNK):
    """Return ranks from 0 of each image's best caption and of each caption's image -> (N,), (M,) integers
    on their device.

    ``image_features`` (N, D) and ``text_features`` (M, D) are L2-normalised; caption j belongs to image
    ``owner[j]``. A rank is the number of other images' captions, or of other images, that score at least as
    high. At most ``chunk`` scores, or those of one image or caption if these are more, are in memory at a
    time. An image or caption whose own scores are NaN, or that has none, gets a rank that no recall counts.
    """
    places = torch.arange(len(image_features), device=image_features.device)
    owner = owner.to(places.device)
    return (_ranks(image_features, text_features, places, owner, chunk),
            _ranks(text_features, image_features, owner, places, chunk))


@torch.no_grad()
def _ranks(queries, targets, query_ids, target_ids, chunk):
    """Rank the best target of each query's own id among those of other ids: (Q, D), (T, D), (Q,), (T,) -> (Q,)."""
    # The same score may be summed in another order elsewhere in a product: equal means equal up to rounding.
    rounding = torch.finfo(queries.dtype).eps * queries.shape[1] ** 0.5
    missed = max(len(targets), *RECALLS)
    found = torch.empty_like(query_ids)  # one buffer: small results between chunks would fragment memory
    height = max(1, chunk // len(targets))
    for rows in (slice(first, first + height) for first in range(0, len(queries), height)):
        scores = similarity(queries[rows], targets, 1.0)                        # (R, D) x (T, D) -> (R, T)
        own = query_ids[rows, None] == target_ids                               # (R, T)
        best = scores.masked_fill(~own | scores.isnan(), -torch.inf).amax(dim=1, keepdim=True)          # (R, 1)
        behind = scores < best - rounding  # False for NaN, which therefore counts against the model
        found[rows] = (~(own | behind)).sum(dim=1).masked_fill(best[:, 0].isneginf(), missed)
    return found


def recall(image_features, text_features, owner):
    """Return the RetrievalScores of (N, D) images and (M, D) captions, L2-normalised; caption j belongs to
    image ``owner[j]``."""
    numbers = {}
    for way, found in zip(("i2t", "t2i"), ranks(image_features, text_features, owner), strict=True):
        found = found.tolist()
        for k in RECALLS:
            numbers[f"{way}_r{k}"] = 100 * sum(rank < k for rank in found) / len(found)
        numbers[f"{way}_medr"] = 1.0 + statistics.median(found)
        numbers[f"{way}_meanr"] = 1.0 + statistics.fmean(found)
    rsum = sum(numbers[f"{way}_r{k}"] for way in ("i2t", "t2i") for k in RECALLS)
    return RetrievalScores(**numbers, rsum=rsum, images=len(image_features), captions=len(text_features))


def folds(images, retrieval_split=None):
    """Return [range] over the first images of a split of ``images``, one per fold; each fold is searched
    separately.

    "1k": the first 1000; "1k-fold5": five times the next 1000; "5k" or None: all. Raises UserError if the
    split is too small or the name unknown.
    """
    if retrieval_split is not None and retrieval_split not in FOLDS:
        raise UserError(f"--retrieval-split {retrieval_split}: give one of {', '.join(FOLDS)}")
    count = FOLDS.get(retrieval_split, 0)
    if images < count * FOLD:
        raise UserError(f"--retrieval-split {retrieval_split}: needs {count * FOLD} images, and there are {images}; "
                        "give 5k to search all of them")
    return [range(fold * FOLD, (fold + 1) * FOLD) for fold in range(count)] or [range(images)]


@torch.no_grad()
def retrieve(model, split, device, batch_size=128, workers=0, retrieval_split=None, world=None, counted=uncounted,
             name="", keep=None):
    """Return the RetrievalScores of a model on a split with captions; with several folds, their mean.

    Each image is encoded once, under the evaluation transform, and so is each caption; a caption that is
    too long is cut at the end. An image that cannot be decoded is left out of its fold, with its captions.
    ``retrieval_split``: see ``folds``, whose UserError comes before anything is encoded. Processes of
    ``world`` share the images; ``counted`` and the dataset's ``name``: see ``uncounted``. ``keep`` is
    called with the KeptPairs.
    """
    parts = folds(len(split), retrieval_split)
    split = split.subset(range(parts[-1].stop))
    places, images = encode_split(model, split, device, batch_size, workers, world, counted, name)  # (N, D)
    captions = [caption for place in places for caption in split.captions[place]]
    owner = torch.tensor([row for row, place in enumerate(places) for _ in split.captions[place]],
                         device=images.device)                                                      # (M,)
    with in_eval_mode(model), device.autocast():
        texts = constant_text_features(model, tokens_of(model, captions))                           # (M, D)
    if keep is not None:
        keep(KeptPairs(parts[-1].stop, places, images, texts, owner))
    return mean_recall(parts, places, images, texts, owner)


@dataclass(frozen=True)
class KeptPairs:
    """Features (N, D) of the images at ``places`` among the first ``size`` of a split, and of their
    captions, ``texts`` (M, D), L2-normalised; caption j belongs to image ``owner[j]`` of these."""

    size: int
    places: list
    images: torch.Tensor
    texts: torch.Tensor
    owner: torch.Tensor


def mean_recall(parts, places, images, texts, owner):
    """Return the RetrievalScores, a mean over the folds ``parts``, of images (N, D) at ``places`` of a
    split and captions (M, D), both L2-normalised; caption j belongs to image ``owner[j]``."""
    found = []
    for part in parts:
        first, last = bisect_left(places, part.start), bisect_left(places, part.stop)
        inside = (owner >= first) & (owner < last)
        found.append(asdict(recall(images[first:last], texts[inside], owner[inside] - first)))
    return RetrievalScores(**{name: statistics.mean(fold[name] for fold in found) for name in found[0]})


@dataclass(frozen=True)
class Drift:
    """How far a task rotated features, as mean angles in degrees, and the share of rows whose own pair the
    old model ranks first: those that Mod-X keeps (Ni et al., 2023)."""

    image_angle: float
    text_angle: float
    keep_i2t: float
    keep_t2i: float


@torch.no_grad()
def drift(old, new, split, device, batch_size=128, workers=0):
    """Measure the Drift between two models on the images of a split and the first caption of each."""
    sides = []
    for model in (old, new):
        places, images = encode_split(model, split, device, batch_size, workers)                    # (N, D)
        with in_eval_mode(model), device.autocast():
            texts = constant_text_features(model, tokens_of(model, [split.captions[place][0] for place in places]))
        sides.append((images, texts))
    angles = [torch.rad2deg((before * after).sum(dim=1).clamp(-1, 1).acos()).mean().item()
              for before, after in zip(*sides, strict=True)]
    (images, texts), own = sides[0], torch.arange(len(sides[0][0]), device=sides[0][0].device)
    keeps = [(similarity(rows, columns, 1.0).argmax(dim=1) == own).sum().item() / len(own)
             for rows, columns in ((images, texts), (texts, images))]
    return Drift(*angles, *keeps)
