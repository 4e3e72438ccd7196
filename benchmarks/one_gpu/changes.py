"""What each change of the step is worth: the step as it is, alternated with itself after one change is undone.

One set of weights serves all variants of a step: a change is undone around each of its calls.
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
NEW_SHAPES = 4  # texts of lengths that no call had before


# -- changes, undone while a step runs ---------------------------------------------------------------------------------


def formula(_, x):
    """QuickGELU by autograd."""
    return x * torch.sigmoid(1.702 * x)


def by_unbind(qkv, heads, attend, beside=None):
    """``clip.model.mix`` with query, key and value in one more dimension."""
    query, key, value = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = attend(query, key, value) + (0 if beside is None else beside(query, key, value))
    return mixed.transpose(1, 2).flatten(2)


def tensor_by_tensor(tensors, anchors):
    """``l2_distance`` with three operations for each tensor."""
    return torch.stack([(tensor - anchor).square().sum()
                        for tensor, anchor in zip(tensors, anchors, strict=True)]).sum()


def with_texts(form):
    """Give prompts "packed" or "padded"."""
    def change(step):
        return mock.patch.object(step.method.classes.scores[0], "texts", step.forms[form])
    return change


def two_forwards(_):
    return mock.patch.object(src.models.state, "encodes_rows_alone", lambda model: False)


def autograd_gelu(_):
    return mock.patch.object(QuickGELU, "forward", formula)


def fused_gelu(_):
    """Not undone, but tried: one Triton kernel each way."""
    functions = triton_gelu()
    return mock.patch.object(QuickGELU, "forward", lambda _, x: FusedGELU.apply(x, functions))


def unbound_qkv(_):
    return mock.patch.object(clip.model, "mix", by_unbind)


def cudnn_for_texts(_):
    return mock.patch.object(clip.attention, "without_cudnn", contextlib.nullcontext)


def single_penalties(_):
    return mock.patch.object(src.models.penalties, "l2_distance", tensor_by_tensor)


def with_penalty(step):
    """The hooks of the step with l2 among them."""
    return mock.patch.object(step, "step", step.penalised)


def together(*changes):
    """Several changes as one."""
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
    """A ZSCL step and each change of it; launches; peak memory; evaluation; texts of new lengths."""
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
    """Fine-tuning at several sizes, and ZSCL with many classes: where packing begins to pay."""
    use = sizes(setting)
    table = {"finetune, batch 8, 47 classes": (47, 0, 8), "finetune, 397 classes": (397, 0, use["batch"]),
             "finetune, 1000 classes": (1000, 0, use["batch"]),
             "ZSCL, 1000 classes": (1000, use["sentences"], use["batch"])}
    rows(setting, found, {name: lambda options=options: turns(setting, prepared(setting, *options), FINETUNE_VARIANTS)
                          for name, options in table.items()}, least=8)


def changes_parity(setting, found):
    """New functions in fp64 against the CPU's, and steps against those of before on one device."""
    rows(setting, found, {
        "functions": lambda: functions_apart(setting),
        "20 steps, fp64": lambda: steps_apart(setting, "fp64"),
        "20 steps, bf16": lambda: steps_apart(setting, "bf16"),
    })


# -- times -------------------------------------------------------------------------------------------------------------


def prepared(setting, classes, sentences, batch=None, precision="bf16", model=None):
    """Return an OurStep that knows both forms of its prompts and, where it distils, a Step with l2."""
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
    """{variant: seconds of its steps}, one of each in every round."""
    seconds = {name: [] for name in variants}
    rounds, warm = (2, 1) if setting.tiny else (ROUNDS + WARM, WARM)
    for _ in range(rounds):
        if setting.left() < 10:  # for the rows behind
            break
        for name, change in variants.items():
            with change(step):
                seconds[name].append(one_step(setting, step))
    found = {name: summary(measured[warm:]) for name, measured in seconds.items()}
    return {**found, "prompts": type(step.method.classes.scores[0].texts).__name__,
            "tokens": {form: int(texts.numel() if form == "padded" else len(texts))
                       for form, texts in step.forms.items()}}


def peak(setting, step, change):
    """Bytes of the device in a step."""
    if not setting.cuda:
        return {"skipped": "needs CUDA"}
    setting.tidy()
    torch.cuda.reset_peak_memory_stats()
    with change(step):
        step()
    setting.wait()
    return torch.cuda.max_memory_allocated()


def launches(setting, step, change, name):
    """Launches of a step, seconds that the device is busy, and kernels of cuDNN's attention among them."""
    if not setting.cuda:
        return {"skipped": "needs CUDA"}
    with change(step):
        return profiled(setting, step, setting.out / f"profile_{name.replace(', ', '_').replace(' ', '_')}.txt")


def evaluation(setting):
    """Seconds of the image tower's forward as evaluation runs it, and images/s."""
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
    """Mean seconds of a forward and backward of texts of a length that was never there, without and with cuDNN."""
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
            work(first)  # what is loaded once
            seconds = [first_call(setting, lambda length=length: work(length))
                       for length in range(first + 1, first + 1 + NEW_SHAPES)]
        found[name] = {"s": sum(seconds) / NEW_SHAPES, "each_s": seconds}
    return found


# -- equality ----------------------------------------------------------------------------------------------------------


def functions_apart(setting):
    """{function: the largest distance of its value and gradients from the CPU's, of the largest number there}."""
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
    """Distance of a function's value and gradients on the device from those on the CPU."""
    here, there = (values_and_gradients(function, [value.to(kind) for value in inputs])
                   for kind in ("cpu", setting.device))
    return max(((one - other.cpu()).abs().max() / one.abs().max()).item()
               for one, other in zip(here, there, strict=True))


def values_and_gradients(function, inputs):
    """[value, a gradient for each input], the incoming gradient falling from 1 to 1/2."""
    inputs = [value.requires_grad_() for value in inputs]
    found = function(*inputs)
    weights = torch.linspace(1, 0.5, found.numel(), dtype=found.dtype, device=found.device).view(found.shape)
    return [found.detach(), *torch.autograd.grad((found * weights).sum(), inputs)]


def steps_apart(setting, precision):
    """Largest relative difference of the losses of steps with l2, as it is and as before, from equal weights."""
    losses = []
    for change in (with_penalty, ZSCL_VARIANTS[L2_AS_BEFORE]):
        step = prepared(setting, 10, 30, 8, precision, "tiny-vit")
        with change(step):
            losses.append([step().item() for _ in range(PARITY_STEPS)])
    return {"loss": furthest(*losses), "last_losses": [side[-1] for side in losses]}
