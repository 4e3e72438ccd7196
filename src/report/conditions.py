"""State what numbers must share to rank: data family, reference set, shots, router, task id, label space."""

import os
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

from src.cli.flags import FLAGS
from src.cli.protocols import PROTOCOLS
from src.datasets import DATASETS, class_split, coop, phase_of
from src.models import METHODS, find_method
from src.models.hooks import scores_by_itself
from src.templates.collections import FOR_ALL

UNKNOWN = "unknown"
TITLES = {"family": "data family", "reference": "reference set", "shots": "shots", "router": "router",
          "task_id": "task id at test", "space": "label space"}
ZSCL = frozenset(PROTOCOLS["mtil-1"].order)  # the datasets with ZSCL's splits and prompts
LINEAR = "linear"  # label space of a linear layer: the classes of its dataset
TASK_IDS = {"task": "given", LINEAR: "given", "seen": "not given", "all": "not given"}  # {label space: ...}


@dataclass(frozen=True)
class Conditions:
    """Hold texts as a table's head shows them, UNKNOWN where a run's files do not say.

    ``reference`` is None without reference data, ``shots`` if nothing is trained, ``task_id`` for image-text
    pairs: such a row ranks with any other.
    """

    family: str
    reference: str | None
    shots: str | None
    router: str
    task_id: str | None
    space: str

    def text(self):
        """Return the head of a table, in one line."""
        return "; ".join(f"{TITLES[key]} {value or 'none'}" for key, value in asdict(self).items())

    def differences(self, other):
        """Return titles of the conditions that keep two rows from ranking: both are stated and differ.

        UNKNOWN is such a value, equal only to itself. Router none equals sample: either scores each image by
        itself, while batch lets images of one dataset vote.
        """
        pairs = zip(TITLES.items(), self._compared(), other._compared(), strict=True)
        return [title for (_, title), one, two in pairs if None not in (one, two) and one != two]

    def _compared(self):
        return tuple("sample" if key == "router" and value == "none" else value
                     for key, value in asdict(self).items())

    def unknown(self):
        """Return titles of unknown conditions."""
        return [title for title, value in zip(TITLES.values(), astuple(self), strict=True) if value == UNKNOWN]


def stored(content):
    """Rebuild Conditions from what ``asdict`` made of them; UNKNOWN for each that is missing."""
    return Conditions(**{part.name: content.get(part.name, UNKNOWN) for part in fields(Conditions)})


def are_conditions(content):
    """Return whether the content of a file may be such a dict."""
    return isinstance(content, dict) and all(value is None or isinstance(value, str) for value in content.values())


def head_of(summary):
    """Return the head of a summary's tables."""
    return with_source(stored({"space": summary["label_space"]} | summary.get("conditions", {})).text(), summary)


def with_source(head, summary):
    """Return a head, with the source of a summary's scores if no image was scored for them."""
    return f"{head}; {summary['rescored']}" if "rescored" in summary else head


# -- from a command line -----------------------------------------------------------------------------------------------


def conditions_of(names, values, trained_with, routers, space, train_data=None):
    """Return the Conditions of a run's numbers on the datasets ``names``.

    ``values`` {flag key: value}: the run's own flags. ``trained_with``: [{flag key: value}] of everything that
    trained: the run itself, the runs whose checkpoints it scores, or none. ``routers``: those of what scores,
    empty for plain CLIP. ``train_data`` {name: which images a dataset trained on, from its Task}: which of the
    splits are our own.
    """
    opened_with = [family_of(names, flags, train_data) for flags in (values, *trained_with)]
    return Conditions(joined(opened_with), joined(map(reference_of, trained_with)), joined(map(shots_of, trained_with)),
                      joined(routers) or "none", TASK_IDS.get(space), space)


def conditions_of_run(run, space):
    """Return the Conditions of a SequenceRun as it stored them.

    For a version that did not store them: reference set and shots from its flags, and UNKNOWN for family and
    router.
    """
    if "conditions" in run.spaces[space]:
        return stored(run.spaces[space]["conditions"])
    flags = {key: flag["value"] for key, flag in run.flags.items()}
    trained_with = [] if run.untrained else [flags | trained for trained in run.trained_with] or [flags]
    return Conditions(UNKNOWN, joined(map(reference_of, trained_with)), joined(map(shots_of, trained_with)), UNKNOWN,
                      TASK_IDS.get(space), space)


def together(found):
    """Return the Conditions of one table over several, such as those of its label spaces."""
    return Conditions(*map(joined, zip(*map(astuple, found), strict=True)))


def joined(texts):
    """Return one text for several tasks, whose texts may differ; None adds nothing."""
    known = list(dict.fromkeys(text for text in texts if text is not None))
    return UNKNOWN if UNKNOWN in known else ", ".join(known) or None


def family_of(names, values, train_data=None):
    """Return whose splits, class names and prompts the datasets ``names`` have.

    Names the datasets that ``train_data`` calls an own split, and a class order and prompts other than the
    defaults.
    """
    splits = values.get("split_file", UNKNOWN)
    if splits == UNKNOWN:
        return UNKNOWN
    bases = sorted({class_split(phase_of(name)[0])[0] for name in names})
    own = _own_splits(train_data or {})
    if splits == coop.WORD or splits and os.path.isdir(splits):
        others = set(bases).difference(*own.values())
        family = " + ".join(sorted({"CoOp" if coop.has_list(base) else _family_of_one(base) for base in others}))
    elif splits:
        family = f"split file {Path(splits).name}"
    else:
        family = " + ".join(sorted({_family_of_one(name) for name in bases}))
    own_text = ", ".join(f"{coop.OWN_SPLIT} of {' and '.join(sorted(found))} {draw}".rstrip()
                         for draw, found in sorted(own.items()))
    return ", ".join(filter(None, (family, own_text, _order_text(names, values), prompt_text(values))))


def _own_splits(train_data):
    """Return {how it was drawn: datasets with such an own split}."""
    found = {}
    for name, text in train_data.items():
        draw = coop.own_draw(text)
        if draw is not None:
            found.setdefault(draw, set()).add(class_split(phase_of(name)[0])[0])
    return found


def _order_text(names, values):
    order = values.get("class_order", FLAGS["class_order"].default)
    parted = any(class_split(phase_of(name)[0])[1] for name in names)
    return f"class order {order}" if parted and order != FLAGS["class_order"].default else ""


def prompt_text(values):
    template = values.get("template") or ""
    return f"template {template.removeprefix(FOR_ALL)}" if template.startswith(FOR_ALL) else ""


def _family_of_one(name):
    if name in ZSCL:
        return "ZSCL"
    if name.startswith(("toy-", "mini-")):
        return name.partition("-")[0]
    return name if name in DATASETS else "own"


REFERENCES = ("ref_dataset", "ref_size", "ref_sentences", "text_datasets", "ddas_reference", "ddas_features")


def reference_of(values):
    """Return the reference images, texts and weights of other models that the method uses; None without any.

    Random texts are not data.
    """
    method = values.get("method", UNKNOWN)
    uses = METHODS[method].uses if method in METHODS else ()
    found = {key: values.get(key, UNKNOWN) for key in REFERENCES if key in uses}
    if UNKNOWN in (method, *found.values()):
        return UNKNOWN
    images, size, texts = (found.get(key) for key in ("ref_dataset", "ref_size", "ref_sentences"))
    images = f"{images} ({size} images)" if size else images
    if found.get("text_datasets"):
        texts = f"prompts of {','.join(found['text_datasets'])}"
    alexnet = "AlexNet's ImageNet weights" if found.get("ddas_features") == "alexnet" else None
    parts = dict.fromkeys(part for part in (images, texts, found.get("ddas_reference"), alexnet)
                          if part and part != "random")
    return " + ".join(parts) or None


def shots_of(values):
    """Return the number of training images per class.

    A list counts as --shots if that is given, else the list is named, as is what a method takes from all
    images.
    """
    shots, listed = values.get("shots", UNKNOWN), values.get("shots_file")
    few = f"listed in {listed}" if shots is None and listed else shots
    if few is None:
        return "all"
    method = METHODS.get(values.get("method"))
    leaks = method and "condu_prototypes" in method.uses and values.get("condu_prototypes") == "all"
    return f"{few}, prototypes of all" if leaks else str(few)


def router_of(name, values, pairs=False):
    """Return how the method ``name`` chooses its parts at test: "none", "sample" or "batch", from its flag or
    its class's ``router``.

    UNKNOWN for a class that defines its own scores without stating it, and for a function that makes the hook.
    """
    row = find_method(name, pairs)
    if row is None:
        return "none"
    if "router" in row.uses:
        return values["router"]
    return router_of_class(row.hook())


def router_of_class(kind):
    """The same, of what a class of hooks says, or of a function that makes a hook."""
    plain = isinstance(kind, type) and not scores_by_itself(kind)
    return getattr(kind, "router", "none" if plain else UNKNOWN)
