"""The command line -> Config: parsing, and the precedence of flag, recipe, protocol and default. Imports no torch.

    python -m src.main --help
"""

import argparse
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from src.cli.flags import FLAGS, GROUPS, unknown_flag
from src.cli.kinds import (
    CHECK,
    EVAL,
    EXPORT,
    LIST,
    REPORT,
    REPRODUCE,
    RESCORE,
    SEQUENCE,
    SINGLE,
    STUDY,
    TRAIN,
    TRAINING,
)
from src.cli.protocols import PROTOCOLS
from src.cli.recipes import read_recipe
from src.cli.texts import nearest, read_value, shown, shown_default, switched
from src.cli.training_checks import LENGTHS
from src.cli.values import names
from src.datasets import is_pairs, known_pairs
from src.errors import UserError
from src.machine.files import named_paths
from src.models import METHODS, find_method

# Earlier versions lacked these flags and did what their defaults say: a run of theirs has the same configuration. Flags
# of methods that they lacked are read by no run of theirs.
EARLIER_METHODS = ("finetune", "lwf", "ZSCL", "icarl", "modx")
LATER_FLAGS = {key for name, row in METHODS.items() if name not in EARLIER_METHODS for key in row.uses} - {
    key for name in EARLIER_METHODS for key in METHODS[name].uses}
UNSAID = {"optimizer", "schedule", "lr_floor", "crops", "last_batch", "class_order", "keep_ref_features"} | LATER_FLAGS


@dataclass(frozen=True)
class Config:
    """Resolved values by flag key, and where each comes from: flag, recipe NAME, protocol NAME or default.

    ``argv``: the words that gave them. It is never changed: another value makes a new Config.
    """

    values: Mapping
    origins: Mapping
    kind: str = TRAIN
    argv: tuple = ()

    def __post_init__(self):
        for name in ("values", "origins"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __getattr__(self, key):
        try:
            return self.__dict__["values"][key]
        except KeyError:
            raise AttributeError(key) from None

    def given(self, key):
        return self.origins.get(key) == "flag"

    def chosen(self, key):
        """The user asked for it, by a flag or by a recipe."""
        return self.origins.get(key, "").startswith(("flag", "recipe "))

    @property
    def trained(self):
        """The datasets that are trained on, as the command line names them."""
        return trained_names(self.values)

    @property
    def loaded(self):
        """The files of --load, in order. Where a name with commas is that of a file, it is one."""
        return tuple(named_paths(self.values["load"])) if self.values["load"] else ()

    @property
    def beside_loaded(self):
        """The folder in which the file of --load lies; None for a folder, a name, several files or nothing."""
        file = self.loaded[0] if len(self.loaded) == 1 else ""
        return Path(file).parent if os.path.isfile(file) else None

    @property
    def pairs(self):
        """Whether image-text pairs are trained on. Raises UserError for an unknown name."""
        return any(is_pairs(name) for name in self.trained)

    @property
    def method_row(self):
        """The method's row for the data at hand; None where it is not for such data."""
        return find_method(self.values["method"], self.pairs)

    def numbers(self):
        """Values that can change a result: what two runs must share to be the same."""
        return {key: _plain(self.values[key]) for key, flag in FLAGS.items() if flag.numbers}

    def plain(self):
        """All values as types that json knows."""
        return {key: _plain(value) for key, value in self.values.items()}


def trained_names(values):
    """The datasets that values by flag key train on, as the command line names them."""
    if values["dataset_order"]:
        return values["dataset_order"]
    name = values["train_dataset"]
    try:
        return () if name is None else names(name) if values["joint"] else (name,)
    except ValueError as error:
        raise UserError(f"--train-dataset {name}: {error}") from None


def differences(numbers, before):
    """Texts of the ``numbers`` {flag key: plain value} that are not those of ``before``, of the same form."""
    before = {key: _plain(FLAGS[key].default) for key in UNSAID} | before
    return [f"{FLAGS[key].name} {shown(before.get(key))} there, {shown(value)} here"
            for key, value in numbers.items() if before.get(key) != value]


def _plain(value):
    if isinstance(value, dict):
        return {"" if key is None else key: rate for key, rate in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _from_plain(value):
    """What ``_plain`` made of a value, as it was."""
    if isinstance(value, dict):
        return {key or None: rate for key, rate in value.items()}
    return tuple(value) if isinstance(value, list) else value


OF_THE_RUN = ("method", "set", "template", "label_space")  # flags whose values a rescoring takes over unless given


def rescored(config, flags):
    """The Config by which a run is scored again: its own ``flags`` {flag key: {"value", "origin"}}, but for those that
    belong to --rescore and that ``config``, the command line of the rescoring, gives or does not take over. What is
    taken over counts as not given: it may name code, which the folder of a run must not choose."""
    known = {key: flag for key, flag in flags.items() if key in FLAGS}
    here = {key for key, flag in FLAGS.items() if RESCORE in flag.runs and (
        config.given(key) or key not in OF_THE_RUN)} | {"quiet"}
    values = {**config.values, **{key: _from_plain(flag["value"]) for key, flag in known.items()},
              **{key: config.values[key] for key in here}}
    values |= {"tensorboard": False, "wandb": False, "export": None, "keep_features": False,
               "cache_images": "off"}
    origins = {**config.origins, **{key: "run" if key in OF_THE_RUN else flag["origin"] for key, flag in known.items()},
               **{key: config.origins[key] for key in here}}
    return Config(values, origins, EVAL, config.argv)


# -- parsing ---------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(message)


@cache  # a study reads a command line for each cell
def build_parser():
    parser = _Parser(prog="python -m src.main", description="Sequential fine-tuning of CLIP that keeps what it knew.",
                     allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for title, flags in GROUPS.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            text = f"{flag.help} [{shown_default(flag)}]"
            if flag.switch:
                group.add_argument(flag.name, action="store_true", help=text)
            else:
                group.add_argument(flag.name, help=text, metavar=flag.metavar or ("VALUE" if flag.choices else "N"),
                                   **({"nargs": "?", "const": flag.bare} if flag.bare else {}),
                                   **({"action": "append"} if flag.repeated else {}))
    return parser


def parse(argv):
    """Command line -> Config, each value checked by itself. Raises UserError: one message with flag, value, way out."""
    return resolve({key: read_value(FLAGS[key], text) for key, text in texts_of(argv).items()}, argv)


def texts_of(argv):
    """Command line -> {flag key: its text; True of a switch, a list of a flag that may be repeated}. Raises UserError
    for an unknown word."""
    parser = build_parser()
    known, unknown = parser.parse_known_args([_hyphenated(word) for word in argv])
    if unknown:
        hint = nearest(unknown[0].split("=")[0], [flag.name for flag in FLAGS.values()])
        raise UserError(f"unknown argument {unknown[0]}; {hint or 'see --help'}")
    return {key: _as_written(text) for key, text in vars(known).items()}


def _as_written(text):
    """What argparse has for a flag: for ``--flag=--`` an empty list, in Python 3.11."""
    return "--" if text == [] else [*map(_as_written, text)] if isinstance(text, list) else text


def _hyphenated(word):
    """The underscore spelling of a known flag, which older scripts write -> the documented one."""
    name, equals, value = word.partition("=")
    key = name[2:].replace("-", "_")
    return FLAGS[key].name + equals + value if name.startswith("--") and key in FLAGS else word


# What no recipe may hold besides flags of other kinds of runs: it says how to train, not which run this is.
ONE_RUN = {"recipe", "save", "load", "resume", "overwrite", "eval_only", "dry_run", "export", "split_file",
           "shots_file"}
TRAINS = ("train_dataset", *LENGTHS)  # who gives one of these means to train
ORIGINS = ("flag", "recipe", "protocol", "default")
MODX_ARCHITECTURES = {"ViT": "modx-ViTB32", "RN": "modx-RN50"}  # as the scripts of Mod-X call them


def resolve(given, argv=()):
    """Given values -> Config by precedence: flag, recipe, protocol, default. ``argv``: the words that gave them."""
    values = {key: flag.default for key, flag in FLAGS.items()}
    origins = dict.fromkeys(FLAGS, "default")
    kind = _kind(values | given)
    recipe = _recipe_values(given["recipe"]) if "recipe" in given else {}
    if kind not in FLAGS["recipe"].runs:
        recipe = {}  # the warning that it has no effect must be true
    layers, order = [], given.get("dataset_order")
    if order and len(order) == 1 and order[0] in PROTOCOLS:
        protocol = PROTOCOLS[order[0]]
        layers.append((f"protocol {order[0]}", protocol.fill((values | recipe | given)["method"])))
        given = given | {"dataset_order": protocol.order}
    if kind in TRAINING:
        layers = _pairs_layer(values | recipe | given) + layers
    for origin, layer in (*layers, (f"recipe {given.get('recipe')}", recipe), ("flag", given)):
        if not layer.keys().isdisjoint(LENGTHS):
            values |= dict.fromkeys(LENGTHS)
            origins |= dict.fromkeys(LENGTHS, "default")
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    if isinstance(values["seed"], tuple) and kind in FLAGS["seed"].runs and kind != STUDY:
        raise UserError(f"--seed {shown(values['seed'])}: a {kind} run has one; give several on the command line, with "
                        "--dataset-order, or as an axis of --study FILE")
    if values["model_name"] in MODX_ARCHITECTURES and not values["model_config"] and origins["model"] == "default":
        values |= {"model": MODX_ARCHITECTURES[values["model_name"]], "model_name": None}
        origins |= {"model": "flag", "model_name": "default"}
    return Config(*_with_phases(values, origins, kind), argv=tuple(argv))


def _with_phases(values, origins, kind):
    """``--num-phases 5 --phase all`` is a sequence of the phases, ``--phase 2`` a task of that phase. -> (values,
    origins, kind)"""
    phased = values["num_phases"] > 1 and kind in TRAINING and not values["joint"]
    named = trained_names(values) if phased else ()
    if not phased or not all(map(known_pairs, named)):
        return values, origins, kind
    phases = range(1, values["num_phases"] + 1) if values["phase"] == "all" else [values["phase"]]
    trained = tuple(f"{name}_phase{phase}" for name in named for phase in phases)
    if len(trained) == 1 and kind == TRAIN:
        return values | {"train_dataset": trained[0]}, origins, kind
    return (values | {"train_dataset": None, "dataset_order": trained},
            origins | {"train_dataset": "default", "dataset_order": "flag"}, SEQUENCE)


def _pairs_layer(values):
    """What image-text pairs are trained with where nothing else is said (Ni et al., 2023)."""
    if not any(map(known_pairs, trained_names(values))):
        return []
    rate = 5e-4 if values["init"] == "scratch" else 1e-5
    return [("protocol pairs", {"lr": {None: rate}, "wd": 0.01 if values["joint"] else 0.1,
                                "eps": 1e-5 if values["joint"] else 1e-8, "warmup_length": "20%", "epochs": 35,
                                "batch_size": 280})]


def _recipe_values(name):
    """The values of a recipe by flag key, each read by its flag's own parser."""
    values = {}
    for word, texts in read_recipe(name).flags.items():
        try:
            flag = _recipe_flag(word)
            if flag.key in values:
                raise UserError(f"{flag.name} stands there twice")
            values[flag.key] = _recipe_value(flag, texts)
        except UserError as error:
            raise UserError(f"--recipe {name}: {error}") from None
    return {key: value for key, value in values.items() if value is not False}  # a switch that is off is not given


def _recipe_flag(word):
    flag = FLAGS.get(word.replace("-", "_"))
    if flag is None:
        raise UserError(unknown_flag(word))
    if flag.key in ONE_RUN or not {*TRAINING} <= {*flag.runs}:
        raise UserError(f"{flag.name} belongs to one run, not into a recipe; give it on the command line")
    return flag


def _recipe_value(flag, texts):
    text = ",".join(texts)
    return switched(flag, text) if flag.switch else read_value(flag, texts if flag.repeated else text)


def origins_text(config):
    """Every value that acts in this run and is no default, a line an origin; nothing where the user gave them all."""
    return "" if {"flag", "default"} >= {*config.origins.values()} else _by_origin(config, without={"default"})


def all_origins(config):
    """Every value that acts in this run, a line an origin."""
    return _by_origin(config)


def _by_origin(config, without=frozenset()):
    lines = {}
    for key, flag in FLAGS.items():
        if config.kind in flag.runs and config.origins[key] not in without:
            text = shlex.quote(shown(config.values[key]) or "none")
            lines.setdefault(config.origins[key], []).append(f"{flag.name} {text}")
    ranked = sorted(lines, key=lambda origin: ORIGINS.index(origin.split()[0]))
    return "\n".join(f"{origin}: {' '.join(lines[origin])}" for origin in ranked)


def _kind(values):
    return next(kind for kind, chosen in (
        (STUDY, values["study"]), (REPRODUCE, values["reproduce"]), (REPORT, values["report"]),
        (RESCORE, values["rescore"]),
        (LIST, values["list_datasets"]), (CHECK, values["check_data"]), (STUDY, isinstance(values["seed"], tuple)),
        (SINGLE, values["eval_single"] is not None), (EVAL, values["eval_only"]),
        (SEQUENCE, values["dataset_order"]), (EXPORT, values["export"] and not any(map(values.get, TRAINS))),
        (TRAIN, True)) if chosen)
