"""What --train-mode may say: the table of train modes. Imports nothing, so that the command line reads it too."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainMode:
    """``towers``: those whose weights train. ``head``: whether classes are scored by a linear head instead of by
    prompts; ``head_trains``: whether it moves."""

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
