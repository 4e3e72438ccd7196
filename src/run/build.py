"""From the resolved command line to the settings of each part of a run, and from these to objects: the device, the
state of a task, its hooks. Nothing else below the commands reads a Config."""

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
from src.models import METHODS, active_add_ons, find_method, takes
from src.models.attached import build_own, template_of
from src.models.batch_norms import has_norms, least_rows, trains_statistics
from src.models.classifiers import other_classes, require_head_fits, zeroshot_head
from src.models.custom import GIVEN
from src.models.hooks import Hooks, kept_for, named, promises, scores_by_itself
from src.models.lora_injection import apply_shared_lora, inject_lora, inject_peft
from src.models.modeling import ClassificationHead, select_trainable, trains
from src.models.modes import TRAIN_MODES
from src.models.state import Settings, TrainingState
from src.models.training import seed_draws
from src.models.wrapped import is_wrapped
from src.run.settings import CUTS, Command, Data, Hardware, HookRow, Scoring, Single, Training, Weights
from src.store.checkpoint import LEFT_OUT
from src.store.settings import Files

DATA = {"classes": "class data", "pairs": "image-text pairs"}  # what a hook may declare beside "both", in words
AVERAGES = ("we", "we_wise", "moving_avg", "wise_merge")  # flags of averages and merges of weights


# -- the settings of each part of a run --------------------------------------------------------------------------------


def command_of(config):
    """The settings of a run."""
    return Command(hardware=hardware_of(config), weights=weights_of(config), data=data_of(config),
                   training=training_of(config), scoring=scoring_of(config), files=files_of(config), quiet=config.quiet,
                   cuts_given=tuple(key for key in CUTS if config.origins[key] != "default"))


def _part(kind, config, **others):
    """The dataclass ``kind``, whose fields are flags but for ``others``."""
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
    """Of a run that trains nothing it has no hooks."""
    rows = [config.method_row, *active_add_ons(config.values).values()] if config.kind in TRAINING else []
    return _part(Training, config, trained=tuple(config.trained), pairs=config.pairs, sequence=config.kind == SEQUENCE,
                 hooks=tuple(hook_row(row, config) for row in rows), reads=rows[0].uses if rows else (),
                 fc_init_given=config.given("fc_init"), acting=acting_in_steps(config),
                 averages=tuple(FLAGS[key].name for key in AVERAGES if config.values[key]),
                 freeing=tuple(FLAGS[key].name for key in ("lora", "train_mode") if config.chosen(key)))


def scoring_of(config):
    rows = [row for method in METHODS.values() for row in (method, method.on_pairs) if row]
    keywords = {key: config.values[key] for row in rows for key in row.uses}
    return _part(Scoring, config, trained=tuple(config.trained), trains_heads=TRAIN_MODES[config.train_mode].head,
                 pairs=config.pairs, evaluation=config.kind == EVAL, in_order=bool(config.dataset_order),
                 keywords=keywords, keywords_given={key: keywords[key] for key in keywords if config.given(key)},
                 method_given=config.given("method"), template_given=config.given("template"),
                 eval_split_chosen=config.chosen("eval_split"))


def hook_row(row, config):
    """A custom method's keywords are those of --set."""
    return HookRow(row, {key: config.values[key] for key in row.uses or ("set",)})


def files_of(config):
    flags = {key: {"value": value, "origin": config.origins[key]} for key, value in config.plain().items()}
    return _part(Files, config, numbers=config.numbers(), flags=flags, argv=config.argv)


def single_of(config):
    return _part(Single, config, prompt_given=config.given("prompt"))


def command_of_single(config):
    """The settings of --eval-single: what is classified, the method that scores, the weights, the machine."""
    return single_of(config), scoring_of(config), weights_of(config), hardware_of(config)


# -- objects -----------------------------------------------------------------------------------------------------------


def build_device(hardware, index=None):
    """``index``: which of the machine's devices, where each of several processes has one."""
    if hardware.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True)
    return Device(hardware.device, hardware.precision, hardware.tf32, index)


def build_settings(training, task, name=None):
    """``name`` is the dataset as the command line gives it, which is how --lr and --epochs name it too."""
    iterations = steps_of(training, task, name or task.name)
    if training.schedule == "onecycle" and iterations == 1:
        raise UserError(f"--schedule onecycle: {task.name} has a single step, whose rate would be the lowest of the "
                        "cycle; give more steps, or another --schedule")
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
    """The steps of a task, 0 of a closed form. UserError where the command line gives no length, or one too many."""
    closed_form = is_closed_form(training)
    check_length(training, closed_form, training.acting)
    if closed_form:
        return 0
    return training.iterations or value_of(training.epochs, name) * epoch_of(training, task)


def epoch_of(training, task):
    """The steps of an epoch of a task."""
    return steps_per_epoch(task, training.batch_size, training.last_batch)


def is_closed_form(training):
    """Whether the method of a training run takes no steps; its class is imported."""
    return getattr(training.hooks[0].row.hook(), "closed_form", False)


def batch_norm_of(training):
    """"train" or "eval". ``auto`` trains statistics as the published code of Mod-X does, on image-text pairs, and where
    weights are random; elsewhere it keeps those of pretrained weights."""
    if training.batch_norm != "auto":
        return training.batch_norm
    return "train" if training.init == "scratch" or training.pairs else "eval"


def silent_choices(training, state):
    """Return what a task does that no flag of the user's says, a sentence each."""
    found = []
    if training.batch_norm == "auto" and state.settings.batch_norm == "train" and has_norms(state.model):
        why = "weights are random" if training.init == "scratch" else "as published for image-text pairs"
        found.append(f"--batch-norm auto updates the statistics of batch norms (train): {why}")
    left = rest_of_epoch(state.task, state.settings.batch_size, state.settings.last_batch)
    if trains_statistics(state) and 0 < left < least_rows(state.world.size):
        found.append(f"the last batch of an epoch has {left} image{'s' * (left > 1)}: its step normalises by the "
                     "running statistics of batch norms")
    frozen = not any(parameter.requires_grad for parameter in state.model.parameters())
    freed = "image" in TRAIN_MODES[training.train_mode].towers
    if frozen and state.own and training.freeing:
        found.append(f"{' and '.join(training.freeing)}: no effect, {', '.join(state.own)} keeps all of the CLIP "
                     "frozen")
    elif is_wrapped(state.model) and freed and not trains(state.model, "image"):
        found.append("--lora adapts no layer of this image tower, which stays as it is: none ends in "
                     f"{', '.join(training.lora_target_modules)} (--lora-target-modules)" if training.lora else
                     "the method wraps no layer of the image tower, which stays as it is")
    return found


def value_of(values, name):
    """A task's own value, or that of the dataset that it is a phase or a class split of, or that of all others;
    ``values`` itself where it is no mapping."""
    if not isinstance(values, dict):
        return values
    dataset, _ = phase_of(name)
    return next(values[own] for own in (name, dataset, class_split(dataset)[0], None) if own in values)


def warmup_of(training, iterations):
    """The steps of the warm-up; some schedules have none, and a run without steps has none."""
    if training.schedule in NO_WARMUP or not iterations:
        return 0
    return warmup_steps(training.warmup_length, iterations)


def warmup_steps(text, iterations):
    """``"100"`` or ``"20%"`` -> steps."""
    return math.ceil(iterations * float(text[:-1]) / 100) if text.endswith("%") else int(text)


def build_state(training, datasets, name, checkpoint, device, open_zeroshot):
    """The state of one task, its model on the device with the train mode's parameters free."""
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
    """The head that a task starts with: one that was trained on the same classes (so that --train-mode image-fc can
    follow fc), unless --fc-init is given; else the zero-shot classifier, or zeros."""
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
    """Low-rank adapters for the towers that the train mode frees: peft's, or our own with shared factors."""
    if not training.lora_shared:
        inject_peft(model, training.lora_target_modules, training.lora_r, training.lora_alpha, training.lora_dropout,
                    training.lora_bias, seed)
        return
    inject_lora(model, training.lora_target_modules, training.lora_r, training.lora_alpha,
                torch.Generator().manual_seed(seed))
    apply_shared_lora(model, training.lora_shared_split_qkvo)


def build_task(training, datasets, name, checkpoint, device, open_zeroshot, basis=None):
    """-> (the state of one task, [method, *add_ons]), the modules that these build beside the CLIP in the state."""
    refuse_other_data(training)
    state = build_state(training, datasets, name, checkpoint, device, open_zeroshot)
    hooks = build_hooks(training, checkpoint, basis)
    for add_on in hooks[1:]:  # which an evaluation does not build
        if scores_by_itself(type(add_on)):
            raise ValueError(f"{type(add_on).__name__}: only a method may have modules of its own, or scores, not an "
                             "add-on")
    seed_draws(state.seed_of("own modules"))  # the same where an interrupted run builds them again
    state.own = build_own(hooks, state.model, device, checkpoint.get("own"))
    refuse_averages(training, hooks, state.own)
    refuse_captions(state.own, [name, *training.trained, *training.eval_datasets])
    return state, hooks


def refuse_averages(training, hooks, own):
    """UserError where weights are averaged or merged, and the modules ``own`` beside them are not to be, or cannot."""
    if not own or not training.averages:
        return
    names = ", ".join(own)
    if not promises(hooks[0], "averaged"):
        raise UserError(f"{training.averages[0]} averages or merges weights, and {names} trains modules beside CLIP, "
                        "whose mean need not make sense: leave it out. If it does, write averaged = True into "
                        f"{type(hooks[0]).__name__}")
    if training.wise_merge and training.wise_ft_model == "zeroshot":
        raise UserError(f"--wise-merge with --wise-ft-model zeroshot: zero-shot CLIP has no counterpart of the modules "
                        f"of {names}; give --wise-ft-model n, or leave it out")


def own_modules(hooks, checkpoint, device):
    """The modules that hooks build for a checkpoint, to look at them before a run; {} without building a model where
    no class builds any."""
    if all(type(hook).build is Hooks.build for hook in hooks):
        return {}
    with torch.random.fork_rng(devices=[]):
        return build_own(hooks, loader.build(checkpoint), device, checkpoint.get("own"))


def unused_modules(checkpoint, own):
    """Return a sentence about modules in a checkpoint that no hook has built, for a note; None without any."""
    kept = {name.rpartition(".")[2] for name in checkpoint.get("own", {})}
    left = sorted(kept - {name.rpartition(".")[2] for name in own})
    return f"the modules of {', '.join(left)} in --load are kept and do not act: --method is another" if left else None


def refuse_captions(own, names):
    """UserError where image-text pairs are among the datasets, and an own module has a context: it would stand in the
    place of a caption's first words."""
    of_pairs = [name for name in names if known_pairs(phase_of(name)[0])]
    if of_pairs and template_of(own.values()):
        raise UserError(f"{of_pairs[0]}: {', '.join(own)} puts a context in the place of the first tokens of class "
                        "prompts, and captions are none; leave image-text pairs out of the data")


def refuse_mixing(own, scorers):
    """UserError where weights are mixed with zero-shot ones for a score, and a method has own modules beside them or
    scores by what it learnt with other weights."""
    if own:
        raise UserError(f"--wise-ft mixes with zero-shot CLIP, which has no counterpart of the modules of "
                        f"{', '.join(own)}: leave it out. --wise-merge merges them with those at load")
    if alone := [type(hook).__name__ for hook in scorers if type(hook).scores is not Hooks.scores]:
        raise UserError(f"--wise-ft mixes with zero-shot CLIP, and {alone[0]} scores by what it learnt with the "
                        "weights as they are: leave it out")


def refuse_other_data(training):
    """UserError where a hook of a training run declares other data than it would train on: of custom methods, whose
    class has to be imported, only here."""
    for row, _ in training.hooks:
        kind = row.hook()
        data, wanted = getattr(kind, "data", Hooks.data), "pairs" if training.pairs else "classes"
        if data not in (*DATA, "both"):
            raise UserError(f'--method {training.method}: {kind.__name__} declares data = {data!r}; write "classes", '
                            '"pairs" or "both" there')
        if not takes(data, training.pairs):
            raise UserError(f"--method {training.method} is not for {DATA[wanted]} ({', '.join(training.trained)}): "
                            f"{kind.__name__} takes {DATA[data]}. If its terms are right on both, write "
                            f'data = "both" into the class, and data = "{wanted}" if on {DATA[wanted]} alone')


def build_hooks(training, checkpoint, basis=None):
    """[method, *add_ons] for one task, each with what the previous task carried over for it. ``basis``: the file to
    project gradients off, where it is not that of the command line."""
    given = {"orthogonal_gradients_path": basis} if basis else {}
    return _with_carry([row.build(keywords | given) for row, keywords in training.hooks], checkpoint)


def scorer_of(training, hooks, own):
    """Return which method scores what a task leaves, {"method", "keywords"} as plain types; None where plain CLIP does:
    the method has no modules of its own and no ``scores``."""
    if type(hooks[0]).scores is Hooks.scores and not own:
        return None
    row, keywords = training.hooks[0]
    return {"method": training.method, "keywords": keywords if row.uses else dict(keywords["set"])}


def build_scored(scoring, checkpoint, device, world=None):
    """-> (the state of a checkpoint that is scored without training, its model placed and own modules beside it, and
    [the method that scores it]; [] for plain CLIP)."""
    model = device.place(loader.build(checkpoint)).eval()
    state = TrainingState(model=model, task=None, device=device, settings=None, world=world or World())
    _note_other_scorer(scoring, checkpoint)
    hooks = _with_carry(scoring_hooks(scoring, checkpoint), checkpoint)
    own = build_own(hooks, model, device, checkpoint.get("own"))
    # A method that has trained no task yet has only random modules: what it starts from is plain CLIP.
    untrained = {name for name in own if not kept_for(checkpoint.get("own", {}), name)}
    state.own = {name: module for name, module in own.items() if name not in untrained}
    return state, [hook for name, hook in named(hooks).items() if name not in untrained]


def scoring_hooks(scoring, checkpoint):
    """[method]: the one that is given, or the one that made the checkpoint, with its keywords where none are given."""
    made_by, given = checkpoint.get("scorer") or {"method": None, "keywords": {}}, _given_scorer(scoring)
    name = given or made_by["method"]
    # On other data a name has the same modules.
    row = name and (find_method(name, scoring.pairs) or find_method(name, not scoring.pairs))
    if name is None or name in METHODS and not row.scores():
        return []
    same = made_by["method"] is not None and class_name(name) == class_name(made_by["method"])
    keywords = made_by["keywords"] if same else {}
    if name in METHODS:
        return [row.build(scoring.keywords | keywords | scoring.keywords_given)]
    if given is None:
        raise UserError(f"--load: --method {name} made this checkpoint and scores it in its own way. A checkpoint does "
                        f"not choose code to run: give {_yourself(name)}")
    return [row.build({"set": keywords | scoring.set})]


def _yourself(method):
    """How a custom method is given that a checkpoint names."""
    path, _, name = method.rpartition(":")
    if path == GIVEN:
        return f"--method FILE.py:{name}, or the class {name} from Python"
    return f"--method {method} yourself"


def class_name(method):
    """The class behind a value of --method, by whose name checkpoints keep what is a method's: EWC of "ewc.py:EWC"."""
    target = METHODS[method].target if method in METHODS else method
    return target.rpartition(":")[2]


def _given_scorer(scoring):
    return scoring.method if scoring.method_given or scoring.method not in METHODS else None


def _note_other_scorer(scoring, checkpoint):
    made_by, given = (checkpoint.get("scorer") or {}).get("method"), _given_scorer(scoring)
    if given and made_by not in (given, None):
        print(f"note: the checkpoint was made by --method {made_by}, which scores in its own way; --method {given} is "
              "used instead")


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
                            f"--keep-carry last left it out once {later} was finished, and {name} neither scores nor "
                            "trains on without it. Give the last checkpoint of that run, or run it again with "
                            "--keep-carry all")


def require_carry(scoring, checkpoint):
    """UserError where a checkpoint is to be scored, and the method that scores it carried what was left out of it."""
    _require_carry(scoring_hooks(scoring, checkpoint), checkpoint)


def untaken_carry(hooks, checkpoint):
    """Return a sentence about what hooks have carried as far as ``checkpoint`` and none of ``hooks`` takes over, for a
    warning; None without any."""
    carry = checkpoint.get("carry", {})
    taken = {name if name in carry else name.rpartition(".")[2] for name, hook in named(hooks).items()
             if type(hook).load_carry is not Hooks.load_carry}
    left = [name for name, content in carry.items() if content and name not in taken]
    if not left:
        return None
    return (f"what {', '.join(left)} carried from task to task is kept in the checkpoints and acts no more: no hook of "
            "this run takes it over")
