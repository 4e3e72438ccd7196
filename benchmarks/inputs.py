"""Rows for what surrounds the step: decoding, cached evaluation, the time until the first step."""

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.harness import compared, in_turns, summary
from benchmarks.sizes import class_names, random_model
from clip.loader import MEAN, STD
from src.datasets.cache import ImageCache
from src.datasets.common import Task
from src.datasets.images import folder_split
from src.datasets.loading import evaluation_batches
from src.datasets.transforms import EvalTransform
from src.machine.device import Device
from src.models.classifiers import classifier
from src.models.evaluation import evaluate, evaluate_each

ROOT = Path(__file__).parents[1]
FIRST_STEP = """
import os, runpy, sys
from src.models import training
forward = training.Step.forward
def until_here(step, batch):
    forward(step, batch)
    os._exit(0)
training.Step.forward = until_here
sys.argv[1:] = ["--method", "finetune", "--train-dataset", "toy-digits", "--model", "toy", "--iterations", "1",
                "--save", sys.argv[1]]
runpy.run_module("src.main", run_name="__main__")
raise SystemExit("no step was made")
"""


def jpeg_pipeline(width, height, images, batch, workers, rounds, resolution=224, budget=None):
    """Time JPEG files to normalised batches under the evaluation transform, with new loaders each time,
    against torchvision's ImageFolder and v1 transforms."""
    with jpeg_folder(images, width, height) as folder:
        device = Device("cpu", "fp32")

        def ours():
            split = folder_split(folder, ["a", "b"])
            batches = evaluation_batches(split, EvalTransform(resolution), batch, workers)
            return [device.batch(given).images for given in batches]

        def peer():
            return [given for given, _ in _torchvision_loader(folder, resolution, batch, workers)]

        own, expected = torch.cat(ours()), torch.cat(peer())
        checks = [compared("mean of each image and channel", own.mean(dim=(2, 3)), expected.mean(dim=(2, 3)), 0.01),
                  compared("mean distance of a pixel, of 1", 1 + (own - expected).abs().mean()[None],
                           torch.ones(1), 0.05)]
        times = in_turns(ours, peer, rounds, budget)
    return {**summary(*times), "checks": checks, "images_per_s": images / summary(*times)["ours_s"]}


def _torchvision_loader(folder, resolution, batch, workers):
    from torchvision import datasets, transforms
    transform = transforms.Compose([
        transforms.Resize(resolution, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(resolution),
        transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    return torch.utils.data.DataLoader(datasets.ImageFolder(folder, transform), batch, num_workers=workers)


@contextlib.contextmanager
def jpeg_folder(count, width, height):
    """Create a folder of JPEGs in two classes, with structure at several scales as in photographs."""
    import numpy
    from PIL import Image
    draw = numpy.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            layers = [Image.fromarray(draw.integers(0, 256, (side * height // width + 1, side, 3), dtype=numpy.uint8))
                      .resize((width, height), Image.BICUBIC) for side in (4, width // 8)]
            file = Path(folder, "ab"[number % 2], f"{number}.jpg")
            file.parent.mkdir(exist_ok=True)
            Image.blend(*layers, 0.3).save(file, quality=90)
        yield folder


class Averages(torch.nn.Module):
    """An image tower that costs nothing: (B, 3, R, R) -> (B, D)."""

    def __init__(self, width):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, width, generator=torch.Generator().manual_seed(0)))

    def forward(self, images):
        return images.mean(dim=(2, 3)) @ self.weight


@contextlib.contextmanager
def folders_to_score(folders, images, resolution, sides):
    """-> evaluated(cache): the scores of ``folders`` class folders of ``images`` JPEGs each, of ``sides`` (width,
    height), by a CLIP whose image tower costs nothing and reads ``resolution`` pixels."""
    device, model, names = Device("cpu", "fp32"), random_model("tiny-vit"), ["a", "b"]
    model.visual, model.image_resolution = Averages(model.text_projection.shape[1]), resolution
    with contextlib.ExitStack() as stack:
        tasks = {}
        for number in range(folders):
            split = folder_split(stack.enter_context(jpeg_folder(images, *sides)), names)
            tasks[f"folder {number}"] = Task(f"folder {number}", names, ["a photo of a {c}."], {"test": split})
        classifiers = {name: classifier(model, task, device) for name, task in tasks.items()}
        spaces = {name: {"task": (name,)} for name in tasks}

        def evaluated(cache=None):
            found = list(evaluate_each(model, tasks, device, classifiers, spaces, cache=cache))
            if cache is not None:
                stack.callback(cache.settle, wait=True)
            return [value for scores in found for value in (scores["task"].top1, scores["task"].n)]
        yield evaluated


def cached_evaluations(folders, images, resolution, sides, rounds, budget=None):
    """The second evaluation of class folders whose decoded images are kept, against the first."""
    with folders_to_score(folders, images, resolution, sides) as evaluated, tempfile.TemporaryDirectory() as root:
        roots = (Path(root, str(number)) for number in range(rounds + 1))
        kept = next(roots)
        checks = [compared("scores", evaluated(ImageCache(kept)), evaluated(), 0.0)]
        times = in_turns(lambda: evaluated(ImageCache(kept)), lambda: evaluated(ImageCache(next(roots))), rounds,
                         budget)
    return {**summary(*times), "checks": checks}


def filling_evaluations(folders, images, resolution, sides, rounds, budget=None):
    """The first evaluation of class folders, which keeps their decoded images, against one that keeps none."""
    with folders_to_score(folders, images, resolution, sides) as evaluated, tempfile.TemporaryDirectory() as root:
        roots = (Path(root, str(number)) for number in range(rounds + 1))
        checks = [compared("scores", evaluated(ImageCache(next(roots))), evaluated(), 0.0)]
        times = in_turns(lambda: evaluated(ImageCache(next(roots))), evaluated, rounds, budget)
    return {**summary(*times), "checks": checks}


def cached_evaluation(model, images, width, height, classes, rounds, budget=None):
    """Time the second evaluation of a folder with ``--cache-images`` against the first, which fills the cache."""
    device, clip_model = Device("cpu", "fp32"), random_model(model)
    with jpeg_folder(images, width, height) as folder, tempfile.TemporaryDirectory() as caches:
        split = folder_split(folder, ["a", "b"])
        task = Task("photos", ["a", "b", *class_names(classes - 2)], ["a photo of a {c}."], {"test": split})

        def evaluated(cache):
            return evaluate(clip_model, task, device, cache=ImageCache(cache))["task"]

        first, second = evaluated(Path(caches, "kept")), evaluated(Path(caches, "kept"))
        checks = [compared("top-1 and top-5", [second.top1, second.top5, second.n], [first.top1, first.top5, first.n],
                           0.0)]
        fresh = (Path(caches, str(number)) for number in range(rounds))
        times = in_turns(lambda: evaluated(Path(caches, "kept")), lambda: evaluated(next(fresh)), rounds, budget)
    return {**summary(*times), "checks": checks}


def first_step(rounds, warm_up=True, budget=None):
    """Time the command ``python -m src.main --method finetune --train-dataset toy-digits --model toy``
    until the end of its first forward pass, against a process that only imports torch: peer / ours is below
    1."""
    with tempfile.TemporaryDirectory() as folder:
        def run(*words):
            done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{words} failed: {done.stderr[-500:]}")

        def ours():
            run("-c", FIRST_STEP, f"{folder}/run")

        def peer():
            run("-c", "import torch")

        if warm_up:
            ours(), peer()  # so that the files are in memory
        times = in_turns(ours, peer, rounds, budget)
    return {**summary(*times), "checks": [], "note": "two commands; nothing to compare but the time"}
