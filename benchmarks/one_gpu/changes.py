"""The effect of each change to the step: the current step, alternated with itself after undoing one change.

All variants of a step share one set of weights: a change is undone only around each call.
"""

import contextlib
from unittest import mock

import torch

import clip.attention
import clip.model
import src.models.finetune
import src.models.penalties
import src.models.state
from benchmarks.one_gpu.host import one_step, summary
from benchmarks.one_gpu.kernels import FusedGELU, triton_gelu
from benchmarks.one_gpu.setting import rows
from benchmarks.one_gpu.steps import PARITY_STEPS, build, furthest, profiled, sizes, start_of, with_l2
from benchmarks.one_gpu.timing import first_call
from benchmarks.our_step import TEMPLATE
from benchmarks.sizes import random_images
from clip.attention import attend_backwards
from clip.model import QuickGELU, mix
from clip.packing import PackedTexts
from src.machine.device import Device
from src.models.helpers import l2_distance
from src.models.modeling import frozen_copy, image_features, text_features, tokens_of

ROUNDS, WARM = 15, 3
AS_IT_IS, AS_BEFORE = "as it is", "as before"
L2_AS_IT_IS, L2_AS_BEFORE = "l2, as it is", "l2, as before"
NEW_SHAPES = 4  # texts of lengths new to the process


# -- changes, undone while a step runs ---------------------------------------------------------------------------------


def formula(_, x):
    """Compute QuickGELU by autograd."""
    return x * torch.sigmoid(1.702 * x)


def by_unbind(qkv, heads, attend, beside=None):
    """Compute ``clip.model.mix`` with query, key and value in one more dimension."""
    query, key, value = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = attend(query, key, value) + (0 if beside is None else beside(query, key, value))
    return mixed.transpose(1, 2).flatten(2)


def tensor_by_tensor(tensors, anchors):
    """Compute ``l2_distance`` with three operations per tensor."""
    return torch.stack([(tensor - anchor).square().sum()
                        for tensor, anchor in zip(tensors, anchors, strict=True)]).sum()


def with_texts(form):
    """Encode prompts "packed" or "padded"."""
    def change(step):
        return mock.patch.object(step.method.classes.scores[0], "texts", step.forms[form])
    return change


def two_forwards(_):
    return mock.patch.object(src.models.state, "encodes_rows_alone", lambda model: False)


def autograd_gelu(_):
    return mock.patch.object(QuickGELU, "forward", formula)


def fused_gelu(_):
    """Try one Triton kernel each way; this does not undo a change."""
    functions = triton_gelu()
    return mock.patch.object(QuickGELU, "forward", lambda _, x: FusedGELU.apply(x, functions))


def unbound_qkv(_):
    return mock.patch.object(clip.model, "mix", by_unbind)


def cudnn_for_texts(_):
    return mock.patch.object(clip.attention, "without_cudnn", contextlib.nullcontext)


def single_penalties(_):
    return mock.patch.object(src.models.penalties, "l2_distance", tensor_by_tensor)


def with_penalty(step):
    """Add l2 to the hooks of the step."""
    return mock.patch.object(step, "step", step.penalised)


def together(*changes):
    """Combine several changes into one."""
    @contextlib.contextmanager
    def change(step):
        with contextlib.ExitStack() as stack:
            for each in changes:
                stack.enter_context(each(step))
            yield
    return change


def unchanged(_):
    return contextlib.nullcontext()


before = together(with_texts("packed"), two_forwards, autograd_gelu, unbound_qkv, cudnn_for_texts)
ZSCL_VARIANTS = {
    AS_IT_IS: unchanged,
    AS_BEFORE: before,
    "prompts packed": with_texts("packed"),
    "two forwards": two_forwards,
    "activation by autograd": autograd_gelu,
    "qkv by unbind": unbound_qkv,
    "cuDNN for texts": cudnn_for_texts,
    L2_AS_IT_IS: with_penalty,
    "l2, tensor by tensor": together(with_penalty, single_penalties),
    L2_AS_BEFORE: together(with_penalty, single_penalties, before),
}
FINETUNE_VARIANTS = {AS_IT_IS: unchanged, AS_BEFORE: before, "prompts padded": with_texts("padded"),
                     "prompts packed": with_texts("packed")}
TRITON = {"activation by Triton": fused_gelu}
PROFILED = (AS_IT_IS, AS_BEFORE, L2_AS_IT_IS, L2_AS_BEFORE)


# -- parts -------------------------------------------------------------------------------------------------------------


def changes(setting, found):
    """Measure a ZSCL step and each change of it, launches, peak memory, evaluation, and texts of new lengths."""
    use = sizes(setting)
    step, variants = prepared(setting, 100, use["sentences"]), dict(ZSCL_VARIANTS)
    if setting.cuda:
        variants |= TRITON
    rows(setting, found, {
        "new text shapes": lambda: new_shapes(setting, step),
        "in turns": lambda: turns(setting, step, variants),
        "peaks": lambda: {name: peak(setting, step, variants[name]) for name in PROFILED},
        **{f"profile, {name}": lambda name=name: launches(setting, step, variants[name], name) for name in PROFILED},
        "evaluation": lambda: evaluation(setting),
    })


def changes_finetune(setting, found):
    """Measure fine-tuning at several sizes, and ZSCL with many classes, to find where packing pays."""
    use = sizes(setting)
    table = {"finetune, batch 8, 47 classes": (47, 0, 8), "finetune, 397 classes": (397, 0, use["batch"]),
             "finetune, 1000 classes": (1000, 0, use["batch"]),
             "ZSCL, 1000 classes": (1000, use["sentences"], use["batch"])}
    rows(setting, found, {name: lambda options=options: turns(setting, prepared(setting, *options), FINETUNE_VARIANTS)
                          for name, options in table.items()}, least=8)


def changes_parity(setting, found):
    """Compare new functions in fp64 with the CPU's, and steps with those before the changes on one device."""
    rows(setting, found, {
        "functions": lambda: functions_apart(setting),
        "20 steps, fp64": lambda: steps_apart(setting, "fp64"),
        "20 steps, bf16": lambda: steps_apart(setting, "bf16"),
    })


# -- times -------------------------------------------------------------------------------------------------------------


def prepared(setting, classes, sentences, batch=None, precision="bf16", model=None):
    """Return an OurStep with both forms of its prompts and, if it distils, a Step with l2."""
    use = sizes(setting)
    if setting.tiny:
        classes, batch = min(classes, 40), None
    step = build(setting, model or use["model"], precision, batch or use["batch"], classes, sentences)
    tokens = tokens_of(step.state.model, [TEMPLATE.replace("{c}", name) for name in step.state.task.classnames])
    step.forms = {"padded": tokens, "packed": PackedTexts(tokens)}
    if sentences:
        plain = step.step
        with_l2(step)
        step.step, step.penalised = plain, step.step
    return step


def turns(setting, step, variants):
    """Return {variant: seconds of its steps}, one step of each per round."""
    seconds = {name: [] for name in variants}
    rounds, warm = (2, 1) if setting.tiny else (ROUNDS + WARM, WARM)
    for _ in range(rounds):
        if setting.left() < 10:  # for the rows that follow
            break
        for name, change in variants.items():
            with change(step):
                seconds[name].append(one_step(setting, step))
    found = {name: summary(measured[warm:]) for name, measured in seconds.items()}
    return {**found, "prompts": type(step.method.classes.scores[0].texts).__name__,
            "tokens": {form: int(texts.numel() if form == "padded" else len(texts))
                       for form, texts in step.forms.items()}}


def peak(setting, step, change):
    """Return the peak bytes of the device in a step."""
    if not setting.cuda:
        return {"skipped": "needs CUDA"}
    setting.tidy()
    torch.cuda.reset_peak_memory_stats()
    with change(step):
        step()
    setting.wait()
    return torch.cuda.max_memory_allocated()


def launches(setting, step, change, name):
    """Return the launches of a step, the seconds that the device is busy, and the kernels of cuDNN's
    attention among them."""
    if not setting.cuda:
        return {"skipped": "needs CUDA"}
    with change(step):
        return profiled(setting, step, setting.out / f"profile_{name.replace(', ', '_').replace(' ', '_')}.txt")


def evaluation(setting):
    """Time the image tower's forward as in evaluation; return seconds and images/s."""
    place, count = Device(setting.device, "bf16"), 8 if setting.tiny else 128
    model = place.place(frozen_copy(start_of(sizes(setting)["model"])))
    images = random_images(count, model.image_resolution).to(place.device)

    @torch.no_grad()
    def work():
        with place.autocast():
            return image_features(model, images)
    variants = {AS_IT_IS: unchanged, "qkv by unbind": unbound_qkv, **(TRITON if setting.cuda else {})}
    seconds = {name: [] for name in variants}
    for turn in range(2 if setting.tiny else ROUNDS + WARM):
        for name, change in variants.items():
            with change(None):
                measured = one_step(setting, work)
            if turn:
                seconds[name].append(measured)
    found = {name: summary(measured) for name, measured in seconds.items()}
    return {name: {**row, "images_per_s": count / row["median_s"]} for name, row in found.items()}


def new_shapes(setting, step):
    """Return the mean seconds of forward and backward on texts of a new length, without and with cuDNN."""
    model, found = step.state.model, {}
    for first, (name, change) in zip((30, 50), {AS_IT_IS: unchanged, "cuDNN": cudnn_for_texts}.items(), strict=True):
        def work(length):
            tokens = torch.zeros(8, length, dtype=torch.long, device=setting.device)
            tokens[:, 1:-1], tokens[:, -1] = 320, 49407
            with step.device.autocast():
                loss = text_features(model, tokens).sum()
            loss.backward()
            model.zero_grad(set_to_none=True)
        with change(step):
            work(first)  # pays for what is loaded once
            seconds = [first_call(setting, lambda length=length: work(length))
                       for length in range(first + 1, first + 1 + NEW_SHAPES)]
        found[name] = {"s": sum(seconds) / NEW_SHAPES, "each_s": seconds}
    return found


# -- equality ----------------------------------------------------------------------------------------------------------


def functions_apart(setting):
    """Return {function: largest distance of its value and gradients from the CPU's, relative to the largest
    number there}."""
    def draw(*shapes):
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    heads, sees = [(3, 2, 7, 16)] * 3, torch.ones(4, 7, dtype=torch.bool).tril(3)
    table = {
        "QuickGELU": (lambda x: QuickGELU()(x), draw((40, 60))),
        "l2": (lambda *values: l2_distance(values[:3], [value.detach().flip(0) for value in values[:3]]),
               draw((30, 20), (50,), (4, 5, 6))),
        "attention": (attend_backwards, draw(*heads)),
        "attention, masked": (lambda *values: attend_backwards(*values, sees.to(values[0].device)),
                              draw((3, 2, 4, 16), *heads[1:])),
        "mix": (lambda qkv: mix(qkv, 2, attend_backwards), draw((3, 7, 96))),
    }
    return {name: apart(setting, function, inputs) for name, (function, inputs) in table.items()}


def apart(setting, function, inputs):
    """Return the distance of a function's value and gradients on the device from those on the CPU."""
    here, there = (values_and_gradients(function, [value.to(kind) for value in inputs])
                   for kind in ("cpu", setting.device))
    return max(((one - other.cpu()).abs().max() / one.abs().max()).item()
               for one, other in zip(here, there, strict=True))


def values_and_gradients(function, inputs):
    """Return [value, gradient per input], for an incoming gradient that falls from 1 to 1/2."""
    inputs = [value.requires_grad_() for value in inputs]
    found = function(*inputs)
    weights = torch.linspace(1, 0.5, found.numel(), dtype=found.dtype, device=found.device).view(found.shape)
    return [found.detach(), *torch.autograd.grad((found * weights).sum(), inputs)]


def steps_apart(setting, precision):
    """Return the largest relative difference in losses of steps with l2, now and before the changes, from
    equal weights."""
    losses = []
    for change in (with_penalty, ZSCL_VARIANTS[L2_AS_BEFORE]):
        step = prepared(setting, 10, 30, 8, precision, "tiny-vit")
        with change(step):
            losses.append([step().item() for _ in range(PARITY_STEPS)])
    return {"loss": furthest(*losses), "last_losses": [side[-1] for side in losses]}
