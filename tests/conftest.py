"""Tiny CLIPs, a tiny dataset and the state of a task, shared by the tests of training and evaluation."""

import dataclasses
import gc

import numpy as np
import pytest
import torch
from PIL import Image
from slow_zeroshot import NAMES
from this_machine import THREADS
from torch import nn

from clip.model import CLIP
from clip.tokenizer import END_TOKEN, START_TOKEN, encode
from src.datasets.common import Split, Task
from src.datasets.seeds import order_of_epoch, seed_of
from src.datasets.transforms import EvalTransform, TrainTransform
from src.machine.batch import Batch
from src.machine.device import Device
from src.models.modeling import select_trainable
from src.models.state import Settings, TrainingState

torch.set_num_threads(THREADS)

# Files of few tests that take long, longest first: begun last, one of them would keep a single worker busy at the end.
LONG = ("test_whole_study.py", "test_kills.py", "test_task.py", "test_distributed.py", "test_documents.py",
        "test_first_steps.py", "test_spaces.py", "test_download.py", "test_one_gpu.py", "test_torchrun_resume.py",
        "test_torchrun_steps.py", "test_setup.py", "test_faults.py", "test_portable.py", "test_train_sh.py",
        "test_chain.py")

CLASSNAMES = ("cat", "red bird", "dog", "very old green tree")
TEMPLATES = ("a photo of a {c}.", "a drawing of the {c}.", "{c}")
REFERENCE_CLASSNAMES = ("car", "small blue house", "cat")
SENTENCES = ("a dog near a house", "the old car", "two birds in a green tree", "a drawing of a cat", "blue")
WORDS = (*CLASSNAMES, *TEMPLATES, *REFERENCE_CLASSNAMES, *SENTENCES)
VOCABULARY = sorted({START_TOKEN, END_TOKEN} | {token for text in WORDS for token in encode(text)})
TEXT = {"embed_dim": 8, "image_resolution": 16, "context_length": 14, "vocab_size": len(VOCABULARY) + 1,
        "vocabulary": VOCABULARY, "transformer_width": 16, "transformer_heads": 2, "transformer_layers": 1}
VISION = {
    "vit": {"vision_layers": 2, "vision_width": 16, "vision_patch_size": 8, "vision_heads": 2},
    "resnet": {"vision_layers": [1, 1], "vision_width": 8},
    "four stages": {"vision_layers": [1, 2, 1, 1], "vision_width": 8, "vision_heads": 8, "image_resolution": 32},
}


@torch.no_grad()
def tiny_clip(kind, seed=0, dtype=torch.float64):
    """A random CLIP of which every tensor shows in the features: no gain is 1, no bias 0, no batch statistic plain."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIP(**TEXT | VISION[kind])
        for name, value in model.named_parameters():
            if value.ndim == 1 and name.endswith("weight"):
                value.uniform_(0.5, 1.5)
            elif value.ndim == 1:
                value.normal_(std=0.2)
            elif value.ndim == 4:
                nn.init.kaiming_normal_(value)
            elif name.endswith("positional_embedding") or name == "token_embedding.weight":
                value.normal_(std=0.5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
    return model.to(dtype).eval()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Begin with the long files; a plugin that shuffles comes after."""
    order = {name: index for index, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONG)))


def pytest_collection_finish():
    """What the imports of all tests have left, some hundred thousand objects, lives until the end: without this every
    full collection of garbage would walk through it again, which took 8 % of the time of a run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_unconfigure():
    """Else libraries in C++ complain, as Python ends, that the frozen objects leak."""
    gc.unfreeze()


def random_images(count, seed):
    """PIL images of noise, each of a different size, wider and higher than the model's."""
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (20 + index % 7, 18 + index % 5, 3), dtype=np.uint8))
            for index in range(count)]


def random_split(count, classes, seed):
    return Split(random_images(count, seed).__getitem__, [index * 7 % classes for index in range(count)])


def tiny_task(classes=4, name="tiny"):
    splits = {"train": random_split(23, classes, 1), "val": random_split(6, classes, 2),
              "test": random_split(31, classes, 3)}
    return Task(name, CLASSNAMES[:classes], TEMPLATES, splits, in_memory=True)


def reference_task():
    return Task("tiny-reference", REFERENCE_CLASSNAMES, TEMPLATES[1:], {"train": random_split(11, 3, 4)}, SENTENCES,
                in_memory=True)


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Sequences and studies are run without drawing their pictures, which takes a second each, but in tests marked
    ``pictures``."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr("src.report.page.write_pictures", lambda run, folder: None)
        monkeypatch.setattr("src.report.study_page.write_study_pictures", lambda report, folder: None)


@pytest.fixture(params=["vit", "resnet"])
def kind(request):
    """Both kinds of image tower."""
    return request.param


@pytest.fixture
def make_model():
    """-> make(kind, seed=0, dtype=float64): a random tiny CLIP."""
    return tiny_clip


@pytest.fixture
def device():
    return Device("cpu", "fp64")


@pytest.fixture
def task():
    """Four classes, three templates; 23 training images, so that batches of 4 leave a remainder."""
    return tiny_task()


@pytest.fixture
def make_task():
    """-> make(classes=4, name="tiny")"""
    return tiny_task


@pytest.fixture
def open_task(task):
    """Opens "tiny", "tiny-other" and "tiny-reference", which has other class names, sentences and 11 images."""
    tasks = {"tiny": task, "tiny-other": tiny_task(2, "tiny-other"), "tiny-reference": reference_task()}
    return lambda name, trained=False: tasks[name]


@pytest.fixture
def make_state(device, task, open_task):
    """-> make(model, train_mode="whole", **settings): a state before its first step."""
    def make(model, train_mode="whole", iterations=6, lr=1e-2, batch_size=4, warmup=2, **settings):
        select_trainable(model, train_mode)
        return TrainingState(model=model, task=task, source=task.name, device=device, open_task=open_task,
                             open_zeroshot=lambda path=None: tiny_clip("vit", seed=5).requires_grad_(False),
                             settings=Settings(iterations, lr, batch_size, warmup=warmup, **settings))
    return make


@pytest.fixture
def stream_of(device):
    """-> batches(split, purpose, steps, batch_size=4, train_transform=False, name="tiny", seed=42): what a task's
    seeded stream must hold, from its definition: a shuffled order an epoch, full batches, and what is left as a smaller
    one where the task trains; of every other stream it is dropped."""
    def batches(split, purpose, steps, batch_size=4, train_transform=False, name="tiny", seed=42):
        stream_seed, (full, left) = seed_of(seed, name, purpose), divmod(len(split), batch_size)
        per_epoch = full + 1 if left and purpose == "train" else full
        transform = TrainTransform(16) if train_transform else EvalTransform(16)
        for step in range(steps):
            epoch, position = divmod(step, per_epoch)
            rows = order_of_epoch(len(split), stream_seed, epoch)[position * batch_size:(position + 1) * batch_size]
            images = [transform(split.image(row), seed_of(stream_seed, epoch, row)) for row in rows]
            yield device.batch(Batch(torch.stack(images), torch.tensor([split.labels[row] for row in rows])))
    return batches


@pytest.fixture
def three_tasks(task):
    """Three tasks of which two pairs share a class name, each with its own templates."""
    tests = {name: Split(task.split("test").image, [(number + index) % len(classnames) for index in range(31)])
             for number, (name, classnames) in enumerate(NAMES.items())}
    return {name: dataclasses.replace(task, name=name, classnames=classnames, templates=task.templates[number:],
                                      splits={"test": tests[name]})
            for number, (name, classnames) in enumerate(NAMES.items())}
