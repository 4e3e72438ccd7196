"""All GPU measurements in one call of under eight minutes, into one JSON file. Needs torch and a checkout,
no other package and no network:

    python -m benchmarks.gpu --out benchmarks/results/gpu.json      # make bench-gpu
    python -m benchmarks.gpu --tiny --device cpu --out /tmp/x.json  # a trial without a GPU

The figure to quote is that of ``zscl-bf16-both``, where both sides have the same precision.
``benchmarks.one_gpu`` measures more, such as images from files, other settings and prototypes.

The file is written after each part, so that an interrupted call keeps its figures so far. Texts have one
token per word here: CLIP's own tokenizer needs packages and a vocabulary that a bare machine lacks, and
tokenisation affects only a text's length.
"""

import argparse
import importlib.util
import json
import sys
import time
import types
from pathlib import Path

import torch


def stand_in_for_text_packages():
    """Make the tokenizer importable if its packages are missing; nothing here calls them."""
    for name in ("ftfy", "regex"):
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.SimpleNamespace(compile=lambda *_: None, IGNORECASE=0)


stand_in_for_text_packages()  # before the first module that imports the tokenizer

import clip.tokenizer  # noqa: E402
from benchmarks.harness import Mismatch, in_turns, nothing, summary, surroundings  # noqa: E402
from benchmarks.sizes import random_images, random_model  # noqa: E402
from benchmarks.steps import Pair  # noqa: E402
from src.machine.device import Device  # noqa: E402
from src.models.modeling import compile_image_tower  # noqa: E402

FULL = {"model": "ViT-B/16", "batch": 64, "classes": 47, "sentences": 1000, "rounds": 5, "matrix": 8192}
TINY = {"model": "tiny-vit", "batch": 2, "classes": 4, "sentences": 6, "rounds": 1, "matrix": 64}
MTIL_STEPS = 11 * 1000  # tasks x steps
WARM_UP = 1.0  # seconds of products before timing starts: an idle GPU's clocks are low
MOST_BACK_TO_BACK = 20, 3.0  # steps, seconds
HEADLINE = "zscl-bf16-both"  # both sides in the same precision
SIDES = {"fp32": ("fp32", False), "bf16": ("bf16", False), "bf16-both": ("bf16", True)}  # precision, the peer's too


def tokens_by_word():
    """Make ``clip.tokenize`` return one id per word."""
    ids = {}
    clip.tokenizer.encode = lambda text: tuple(ids.setdefault(word, 1000 + len(ids)) for word in text.split())


class Bench:
    """The parts; each returns a dict. ``sizes``: like FULL."""

    def __init__(self, sizes, device, with_compile):
        self.sizes, self.name, self.with_compile = sizes, device, with_compile
        self.cuda = device == "cuda"
        self.wait = torch.cuda.synchronize if self.cuda else nothing
        self.results, self.failed = {}, {}

    def parts(self):
        yield "matrix_rate", self.matrix_rate
        yield "image_tower", self.image_tower
        for name in SIDES:
            yield f"zscl-{name}", lambda name=name: self.zscl(*SIDES[name])
        yield "mtil", self.mtil
        if self.with_compile:  # last: it takes minutes if it hangs
            yield "compile", self.compiled

    def matrix_rate(self):
        """Measure FLOP/s of the largest products, the reference for utilisation."""
        side, rates = self.sizes["matrix"], {}
        for name, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            left, right = (torch.randn(side, side, device=self.name, dtype=kind) for _ in range(2))
            self._warm_up(lambda left=left, right=right: left @ right)
            seconds = self._seconds(lambda left=left, right=right: left @ right, 20)
            rates[name] = 2 * side ** 3 / seconds
        return rates

    def image_tower(self):
        """Time forward and backward on the images of a ZSCL step (batch + reference batch) in bf16.
        Utilisation is relative to the measured matrix rate, with operations from torch's counter."""
        from torch.utils.flop_counter import FlopCounterMode
        device, count = Device(self.name, "bf16"), 2 * self.sizes["batch"]
        model = device.place(random_model(self.sizes["model"]))
        images = random_images(count, model.image_resolution).to(device.device)

        def work():
            with device.autocast():
                features = model.encode_image(images)
            features.float().sum().backward()
            model.zero_grad(set_to_none=True)

        with FlopCounterMode(display=False) as counter:
            work()
        seconds = self._seconds(work, 3 * self.sizes["rounds"])
        rate = counter.get_total_flops() / seconds
        return {"images": count, "seconds": seconds, "images_per_s": count / seconds, "flops_per_s": rate,
                "utilisation": rate / self.results["matrix_rate"]["bf16"]}

    def zscl(self, precision, peer_too):
        """Time a ZSCL step against the published loop, waiting for each step; then steps of each side back
        to back. The peak memory is that of our side alone."""
        pair = self._pair(precision, peer_too)
        checks = pair.check()
        times = in_turns(pair.ours, pair.step_of_peer, self.sizes["rounds"], budget=60, wait=self.wait)
        result = {**summary(*times), "checks": checks, "precisions": precisions(precision, peer_too)}
        for side, step in (("ours", pair.ours), ("peer", pair.step_of_peer)):
            result[f"{side}_back_to_back_s"] = self._back_to_back(step, result[f"{side}_s"])
        pair.peer = None
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            pair.ours()
            result["peak_bytes"] = torch.cuda.max_memory_allocated()
        return {**result, "images_per_s": self.sizes["batch"] / result["ours_s"]}

    def compiled(self):
        """Time our step with image towers compiled (ours), as by --compile, against eager (peer), and the seconds of
        the first compiled step."""
        eager, compiled = self._pair("bf16"), self._pair("bf16")
        eager.peer = compiled.peer = None
        for model in (compiled.ours.state.model, compiled.ours.method.teacher):
            compile_image_tower(model)
        first = in_turns(compiled.ours, nothing, 1, wait=self.wait)[0][0]
        for _ in range(2):
            compiled.ours(), eager.ours()
        return {**summary(*in_turns(compiled.ours, eager.ours, self.sizes["rounds"], wait=self.wait)),
                "first_step_s": first}

    def mtil(self):
        """Extrapolate the measured step time to the hours of one MTIL order's steps, both sides in bf16,
        without loading and evaluation."""
        step = self.results[HEADLINE]
        return {"steps": MTIL_STEPS, "of": HEADLINE, "ours_h": step["ours_s"] * MTIL_STEPS / 3600,
                "published_h": step["peer_s"] * MTIL_STEPS / 3600}

    def _pair(self, precision, peer_too=False):
        sizes = self.sizes
        return Pair(sizes["model"], sizes["classes"], sizes["batch"], sizes["sentences"], precision, self.name,
                    peer_too)

    def _warm_up(self, work):
        """Run work on the device until its clocks have risen."""
        until = time.perf_counter() + (WARM_UP if self.cuda else 0)
        while time.perf_counter() < until:
            work()
            self.wait()

    def _back_to_back(self, work, seconds):
        """Return the seconds per step of several steps without waiting in between; ``seconds``: about how
        long one takes."""
        most, budget = MOST_BACK_TO_BACK
        steps = max(1, min(most, int(budget / seconds)))
        self.wait()
        start = time.perf_counter()
        for _ in range(steps):
            work()
        self.wait()
        return (time.perf_counter() - start) / steps

    def _seconds(self, work, rounds):
        """Return the median of some rounds after a warm-up."""
        work()
        return summary(*in_turns(work, nothing, rounds, budget=20, wait=self.wait))["ours_s"]


def precisions(ours, peer_too):
    """Describe the precision of each side."""
    return f"ours {ours}, peer {ours if peer_too else 'fp32'}; fp32 is without TF32"


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a trial")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments = parser.parse_args(words)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        return ("benchmarks.gpu: this machine or this build of torch has no CUDA device; give --device cpu --tiny for "
"a trial")
    tokens_by_word()
    sizes = TINY if arguments.tiny else FULL
    bench = Bench(sizes, arguments.device, not arguments.no_compile)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    around, start = surroundings(), time.perf_counter()
    for name, part in bench.parts():
        try:
            bench.results[name] = part()
        except (Mismatch, RuntimeError, KeyError) as error:  # a failed part keeps the others' figures
            bench.failed[name] = repr(error)
            print(f"{name}: not measured: {error!r}", file=sys.stderr)
        if bench.cuda:
            torch.cuda.empty_cache()
        arguments.out.write_text(json.dumps({**around, "sizes": sizes, "headline": HEADLINE,
                                             "whole_s": time.perf_counter() - start,
                                             "results": bench.results, "failed": bench.failed}, indent=1) + "\n",
                                 encoding="utf-8")
        print(name, json.dumps(bench.results.get(name)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
