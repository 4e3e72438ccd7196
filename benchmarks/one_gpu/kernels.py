"""Prototypes of faster steps, each against the current step, from equal weights on equal images.

Some are in src/ by now and no longer make a difference here: ``changes`` undoes those instead.
"""

import functools
import itertools

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.one_gpu.predictions import ZSCL
from benchmarks.one_gpu.setting import rows
from benchmarks.one_gpu.steps import build, forward_row, furthest, sizes, step_row, with_l2
from benchmarks.one_gpu.timing import first_call, timed
from clip.model import QuickGELU
from src.machine.batch import Batch
from src.models.finetune import Finetune
from src.models.modeling import compile_image_tower, image_features

WITHOUT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


# -- prototypes: each modifies an OurStep in place ---------------------------------------------------------------------


def gelu(x):
    """Return x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


def gelu_backward(x, gradient):
    """Return the gradient of ``gelu`` at x."""
    gate = torch.sigmoid(1.702 * x)
    return gradient * gate * (1 + 1.702 * x * (1 - gate))


@functools.cache
def compiled_gelu():
    """Return both functions, compiled once for every shape."""
    return tuple(torch.compile(function, dynamic=True) for function in (gelu, gelu_backward))


def triton_gelu():
    """Return both functions as Triton kernels."""
    from benchmarks.one_gpu import gelu as kernels
    return kernels.forward, kernels.backward


class FusedGELU(torch.autograd.Function):
    """QuickGELU that saves only its input, from two functions: x -> y, and (x, gradient) -> gradient."""

    @staticmethod
    def forward(context, x, functions):
        context.save_for_backward(x)
        context.functions = functions
        return functions[0](x)

    @staticmethod
    def backward(context, gradient):
        return context.functions[1](*context.saved_tensors, gradient), None


def replace_gelu(model, functions):
    """Make every QuickGELU of a module use two functions."""
    for module in model.modules():
        if isinstance(module, QuickGELU):
            module.forward = lambda x: FusedGELU.apply(x, functions)


def with_gelu(step, functions=None):
    """Fuse the activation of student and teacher."""
    functions = functions or triton_gelu()
    for model in (step.state.model, step.method.teacher):
        replace_gelu(model, functions)


class Distance(torch.autograd.Function):
    """Sum of all (parameter - anchor)^2 with its gradient, one launch for a whole list of tensors."""

    @staticmethod
    def forward(context, anchors, *moving):
        context.differences = torch._foreach_sub(list(moving), anchors)
        return torch.stack(torch._foreach_norm(context.differences)).square().sum()

    @staticmethod
    def backward(context, gradient):
        differences, context.differences = context.differences, None
        torch._foreach_mul_(differences, 2 * gradient)
        return None, *differences


def with_foreach_l2(step):
    """Add the recipe's penalty, computed by Distance."""
    with_l2(step)
    hook = step.l2
    hook.losses = lambda state, batch: {"l2": hook.strength * Distance.apply(hook.anchors, *hook.moving)}


def with_one_forward(step):
    """Encode task and reference images in one batch."""
    method = step.method

    def losses(state, batch):
        reference = next(method.reference_images)
        both = image_features(state.model, torch.cat([batch.images, reference.images]))
        own, student = both.split([len(batch.images), len(reference.images)])
        task = Batch(None, batch.labels, features=own, labels_on_host=batch.labels_on_host)
        teacher = method.teacher_features(reference)
        return {**Finetune.losses(method, state, task), **method.comparison(state, reference, student, teacher)}
    method.losses = losses


def without_cudnn_text(step):
    """Keep cuDNN's attention, which builds a plan for each new shape, out of the text tower."""
    tower = step.state.model.transformer
    forward = tower.forward

    def limited(*arguments, **options):
        with sdpa_kernel(WITHOUT_CUDNN):
            return forward(*arguments, **options)
    tower.forward = limited


def compile_blocks(*models):
    """Compile each block of image towers separately."""
    for model in models:
        for block in model.visual.transformer.resblocks:
            block.compile()


def all_of(*changes):
    """Return one change that applies several, in this order."""
    def change(step):
        for each in changes:
            each(step)
    return change


# -- parts -------------------------------------------------------------------------------------------------------------


def kernels(setting, found):
    """Measure prototypes that need no torch.compile."""
    use = sizes(setting)
    table = variants(setting, {
        ZSCL: None,
        "one forward for both batches": with_one_forward,
        "text attention without cuDNN": without_cudnn_text,
        "l2 as it is": with_l2,
        "l2 by foreach": with_foreach_l2,
    })
    if setting.cuda:
        table |= variants(setting, {
            "QuickGELU by Triton": with_gelu,
            "all of these": all_of(with_gelu, with_foreach_l2, with_one_forward, without_cudnn_text),
        })
        table["evaluation forward, QuickGELU by Triton"] = lambda: forward_row(setting, use["model"], fused)
    table |= {
        "evaluation forward": lambda: forward_row(setting, use["model"]),
        "RN50 ZSCL": lambda: resnet(setting, use, torch.contiguous_format),
        "RN50 ZSCL, channels last": lambda: resnet(setting, use, torch.channels_last),
    }
    rows(setting, found, table)
    compare(found)


def kernels_compiled(setting, found):
    """Measure prototypes with torch.compile; "first_s" includes compiling."""
    table = variants(setting, {
        ZSCL: None,
        "QuickGELU compiled": lambda step: with_gelu(step, compiled_gelu()),
        "teacher's blocks compiled": lambda step: compile_blocks(step.method.teacher),
        "all, and all blocks compiled": all_of(
            with_foreach_l2, with_one_forward, without_cudnn_text,
            lambda step: compile_blocks(step.state.model, step.method.teacher)),
    })
    rows(setting, found, table)
    compare(found)


def compiled(setting, found):
    """Image towers as --compile does it, against each block by itself and the text tower too; "first_s" has what
    compiling took."""
    rows(setting, found, variants(setting, {
        "eager": None,
        "image towers": lambda step: [compile_image_tower(model) for model in (step.state.model, step.method.teacher)],
        "blocks": lambda step: compile_blocks(step.state.model, step.method.teacher),
        "towers": lambda step: (step.state.model.visual.compile(), step.state.model.transformer.compile()),
    }))
    compare(found, "eager")


def variants(setting, changes):
    """Convert {name: change of a step} to {name: function that measures it}."""
    use = sizes(setting)
    options = use["model"], "bf16", use["batch"], 100, use["sentences"]
    return {name: lambda change=change: step_row(setting, *options, change=change) for name, change in changes.items()}


def compare(found, base=ZSCL):
    """Add to each row of steps its saving, and how far its first losses are from the base's."""
    known = found.get(base, {})
    for name, row in found.items():
        if name == base or not isinstance(row, dict) or not {"losses", "s"} <= row.keys() & known.keys():
            continue
        row["saves_s"] = known["s"] - row["s"]
        row["losses_differ"] = furthest(row["losses"], known["losses"])


def fused(model, images):
    """Fuse the activation of a model that encodes images."""
    replace_gelu(model, triton_gelu())
    return images


def resnet(setting, use, memory_format):
    """Time a ZSCL step of a ResNet with weights and images in one memory format."""
    step = build(setting, use["resnet"], "bf16", use["batch"], 100, use["sentences"])
    reference = next(step.method.reference_images)
    for model in (step.state.model, step.method.teacher):
        model.visual.to(memory_format=memory_format)
    step.batch, reference = (given._replace(images=given.images.contiguous(memory_format=memory_format))
                             for given in (step.batch, reference))
    step.method.reference_images = itertools.repeat(reference)
    return {"first_s": first_call(setting, step), **timed(setting, step)}
