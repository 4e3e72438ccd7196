"""Steps of NuSA-CL at batch 16, of which its authors give 0.4 s and 6.6 GB: a figure that others can compare."""

import torch

from benchmarks.one_gpu.setting import rows
from benchmarks.one_gpu.steps import sizes, start_of
from benchmarks.one_gpu.timing import first_call, timed
from benchmarks.our_step import OurStep, batch_of
from benchmarks.sizes import class_names, random_images
from src.machine.device import Device
from src.models.modeling import frozen_copy
from src.models.nusa import NuSA

BATCH, CLASSES = 16, 100


def nusa(setting, found):
    """Seconds and peak memory of a step in two precisions; "build_s" has the decompositions of all weights."""
    rows(setting, found, {precision: lambda precision=precision: row(setting, precision)
                          for precision in ("bf16", "fp32")}, least=20)


def row(setting, precision):
    """Random weights; the method's defaults, rank 128, dropout 0.25."""
    torch.manual_seed(0)
    place = Device(setting.device, precision)
    clip = place.place(frozen_copy(start_of(sizes(setting)["model"])))
    images = random_images(BATCH, clip.image_resolution).to(place.device, place.weight_type)
    labels = (torch.arange(BATCH) % CLASSES).to(place.device)
    made = []
    seconds = first_call(setting, lambda: made.append(
        OurStep(clip, place, class_names(CLASSES), batch_of(images, labels), lr=3e-4, method=NuSA())))
    [step] = made
    return {"build_s": seconds, **timed(setting, step)}
