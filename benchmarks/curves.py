"""How costs grow: step and evaluation against classes, reference sentences, tasks learned, datasets and
processes.

    python -m benchmarks.curves        # make bench-curves: benchmarks/results/curves.json and .png

A step is one of the real ``train()``, loader included. All points of a curve are kept alive and alternated,
so that other load on the machine affects them alike. Each figure is the median over the rounds of its
seconds divided by those of the first point in the same round. No absolute CPU time is claimed. One thread
per process.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from benchmarks.harness import RESULTS, keep, surroundings
from benchmarks.our_step import TEMPLATE
from benchmarks.sizes import DTD, WORDS, class_names
from benchmarks.sizes import sentences as some_sentences
from clip.model import CLIP
from clip.tokenizer import END_TOKEN, START_TOKEN, encode
from src.datasets.common import Split, Task
from src.machine.device import Device
from src.machine.distributed import World, this_world
from src.models.averaging import WeightEnsemble
from src.models.evaluation import evaluate
from src.models.finetune import ZSCL, Finetune
from src.models.gradients import GradientTracker
from src.models.icarl import ICaRL
from src.models.modeling import frozen_copy, select_trainable
from src.models.state import Settings, TrainingState
from src.models.training import train

ROOT = Path(__file__).parents[1]
VOCABULARY = sorted({START_TOKEN, END_TOKEN} | {token for text in (*WORDS, *DTD, TEMPLATE) for token in encode(text)})
SHAPES = {  # arguments of clip.model.CLIP; sized so that arithmetic, not memory, is measured
    "small": {"image_resolution": 64, "vision_width": 192, "vision_layers": 4, "transformer_width": 128},
    "test": {"image_resolution": 16, "vision_width": 16, "vision_layers": 1, "transformer_width": 16},
}
SIZES = {
    "small": {"batch": 8, "rounds": 5, "images": 64, "classes": (10, 30, 100, 300, 1000),
              "sentences": (100, 1000, 5000, 15840), "tasks": (1, 2, 4, 8, 16), "datasets": (1, 2, 4, 8)},
    "test": {"batch": 2, "rounds": 1, "images": 4, "classes": (2, 3), "sentences": (3, 5), "tasks": (1, 2),
             "datasets": (1, 2)},
}
LEARNED = ("finetune", "ZSCL", "--we", "icarl", "OGD")
CLASSES, SNAPSHOTS, SENTENCES = 10, 3, 100  # per task; per task; of the reference
MEMORY = 200  # exemplars in all, at least one per class of 17 tasks


# -- tasks, states and steps -------------------------------------------------------------------------------------------


def small_model(size, seed=0):
    torch.manual_seed(seed)
    return CLIP(embed_dim=64, vision_patch_size=8, context_length=77, vocab_size=len(VOCABULARY) + 1,
                vocabulary=VOCABULARY, transformer_heads=4, transformer_layers=2, vision_heads=4, **SHAPES[size])


def random_task(name, size, classes=CLASSES, sentences=()):
    """Return a Task of random uint8 images in memory, with ``classes`` classes."""
    count, side = SIZES[size]["images"], SHAPES[size]["image_resolution"]
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    split = Split(pixels.__getitem__, [index % classes for index in range(count)])
    return Task(name, class_names(classes), [TEMPLATE], {"train": split, "test": split}, sentences, in_memory=True)


def state_of(size, task, world=None, sentences=SENTENCES, iterations=10 ** 6):
    """Return a state before its first step. Its other tasks are "reference", with ``sentences`` sentences,
    or like ``task``."""
    model = small_model(size)
    select_trainable(model, "whole")
    reference = random_task("reference", size, sentences=some_sentences(sentences))
    settings = Settings(iterations, 1e-5, SIZES[size]["batch"], warmup=0)
    return TrainingState(
        model=model, task=task, source=task.name, device=Device("cpu", "fp32"), settings=settings,
        world=world or World(), open_zeroshot=lambda path=None: frozen_copy(model),
        open_task=lambda name, trained=False: reference if name == "reference" else random_task(name, size))


class Stepper:
    """The real ``train()`` in a separate thread, which takes one more step on each call."""

    def __init__(self, state, *hooks):
        self.go, self.done, self.error = threading.Semaphore(0), threading.Semaphore(0), None
        self.thread = threading.Thread(target=self._run, args=(state, list(hooks)), daemon=True)

    def _run(self, state, hooks):
        try:
            self.go.acquire()
            train(state, hooks, self._pause)
        except Exception as error:  # re-raised in the caller's thread
            self.error = error
            self.done.release()

    def _pause(self, state, losses):
        self.done.release()
        self.go.acquire()

    def __call__(self):
        if not self.thread.is_alive():
            self.thread.start()
        self.go.release()
        self.done.acquire()
        if self.error:
            raise self.error


# -- alternation -------------------------------------------------------------------------------------------------------


def nothing():
    """Do nothing: there is no process to wait for."""


def turns(works, rounds, wait=nothing, clock=time.perf_counter):
    """Alternate {point: work}, after one untimed run of each, and return {point: seconds of each round}."""
    for work in works.values():
        wait()
        work()
    seconds = {point: [] for point in works}
    for _ in range(rounds):
        for point, work in works.items():
            wait()
            began = clock()
            work()
            seconds[point].append(clock() - began)
    return seconds


def curve(seconds, first=None):
    """Convert {point: seconds of each round} to [{"at", "ratio", "least", "greatest", "seconds"}]. Ratios
    are to ``first`` (by default the first point's seconds) in the same round."""
    first = first or next(iter(seconds.values()))
    found = []
    for point, own in seconds.items():
        ratios = [here / there for here, there in zip(own, first, strict=True)]
        found.append({"at": point, "ratio": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios),
                      "seconds": own})
    return found


# -- the curves --------------------------------------------------------------------------------------------------------


def zscl():
    return ZSCL("reference", ref_sentences="reference")


def by_sentences(size):
    """Return {"ZSCL": curve} of the step against reference sentences."""
    works = {count: Stepper(state_of(size, random_task("task", size), sentences=count), zscl())
             for count in SIZES[size]["sentences"]}
    return {"ZSCL": curve(turns(works, SIZES[size]["rounds"]))}


def by_tasks(size):
    """Return {method: curve} of the step against the number of tasks learned before."""
    points, found = SIZES[size]["tasks"], {}
    with tempfile.TemporaryDirectory() as folder:
        bases, memories = chained_bases(size, max(points), folder), memories_of(size, max(points))
        hooks = {"finetune": lambda count: [Finetune()], "ZSCL": lambda count: [zscl()],
                 "--we": lambda count: [Finetune(), WeightEnsemble(1)],
                 "icarl": lambda count: [remembering(memories[count - 1])],
                 "OGD": lambda count: [Finetune(), GradientTracker(orthogonal_gradients_path=bases[count - 1])]}
        for name in LEARNED:
            works = {count: Stepper(learned(size, count), *hooks[name](count)) for count in points}
            found[name] = curve(turns(works, SIZES[size]["rounds"]))
    return found


def learned(size, count):
    """Return the state of a task after ``count`` others."""
    state = state_of(size, random_task(f"task {count}", size))
    state.history = [{"dataset": f"task {number}"} for number in range(count)]
    return state


def chained_bases(size, count, folder):
    """Write the basis files of a chain of ``count`` tasks, each trained off the previous basis and
    extending it; return their paths."""
    path, files = None, []
    for number in range(count):
        tracker = GradientTracker(SNAPSHOTS, path)
        train(state_of(size, random_task(f"task {number}", size), iterations=SNAPSHOTS), [Finetune(), tracker])
        path = f"{folder}/{number}.pth"
        torch.save(tracker.basis, path)
        files.append(path)
    return files


def memories_of(size, count):
    """Return iCaRL's memory after each of ``count`` tasks."""
    memory, memories = {}, []
    for number in range(count):
        hook = remembering(memory)
        train(state_of(size, random_task(f"task {number}", size), iterations=1), [hook])
        memory = hook.carry()
        memories.append(memory)
    return memories


def remembering(memory):
    hook = ICaRL(memory_size=MEMORY)
    hook.load_carry(memory)
    return hook


def shared(size, world):
    """Return {"step": {processes: curve against classes}, "evaluation": {processes: curve against
    datasets}}, with this ``world`` alternated with its first process alone; ratios are to the first point
    of one process."""
    worlds = {1: World(), world.size: world}
    steps = {(processes, count): share(processes, world, Stepper(state_of(
        size, random_task("task", size, count), who), Finetune()))
        for processes, who in worlds.items() for count in SIZES[size]["classes"]}
    tasks = [random_task(f"dataset {number}", size) for number in range(max(SIZES[size]["datasets"]))]
    model, device = small_model(size), Device("cpu", "fp32")

    def scored(who, count):
        return lambda: [evaluate(model, task, device, batch_size=16, world=who) for task in tasks[:count]]
    scores = {(processes, count): share(processes, world, scored(who, count))
              for processes, who in worlds.items() for count in SIZES[size]["datasets"]}
    return {name: split_by_processes(turns(works, SIZES[size]["rounds"], world.wait))
            for name, works in (("step", steps), ("evaluation", scores))}


def share(processes, world, work):
    """Return the work, or nothing in the other processes if it is for one process."""
    return work if processes > 1 or world.first else nothing


def split_by_processes(seconds):
    first = next(iter(seconds.values()))
    return {processes: curve({point: own for (who, point), own in seconds.items() if who == processes}, first)
            for processes in dict.fromkeys(who for who, _ in seconds)}


def measured(size, processes=2):
    """Measure all curves, those of several processes under torchrun."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--standalone", "--nproc-per-node", str(processes), "-m", "benchmarks.curves", "--size", size,
                 "--shared", f"{folder}/shared.json"]
        done = subprocess.run([sys.executable, "-m", "torch.distributed.run", *words], cwd=ROOT, check=False,
                              capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise RuntimeError(f"torchrun failed: {done.stderr[-1500:]}")
        together = json.loads(Path(folder, "shared.json").read_text())
    return {"classes": _named(together["step"]), "sentences": by_sentences(size), "tasks": by_tasks(size),
            "datasets": _named(together["evaluation"])}


def _named(curves):
    return {f"{processes} process{'es' if int(processes) > 1 else ''}": found for processes, found in curves.items()}


# -- output ------------------------------------------------------------------------------------------------------------

PANELS = {"classes": "step against classes (finetune)", "sentences": "step against reference sentences",
          "tasks": "step against tasks learned before", "datasets": "evaluation against datasets"}


def table(curves):
    """Return a Markdown table, one line per curve."""
    lines = ["| cost | curve | ratio to the first point (least to greatest) |", "|---|---|---|"]
    for name, title in PANELS.items():
        for label, points in curves[name].items():
            cells = "; ".join(f"{point['at']}: {point['ratio']:.2f} ({point['least']:.2f} to {point['greatest']:.2f})"
                              for point in points)
            lines.append(f"| {title} | {label} | {cells} |")
    return "\n".join(lines)


def plot(curves, path):
    """Draw one PNG, one panel per cost."""
    import matplotlib
    matplotlib.use("agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.5), layout="constrained")
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for label, points in curves[name].items():
            at, ratio = [point["at"] for point in points], [point["ratio"] for point in points]
            spread = [[point["ratio"] - point["least"] for point in points],
                      [point["greatest"] - point["ratio"] for point in points]]
            axis.errorbar(at, ratio, spread, marker="o", markersize=3, capsize=2, label=label)
        axis.set(title=title, xscale="log", ylim=(0, None), ylabel="time / first point's", xticks=at)
        axis.set_xticks(at, list(map(str, at)))
        axis.set_xticks([], minor=True)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--remark", help="a note kept in the result, such as other load on the machine")
    parser.add_argument("--shared", type=Path, help=argparse.SUPPRESS)  # what torchrun starts: the file to write
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    if arguments.shared:
        return _shared_part(arguments.size, arguments.shared)
    around, began = surroundings(), time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):  # the runs' output
        curves = measured(arguments.size)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    keep(arguments.folder / "curves.json", {
        **around, "size": arguments.size, "remark": arguments.remark, "model": SHAPES[arguments.size],
        "options": SIZES[arguments.size], "curves": curves, "whole_s": time.perf_counter() - began})
    print(table(curves))
    plot(curves, arguments.folder / "curves.png")
    return 0


def _shared_part(size, path):
    world = this_world()
    world.start(torch.device("cpu"))
    found = shared(size, world)
    if world.first:
        path.write_text(json.dumps(found))
    world.wait()
    world.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
