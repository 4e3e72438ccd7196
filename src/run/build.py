"""Turn the resolved command line into the settings of each part of a run, and these into objects: the device,
the state of a task, its hooks. Nothing else below the commands reads a Config."""

import math
import os
from dataclasses import fields

import torch

from clip import loader
from src.cli.flags import FLAGS
from src.cli.kinds import EVAL, SEQUENCE, TRAINING
from src.cli.training_checks import NO_WARMUP, acting_in_steps, check_length
from src.datasets import class_split, coop, known_pairs, pairs, phase_of, stem
from src.datasets.loading import rest_of_epoch, steps_per_epoch
from src.datasets.seeds import seed_of
from src.errors import UserError
from src.machine.device import Device
from src.machine.distributed import World
from src.models import METHODS, OwnHook, active_add_ons, find_hooks, find_method, takes
from src.models.attached import build_own, template_of
from src.models.batch_norms import has_norms, least_rows, trains_statistics
from src.models.classifiers import other_classes, require_head_fits, zeroshot_head
from src.models.custom import GIVEN
from src.models.hooks import Hooks, kept_for, named, promises, scorer_among, scores_by_itself
from src.models.lora_injection import apply_shared_lora, inject_lora, inject_peft
from src.models.modeling import ClassificationHead, select_trainable, trains
from src.models.modes import TRAIN_MODES
from src.models.state import Settings, TrainingState
from src.models.training import seed_draws
from src.models.wrapped import is_wrapped
from src.run.settings import CUTS, Command, Data, Hardware, HookRow, Scoring, Single, Training, Weights
from src.store.checkpoint import LEFT_OUT, maker_of
from src.store.settings import Files

DATA = {"classes": "class data", "pairs": "image-text pairs"}  # what a hook may declare, besides "both"
AVERAGES = ("we", "we_wise", "moving_avg", "wise_merge")  # flags of averages and merges of weights


# -- the settings of each part of a run --------------------------------------------------------------------------------


def command_of(config):
    """Return the settings of a run."""
    return Command(hardware=hardware_of(config), weights=weights_of(config), data=data_of(config),
                   training=training_of(config), scoring=scoring_of(config), files=files_of(config), quiet=config.quiet,
                   cuts_given=tuple(key for key in CUTS if config.origins[key] != "default"))


def _part(kind, config, **others):
    """Build the dataclass ``kind``; its fields are flags, except for ``others``."""
    flags = {field.name: config.values[field.name] for field in fields(kind) if field.name not in others}
    return kind(**flags, **others)


def hardware_of(config):
    return _part(Hardware, config)


def weights_of(config):
    return _part(Weights, config, loaded=config.loaded, model_chosen=config.chosen("model"))


def data_of(config):
    bases = {stem(class_split(name)[0]) for name in config.trained}
    of_one = coop.is_file(config.split_file) and len(bases) == 1 and not config.pairs
    return _part(Data, config, trained=tuple(config.trained), split_file_of=bases.pop() if of_one else None,
                 flickr_splits_chosen=config.chosen("flickr_splits"))


def training_of(config):
    """Return the settings of training; a run that trains nothing has no hooks."""
    rows = _hook_rows(config) if config.kind in TRAINING else ()
    return _part(Training, config, trained=tuple(config.trained), pairs=config.pairs, sequence=config.kind == SEQUENCE,
                 hooks=rows, reads=rows[0].row.uses if rows else (),
                 fc_init_given=config.given("fc_init"), acting=acting_in_steps(config),
                 averages=tuple(FLAGS[key].name for key in AVERAGES if config.values[key]),
                 freeing=tuple(FLAGS[key].name for key in ("lora", "train_mode") if config.chosen(key)))


def scoring_of(config):
    rows = [row for method in METHODS.values() for row in (method, method.on_pairs) if row]
    keywords = {key: config.values[key] for row in rows for key in row.uses}
    given = "chosen" if config.method not in METHODS else "given"
    return _part(Scoring, config, trained=tuple(config.trained), trains_heads=TRAIN_MODES[config.train_mode].head,
                 pairs=config.pairs, evaluation=config.kind == EVAL, trains=config.kind in TRAINING,
                 in_order=bool(config.dataset_order), keywords=keywords,
                 keywords_given={key: keywords[key] for key in keywords if config.given(key)},
                 hooks=_custom_rows(config) if config.chosen("hooks") else (),
                 method_given=getattr(config, given)("method"), template_given=config.given("template"),
                 eval_split_chosen=config.chosen("eval_split"))


def _hook_rows(config):
    """[method, *those of --hooks, *add_ons], in the order in which they act at a step. Averages come last, so that they
    hold what all others leave."""
    add_ons = active_add_ons(config.values).values()
    return (hook_row(config.method_row, config), *_custom_rows(config), *(hook_row(row, config) for row in add_ons))


def _custom_rows(config):
    return tuple(HookRow(*found) for found in find_hooks(config.hooks))


def hook_row(row, config):
    """Return the HookRow of a method or add-on; a custom method takes its keywords from --set."""
    return HookRow(row, {key: config.values[key] for key in row.uses or ("set",)})


def files_of(config):
    flags = {key: {"value": value, "origin": config.origins[key]} for key, value in config.plain().items()}
    return _part(Files, config, numbers=config.numbers(), flags=flags, argv=config.argv)


def single_of(config):
    return _part(Single, config, prompt_given=config.given("prompt"))


def command_of_single(config):
    """Return the settings of --eval-single: what is classified, the method that scores, the weights, the machine."""
    return single_of(config), scoring_of(config), weights_of(config), hardware_of(config)


# -- objects -----------------------------------------------------------------------------------------------------------


def build_device(hardware, index=None):
    """Build the device of a run. ``index``: which of the machine's devices, if each process has one."""
    if hardware.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
        torch.use_deterministic_algorithms(True)
    return Device(hardware.device, hardware.precision, hardware.tf32, index)


def build_settings(training, task, name=None):
    """Build the Settings of a task. ``name``: the dataset as on the command line, where --lr and --epochs name
    it too."""
    iterations = steps_of(training, task, name or task.name)
    if training.schedule == "onecycle" and iterations == 1:
        raise UserError(f"--schedule onecycle: {task.name} has a single step, at the lowest rate of the cycle; give "
                        "more steps, or another --schedule")
    return Settings(
        iterations=iterations, lr=value_of(training.lr, name or task.name), batch_size=training.batch_size,
        wd=training.wd, beta2=training.beta2, eps=training.eps, warmup=warmup_of(training, iterations),
        optimizer=training.optimizer, schedule=training.schedule, lr_floor=training.lr_floor,
        crops=training.crops, last_batch=training.last_batch,
        epoch_steps=epoch_of(training, task) if training.schedule == "late-cosine" else None,
        compile=training.compile, grad_checkpointing=training.grad_checkpointing, grad_accum=training.grad_accum,
        max_grad_norm=training.max_grad_norm, seed=training.seed, workers=training.workers,
        caption_choice="first" if training.caption_choice == "all" else training.caption_choice,
        batch_norm=batch_norm_of(training))


def steps_of(training, task, name):
    """Return the steps of a task, 0 for a closed form. Raises UserError if the length is missing, or given
    where none applies."""
    closed_form = is_closed_form(training)
    check_length(training, closed_form, training.acting)
    if closed_form:
        return 0
    return training.iterations or value_of(training.epochs, name) * epoch_of(training, task)


def epoch_of(training, task):
    """Return the number of steps in an epoch of a task."""
    return steps_per_epoch(task, training.batch_size, training.last_batch)


def is_closed_form(training):
    """Return whether the method of a training run takes no steps. Imports its class."""
    return getattr(training.hooks[0].row.hook(), "closed_form", False)


def batch_norm_of(training):
    """Return "train" or "eval".

    ``auto`` updates the statistics on image-text pairs, as the published code of Mod-X does, and for random
    weights; otherwise it keeps those of pretrained weights.
    """
    if training.batch_norm != "auto":
        return training.batch_norm
    return "train" if training.init == "scratch" or training.pairs else "eval"


def silent_choices(training, state):
    """Return what a task does without a flag asking for it, a sentence each."""
    found = []
    if training.batch_norm == "auto" and state.settings.batch_norm == "train" and has_norms(state.model):
        why = "weights are random" if training.init == "scratch" else "as published for image-text pairs"
        found.append(f"--batch-norm auto updates the statistics of batch norms (train): {why}")
    left = rest_of_epoch(state.task, state.settings.batch_size, state.settings.last_batch)
    if trains_statistics(state) and 0 < left < least_rows(state.world.size):
        found.append(f"the last batch of an epoch has {left} image{'s' * (left > 1)}: its step normalises with the "
                     "running statistics of batch norms")
    frozen = not any(parameter.requires_grad for parameter in state.model.parameters())
    freed = "image" in TRAIN_MODES[training.train_mode].towers
    if frozen and state.own and training.freeing:
        found.append(f"{' and '.join(training.freeing)}: no effect, {', '.join(state.own)} keeps all of the CLIP "
                     "frozen")
    elif is_wrapped(state.model) and freed and not trains(state.model, "image"):
        found.append("--lora adapts no layer of this image tower, which stays unchanged: none ends in "
                     f"{', '.join(training.lora_target_modules)} "
                     "(--lora-target-modules)" if training.lora else
                     "the method wraps no layer of the image tower, which stays unchanged")
    return found


def value_of(values, name):
    """Return the task's own value, or that of the dataset it is a phase or class split of, or the value for all
    others.

    A value that is not a mapping is returned unchanged.
    """
    if not isinstance(values, dict):
        return values
    dataset, _ = phase_of(name)
    return next(values[own] for own in (name, dataset, class_split(dataset)[0], None) if own in values)


def warmup_of(training, iterations):
    """Return the steps of the warm-up; 0 for schedules without one and for runs without steps."""
    if training.schedule in NO_WARMUP or not iterations:
        return 0
    return warmup_steps(training.warmup_length, iterations)


def warmup_steps(text, iterations):
    """Convert ``"100"`` or ``"20%"`` to steps."""
    return math.ceil(iterations * float(text[:-1]) / 100) if text.endswith("%") else int(text)


def build_state(training, datasets, name, checkpoint, device, open_zeroshot):
    """Build the state of one task: its model on the device, with the train mode's parameters free."""
    task = datasets.open(name)
    model = device.place(loader.build(checkpoint))
    if TRAIN_MODES[training.train_mode].head:
        model.head = first_head(training, checkpoint, model, task, stem(name), device)
    select_trainable(model, training.train_mode)
    if training.lora:
        adapt(training, model, seed_of(training.seed, task.name, "adapters"))
    return TrainingState(model=model, task=task, device=device, settings=build_settings(training, task, name),
                         source=",".join(training.trained) if name == pairs.JOINT else name,
                         open_task=datasets.open, open_zeroshot=open_zeroshot, open_teacher=open_zeroshot.teacher,
                         history=list(checkpoint.get("history", [])), heads=dict(checkpoint.get("heads", {})))


def first_head(training, checkpoint, model, task, file, device):
    """Return the head that a task starts with.

    Reuse a head trained on the same classes (so that --train-mode image-fc can follow fc), unless --fc-init is
    given; else start from the zero-shot classifier, or from zeros.
    """
    if file in checkpoint.get("heads", {}) and not training.fc_init_given:
        reason = other_classes(checkpoint.get("history", []), file, task.classnames)
        if reason is None:
            require_head_fits(checkpoint["heads"][file], task, model.text_projection.shape[1])
            return ClassificationHead.unpacked(checkpoint["heads"][file], model.logit_scale)
        print(f"note: a new head of {file} is trained, not the one in --load: {reason}")
    if training.fc_init == "zero":
        weight = model.text_projection.detach().new_zeros(len(task.classnames), model.text_projection.shape[1])
        return ClassificationHead(weight, weight.new_zeros(len(weight)))                # (C, D), (C,)
    return zeroshot_head(model, task, device)


def adapt(training, model, seed):
    """Inject low-rank adapters into the towers that the train mode frees: peft's, or our own with shared factors."""
    if not training.lora_shared:
        inject_peft(model, training.lora_target_modules, training.lora_r, training.lora_alpha, training.lora_dropout,
                    training.lora_bias, seed)
        return
    inject_lora(model, training.lora_target_modules, training.lora_r, training.lora_alpha,
                torch.Generator().manual_seed(seed))
    apply_shared_lora(model, training.lora_shared_split_qkvo)


def build_task(training, datasets, name, checkpoint, device, open_zeroshot, basis=None):
    """Build a task. -> (its state, [method, *add_ons]); the modules that these build beside the CLIP are in the
    state."""
    refuse_other_data(training)
    state = build_state(training, datasets, name, checkpoint, device, open_zeroshot)
    hooks = build_hooks(training, checkpoint, basis)
    for hook, (row, _) in zip(hooks[1:], training.hooks[1:], strict=True):
        if not row.custom and scores_by_itself(type(hook)):  # no evaluation builds it
            raise ValueError(f"{type(hook).__name__}: an add-on may not build modules or define scores; only a "
                             "method or a custom hook may")
    seed_draws(state.seed_of("own modules"))  # the same where an interrupted run builds them again
    state.own = build_own(hooks, state.model, device, checkpoint.get("own"))
    refuse_averages(training, hooks, state.own)
    refuse_captions(state.own, [name, *training.trained, *training.eval_datasets])
    return state, hooks


def refuse_averages(training, hooks, own):
    """Raise UserError if weights are averaged or merged, but the modules ``own`` beside them must not or cannot
    be."""
    if not own or not training.averages:
        return
    names = ", ".join(own)
    if rash := [type(hook).__name__ for name, hook in named(hooks).items()
                if name in own and not promises(hook, "averaged")]:
        raise UserError(f"{training.averages[0]} averages or merges weights, and {names} trains modules beside CLIP, "
                        "whose mean may be meaningless: leave it out. If it is meaningful, set averaged = True in "
                        f"{rash[0]}")
    if training.wise_merge and training.wise_ft_model == "zeroshot":
        raise UserError("--wise-merge with --wise-ft-model zeroshot: zero-shot CLIP has no counterpart for the "
                        f"modules of {names}; give --wise-ft-model n, or leave it out")


def own_modules(hooks, checkpoint, device):
    """Build the modules that hooks add to a checkpoint, to inspect them before a run.

    Returns {} without building a model if no class builds any.
    """
    if all(type(hook).build is Hooks.build for hook in hooks):
        return {}
    with torch.random.fork_rng(devices=[]):
        return build_own(hooks, loader.build(checkpoint), device, checkpoint.get("own"))


def unused_modules(checkpoint, own):
    """Return a note about modules in a checkpoint that no hook has built; None if there are none."""
    kept = {name.rpartition(".")[2] for name in checkpoint.get("own", {})}
    left = sorted(kept - {name.rpartition(".")[2] for name in own})
    return f"the modules of {', '.join(left)} in --load are kept but inactive: no hook builds them" if left else None


def refuse_captions(own, names):
    """Raise UserError if image-text pairs are among the datasets and an own module replaces the first tokens by
    a context."""
    of_pairs = [name for name in names if known_pairs(phase_of(name)[0])]
    if of_pairs and template_of(own.values()):
        raise UserError(f"{of_pairs[0]}: {', '.join(own)} replaces the first tokens of class prompts by a context, "
                        "which captions have no room for; leave image-text pairs out of "
                        "the data")


def refuse_mixing(own, scorers):
    """Raise UserError if weights are mixed with zero-shot ones for a score, but the method has own modules
    beside them or scores by what it learnt with other weights."""
    if own:
        raise UserError("--wise-ft mixes with zero-shot CLIP, which has no counterpart for the modules of "
                        f"{', '.join(own)}: leave it out. --wise-merge merges them with the modules "
                        "at load")
    if alone := [type(hook).__name__ for hook in scorers if type(hook).scores is not Hooks.scores]:
        raise UserError(f"--wise-ft mixes with zero-shot CLIP, and {alone[0]} scores by what it learnt with the "
                        "unmixed weights: leave it out")


def refuse_other_data(training):
    """Raise UserError if a hook of a training run declares other data than it would train on.

    Checked here for custom methods, whose class has to be imported first.
    """
    for row, _ in training.hooks:
        kind = row.hook()
        what = f"--hooks {row.target}" if isinstance(row, OwnHook) else f"--method {training.method}"
        data, wanted = getattr(kind, "data", Hooks.data), "pairs" if training.pairs else "classes"
        if data not in (*DATA, "both"):
            raise UserError(f'{what}: {kind.__name__} declares data = {data!r}; use "classes", "pairs" or "both"')
        if not takes(data, training.pairs):
            raise UserError(f"{what} is not for {DATA[wanted]} ({', '.join(training.trained)}): "
                            f"{kind.__name__} takes {DATA[data]}. If its terms are right on both, set "
                            f'data = "both" in the class, or data = "{wanted}" if on {DATA[wanted]} only')


def build_hooks(training, checkpoint, basis=None):
    """Build [method, *others] for one task, each with what the previous task carried over.

    ``basis``: the file to project gradients off, if not the one of the command line. UserError if two of them
    score, or if what they leave could not be told apart.
    """
    given = {"orthogonal_gradients_path": basis} if basis else {}
    hooks = [row.build(keywords | given) for row, keywords in training.hooks]
    _refuse_same_names(hooks, [row for row, _ in training.hooks])
    _refuse_two_scorers(map(type, hooks))
    return _with_carry(hooks, checkpoint)


def _refuse_same_names(hooks, rows):
    """UserError where resume points and checkpoints would keep what is of two hooks under one name."""
    if len(named(hooks)) == len(hooks):
        return
    names = [type(hook).__name__ for hook in hooks]
    name, target = next((name, row.target) for name, row in zip(names, rows, strict=True)
                        if names.count(name) > 1 and isinstance(row, OwnHook))
    raise UserError(f"--hooks {target}: another hook of this run is called {name} too, in a file of that name, and "
                    "what they keep would be mixed up; rename the class or the file")


def _refuse_two_scorers(kinds):
    """UserError where two classes of hooks change what is scored: an evaluation asks one of them."""
    found = [kind.__name__ for kind in kinds if scores_by_itself(kind)]
    if len(found) > 1:
        raise UserError(f"--hooks: {' and '.join(found)} each have scores or modules (scores, build), and "
                        "what is scored can be one's only; leave one out, or let one class do both")


def scorer_of(training, hooks, own):
    """Return the hook that scores what a task leaves, {"method", "keywords"} as plain types, with "flag" if it is
    one of --hooks.

    None if plain CLIP scores: no hook has own modules or ``scores``.
    """
    scorer = scorer_among(hooks)
    if type(scorer).scores is Hooks.scores and not own:
        return None
    row, keywords = next(found for found, hook in zip(training.hooks, hooks, strict=True) if hook is scorer)
    if isinstance(row, OwnHook):
        return {"method": row.target, "keywords": dict(keywords["set"]), "flag": row.flag}
    return {"method": training.method, "keywords": keywords if row.uses else dict(keywords["set"])}


def build_scored(scoring, checkpoint, device, world=None):
    """Build what scores a checkpoint without training.

    Returns (its state, with the model placed and own modules beside it; [the hook that scores it], empty for
    plain CLIP).
    """
    model = device.place(loader.build(checkpoint)).eval()
    state = TrainingState(model=model, task=None, device=device, settings=None, world=world or World())
    _note_other_scorer(scoring, checkpoint)
    hooks = _with_carry(scoring_hooks(scoring, checkpoint), checkpoint)
    own = build_own(hooks, model, device, checkpoint.get("own"))
    # Before its first task a method has only random modules: plain CLIP scores.
    untrained = {name for name in own if not kept_for(checkpoint.get("own", {}), name)}
    state.own = {name: module for name, module in own.items() if name not in untrained}
    return state, [hook for name, hook in named(hooks).items() if name not in untrained]


def scoring_hooks(scoring, checkpoint):
    """Return [hook]: the given method or hook, or the one that made the checkpoint, with the checkpoint's keywords
    unless given."""
    made_by, given = checkpoint.get("scorer") or {"method": None, "keywords": {}}, _given_scorer(scoring)
    name = given.row.target if given else made_by["method"]
    row = given.row if given else name and _method_row(scoring, name)
    if row is None or not row.custom and not row.scores():
        return []
    same = made_by["method"] is not None and class_name(name) == class_name(made_by["method"])
    keywords = made_by["keywords"] if same else {}
    if not row.custom:
        return [row.build(scoring.keywords | keywords | scoring.keywords_given)]
    if given is None:
        raise UserError(f"--load: {maker_of(checkpoint)} made this checkpoint and defines its own scores. A "
                        f"checkpoint may not choose code to run: give {_yourself(checkpoint)}")
    return [row.build({"set": keywords | given.keywords["set"]})]


def _yourself(checkpoint):
    """Return how to give a custom class that a checkpoint names."""
    path, _, name = checkpoint["scorer"]["method"].rpartition(":")
    if path == GIVEN:
        return f"{maker_of(checkpoint).partition(' ')[0]} FILE.py:{name}, or the class {name} from Python"
    return f"{maker_of(checkpoint)} yourself"


def _method_row(scoring, name):
    """The row of a method; on other data a name has the same modules."""
    return find_method(name, scoring.pairs) or find_method(name, not scoring.pairs)


def class_name(method):
    """Return the class behind a value of --method: EWC for "ewc.py:EWC". Checkpoints store a method's content
    by that name."""
    target = METHODS[method].target if method in METHODS else method
    return target.rpartition(":")[2]


def _given_scorer(scoring):
    """The HookRow of what the command line gives to score, one of --hooks or the method; None without either. UserError
    where it gives two, and where one does nothing in an evaluation."""
    method = HookRow(_method_row(scoring, scoring.method), {"set": scoring.set}) if scoring.method_given else None
    scorers = [found for found in scoring.hooks if found.row.scores()]
    if not scoring.trains:
        refuse_idle_hooks(scoring)
    _refuse_two_scorers(row.hook() for row, _ in filter(None, (*scorers, method)))
    return scorers[0] if scorers else method


def refuse_idle_hooks(scoring):
    """UserError where one of --hooks does nothing in an evaluation."""
    if idle := [row.target for row, _ in scoring.hooks if not row.scores()]:
        raise UserError(f"--hooks {idle[0]}: acts while a task trains, and here none does; leave it out. Only what has "
                        "own scores or modules (scores, build) is part of an evaluation")


def _note_other_scorer(scoring, checkpoint):
    made_by, given = (checkpoint.get("scorer") or {}).get("method"), _given_scorer(scoring)
    name = given and (given.row.target if given.row.custom else scoring.method)
    if name and made_by not in (name, None):
        flag = given.row.flag if given.row.custom else "--method"
        print(f"note: the checkpoint was made by {maker_of(checkpoint)}, which defines its own scores; {flag} {name} "
              "is used instead")


def _with_carry(hooks, checkpoint):
    _require_carry(hooks, checkpoint)
    for name, hook in named(hooks).items():
        hook.load_carry(kept_for(checkpoint.get("carry", {}), name))
    return hooks


def _require_carry(hooks, checkpoint):
    for name in named(hooks):
        later = kept_for(checkpoint.get(LEFT_OUT, {}), name)
        if later and not kept_for(checkpoint.get("carry", {}), name):
            raise UserError(f"{checkpoint.get('dataset')}.pth does not hold what {name} carries from task to task: "
                            f"--keep-carry last dropped it once {later} was finished, and {name} can neither score "
                            "nor train without it. Give the last checkpoint of that run, or run it again with "
                            "--keep-carry all")


def require_carry(scoring, checkpoint):
    """Raise UserError if the method that scores a checkpoint needs carry that was left out of it."""
    _require_carry(scoring_hooks(scoring, checkpoint), checkpoint)


def untaken_carry(hooks, checkpoint):
    """Return a warning about carry in ``checkpoint`` that none of ``hooks`` takes over; None if there is none."""
    carry = checkpoint.get("carry", {})
    taken = {name if name in carry else name.rpartition(".")[2] for name, hook in named(hooks).items()
             if type(hook).load_carry is not Hooks.load_carry}
    left = [name for name, content in carry.items() if content and name not in taken]
    if not left:
        return None
    return (f"what {', '.join(left)} carried from task to task is kept in the checkpoints but inactive: no hook of "
            "this run takes it over")
