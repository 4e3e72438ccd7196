"""The number of classes from which packed prompts are faster than padded ones."""

import torch

from benchmarks.one_gpu.changes import prepared, turns, with_texts
from benchmarks.one_gpu.setting import rows
from benchmarks.one_gpu.steps import kernels_of, sizes

FORMS = ("packed", "padded")
KINDS = {"ZSCL": (4000, 2000, 1000), "finetune": (4000, 2000, 8000, 1000)}  # those around the threshold first


def packing(setting, found):
    """Alternate packed and padded steps in bf16; measure busy seconds of the device and peak memory of each form."""
    use = sizes(setting)
    sentences = {"ZSCL": use["sentences"], "finetune": 0}
    table = {f"{kind}, {classes} classes": (classes, sentences[kind])
             for kind, several in KINDS.items() for classes in several}
    rows(setting, found, {name: lambda options=options: compared(setting, prepared(setting, *options))
                          for name, options in table.items()}, least=12)


def compared(setting, step):
    """Return {form: seconds of its steps, on CUDA also launches, busy seconds and peak bytes}, and the
    tokens of each."""
    found = turns(setting, step, {form: with_texts(form) for form in FORMS})
    if setting.cuda:
        for form in FORMS:
            with with_texts(form)(step):
                found[form] |= on_device(setting, step)
    return found


def on_device(setting, step):
    """Return the launches of a step, the busy seconds of the device, and its peak bytes."""
    setting.tidy()
    torch.cuda.reset_peak_memory_stats()
    step()
    setting.wait()
    peak = torch.cuda.max_memory_allocated()
    return {**kernels_of(setting, step)[0], "peak_bytes": peak}
