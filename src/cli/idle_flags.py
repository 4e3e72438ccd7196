"""Find flags that have no effect on a command line, and say why. Imports no torch."""

from src.cli.flags import FLAGS
from src.cli.kinds import EVAL, REPRODUCE, SEQUENCE, STUDY, TRAINING, a_run
from src.datasets import class_split
from src.models import ADD_ONS, METHODS, active_add_ons
from src.models.modes import TRAIN_MODES

RESUMING = ("resume", "save_interval")  # among evaluations, only a linear layer resumes
# What a flag needs: the words of the warning, a test of whether it is met, the flags that need it.
LINEAR = ("linear_epochs", "linear_lr", "linear_wd", "linear_batch_size", "linear_percent", "linear_cache_features")
DEPENDENT = [
    ("without --num-phases", lambda config: config.num_phases > 1, ("phase", "phase_split", "phase_seed")),
    ("with --phase-split contiguous", lambda config: config.phase_split == "random", ("phase_seed",)),
    ("without class splits, such as CIFAR100/10", lambda config: any(class_split(name)[1] for name in config.trained),
     ("class_order",)),
    ("on class data", lambda config: config.pairs, ("caption_choice", "flickr_splits")),
    ("on image-text pairs, which have no classes", lambda config: not config.pairs,
     ("shots", "shots_file", "split_file", "val_fraction", "ls")),
    ("on image-text pairs, which use the evaluation transform", lambda config: not config.pairs, ("crops",)),
    ("on image-text pairs, which come in full batches", lambda config: not config.pairs, ("last_batch",)),
    ("with a bound on frozen features, which uses the evaluation transform",
     lambda config: config.method not in ("ridge", "class-means"), ("crops",)),
    ("without --ref-wise", lambda config: config.ref_wise, ("ref_wise_alpha",)),
    ("with --text-datasets, which takes precedence", lambda config: not config.text_datasets, ("ref_sentences",)),
    ("without --distill-text-tower", lambda config: config.distill_text_tower, ("text_tower_weight",)),
    ("with --train-mode text: it reaches the image tower", lambda config: config.train_mode != "text",
     ("image_loss", "text_loss", "feature_mse", "ablation_loss_2")),
    ("without --orthogonal-gradients", lambda config: config.orthogonal_gradients,
     ("orthogonal_energy", "orthogonal_dtype", "orthogonal_budget")),
    ("where nothing is projected: give --orthogonal-gradients-path, or a sequence",
     lambda config: config.orthogonal_gradients_path or config.dataset_order, ("orthogonal_target",)),
    ("with --train-mode fc: no tower trains", lambda config: TRAIN_MODES[config.train_mode].towers,
     ("compile", "grad_checkpointing", "grad_accum", "crops")),
    ("without --task-cache", lambda config: config.task_cache, ("task_cache_size",)),
    ("without --lora", lambda config: config.lora,
     ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_bias", "lora_shared",
      "lora_shared_split_qkvo")),
    ("with --rail-form dual", lambda config: config.rail_form == "primal", ("rail_width", "rail_projection")),
    ("with --rail-form primal: it has no kernel", lambda config: config.rail_form == "dual", ("rail_gamma",)),
    ("without --shots or --shots-file: all training images train",
     lambda config: config.shots or config.shots_file, ("condu_prototypes",)),
    ("without --lora-shared", lambda config: config.lora_shared, ("lora_shared_split_qkvo",)),
    ("with --lora-shared: it is an option of peft",
     lambda config: not config.lora_shared, ("lora_dropout", "lora_bias")),
    ("with --train-mode whole, image or text, which have no head", lambda config: config.train_mode.endswith(
        ("fc", "fixed")), ("fc_init",)),
]


def without_effect(config):
    if config.kind == STUDY and not config.study:  # several seeds: the cells warn
        return []
    if config.kind == REPRODUCE:  # refuses a flag that belongs to none of its runs
        return []
    given = [flag for key, flag in FLAGS.items() if config.given(key)]
    acting = {config.kind, SEQUENCE} if config.kind == STUDY else {config.kind}  # flags that its cells get
    idle = {flag.name: f"has no effect in {a_run(config.kind)}" for flag in given if acting.isdisjoint(flag.runs)}
    if config.kind == EVAL and not config.linear_eval:
        idle |= {FLAGS[key].name: "has no effect without --linear-eval" for key in (*LINEAR, *RESUMING)
                 if config.given(key)}
    if config.kind == EVAL and config.linear_eval and config.eval_datasets:
        idle["--eval-datasets"] = "has no effect with --linear-eval, which scores its own dataset"
    if config.given("export_format") and not config.export:
        idle.setdefault("--export-format", "has no effect without --export")
    if config.kind == EVAL and config.overwrite and not (config.export or config.linear_eval):
        idle["--overwrite"] = "has no effect without --export or --linear-eval in an evaluation run"
    if config.kind in TRAINING:
        owned = {key for method in METHODS.values() for key in method.uses}
        idle |= {flag.name: f"has no effect with --method {config.method}" for flag in given
                 if flag.key in owned and flag.key not in config.method_row.uses}
        active = {key for add_on in active_add_ons(config.values).values() for key in add_on.uses}
        for flag in given:
            rows = {key: add_on for key, add_on in ADD_ONS.items() if flag.key in add_on.uses}
            switches = [FLAGS[name].name for key, add_on in rows.items() for name in add_on.switches or (key,)]
            if switches and flag.key not in active and flag.name not in switches:
                idle[flag.name] = f"has no effect without {' or '.join(switches)}"
        for needed, works, keys in DEPENDENT:
            for flag in given:
                if flag.key in keys and not works(config):
                    idle.setdefault(flag.name, f"has no effect {needed}")
    return [f"{name} {reason}" for name, reason in idle.items()]
