"""Parse the command line into a Config, by the precedence of flag, recipe, protocol and default. Imports no torch.

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

from src import __version__
from src.cli.flags import FLAGS, GROUPS, groups_named, unknown_flag
from src.cli.kinds import (
    CHECK,
    EVAL,
    EXPORT,
    FETCH,
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
from src.cli.texts import nearest, read_value, shown, shown_default, switched, unnamed_choices
from src.cli.training_checks import LENGTHS
from src.cli.values import names
from src.datasets import is_pairs, known_pairs
from src.errors import UserError
from src.machine.files import named_paths
from src.models import METHODS, find_method

# Earlier versions lacked these flags and behaved like their defaults, so their runs have the same configuration. Their
# runs read none of the flags of methods that they lacked.
EARLIER_METHODS = ("finetune", "lwf", "ZSCL", "icarl", "modx")
LATER_FLAGS = {key for name, row in METHODS.items() if name not in EARLIER_METHODS for key in row.uses} - {
    key for name in EARLIER_METHODS for key in METHODS[name].uses}
UNSAID = {"optimizer", "schedule", "lr_floor", "crops", "last_batch", "class_order", "hooks",
          "keep_ref_features"} | LATER_FLAGS


@dataclass(frozen=True)
class Config:
    """Hold resolved values by flag key, and the origin of each: flag, recipe NAME, protocol NAME or default.

    ``argv``: the words that gave them. A Config never changes: another value makes a new one.
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
        """Return whether the user asked for it, by a flag or by a recipe."""
        return self.origins.get(key, "").startswith(("flag", "recipe "))

    @property
    def trained(self):
        """The datasets that are trained on, as named on the command line."""
        return trained_names(self.values)

    @property
    def loaded(self):
        """The files of --load, in order. A name with commas counts as one if such a file exists."""
        return tuple(named_paths(self.values["load"])) if self.values["load"] else ()

    @property
    def beside_loaded(self):
        """The folder of the file in --load; None for a folder, a name, several files or nothing."""
        file = self.loaded[0] if len(self.loaded) == 1 else ""
        return Path(file).parent if os.path.isfile(file) else None

    @property
    def pairs(self):
        """Whether it trains on image-text pairs. Raises UserError for an unknown name."""
        return any(is_pairs(name) for name in self.trained)

    @property
    def method_row(self):
        """The method's row for the data at hand; None if it is not for such data."""
        return find_method(self.values["method"], self.pairs)

    def numbers(self):
        """Return the values that can change a result: two runs that share them are the same."""
        return {key: _plain(self.values[key]) for key, flag in FLAGS.items() if flag.numbers}

    def plain(self):
        """Return all values as json types."""
        return {key: _plain(value) for key, value in self.values.items()}


def trained_names(values):
    """Return the datasets that values by flag key train on, as named on the command line."""
    if values["dataset_order"]:
        return values["dataset_order"]
    name = values["train_dataset"]
    try:
        return () if name is None else names(name) if values["joint"] else (name,)
    except ValueError as error:
        raise UserError(f"--train-dataset {name}: {error}") from None


def differences(numbers, before):
    """Return texts on where ``numbers`` {flag key: plain value} differ from ``before``, of the same form."""
    before = {key: _plain(FLAGS[key].default) for key in UNSAID} | before
    return [f"{FLAGS[key].name} {shown(before.get(key)) or 'none'} there, {shown(value) or 'none'} here"
            for key, value in numbers.items() if before.get(key) != value]


def _plain(value):
    if isinstance(value, dict):
        return {"" if key is None else key: rate for key, rate in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _from_plain(value):
    """Undo ``_plain``."""
    if isinstance(value, dict):
        return {key or None: rate for key, rate in value.items()}
    return tuple(value) if isinstance(value, list) else value


# Flags whose values a rescoring takes over unless given.
OF_THE_RUN = ("method", "set", "hooks", "template", "label_space")


def rescored(config, flags):
    """Return the Config by which a run is scored again.

    It has the run's own ``flags`` {flag key: {"value", "origin"}}, except for flags of --rescore that
    ``config``, the command line of the rescoring, gives or does not take over. Values taken over count as not
    given: they may name code, which a run's folder must not choose.
    """
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


class _Help(argparse.Action):
    """``--help`` prints every flag, ``--help GROUP`` those of one group; then the process ends."""

    def __call__(self, parser, namespace, value, option_string=None):
        chosen = parser if value is None else _with_groups(_parser(), groups_named(value))
        print(chosen.format_help(), end="")
        parser.exit()


@cache  # a study parses a command line for each cell
def build_parser():
    parser = _parser("Fine-tune CLIP on a sequence of datasets without losing its zero-shot ability. "
                     f"--help GROUP prints one group of the flags below: {', '.join(GROUPS)}.")
    general = parser.add_argument_group("general")
    general.add_argument("-h", "--help", action=_Help, nargs="?", metavar="GROUP",
                         help="print the flags, all of them or those of one group (--help data), and exit")
    general.add_argument("--version", action="version", version=f"clip-continual {__version__}",
                         help="print the version and exit")
    return _with_groups(parser, GROUPS)


def _parser(about=None):
    # The usage that argparse makes of more than a hundred flags fills a screen.
    return _Parser(prog="python -m src.main", usage="%(prog)s [--flag [VALUE]] ...", description=about,
                   allow_abbrev=False, argument_default=argparse.SUPPRESS, add_help=False)


def _with_groups(parser, titles):
    """Add the flags of these groups; return the parser."""
    for title in titles:
        group = parser.add_argument_group(title)
        for flag in GROUPS[title]:
            choices = ", ".join(unnamed_choices(flag))
            text = f"{flag.help}{choices and f'; one of {choices}'} [{shown_default(flag)}]"
            if flag.switch:
                group.add_argument(flag.name, action="store_true", help=text)
            else:
                group.add_argument(flag.name, help=text, metavar=flag.metavar or ("VALUE" if flag.choices else "N"),
                                   **({"nargs": "?", "const": flag.bare} if flag.bare else {}),
                                   **({"action": "append"} if flag.repeated else {}))
    return parser


def parse(argv):
    """Parse a command line into a Config, each value checked by itself. Raises UserError: one message with
    flag, value, way out."""
    return resolve({key: read_value(FLAGS[key], text) for key, text in texts_of(argv).items()}, argv)


def texts_of(argv):
    """Parse a command line into {flag key: its text; True for a switch, a list for a repeatable flag}.

    Raises UserError for an unknown word.
    """
    parser = build_parser()
    known, unknown = parser.parse_known_args([_hyphenated(word) for word in argv])
    if unknown:
        hint = nearest(unknown[0].split("=")[0], [*(flag.name for flag in FLAGS.values()), "--version", "--help"])
        raise UserError(f"unknown argument {unknown[0]}; {hint or 'see --help'}")
    return {key: _as_written(text) for key, text in vars(known).items()}


def _as_written(text):
    """Undo how argparse in Python 3.11 reads ``--flag=--``: as an empty list."""
    return "--" if text == [] else [*map(_as_written, text)] if isinstance(text, list) else text


def _hyphenated(word):
    """Replace the underscores in a known flag, as older scripts write it, by the documented hyphens."""
    name, equals, value = word.partition("=")
    key = name[2:].replace("-", "_")
    return FLAGS[key].name + equals + value if name.startswith("--") and key in FLAGS else word


# Flags not allowed in a recipe, besides those of other kinds of runs: it says how to train, not which run this is.
ONE_RUN = {"recipe", "save", "load", "resume", "overwrite", "eval_only", "dry_run", "export", "split_file",
           "shots_file"}
TRAINS = ("train_dataset", *LENGTHS)  # giving one of these means training
ORIGINS = ("flag", "recipe", "protocol", "default")
MODX_ARCHITECTURES = {"ViT": "modx-ViTB32", "RN": "modx-RN50"}  # as in the scripts of Mod-X


def resolve(given, argv=()):
    """Resolve given values into a Config by precedence: flag, recipe, protocol, default. ``argv``: the words
    that gave them."""
    values = {key: flag.default for key, flag in FLAGS.items()}
    origins = dict.fromkeys(FLAGS, "default")
    kind = _kind(values | given)
    recipe = _recipe_values(given["recipe"]) if "recipe" in given else {}
    if kind not in FLAGS["recipe"].runs:
        recipe = {}  # a warning says that it has no effect
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
        raise UserError(f"--seed {shown(values['seed'])}: a {kind} run takes one; give several on the command line, "
                        "with --dataset-order, or as an axis of --study FILE")
    if values["model_name"] in MODX_ARCHITECTURES and not values["model_config"] and origins["model"] == "default":
        values |= {"model": MODX_ARCHITECTURES[values["model_name"]], "model_name": None}
        origins |= {"model": "flag", "model_name": "default"}
    return Config(*_with_phases(values, origins, kind), argv=tuple(argv))


def _with_phases(values, origins, kind):
    """Turn ``--num-phases 5 --phase all`` into a sequence of the phases, ``--phase 2`` into a task of that
    phase.

    -> (values, origins, kind)
    """
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
    """Return the default values for image-text pairs (Ni et al., 2023)."""
    if not any(map(known_pairs, trained_names(values))):
        return []
    rate = 5e-4 if values["init"] == "scratch" else 1e-5
    return [("protocol pairs", {"lr": {None: rate}, "wd": 0.01 if values["joint"] else 0.1,
                                "eps": 1e-5 if values["joint"] else 1e-8, "warmup_length": "20%", "epochs": 35,
                                "batch_size": 280})]


def _recipe_values(name):
    """Return the values of a recipe by flag key, each parsed by its flag."""
    values = {}
    for word, texts in read_recipe(name).flags.items():
        try:
            flag = _recipe_flag(word)
            if flag.key in values:
                raise UserError(f"{flag.name} is given twice")
            values[flag.key] = _recipe_value(flag, texts)
        except UserError as error:
            raise UserError(f"--recipe {name}: {error}") from None
    return {key: value for key, value in values.items() if value is not False}  # a switch that is off is not given


def _recipe_flag(word):
    flag = FLAGS.get(word.replace("-", "_"))
    if flag is None:
        raise UserError(unknown_flag(word))
    if flag.key in ONE_RUN or not {*TRAINING} <= {*flag.runs}:
        raise UserError(f"{flag.name} belongs to a single run, not to a recipe; give it on the command line")
    return flag


def _recipe_value(flag, texts):
    text = ",".join(texts)
    return switched(flag, text) if flag.switch else read_value(flag, texts if flag.repeated else text)


def origins_text(config):
    """List every value in use that is not a default, a line per origin; "" if the user gave them all."""
    return "" if {"flag", "default"} >= {*config.origins.values()} else _by_origin(config, without={"default"})


def all_origins(config):
    """List every value in use, a line per origin."""
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
        (LIST, values["list_datasets"]), (FETCH, values["fetch"]), (CHECK, values["check_data"]),
        (STUDY, isinstance(values["seed"], tuple)),
        (SINGLE, values["eval_single"] is not None), (EVAL, values["eval_only"]),
        (SEQUENCE, values["dataset_order"]), (EXPORT, values["export"] and not any(map(values.get, TRAINS))),
        (TRAIN, True)) if chosen)
