"""Current training steps: parity with the CPU, times in many settings, a profile, projection of gradients."""

import functools

import torch
import torch.nn.functional as F

import benchmarks.gpu as gpu
from benchmarks.one_gpu.predictions import ZSCL
from benchmarks.one_gpu.setting import no_cudnn_attention, rows
from benchmarks.one_gpu.timing import first_call, timed
from benchmarks.our_step import TEMPLATE, OurStep, batch_of
from benchmarks.projection import RandomBases
from benchmarks.sizes import ARCHITECTURES, TEXT, class_names, random_images, random_model
from benchmarks.sizes import sentences as some_sentences
from src.machine.device import Device
from src.models.averaging import WeightEnsemble
from src.models.gradients import tracked_parameters
from src.models.modeling import frozen_copy, image_features, tokens_of
from src.models.penalties import L2
from src.models.training import Step

LARGE = {**TEXT, "embed_dim": 768, "image_resolution": 224, "vision_layers": 24, "vision_width": 1024,
         "vision_patch_size": 14, "transformer_width": 768, "transformer_heads": 12, "transformer_layers": 12}
ARCHITECTURES.setdefault("ViT-L/14", LARGE)
FULL = {"model": "ViT-B/16", "large": "ViT-L/14", "resnet": "RN50", "batch": 64, "sentences": 1000, "many": 15840}
TINY = {"model": "tiny-vit", "large": "tiny-vit", "resnet": "tiny-rn", "batch": 4, "sentences": 20, "many": 40}
PARITY_STEPS = 20


def sizes(setting):
    """Return FULL or TINY."""
    return TINY if setting.tiny else FULL


@functools.cache
def start_of(model):
    """Return a random CLIP on the CPU, drawn once, since a large one takes seconds."""
    return random_model(model)


def build(setting, model, precision, batch, classes, sentences, device=None, tf32=False):
    """Return an OurStep with random weights, the same at each call; ``sentences`` 0 means plain fine-tuning."""
    place = Device(device or setting.device, precision, tf32)
    clip = place.place(frozen_copy(start_of(model)))
    images, reference = (random_images(batch, clip.image_resolution, seed).to(place.device, place.weight_type)
                         for seed in (0, 1))
    labels = (torch.arange(batch) % classes).to(place.device)
    return OurStep(clip, place, class_names(classes), batch_of(images, labels), some_sentences(sentences) or None,
                   batch_of(reference, labels))


# -- parity ------------------------------------------------------------------------------------------------------------


def parity(setting, found):
    """Run real steps on the CPU (fp32, fp64 for fp64) and on the device from equal weights."""
    kinds = ("fp64", "fp32", "bf16", "fp16") if setting.cuda else ("fp64", "fp32", "bf16")
    rows(setting, found, {kind: lambda kind=kind: differences(setting, kind) for kind in kinds})


def differences(setting, precision):
    """Return the largest relative difference in losses, and the relative distance of the final weights."""
    on_cpu = precision if precision == "fp64" else "fp32"
    pair = [build(setting, "tiny-vit", kind, 8, 10, 30, device)
            for kind, device in ((on_cpu, "cpu"), (precision, setting.device))]
    losses = [[step().item() for _ in range(PARITY_STEPS)] for step in pair]
    ours, other = (weights_of(step) for step in pair)
    return {"loss": furthest(losses[1], losses[0]),
            "weights": ((ours - other).norm() / ours.norm()).item(), "last_losses": [side[-1] for side in losses]}


def furthest(losses, expected):
    """Return the largest relative difference between two lists of losses."""
    return max(abs(here - there) / abs(there) for here, there in zip(losses, expected, strict=True))


def weights_of(step):
    """Return all parameters as one vector (N,) in fp64 on the CPU."""
    return torch.cat([value.detach().double().cpu().flatten() for value in step.state.model.parameters()])


# -- times -------------------------------------------------------------------------------------------------------------


def steps(setting, found):
    """Measure seconds per step in many settings, the most important first."""
    use = sizes(setting)
    zscl = use["model"], "bf16", use["batch"], 100, use["sentences"]
    table = {
        ZSCL: lambda: step_row(setting, *zscl),
        f"{ZSCL} + l2": lambda: step_row(setting, *zscl, change=with_l2),
        "profile": lambda: profile(setting, build(setting, *zscl)),
        f"{ZSCL} padded": lambda: step_row(setting, *zscl, change=padded),
        f"{ZSCL} without cuDNN attention": lambda: without_cudnn(setting, lambda: step_row(setting, *zscl)),
        "ZSCL bf16 2 images: the host": lambda: step_row(setting, use["model"], "bf16", 2, 100, use["sentences"]),
        "finetune bf16 397 classes": lambda: step_row(setting, use["model"], "bf16", use["batch"], 397, 0),
        "finetune bf16 batch 8": lambda: step_row(setting, use["model"], "bf16", 8, 47, 0),
        "recipe: l2, we, 15,840 sentences": lambda: recipe(setting, use),
        "evaluation forward": lambda: forward_row(setting, use["model"]),
        "ZSCL tf32": lambda: step_row(setting, use["model"], "fp32", *zscl[2:], tf32=True),
        "ZSCL fp32": lambda: step_row(setting, use["model"], "fp32", *zscl[2:]),
        "ViT-L/14 ZSCL bf16": lambda: step_row(setting, use["large"], *zscl[1:]),
    }
    if setting.cuda:
        table["ZSCL fp16"] = lambda: step_row(setting, use["model"], "fp16", *zscl[2:])
    rows(setting, found, table)


def step_row(setting, *options, change=None, **more):
    """Return the seconds of a step and of the first one, and the first losses; ``change(step)`` modifies it first."""
    step = build(setting, *options, **more)
    if change is not None:
        change(step)
    first = []
    seconds = first_call(setting, lambda: first.append(step()))
    losses = [first[0].item(), *(step().item() for _ in range(2))]
    return {"first_s": seconds, "losses": losses, **timed(setting, step)}


def with_l2(step):
    """Add the recipe's penalty on the distance from the weights at load."""
    step.l2 = L2(1.0)
    step.l2.begin(step.state)
    step.step = Step(step.state, [step.method, step.l2])


def padded(step):
    """Encode the class prompts as rows of equal length instead of packed."""
    prompts = step.method.classes.scores[0]
    texts = [TEMPLATE.replace("{c}", name) for name in step.state.task.classnames]
    prompts.texts = tokens_of(step.state.model, texts)


def without_cudnn(setting, work):
    """Run ``work()`` with cuDNN's attention disabled."""
    if not setting.cuda:
        return {"skipped": "needs CUDA"}
    with no_cudnn_attention():
        return work()


def recipe(setting, use):
    """Time the recipe ``zscl``: building with all sentences, a step with l2, and one mix of the weight ensemble."""
    made = []
    begun = first_call(setting, lambda: made.append(
        build(setting, use["model"], "bf16", use["batch"], 100, use["many"])))
    [step] = made
    with_l2(step)
    average = WeightEnsemble(100)
    average.begin(step.state)
    found = timed(setting, step)
    mixes = timed(setting, torch.no_grad()(lambda: average.mix(step.state, 0.5)), 5)
    return {**found, "build_s": begun, "mix_s": mixes["s"]}


def forward_row(setting, model, change=None):
    """Return images/s of the image tower as in evaluation, 128 images, bf16."""
    place, count = Device(setting.device, "bf16"), 8 if setting.tiny else 128
    clip = place.place(frozen_copy(start_of(model)))
    images = random_images(count, clip.image_resolution).to(place.device)
    if change is not None:
        images = change(clip, images)

    @torch.no_grad()
    def work():
        with place.autocast():
            return image_features(clip, images)
    found = timed(setting, work)
    return {"images_per_s": count / found["s"], **found}


# -- profile -----------------------------------------------------------------------------------------------------------


def profile(setting, step):
    """Return the launches of a step and the busy seconds of the device; profile.txt lists the kernels."""
    if not setting.cuda:
        return {"skipped": "needs CUDA"}
    return profiled(setting, step, setting.out / "profile.txt")


def profiled(setting, step, path):
    """Return ``kernels_of`` a step and write its table of kernels to ``path``."""
    found, profiler = kernels_of(setting, step)
    text = profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=70, max_name_column_width=90)
    path.write_text(text, encoding="utf-8")
    return found


def kernels_of(setting, step, count=2):
    """Return ({launches of a step on CUDA, those of cuDNN's attention, busy seconds of the device}, profiler)."""
    from torch.profiler import ProfilerActivity
    for _ in range(3):
        step()
    setting.wait()
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(count):
            step()
        setting.wait()
    on_device = [event for event in profiler.events() if _is_kernel(event)]
    if not on_device:
        raise RuntimeError("the profiler saw no kernel")
    busy = sum(event.time_range.elapsed_us() for event in on_device) / 1e6
    return {"launches": len(on_device) / count, "busy_s": busy / count,
            "cudnn_attention": sum("cudnn_generated" in event.name for event in on_device) / count}, profiler


def _is_kernel(event):
    """Return whether an event is a kernel or a copy on the device, and not a named range."""
    on_device = event.device_type == torch.autograd.DeviceType.CUDA
    return on_device and not getattr(event, "is_user_annotation", False) and "Optimizer.step#" not in event.name


# -- projection, and the benchmark beside a peer -----------------------------------------------------------------------


def ogd(setting, found):
    """Time what projecting gradient and update adds to a step, off ten rows per tensor."""
    step = build(setting, sizes(setting)["model"], "bf16", 4, 10, 0)
    tracker = UnitRows(step.state.model, 10)
    tracker.begin(step.state)
    for value in step.state.model.parameters():
        value.grad = torch.randn_like(value)
    found["gradient"] = timed(setting, lambda: tracker.after_backward(step.state), 10)
    found["update"] = timed(setting, lambda: tracker.after_step(step.state), 10)


class UnitRows(RandomBases):
    """Rows drawn on the device, since a CPU would need a minute; of length 1 and nearly orthogonal, which
    does not affect the cost."""

    def earlier(self):
        return {name: {"basis": F.normalize(value.new_empty(self.k, value.numel()).normal_(), dim=1), "energy": None}
                for name, value in tracked_parameters(self.model).items()}


def bench(setting, found):
    """Run ``make bench-gpu`` without its compiled part; its file is gpu.json."""
    words = ["--out", str(setting.out / "gpu.json"), "--device", setting.device, "--no-compile"]
    found["status"] = gpu.main([*words, "--tiny"] if setting.tiny else words)
