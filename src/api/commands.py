"""The commands as functions. Keywords are flags, with underscores; docs/python.md has examples of each."""

import contextlib
import inspect
import json
import tempfile
from functools import partial
from pathlib import Path

from src import args, main
from src.api.given import given
from src.api.keywords import words_of
from src.api.session import session, torch_as_before
from src.cli.flags import FLAGS
from src.cli.kinds import EVAL, SEQUENCE, SINGLE, TRAIN, TRAINING, a_run
from src.cli.texts import shown
from src.errors import UserError
from src.machine.interruption import Interrupted, Signals


def with_flags_of(*kinds):
    """Show the flags that apply to ``kinds`` of runs as keywords of a function, in ``help`` and completion."""
    def decorated(function):
        own = [parameter for parameter in inspect.signature(function).parameters.values()
               if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        flags = [key for key, flag in FLAGS.items() if not set(kinds).isdisjoint(flag.runs)]
        others = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=None) for key in flags
                  if key not in {parameter.name for parameter in own} | set(OTHERWISE)]
        function.__signature__ = inspect.Signature([*own, *others])
        return function
    return decorated


# Flags that choose the command or control printing, and what replaces them in Python.
OTHERWISE = {
    "dry_run": "prints a plan, from the command line", "eval_only": "is evaluate(...)",
    "eval_single": "is classify(images)", "report": "is report(folders)", "class_names": "is classnames",
    "study": "starts processes, from the command line", "status": "belongs to a study", "jobs": "belongs to a study",
    "rescore": "is a separate command", "reproduce": "starts processes, from the command line",
    "list_datasets": "prints a list, from the command line", "check_data": "prints a list, from the command line",
    "fetch": "downloads, from the command line"}


def _read(keywords, kinds, **more):
    """Return the Config of keywords, checked like a command line. ``kinds``: those that the calling function runs."""
    for key in keywords:
        if key in OTHERWISE:
            raise UserError(f"keyword {key} {OTHERWISE[key]}")
    config = args.parse(words_of({**keywords, **more}))
    if isinstance(config.seed, tuple):
        raise UserError(f"--seed {shown(config.seed)}: a run from Python has one seed; loop over them, each with its "
                        "own save, and compare the folders with report(...)")
    if config.kind not in kinds:
        raise UserError(f"these keywords describe {a_run(config.kind)}; give those of {a_run(kinds[0])}")
    main.check(config)
    return config


class _Place:
    """Where a run writes: the folder ``save``, or a temporary one, deleted when nothing refers to it."""

    def __init__(self, save):
        self.temporary = None if save is not None else tempfile.TemporaryDirectory(prefix="clip-continual-")
        self.folder = save if save is not None else self.temporary.name

    @contextlib.contextmanager
    def told_if_interrupted(self, signals):
        """Make an interruption inside the context say that a temporary folder keeps nothing."""
        try:
            yield
        except Interrupted:
            if self.temporary is None:
                raise
            raise Interrupted(f"{signals.reason}: nothing is kept without --save") from None


@with_flags_of(*TRAINING)
def train(*, verbose=False, **flags):
    """Train on ``train_dataset``, or on the datasets of ``dataset_order`` in sequence, and return the Run.

    ``verbose``: print what the command line prints. Without ``save``, files go to a temporary folder that
    lives as long as the Run. Other keywords are flags. Raises UserError for what the command line refuses.
    """
    with session(verbose) as printed, given(flags) as flags:
        place = _Place(flags.pop("save", None))
        config = _read(flags, (SEQUENCE, TRAIN), save=place.folder)
        with torch_as_before(), Signals() as signals, place.told_if_interrupted(signals):
            names, _ = main.train(config, signals)
        return _run(place, None if config.kind == SEQUENCE else names[0], printed)


@with_flags_of(EVAL)
def evaluate(load=None, eval_datasets=None, *, verbose=False, **flags):
    """Score ``load``, a checkpoint or any weights, or zero-shot CLIP of ``model``. Return a DataFrame with
    a row per dataset and label space; for several files in ``load``, the Run of the sequence they came
    from.

    Without ``eval_datasets`` a checkpoint is scored on the dataset it was trained on last. Metrics are
    written to ``save`` if given. Other keywords are flags.
    """
    from src.api.results import scores_table
    with session(verbose) as printed, given(flags, eval_datasets) as flags:
        place = _Place(flags.get("save")) if _several(load) else None
        keywords = flags | {"load": load, "eval_datasets": eval_datasets} | ({"save": place.folder} if place else {})
        config = _read(keywords, (EVAL,), eval_only=True)
        with torch_as_before():
            if len(config.loaded) > 1:
                main.rebuild_sequence(config)
                return _run(place, None, printed)
            return _with_log(scores_table(main.evaluate(config, config.save)), printed)


def _several(load):
    """Return whether ``load`` may name several files; the command line decides by which paths exist."""
    return isinstance(load, list | tuple) or isinstance(load, str) and "," in load


def _with_log(table, printed):
    """Return a table with its command's output in ``attrs["log"]``, since there is no Run to hold it."""
    table.attrs["log"] = printed.text
    return table


def _run(place, task, printed):
    from src.api.results import Run
    return Run(place.folder, task, printed.text, place.temporary)


@with_flags_of(SINGLE)
def classify(images, classnames=None, load=None, *, verbose=False, **flags):
    """Classify images. Return a DataFrame of probabilities, one row per image and one column per class.

    ``images``: a path, a folder, a PIL image, or a list of paths or of PIL images. ``classnames``: a list
    of names, or a file of them; by default those of the last task in ``load``. ``load``: a checkpoint or
    any weights, else ``model``. Other keywords are flags, such as ``prompt`` and ``save``.
    """
    from src.api.results import probabilities_table
    from src.run.build import command_of_single
    from src.run.single import classify as run
    with (session(verbose) as printed, given(flags) as flags,
          tempfile.TemporaryDirectory(prefix="clip-continual-") as folder):
        paths, drawn = _paths_of(images, Path(folder))
        more = {"eval_single": paths, "class_names": _names_file(classnames, Path(folder)), "load": load}
        config = _read(flags, (SINGLE,), **more)
        with torch_as_before():
            names, found = run(*command_of_single(config))
        labels = [path.name.partition(".")[0] for path in found] if drawn else list(map(str, found))
        table = probabilities_table(names, found, list(map(int, labels)) if drawn else labels)
        return _with_log(table, printed)


def _paths_of(images, folder):
    """Return (paths of images, whether they were PIL images, which are first written to ``folder``)."""
    several = images if isinstance(images, list | tuple) else [images]
    pictures = [image for image in several if hasattr(image, "convert")]
    if not pictures:
        return images, False
    if len(pictures) < len(several):
        raise UserError("classify: some images are paths and some are PIL images; give one kind at a time")
    from PIL import Image

    from src.datasets.images import rgb_of
    paths = [folder / f"{index}.png" for index in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        plain = Image.new("RGB", picture.size)  # without EXIF, which would rotate the file
        plain.paste(rgb_of(picture, "classify: an image"))
        plain.save(path, compress_level=0)
    return paths, True


def _names_file(classnames, folder):
    """Write a list of names to a file, since a name may contain a comma; pass on a path."""
    if classnames is None or isinstance(classnames, str | Path):
        return classnames
    if not all(isinstance(name, str) for name in classnames):
        raise UserError(f"classnames {shown(list(classnames))}: expected names, or a file of them")
    path = folder / "classnames.json"
    path.write_text(json.dumps(list(classnames)), encoding="utf-8")
    return path


def load(weights, *, device="auto", model=None, model_config=None, model_name=None, clip_cache=None):
    """Return (model, preprocess, tokenize) of a checkpoint, of a file or folder of another library, or of a
    name: all that the flags --load and --model accept.

    The model is a plain CLIP in fp32, in eval mode, on ``device``. ``preprocess``: PIL image -> (3, R, R)
    tensor; ``tokenize``: one text or a list of N -> (N, context length) tensor; both match the model.
    ``model``: for an adapter the model it belongs to, else the architecture of weights that do not state
    it, like ``model_config`` and ``model_name``.
    """
    with session():
        keywords = {"load": weights, "device": device, "model": model, "model_config": model_config,
                    "model_name": model_name, "clip_cache": clip_cache}
        config = _read(keywords, (EVAL,), eval_only=True)
        with torch_as_before():
            return _loaded(config)


def _loaded(config):
    import clip
    from clip import loader
    from src.machine.notices import warn
    from src.run.build import build_device, hardware_of, weights_of
    from src.run.weights import starting_checkpoint
    from src.store.checkpoint import maker_of
    device = build_device(hardware_of(config))
    checkpoint = starting_checkpoint(weights_of(config))
    if "scorer" in checkpoint:
        warn(f"load: the model is the plain CLIP of {config.load}, without what {maker_of(checkpoint)} trained beside "
             "it; evaluate and classify score with both")
    model = loader.build(checkpoint).float().to(device.device).eval()
    tokenize = partial(clip.tokenize, context_length=model.context_length)
    return model, loader.preprocess(model.image_resolution, model.mean, model.std), tokenize


def report(folders, save=None, *, verbose=False):
    """Compare finished sequences. Return a DataFrame with a row per run and per published result of the
    same tasks; seeds form one row of means, with columns of standard deviations.

    ``folders``: run folders, a folder above them, a pattern, or Runs. ``save``: a folder for paper tables,
    as --report writes them.
    """
    from src.api.results import Run, report_table
    from src.machine.notices import warn
    with session(verbose) as printed:
        several = folders if isinstance(folders, list | tuple) else [folders]
        named = [each.folder if isinstance(each, Run) else each for each in several]
        config = args.parse(words_of({"report": named, "save": save}))
        main.check(config)
        made, left_out = main.report(config)
        if left_out and not verbose:
            warn(f"report: {left_out}")
        return _with_log(report_table(made), printed)
