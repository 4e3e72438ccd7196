"""The table of train modes, for --train-mode. Imports nothing, so that the command line can read it too."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainMode:
    """``towers``: those whose weights train. ``head``: whether a linear head scores the classes instead of
    prompts; ``head_trains``: whether it trains."""

    towers: tuple = ()
    head: bool = False
    head_trains: bool = False


TRAIN_MODES = {
    "whole": TrainMode(("image", "text")),
    "image": TrainMode(("image",)),
    "text": TrainMode(("text",)),
    "image-fc": TrainMode(("image",), head=True, head_trains=True),
    "image-fc-fixed": TrainMode(("image",), head=True),
    "fc": TrainMode(head=True, head_trains=True),
}
