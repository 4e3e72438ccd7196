"""A batch on its way from the loader to the device."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """``images`` (B, 3, R, R), uint8 from a loader and normalised floats on the device; ``labels`` (B,). ``skipped``
    images could not be decoded and are not among them. Where images cannot change, ``features`` (B, D) of them, encoded
    once, stand in their place. ``labels_on_host`` are what the loader gave, for decisions that must not wait for the
    device, and so are ``indices`` (B,), the images' numbers in their split.

    Of the task's own batches: ``rows`` is their number over all processes, ``weight`` is B / (``rows`` / processes),
    1 unless processes have unequal shares. A process whose share is empty has B = 0 and weight 0."""

    images: Tensor | None
    labels: Tensor
    skipped: int = 0
    features: Tensor | None = None
    labels_on_host: Tensor | None = None
    indices: Tensor | None = None
    rows: int | None = None
    weight: float = 1.0
