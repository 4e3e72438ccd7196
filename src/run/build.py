"""From the resolved command line to objects: the device, the state of a task, its hooks."""

import math
import os

import torch

from clip import loader
from src.cli.checks import check_length
from src.datasets import class_split, known_pairs, pairs, phase_of, stem
from src.datasets.loading import rest_of_epoch, steps_per_epoch
from src.datasets.seeds import seed_of
from src.errors import UserError
from src.machine.device import Device
from src.machine.distributed import World
from src.models import METHODS, active_add_ons, find_method
from src.models.attached import build_own, template_of
from src.models.batch_norms import has_norms, least_rows, trains_statistics
from src.models.classifiers import other_classes, require_head_fits, zeroshot_head
from src.models.hooks import Hooks, kept_for, named
from src.models.lora_injection import apply_shared_lora, inject_lora, inject_peft
from src.models.modeling import HEAD_MODES, TRAIN_MODES, ClassificationHead, select_trainable, trains
from src.models.state import Settings, TrainingState
from src.models.training import seed_draws

MOST_WORKERS = 8


def build_device(config, index=None):
    """``index``: which of the machine's devices, where each of several processes has one."""
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True)
    return Device(config.device, config.precision, config.tf32, index)


def build_settings(config, task, name=None):
    """``name`` is the dataset as the command line gives it, which is how --lr names it too."""
    iterations = steps_of(config, task)
    if config.schedule == "onecycle" and iterations == 1:
        raise UserError(f"--schedule onecycle: {task.name} has a single step, whose rate would be the lowest of the "
                        "cycle; give more steps, or another --schedule")
    return Settings(
        iterations=iterations, lr=rate_of(config.lr, name or task.name), batch_size=config.batch_size,
        wd=config.wd, beta2=config.beta2, eps=config.eps, warmup=warmup_of(config, iterations),
        optimizer=config.optimizer, schedule=config.schedule, lr_floor=config.lr_floor,
        compile=config.compile, grad_checkpointing=config.grad_checkpointing, grad_accum=config.grad_accum,
        max_grad_norm=config.max_grad_norm, seed=config.seed, workers=worker_count(config, task),
        caption_choice="first" if config.caption_choice == "all" else config.caption_choice,
        batch_norm=batch_norm_of(config))


def steps_of(config, task):
    """The steps of a task, 0 of a closed form. UserError where the command line gives no length, or one too many."""
    closed_form = is_closed_form(config)
    check_length(config, closed_form)
    if closed_form:
        return 0
    return config.iterations or config.epochs * steps_per_epoch(task, config.batch_size)


def is_closed_form(config):
    """Whether the method of a training run takes no steps; its class is imported."""
    return getattr(config.method_row.hook(), "closed_form", False)


def batch_norm_of(config):
    """"train" or "eval". ``auto`` trains statistics as the published code of Mod-X does, on image-text pairs, and where
    weights are random; elsewhere it keeps those of pretrained weights."""
    if config.batch_norm != "auto":
        return config.batch_norm
    return "train" if config.init == "scratch" or config.pairs else "eval"


def silent_choices(config, state):
    """Return what a task does that no flag of the user's says, a sentence each."""
    found = []
    if config.batch_norm == "auto" and state.settings.batch_norm == "train" and has_norms(state.model):
        why = "weights are random" if config.init == "scratch" else "as published for image-text pairs"
        found.append(f"--batch-norm auto updates the statistics of batch norms (train): {why}")
    left = rest_of_epoch(state.task, state.settings.batch_size)
    if trains_statistics(state) and 0 < left < least_rows(state.world.size):
        found.append(f"the last batch of an epoch has {left} image{'s' * (left > 1)}: its step normalises by the "
                     "running statistics of batch norms")
    frozen = not any(parameter.requires_grad for parameter in state.model.parameters())
    idle = [f"--{name.replace('_', '-')}" for name in ("lora", "train_mode") if config.chosen(name)]
    if frozen and state.own and idle:
        found.append(f"{' and '.join(idle)}: no effect, {', '.join(state.own)} keeps all of the CLIP frozen")
    elif config.lora and "visual." in TRAIN_MODES[config.train_mode] and not trains(state.model, "image"):
        found.append("--lora adapts no layer of this image tower, which stays as it is: none ends in "
                     f"{', '.join(config.lora_target_modules)} (--lora-target-modules)")
    return found


def rate_of(rates, name):
    """A dataset's own rate, or that of the dataset it is a class split of, or everybody's."""
    whole, _ = phase_of(name)
    return rates.get(whole, rates.get(class_split(whole)[0], rates[None]))


def warmup_of(config, iterations):
    """The steps of the warm-up; ``onecycle`` has none beside its rise, and a run without steps has none."""
    return 0 if config.schedule == "onecycle" or not iterations else warmup_steps(config.warmup_length, iterations)


def warmup_steps(text, iterations):
    """``"100"`` or ``"20%"`` -> steps."""
    return math.ceil(iterations * float(text[:-1]) / 100) if text.endswith("%") else int(text)


def worker_count(config, task):
    if config.workers != "auto":
        return config.workers
    return 0 if task.in_memory else min(MOST_WORKERS, os.cpu_count() or 1)


def build_state(config, datasets, name, checkpoint, device, open_zeroshot):
    """The state of one task, its model on the device with the train mode's parameters free."""
    task = datasets.open(name)
    model = device.place(loader.build(checkpoint))
    if config.train_mode in HEAD_MODES:
        model.head = first_head(config, checkpoint, model, task, stem(name), device)
    select_trainable(model, config.train_mode)
    if config.lora:
        adapt(config, model, seed_of(config.seed, task.name, "adapters"))
    return TrainingState(model=model, task=task, device=device, settings=build_settings(config, task, name),
                         source=",".join(config.trained) if name == pairs.JOINT else name,
                         open_task=datasets.open, open_zeroshot=open_zeroshot, open_teacher=open_zeroshot.teacher,
                         history=list(checkpoint.get("history", [])), heads=dict(checkpoint.get("heads", {})))


def first_head(config, checkpoint, model, task, file, device):
    """The head that a task starts with: one that was trained on the same classes (so that --train-mode image-fc can
    follow fc), unless --fc-init is given; else the zero-shot classifier, or zeros."""
    if file in checkpoint.get("heads", {}) and not config.given("fc_init"):
        reason = other_classes(checkpoint.get("history", []), file, task.classnames)
        if reason is None:
            require_head_fits(checkpoint["heads"][file], task, model.text_projection.shape[1])
            return ClassificationHead.unpacked(checkpoint["heads"][file], model.logit_scale)
        print(f"note: a new head of {file} is trained, not the one in --load: {reason}")
    if config.fc_init == "zero":
        weight = model.text_projection.detach().new_zeros(len(task.classnames), model.text_projection.shape[1])
        return ClassificationHead(weight, weight.new_zeros(len(weight)))                # (C, D), (C,)
    return zeroshot_head(model, task, device)


def adapt(config, model, seed):
    """Low-rank adapters for the towers that the train mode frees: peft's, or our own with shared factors."""
    if not config.lora_shared:
        inject_peft(model, config.lora_target_modules, config.lora_r, config.lora_alpha, config.lora_dropout,
                    config.lora_bias, seed)
        return
    inject_lora(model, config.lora_target_modules, config.lora_r, config.lora_alpha,
                torch.Generator().manual_seed(seed))
    apply_shared_lora(model, config.lora_shared_split_qkvo)


def build_task(config, datasets, name, checkpoint, device, open_zeroshot, basis=None):
    """-> (the state of one task, [method, *add_ons]), the modules that these build beside the CLIP in the state."""
    state = build_state(config, datasets, name, checkpoint, device, open_zeroshot)
    hooks = build_hooks(config, checkpoint, basis)
    for add_on in hooks[1:]:
        if type(add_on).build is not Hooks.build:  # an evaluation builds the method alone
            raise ValueError(f"{type(add_on).__name__}: only a method may have modules of its own, not an add-on")
    seed_draws(state.seed_of("own modules"))  # the same where an interrupted run builds them again
    state.own = build_own(hooks, state.model, device, checkpoint.get("own"))
    if state.own:
        refuse_averages(config, state.own)
        refuse_captions(state.own, [name, *config.trained, *config.eval_datasets])
    return state, hooks


def unused_modules(checkpoint, own):
    """Return a sentence about modules in a checkpoint that no hook has built, for a note; None without any."""
    kept = {name.rpartition(".")[2] for name in checkpoint.get("own", {})}
    left = sorted(kept - {name.rpartition(".")[2] for name in own})
    return f"the modules of {', '.join(left)} in --load are kept and do not act: --method is another" if left else None


def refuse_averages(config, own):
    """UserError where averages and merges of weights would leave a hook's own modules out."""
    flags = [f"--{name.replace('_', '-')}" for name in ("we", "we_wise", "moving_avg", "wise_merge")
             if config.values[name]]
    if flags:
        raise UserError(f"{flags[0]} acts on the weights of CLIP, and {', '.join(own)} trains modules beside them, "
                        "which would stay as they are: leave it out")


def refuse_captions(own, names):
    """UserError where image-text pairs are among the datasets, and an own module has a context: it would stand in the
    place of a caption's first words."""
    of_pairs = [name for name in names if known_pairs(phase_of(name)[0])]
    if of_pairs and template_of(own.values()):
        raise UserError(f"{of_pairs[0]}: {', '.join(own)} puts a context in the place of the first tokens of class "
                        "prompts, and captions are none; leave image-text pairs out of the data")


def refuse_mixing(own):
    """UserError where weights are mixed with others for a score, and a method's own modules have no part in it."""
    if own:
        raise UserError(f"--wise-ft mixes weights of CLIP, and {', '.join(own)} has modules beside them: leave it out")


def build_hooks(config, checkpoint, basis=None):
    """[method, *add_ons] for one task, each with what the previous task carried over for it. ``basis``: the file to
    project gradients off, where it is not that of the command line."""
    values = config.values | ({"orthogonal_gradients_path": basis} if basis else {})
    hooks = [row.build(values) for row in (config.method_row, *active_add_ons(values).values())]
    return _with_carry(hooks, checkpoint)


def scorer_of(config, hooks, own):
    """Return which method scores what a task leaves, {"method", "keywords"} as plain types; None where plain CLIP does:
    the method has no modules of its own and no ``logits``."""
    method = hooks[0]
    if type(method).logits is Hooks.logits and not own:
        return None
    keywords = {flag: config.values[flag] for flag in config.method_row.uses}
    return {"method": config.method, "keywords": keywords or dict(config.values["set"])}


def build_scored(config, checkpoint, device, world=None):
    """-> (the state of a checkpoint that is scored without training, its model placed and own modules beside it, and
    [the method that scores it]; [] for plain CLIP)."""
    model = device.place(loader.build(checkpoint)).eval()
    state = TrainingState(model=model, task=None, device=device, settings=None, world=world or World())
    hooks = _with_carry(_scorers(config, checkpoint), checkpoint)
    own = build_own(hooks, model, device, checkpoint.get("own"))
    # A method that has trained no task yet has only random modules: what it starts from is plain CLIP.
    untrained = {name for name in own if not kept_for(checkpoint.get("own", {}), name)}
    state.own = {name: module for name, module in own.items() if name not in untrained}
    return state, [hook for name, hook in named(hooks).items() if name not in untrained]


def _scorers(config, checkpoint):
    """[method]: the one that is given, or the one that made the checkpoint, with its keywords where none are given."""
    made_by = checkpoint.get("scorer") or {"method": None, "keywords": {}}
    given = config.method if config.given("method") or config.method not in METHODS else None
    if given and made_by["method"] not in (given, None):
        print(f"note: the checkpoint was made by --method {made_by['method']}, which scores in its own way; --method "
              f"{given} is used instead")
    name = given or made_by["method"]
    row = name and (find_method(name, config.pairs) or METHODS[name])  # of other data it has the same modules
    if name is None or name in METHODS and not row.scores():
        return []
    same = made_by["method"] is not None and class_name(name) == class_name(made_by["method"])
    keywords = made_by["keywords"] if same else {}
    if name in METHODS:
        return [row.build(config.values | {flag: value for flag, value in keywords.items() if not config.given(flag)})]
    if given is None:
        raise UserError(f"--load: --method {name} made this checkpoint and scores it in its own way. A checkpoint does "
                        f"not choose code to run: give --method {name} yourself")
    return [row.build(config.values | {"set": keywords | dict(config.values["set"])})]


def class_name(method):
    """The class behind a value of --method, by whose name checkpoints keep what is a method's: EWC of "ewc.py:EWC"."""
    target = METHODS[method].target if method in METHODS else method
    return target.rpartition(":")[2]


def _with_carry(hooks, checkpoint):
    for name, hook in named(hooks).items():
        hook.load_carry(kept_for(checkpoint.get("carry", {}), name))
    return hooks
