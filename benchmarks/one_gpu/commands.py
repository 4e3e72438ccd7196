"""``python -m src.main`` on the device: equal and interrupted runs, training from JPEGs; and evaluation
from files."""

import functools
import hashlib
import json
import time
from pathlib import Path

import torch

from benchmarks.one_gpu import children
from benchmarks.one_gpu.machine import jpegs
from benchmarks.one_gpu.setting import rows
from benchmarks.one_gpu.steps import sizes, start_of
from benchmarks.our_step import TEMPLATE
from benchmarks.sizes import class_names
from src.machine.device import Device

SLACK = 4  # seconds that a part reserves after its children
CLASSES = 20
FULL = {"train": 1600, "test": 6400, "ref": 2400, "size": (500, 375), "steps": 75, "batch": 64, "workers": 8}
TINY = {"train": 40, "test": 40, "ref": 40, "size": (60, 48), "steps": 3, "batch": 8, "workers": 2}
DISTINCT = 64  # different JPEGs; the others are copies
EQUAL = {"two deterministic runs": ("det1", "det2"), "killed and resumed": ("det1", "killed"),
         "two plain runs": ("plain1", "plain2")}


# -- the embedded sequence ---------------------------------------------------------------------------------------------


def toy(setting, found):
    """Run real sequences side by side; check which end bit-identically, and what each precision scores."""
    base = setting.work / "toy"
    started = {name: start_toy(setting, base, name) for name in toy_runs(setting)}
    point = base / "killed" / "resume_toy-new-shapes.pth"
    killed = started["killed"]
    reached = children.until(lambda: point.is_file() or killed.job.poll() is not None, setting.left() - SLACK)
    killed.kill()
    found["resume point of the killed run"] = reached and point.is_file()
    started["killed"] = start_toy(setting, base, "killed", "--resume")
    for name, child in started.items():
        status = child.wait(setting.left() - SLACK)
        found[name] = outcome(base / name, child, status)
        setting.keep()
    found["equal"] = {title: equal(found, *pair) for title, pair in EQUAL.items()}


def toy_runs(setting):
    """Return {name of a run: its arguments}."""
    here = ("--device", setting.device)
    exact = (*here, "--deterministic")
    runs = {"det1": exact, "killed": (*exact, "--save-interval", "2" if setting.tiny else "20")}
    if setting.tiny:
        return runs
    return runs | {"det2": exact, "plain1": here, "plain2": here, "bf16": (*here, "--precision", "bf16"),
                   "fp16": (*here, "--precision", "fp16"), "cpu": ("--device", "cpu")}


def start_toy(setting, base, name, *more):
    """Start one of the runs."""
    iterations, images = ("4", "16") if setting.tiny else ("40", "200")
    words = ("--method", "ZSCL", "--dataset-order", "toy", "--l2", "1", "--we", "--quiet",
             "--iterations", iterations, "--max-evaluation-size", images, *toy_runs(setting)[name], *more,
             "--save", str(base / name))
    return children.start(["-m", "src.main", *words], base / f"{name}{''.join(more)}.txt")


def outcome(folder, child, status):
    """Return {status, digest of the last weights, numbers of summary.json}, plus the end of the output
    after a failure."""
    last, summary = folder / "toy-colours.pth", folder / "summary.json"
    found = {"status": status}
    if status != 0:
        found["tail"] = child.tail()
    if last.is_file():
        found["weights"] = digest(last)
    if summary.is_file():
        content = json.loads(summary.read_text(encoding="utf-8"))
        found["summary"] = {name: value for name, value in content.items() if isinstance(value, (int, float))}
    return found


def digest(path):
    """Return a short digest of the bits of all weights in a checkpoint."""
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(state[name].contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def equal(found, one, other):
    """Return whether two finished runs have the same digest; None if one has none."""
    here, there = (found.get(name, {}) for name in (one, other))
    if here.get("status") != 0 or there.get("status") != 0:
        return None
    return here["weights"] == there["weights"]


# -- JPEG files --------------------------------------------------------------------------------------------------------


@functools.cache
def pictures(root, tiny):
    """Write the class folders task/train, task/test and ref/train, once per process; return ``root``."""
    use = TINY if tiny else FULL
    contents = jpegs(min(DISTINCT, use["test"]), use["size"])
    for folder, count in (("task/train", use["train"]), ("task/test", use["test"]), ("ref/train", use["ref"])):
        for index in range(count):
            file = root / folder / f"class{index % CLASSES:02}" / f"{index}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(contents[index % len(contents)])
    return root


def jpeg(setting, found):
    """Train ZSCL from JPEG files with random weights to the end, then evaluate; without and with cached
    test images."""
    rows(setting, found, {"files": lambda: train(setting, "files", "--cache-images", "off"),
                          "evaluation cached": lambda: train(setting, "cached", "--cache-images")}, least=20)


def compiled(setting, found):
    """Run the same with --compile."""
    rows(setting, found, {"compile": lambda: train(setting, "compile", "--compile")}, least=20)


def train(setting, name, *more):
    """Return {status, seconds of the whole command, images/s of its log lines}."""
    use, root = TINY if setting.tiny else FULL, pictures(setting.work / "jpeg", setting.tiny)
    start, save = root / "start.pth", root / f"run_{name}"
    if not start.is_file():
        model = start_of(sizes(setting)["model"])
        torch.save({"architecture": model.architecture, "state_dict": model.state_dict()}, start)
    steps = str(use["steps"])
    words = ("--method", "ZSCL", "--train-dataset", f"folder:{root}/task", "--ref-dataset", f"folder:{root}/ref",
             "--load", str(start), "--ref-model", str(start), "--l2", "1", "--we", "--lr", "1e-5",
             "--iterations", steps, "--batch-size", str(use["batch"]), "--log-interval", "25" if use is FULL else "1",
             "--device", setting.device, "--precision", "bf16", "--data-location", str(root), "--save", str(save))
    began = time.perf_counter()
    child = children.start(["-m", "src.main", *words, *more], root / f"{name}.txt")
    status = child.wait(setting.left() - SLACK)
    return {"status": status, "whole_s": time.perf_counter() - began, "images_per_s": logged(save),
            "tail": child.tail()}


def logged(folder):
    """Return the images/s of every line in a run's logs."""
    lines = [line for path in sorted(folder.glob("log_*.jsonl")) for line in path.read_text("utf-8").splitlines()]
    return [json.loads(line).get("images_per_second") for line in lines]


# -- evaluation --------------------------------------------------------------------------------------------------------


def evaluation(setting, found):
    """Measure images/s of a whole evaluation in bf16: from files, while filling the cache, from the cache."""
    from src.datasets.cache import ImageCache
    from src.datasets.common import Task
    from src.datasets.images import folder_split
    from src.models.evaluation import evaluate
    use, root = TINY if setting.tiny else FULL, pictures(setting.work / "jpeg", setting.tiny)
    device = Device(setting.device, "bf16")
    model = device.place(start_of(sizes(setting)["model"]))
    folders = [f"class{index:02}" for index in range(CLASSES)]
    split = folder_split(root / "task" / "test", folders)
    task = Task("photos", class_names(CLASSES), [TEMPLATE], {"test": split})
    start_of.cache_clear()  # the cached model was moved to the device

    def rate(cache=None, size=None):
        began = time.perf_counter()
        scores = evaluate(model, task, device, max_size=size, workers=use["workers"], cache=cache)["task"]
        seconds = time.perf_counter() - began
        return {"images": scores.n, "s": seconds, "images_per_s": scores.n / seconds, "top1": scores.top1}

    def kept(mode="disk"):
        return ImageCache(Path(setting.work, "evaluation_cache"), mode, device.device)
    rows(setting, found, {
        "warming up": lambda: rate(size=2 * CLASSES), "files": rate, "filling the cache": lambda: rate(kept()),
        "cached": lambda: rate(kept()), "cached again": lambda: rate(kept()),
        "on the device": lambda: rate(kept("device"))})
