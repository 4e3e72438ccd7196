"""Surfaces of ``mini``: pieces of photographs and scans that scikit-learn and matplotlib ship.

Two photographs (CC BY 2.0, see scikit-learn's README beside them), a portrait of the US Navy (public domain; only its
backdrop, flag and cloth), a digital elevation model and a magnetic resonance scan.
"""

import functools
import gzip

import numpy as np

from src.datasets.installed import installed_file
from src.datasets.mini_names import SURFACES

SIDE, BLOCK = 32, 32
SCANS = {"china": ("scikit-learn", "images", "china.jpg"), "flower": ("scikit-learn", "images", "flower.jpg"),
         "portrait": ("matplotlib", "sample_data", "grace_hopper.jpg"),
         "elevation": ("matplotlib", "sample_data", "jacksboro_fault_dem.npz"),
         "head": ("matplotlib", "sample_data", "s1045.ima.gz")}
# Where each class is seen: a scan and boxes, left, top, right and bottom in pixels.
BOXES = {"blue sky": ("china", (330, 0, 640, 190)), "grey lake": ("china", (360, 245, 540, 325)),
         "green bush": ("china", (350, 340, 560, 425), (0, 360, 185, 425)),
         "red wall": ("china", (100, 190, 315, 230), (95, 285, 330, 335)),
         "orange roof": ("china", (115, 80, 300, 128), (88, 248, 338, 282), (210, 335, 350, 388)),
         "orange flower": ("flower", (200, 125, 415, 320)), "teal leaf": ("flower", (2, 70, 142, 300)),
         "black cloth": ("portrait", (31, 407, 200, 485), (334, 376, 497, 470)),
         "blue paper": ("portrait", (380, 10, 505, 280)), "starry flag": ("portrait", (0, 10, 125, 280)),
         "grey hill": ("elevation", (2, 95, 158, 340)), "grey plain": ("elevation", (252, 107, 403, 258)),
         "grey brain": ("head", (48, 33, 182, 131))}
SHARES = {"train": (0.0, 0.4), "val": (0.4, 0.6), "test": (0.6, 1.0)}


def draw_surfaces(labels, split, rng):
    """(N,) -> (N, 32, 32, 3) uint8: pieces from blocks that no other split sees, flipped and more or less dark."""
    from PIL import Image
    images = np.empty((len(labels), SIDE, SIDE, 3), dtype=np.float32)
    for row, label in enumerate(labels):
        name = SURFACES[label]
        scan, places = _scan(BOXES[name][0]), blocks(name, split)
        x, y = places[rng.integers(len(places))]
        size = int(rng.integers(20, BLOCK + 1))
        x, y = x + rng.integers(BLOCK - size + 1), y + rng.integers(BLOCK - size + 1)
        piece = Image.fromarray(scan[y:y + size, x:x + size]).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        images[row] = np.asarray(piece)[:, ::rng.choice([-1, 1])]
    images = images * rng.uniform(0.75, 1.0, (len(labels), 1, 1, 1)) + rng.normal(0, 4, images.shape)
    return images.clip(0, 255).round().astype(np.uint8)


@functools.cache
def blocks(name, split):
    """Upper left corners (x, y) of a class's blocks in one split; no two blocks overlap."""
    _, *boxes = BOXES[name]
    corners = [(x, y) for left, top, right, bottom in boxes for y in range(top, bottom - BLOCK + 1, BLOCK)
               for x in range(left, right - BLOCK + 1, BLOCK)]
    order = np.random.default_rng(SURFACES.index(name)).permutation(len(corners))
    first, last = (round(share * len(corners)) for share in SHARES[split])
    return [corners[index] for index in order[first:last]]


@functools.cache
def _scan(name):
    """(H, W, 3) uint8."""
    from PIL import Image
    path = installed_file("mini-surfaces", *SCANS[name])
    if path.suffix == ".jpg":
        return np.asarray(Image.open(path).convert("RGB"))
    if path.suffix == ".npz":
        with np.load(path) as file:
            heights = file["elevation"].astype(np.float64)
    else:
        heights = np.frombuffer(gzip.decompress(path.read_bytes()), "<u2").reshape(256, 256).astype(np.float64)
    greys = (heights - heights.min()) / (heights.max() - heights.min()) * 255
    return np.repeat(greys.round().astype(np.uint8)[..., None], 3, axis=2)
