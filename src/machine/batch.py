"""A batch on its way from the loader to the device."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """``images`` (B, 3, R, R), uint8 from a loader and normalised floats on the device; ``labels`` (B,).

    ``skipped`` counts images that could not be decoded and are left out. If images cannot change,
    ``features`` (B, D), encoded once, replace them. ``labels_on_host`` are the loader's, for decisions that
    must not wait for the device, and so are ``indices`` (B,), the images' indices in their split.

    For the task's own batches, ``rows`` is the number of rows over all processes and ``weight`` is B /
    (``rows`` / processes): 1 unless processes have unequal shares. A process with an empty share has B = 0
    and weight 0.
    """

    images: Tensor | None
    labels: Tensor
    skipped: int = 0
    features: Tensor | None = None
    labels_on_host: Tensor | None = None
    indices: Tensor | None = None
    rows: int | None = None
    weight: float = 1.0
