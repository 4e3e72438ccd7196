"""Small files that the tests of the command line write and read: a tiny model, pictures, tables."""

import colorsys
import csv
import json
from pathlib import Path

import numpy
import torch
from PIL import Image

from clip import tokenize
from clip.model import CLIP

WORDS = ["a photo of a red disc.", "green blue warm cold light dark"]
SIDE = 16
ARCHITECTURE = {"embed_dim": 16, "image_resolution": SIDE, "vision_layers": 1, "vision_width": 32, "vision_heads": 2,
                "vision_patch_size": 8, "context_length": 77, "transformer_width": 32, "transformer_heads": 2,
                "transformer_layers": 1}
# class folder -> hue; each task has its own.
COLOURS = {"blue": 0.6, "green": 0.35, "red_disc": 0.0}
TONES = {"cold": 0.5, "warm": 0.1}
BATCH, STEPS, RATE = 4, 3, 9e-5  # a rate that is not warned of


def write_model(path, **changes):
    """A CLIP of about 150 kB with random weights that knows the words of the tests' class names."""
    vocabulary = sorted(set(tokenize(WORDS).flatten().tolist()) - {0})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIP(**{**ARCHITECTURE, **changes}, vocabulary=vocabulary, vocab_size=len(vocabulary) + 1)
    torch.save({"format": 1, "state_dict": model.state_dict(), "architecture": model.architecture}, path)


def picture(path, hue, seed):
    """A noisy PNG of one hue."""
    colour = 255 * numpy.array(colorsys.hsv_to_rgb(hue, 0.8, 0.8))
    noise = numpy.random.default_rng(seed).normal(0, 30, (SIDE + 2, SIDE + 4, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((colour + noise).clip(0, 255).astype("uint8")).save(path)


def write_pictures(folder, hues, number):
    for row, (name, hue) in enumerate(hues.items()):
        for index in range(number):
            picture(folder / name / f"{index}.png", hue, 100 * row + index)


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same_weights(one, other):
    """Bit for bit, name for name."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rows(path):
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def train_chain(cli, world, folder, *words):
    """Train the two tasks of ``world`` by a run each, one from the other's checkpoint. -> the last checkpoint."""
    both, start = f"{world.colours},{world.tones}", world.model
    for name in (world.colours, world.tones):
        done = cli("--load", start, "--train-dataset", name, "--eval-datasets", both, "--save", folder, *words)
        assert done.status == 0, done.err
        start = Path(folder) / f"{Path(name).name}.pth"
    return start


def listing(folder):
    """Relative paths of all that is under a folder."""
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*")}


def contents(folder):
    return {name: (Path(folder) / name).read_bytes() for name in listing(folder)}


def table(folder, dataset):
    """{(task, iteration): row} of a metrics file."""
    return {(row["task"], int(row["iteration"])): row for row in rows(folder / f"metrics_{dataset}.csv")}
