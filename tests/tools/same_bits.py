"""Compare what two revisions write, to the bit: for a change that must not move a number.

    python tests/tools/same_bits.py BASE HEAD

BASE and HEAD are git revisions or folders of checkouts; HEAD is often `.`, the working tree. Copy both into a temporary
folder, run COMMANDS in each with this interpreter, and compare every file that they leave, without the values in
IGNORED. Exit status: 0 equal, 1 different, 2 wrong arguments. Steps use the command line only, so that the modules
below src/ may move.
"""

import argparse
import csv
import json
import math
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from safetensors import safe_open

ROOT = Path(__file__).parents[2]
SHOWN = 4  # differences per file
SIZE = 60  # characters of a value that differs
TRIES = 5  # of a kill that came too late
TIMEOUT = 900  # seconds per step
NOT_COPIED = (".git", ".venv", "__pycache__", "ckpt", "logs")  # of a folder that git does not know
KEPT_POINT = "kept_point.pth"
# Most of a short run is the import of these packages. Processes are forked from one that has them, and nothing of src/.
PRELOADED = ["torch", "torch._dynamo", "torch.nn.parallel", "torchvision", "peft", "matplotlib.figure",
             "matplotlib.backends.backend_agg", "safetensors.torch"]
CONTEXT = multiprocessing.get_context("forkserver")


class UsageError(Exception):
    """Carries the one message about an argument."""


class Killed(str):
    """A step that is killed as soon as it has written a resume point of its first task."""


# -- what is run -------------------------------------------------------------------------------------------------------

TRAIN = ("-m src.main --device cpu --workers 0 --quiet --log-interval 1 --max-evaluation-size 24 --batch-size 8 "
         "--lr 1e-3 --warmup-length 2")
EVALUATE = "-m src.main --eval-only --device cpu --workers 0 --quiet --max-evaluation-size 24"
TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 2"
TOY = "--model toy"
VIT = "--model tiny-vit --init scratch"
COLOURS = "--train-dataset toy-colours --iterations 6"
SIZES = "--train-dataset toy-sizes --iterations 6"
BOTH = "--dataset-order toy-colours,toy-sizes"
ZSCL = "--method ZSCL --ref-dataset toy-reference --ref-sentences toy-reference --ref-size 40"
# Points at step 10 and after the last step: the first one is the same whenever the kill hits.
POINTS = "--iterations 16 --save-interval 10"
KILLED = f"{TRAIN} {TOY} {BOTH} {POINTS} --method lwf --we --avg-freq 2 --orthogonal-gradients 3 --save {{out}}"

# {command: its steps, words behind the interpreter}; {out} is the command's own folder.
COMMANDS = {
    "finetune": [
        f"{TRAIN} {VIT} {COLOURS} --eval-interval 3 --wd 0.1 --ls 0.1 --max-grad-norm 1 --grad-accum 2 --save {{out}}"],
    "lwf": [
        f"{TRAIN} {TOY} {COLOURS} --method lwf --l2 0.1 --moving-avg --mv-avg-decay 0.5 --save {{out}}",
        f"{EVALUATE} --load {{out}}/toy-colours.pth --eval-datasets toy-colours,toy-sizes --wise-ft --alpha 0,0.5,1 "
        "--label-space task,all --save {out}/mixes"],
    "zscl": [
        f"{TRAIN} {TOY} {BOTH} --iterations 6 {ZSCL} --we --avg-freq 2 --feature-mse --distill-text-tower "
        "--save {out}"],
    "icarl": [
        f"{TRAIN} {TOY} {COLOURS} --method icarl --memory-size 32 --save {{out}}",
        f"{TRAIN} {TOY} {SIZES} --method icarl --memory-size 32 --wise-merge --load {{out}}/toy-colours.pth "
        "--label-space task,seen --eval-datasets toy-colours,toy-sizes --save {out}"],
    "modx": [
        f"{TRAIN} {TOY} --train-dataset toy-pairs-new --num-phases 2 --method modx --iterations 4 --we-wise "
        "--avg-freq 2 --eval-datasets toy-pairs-new,toy-pairs-dull --save {out}"],
    "projected": [
        f"{TRAIN} {VIT} {COLOURS} --orthogonal-gradients 3 --save {{out}}",
        "convert_grad_to_basis.py --input {out}/grad_toy-colours.pth --output {out}/basis.pth",
        f"{TRAIN} {SIZES} --orthogonal-gradients 3 --orthogonal-gradients-path {{out}}/basis.pth "
        "--load {out}/toy-colours.pth --save {out}"],
    "lora": [
        f"{TRAIN} {VIT} {COLOURS} --lora --lora-dropout 0.3 --lora-bias all --save {{out}}"],
    "lora-shared": [
        f"{TRAIN} {VIT} {COLOURS} --lora --lora-shared --lora-shared-split-qkvo --l2 0.01 --save {{out}}"],
    "head": [
        f"{TRAIN} {VIT} {COLOURS} --train-mode fc --save {{out}}",
        f"{TRAIN} {COLOURS} --train-mode image-fc --load {{out}}/toy-colours.pth --save {{out}}/tower",
        "-m src.main --load {out}/tower/toy-colours.pth --export {out}/exported --quiet"],
    "killed": [Killed(KILLED), f"{KILLED} --resume"],
    "two-processes": [
        f"{TORCHRUN} {TRAIN} {TOY} {COLOURS} --method icarl --memory-size 32 --orthogonal-gradients 3 --save {{out}}"],
    "sequence": [
        f"{TRAIN} {TOY} --dataset-order toy --iterations 3 --save {{out}}/finetune",
        f"{EVALUATE} {TOY} --dataset-order toy --save {{out}}/zero-shot",
        "-m src.main --report {out}/finetune,{out}/zero-shot --save {out}/compared"],
}

# -- what is left out --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ignored:
    """A value that is not compared: of the files that match ``files``, keys and columns that ``pattern`` matches as a
    whole, and in texts whatever it matches."""

    files: str
    pattern: str
    reason: str


IGNORED = (
    Ignored("run*.json", "seconds", "a duration"),
    Ignored("run*.json", "date", "when it ended"),
    Ignored("run*.json", "peak_memory_bytes", "memory of the process, which the allocator decides"),
    Ignored("run*.json", "commit|version", "the git commit, and the version"),
    Ignored("run*.json", "versions|python", "versions of packages and of Python"),
    Ignored("log_*.jsonl", "images_per_second", "a speed"),
    # The kill hits at any instant, so what it leaves in the folder is not compared: only the run's first resume point,
    # which does not depend on the instant, and the files after --resume.
    Ignored(KEPT_POINT, "seconds", "a duration"),
    Ignored("report*.html", r"<dt>(date|duration)</dt><dd>[^<]*</dd>", "when it ended, and how long it took"),
    Ignored("report*.html", r"<td>(–|[\d.]+ (s|min|h)[\d a-z]*)</td><td>[\d.,–]*</td><td>[\d.]+ [MG]iB</td>",
            "duration, images per second and peak memory of a task"),
    Ignored("study.html", r'.*\b(Training time|[\d.]+ (s|min|h), Avg|seconds in which).*|<(svg|path|text) .*',
            "charts, of which one is of durations"),
    Ignored("cost_training_time.svg", r".*", "durations"),
)


def ignored(name):
    """-> the pattern of all that is left out of a file of this name, None if nothing is."""
    found = [row.pattern for row in IGNORED if fnmatch(name, row.files)]
    return re.compile("|".join(f"(?:{pattern})" for pattern in found)) if found else None


# -- contents ----------------------------------------------------------------------------------------------------------


def read_tensors(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def read_safetensors(path):
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return {"tensors": tensors, "metadata": file.metadata()}


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines_of_json(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, restkey="more", restval="missing")
        rows = list(reader)
    return {"columns": list(reader.fieldnames or ()), "row": rows}


def read_text(path):
    pattern = ignored(path.name)
    lines = path.read_text(encoding="utf-8").splitlines()
    return {"line": [pattern.sub("", line) if pattern else line for line in lines]}


READERS = {".pth": read_tensors, ".safetensors": read_safetensors, ".json": read_json, ".jsonl": read_lines_of_json,
           ".csv": read_csv, ".md": read_text, ".tex": read_text, ".html": read_text, ".svg": read_text}


def leaves(content, pattern, place=""):
    """Yield (place, value) of every tensor and plain value in nested dicts and lists, without ignored keys."""
    if isinstance(content, dict):
        parts = [(str(key), value) for key, value in content.items()]
        parts = [(key, value) for key, value in parts if not (pattern and pattern.fullmatch(key))]
    elif isinstance(content, (list, tuple)):
        parts = [(str(index), value) for index, value in enumerate(content)]
    else:
        yield place, content
        return
    yield f"{place}/", type(content).__name__  # so that an empty dict is something
    for key, value in parts:
        yield from leaves(value, pattern, f"{place}/{key}" if place else key)


def content_of(path):
    """-> {place: tensor or plain value} of a file."""
    reader = READERS.get(path.suffix, Path.read_bytes)
    return dict(leaves(reader(path), ignored(path.name)))


# -- comparison --------------------------------------------------------------------------------------------------------


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def tensor_difference(base, head):
    """-> how two tensors differ, None if their bits are equal."""
    if (base.dtype, base.shape) != (head.dtype, head.shape):
        return f"{base.dtype} {tuple(base.shape)} became {head.dtype} {tuple(head.shape)}"
    if torch.equal(bits(base), bits(head)):
        return None
    changed = (bits(base) != bits(head)).view(base.numel(), -1).any(1)
    wide = torch.complex128 if base.is_complex() else torch.float64
    gaps = (base.detach().to(wide) - head.detach().to(wide)).abs()
    largest = gaps.nan_to_num(nan=0.0, posinf=math.inf).max().item()
    return f"{int(changed.sum())} of {base.numel()} values differ, by {largest:.3g} at most"


def value_difference(base, head):
    """-> how two plain values differ, None if they are equal; floats are compared by their bits."""
    if type(base) is not type(head):
        return f"{shown(base)} became {shown(head)}"
    if isinstance(base, torch.Tensor):
        return tensor_difference(base, head)
    if isinstance(base, float):
        equal = struct.pack("<d", base) == struct.pack("<d", head)
    else:
        equal = base == head
    if equal:
        return None
    if isinstance(base, bytes):
        return f"{len(base)} bytes became {len(head)} others"
    start = max(0, len(os.path.commonprefix([repr(base), repr(head)])) - SIZE // 2)
    return f"{shown(base, start)} became {shown(head, start)}{gap(base, head)}"


def gap(base, head):
    """-> ", by X" where both are numbers, as cells of csv files often are."""
    try:
        return f", by {abs(float(base) - float(head)):.3g}"
    except (TypeError, ValueError):
        return ""


def shown(value, start=0):
    """-> a value as text; of a long one, the part that begins at ``start``."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of {tuple(value.shape)}"
    text = repr(value)
    if len(text) <= SIZE:
        return text
    before, after = "..." * (start > 0), "..." * (start + SIZE < len(text))
    return f"{before}{text[start:start + SIZE]}{after}"


def file_differences(base, head):
    """-> a line for each difference of two contents as ``content_of`` gives them."""
    lines = [f"{place}: only in BASE" for place in base if place not in head]
    lines += [f"{place}: only in HEAD" for place in head if place not in base]
    for place in base:
        if place in head and (difference := value_difference(base[place], head[place])):
            lines.append(f"{place or 'content'}: {difference}")
    return lines


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def folder_differences(base, head):
    """Compare all files of two folders. -> (lines that name the file, number of files, number of tensors)."""
    here, there = files_below(base), files_below(head)
    lines = [f"{name}: only in BASE" for name in sorted(here - there)]
    lines += [f"{name}: only in HEAD" for name in sorted(there - here)]
    tensors = 0
    for name in sorted(here & there):
        one, other = content_of(base / name), content_of(head / name)
        found = file_differences(one, other)
        lines += [f"{name}: {line}" for line in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"{name}: and {len(found) - SHOWN} more")
        tensors += sum(isinstance(value, torch.Tensor) for value in one.values())
    return lines, len(here & there), tensors


# -- two checkouts -----------------------------------------------------------------------------------------------------


def git(*words, cwd=ROOT):
    return subprocess.run(["git", *words], cwd=cwd, capture_output=True, text=True, check=False)


def is_folder(text):
    return (Path(text) / "src").is_dir()


def check(text):
    """Raise UsageError for what is neither a folder of a checkout nor a revision."""
    if not is_folder(text) and git("rev-parse", "--verify", "--quiet", f"{text}^{{commit}}").returncode:
        raise UsageError(f"{text} is neither a git revision nor the folder of a checkout")


def copy(text, folder):
    """Copy a revision, or a checkout with its uncommitted changes, into a new folder."""
    if is_folder(text):
        copy_folder(Path(text), folder)
        return
    archive = folder.with_suffix(".tar")
    done = git("archive", "--format", "tar", "--output", str(archive), text)
    if done.returncode:
        raise UsageError(f"{text}: {done.stderr.strip()}")
    shutil.unpack_archive(archive, folder)


def copy_folder(source, folder):
    listed = git("ls-files", "-co", "--exclude-standard", "-z", cwd=source)
    names = [name for name in listed.stdout.split("\0") if name]
    if listed.returncode or not names:
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
        return
    for name in names:
        if not (source / name).is_file():  # deleted, and not committed yet
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, folder / name)


# -- the runs ----------------------------------------------------------------------------------------------------------


def set_up():
    """Set what all steps inherit, and how to end. Call it before the first process starts."""
    os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    for name in ("PYTHONPATH", "RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
    CONTEXT.set_forkserver_preload(PRELOADED)
    # The temporary folder is removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def interpret(words, folder, log):
    """Act as `python WORDS` in a folder, in a process that has the packages imported. Output goes to ``log``."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.chdir(folder)
    sys.path[0] = str(folder)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


class Side:
    """One of the two checkouts and what the commands leave in it."""

    def __init__(self, folder):
        self.folder = folder
        self.log = folder.with_suffix(".log")

    def out(self, name):
        return self.folder / "ckpt" / "same_bits" / name

    def run(self, name):
        """Run the steps of a command. -> None, or why a step failed."""
        for number, step in enumerate(COMMANDS[name], start=1):
            words = step.format(out=self.out(name).relative_to(self.folder)).split()
            status = self.kill(words, name) if isinstance(step, Killed) else self.finish(words)
            if status != 0:
                tail = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
                return "\n    ".join([f"step {number} ended with {status}:", *tail])
        return None

    def start(self, words):
        process = CONTEXT.Process(target=interpret, args=(words, self.folder, self.log))
        process.start()
        return process

    def finish(self, words):
        """Run a step to its end. -> its exit status."""
        process = self.start(words)
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            return f"no result after {TIMEOUT} s"
        return process.exitcode

    def kill(self, words, name):
        """Kill a run when its first task has written a point, and keep that point. -> 0, or the status of a run that
        always ended before."""
        for _ in range(TRIES):
            shutil.rmtree(self.out(name), ignore_errors=True)
            process = self.start(words)
            while process.is_alive() and not self.points(name):
                time.sleep(0.002)
            process.kill()
            process.join()
            if points := self.points(name):
                # The point before the newest one is the first of the two, wherever the kill hit.
                shutil.copy(points[-1], self.out(name) / KEPT_POINT)
                return 0
        return process.exitcode or "no resume point"

    def points(self, name):
        paths = [self.out(name) / f"resume_toy-colours{mark}.pth" for mark in ("", ".prev")]
        return [path for path in paths if path.is_file()]


def compare(name, base, head):
    """Run a command on both sides at the same time and print how they differ. -> whether they are equal."""
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        failures = list(pool.map(lambda side: side.run(name), (base, head)))
    lines = [f"{side}: {failure}" for side, failure in zip(("BASE", "HEAD"), failures, strict=True) if failure]
    if not lines:
        lines, files, tensors = folder_differences(base.out(name), head.out(name))
        if not files and not lines:
            lines = ["no file was written"]
    if lines:
        print(f"{name}: different", *lines, sep="\n  ", flush=True)
        return False
    print(f"{name}: equal: {files} files, {tensors} tensors ({time.monotonic() - began:.0f} s)", flush=True)
    return True


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("base", metavar="BASE", help="a git revision, or the folder of a checkout")
    parser.add_argument("head", metavar="HEAD", help="the same; `.` is the working tree")
    arguments = parser.parse_args(argv)
    set_up()
    with tempfile.TemporaryDirectory(prefix="same_bits_") as folder:
        sides = [Side(Path(folder) / name) for name in ("base", "head")]
        try:
            for text in (arguments.base, arguments.head):
                check(text)
            for text, side in zip((arguments.base, arguments.head), sides, strict=True):
                copy(text, side.folder)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        equal = [compare(name, *sides) for name in COMMANDS]
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
