"""Classify images with ``--eval-single``: one, several, or those in a folder.

    python -m src.main --load ckpt/dtd_ft/DTD.pth --eval-single photos --class-names names.txt --save classified
"""

import os
from collections import Counter

from tqdm import tqdm

from src.datasets.class_names import read_class_names
from src.datasets.common import Split, Task
from src.datasets.images import named_images, open_upright
from src.datasets.loading import worker_count
from src.datasets.splits import tolerant
from src.errors import UserError
from src.models.attached import template_of
from src.models.classifiers import other_classes
from src.models.evaluation import classify_split
from src.report.colours import FIRST, GREY, INK, OTHERS, TRACK
from src.report.figures import fonts_for, write_png
from src.report.tables import markdown_table, rows_csv
from src.run.build import build_device, build_scored
from src.run.method_scores import MethodScores
from src.run.sequence import note_method
from src.run.weights import starting_checkpoint
from src.store.records import RunFolder

SEVERAL = "predictions.csv"
NAMED = 5  # class names in a note
SHOWN = 5  # classes per image in tables and pictures
SIDE = 640  # pixels of an image in a picture
IN_TABLE, IN_PICTURE, IN_TITLE = 24, 40, 90  # characters shown of a name
COVER = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}


def classify(single, scoring, weights, hardware):
    """Print the table and, under --save, keep it with a picture of each image.

    ``single``: a Single. ``scoring``: the method that scores. -> (class names, {path: [(class name,
    probability)] of all classes, highest first})
    """
    paths = named_images(single.eval_single)
    alone = len(paths) == 1 and not os.path.isdir(single.eval_single)
    folder = RunFolder(single.save)
    names = picture_names(paths) if folder.writes else {}
    _refuse_to_mix(folder, paths, names.values(), single.eval_single)
    folder.prepare()
    if alone:
        open_upright(paths[0])  # refuses an undecodable image before weights are fetched
    given = read_class_names(single.class_names) if single.class_names else None
    device = build_device(hardware)
    checkpoint = starting_checkpoint(weights)
    classnames = given or stored_class_names(checkpoint, weights.load)
    note_method(scoring, checkpoint, weights.load or weights.model)
    state, scorers = build_scored(scoring, checkpoint, device)
    method, (name, source) = MethodScores(state, scorers), dataset_with(checkpoint, classnames)
    head, by = (None, None) if method.scores_alone else trained_head(checkpoint, classnames, only_last=given is None)
    if head is not None:
        prompt = "; --prompt has no effect" if single.prompt_given else ""
        print(f"note: the trained head of {by} in {weights.load or weights.model} scores these classes{prompt}")
    task = task_of(paths, classnames, in_memory=len(paths) <= single.batch_size_eval, skip=single.skip_bad_images)
    template = prompt_of(single, state.own.values())
    with state.in_place(state.model):
        found = classify_split(state.model, task.split("test"), classnames, device, template, single.batch_size_eval,
                               worker_count(single.workers, task), head, method if scorers else None, name, source,
                               most=len(classnames))
    if by := method.by("task"):
        print(f"note: scored by {by}")
    found = {paths[position]: ranked for position, ranked in found.items()}
    shown = {path: ranked[:SHOWN] for path, ranked in found.items()}
    if folder.writes:
        _keep(folder, shown, names, alone)
    print(table_of_one(*shown.values()) if alone else table_of_several(shown))
    return classnames, found


def stored_class_names(checkpoint, path):
    """Return the class names of a checkpoint's last task, and print them in a note. Raises UserError if it
    holds none."""
    last = (checkpoint.get("history") or [{}])[-1]
    names = list(last.get("classnames") or ())
    if not names:
        raise UserError(f"--load {path} holds no class names; give --class-names FILE with one per line, or names "
                        "joined by commas")
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    print(f"note: the {len(names)} class names are those of {last.get('dataset')} in {path}: {shown}")
    return names


def prompt_of(single, modules):
    """Return the template of class prompts: the one that own modules require, else that of --prompt."""
    template = template_of(modules)
    if template is not None and single.prompt_given:
        print(f"note: --prompt has no effect: the context in --load was trained with {template!r}")
    return template or single.prompt.replace("{}", "{c}")


def dataset_with(checkpoint, classnames):
    """Return the latest task of a checkpoint with these class names in this order, as (name in files, name on
    the command line); ("", "") without one."""
    history = checkpoint.get("history", [])
    tasks = ((entry["dataset"], entry.get("source", entry["dataset"])) for entry in reversed(history))
    return next((task for task in tasks if other_classes(history, task[0], classnames) is None), ("", ""))


def trained_head(checkpoint, classnames, only_last):
    """Return the packed head (C, D + 1) of a checkpoint for these class names in this order, and its task.

    The latest such task counts, or with ``only_last`` only the last task. (None, None) without one; a note
    names heads for other classes.
    """
    history, heads = checkpoint.get("history", []), checkpoint.get("heads", {})
    tasks = [entry["dataset"] for entry in reversed(history)][:1 if only_last else None]
    fitting = [file for file in tasks if file in heads and other_classes(history, file, classnames) is None]
    if fitting:
        return heads[fitting[0]], fitting[0]
    if heads:
        print(f"note: images are compared with prompts of the class names: the trained heads of {', '.join(heads)} "
              "are for other classes, or in another order")
    return None, None


def _keep(folder, found, names, alone):
    """Write one csv and a picture of each image. ``found``: {path: [(class name, probability)]}"""
    if alone:
        (path, ranked), = found.items()
        folder.write_text(f"{path.stem}.csv", rows_csv(["class", "probability"], ranked))
    else:
        folder.write_text(SEVERAL, csv_of_several(found))
    for path, ranked in tqdm(found.items(), desc="pictures", unit="image", disable=None, leave=False):
        with fonts_for([path.name, *(name for name, _ in ranked)]):
            write_png(picture(open_upright(path), path.name, ranked), folder.file(names[path]))


def task_of(paths, classnames, in_memory, skip):
    """Return images without labels as a Task."""
    split = Split(lambda index: open_upright(paths[index]), [0] * len(paths))
    task = Task("images", classnames, (), {"test": split}, in_memory=in_memory)
    return tolerant(task) if skip else task


def picture_names(paths):
    """Return {path: name of its picture}: cat.png for ``cat.jpg``, or cat.jpg.png if another image is called
    cat as well.

    Raises UserError if that is still ambiguous.
    """
    stems = Counter(path.stem for path in paths)
    names = {path: f"{path.stem if stems[path.stem] == 1 else path.name}.png" for path in paths}
    owners = {}
    for path, name in names.items():
        if name in owners:
            raise UserError(f"--eval-single: {owners[name]} and {path} would both be kept as {name}; rename one, or "
                            "classify them separately with different --save folders")
        owners[name] = path
    return names


def _refuse_to_mix(folder, paths, names, given):
    """Refuse to write pictures over images, or where the next run would read them as images."""
    if not folder.writes:
        return
    images, place = {os.path.realpath(path) for path in paths}, os.path.realpath(folder.path)
    over = next((name for name in names if os.path.join(place, name) in images), None)
    if over or place == os.path.realpath(given):
        what = f"{over} would overwrite an image" if over else "pictures would lie among the images"
        raise UserError(f"--save {folder.path}: {what} of --eval-single; give another folder")


# -- tables ----------------------------------------------------------------------------------------------------------


def table_of_one(ranked):
    """Return [(class name, probability)] as the table of a single image."""
    return markdown_table(["class", "probability %"], [[name, 100 * value] for name, value in ranked])


def table_of_several(found):
    """Return {path: [(class name, probability)]} as one table.

    It shows file names, or whole paths if two are equal. Long class names are cut; the csv has them whole.
    """
    names = {path.name for path in found}
    shown = (path.name if len(names) == len(found) else path for path in found)
    ranks = range(1, 1 + len(next(iter(found.values()))))
    return markdown_table(["image", *(f"class {rank}" for rank in ranks)], [
        [name, *(f"{shortened(label, IN_TABLE)} {100 * value:.1f}" for label, value in ranked)]
        for name, ranked in zip(shown, found.values(), strict=True)])


def csv_of_several(found):
    ranks = range(1, 1 + len(next(iter(found.values()))))
    header = ["image", *(column for rank in ranks for column in (f"class_{rank}", f"probability_{rank}"))]
    return rows_csv(header, [[path, *(part for pair in ranked for part in pair)] for path, ranked in found.items()])


# -- the picture -----------------------------------------------------------------------------------------------------


def picture(image, title, ranked):
    """Draw a PIL image beside bars of its [(class name, probability)], at most five. -> matplotlib's Figure"""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(9, 4), dpi=120, facecolor="white")
    left, right = figure.add_axes((0.03, 0.06, 0.42, 0.82)), figure.add_axes((0.50, 0.06, 0.46, 0.82))
    image = image.copy()
    image.thumbnail((SIDE, SIDE))
    left.imshow(image)
    left.set_anchor("NW")
    left.set_axis_off()
    figure.text(0.03, 0.93, shortened(title, IN_TITLE), color=INK, fontsize=11, weight="bold", parse_math=False)
    _draw_bars(right, ranked)
    return figure


def _draw_bars(axes, ranked):
    places = [-row for row in range(len(ranked))]
    values = [value for _, value in ranked]
    axes.barh(places, [1] * len(ranked), height=0.3, color=TRACK)
    axes.barh(places, values, height=0.3, color=[FIRST] + [OTHERS] * (len(ranked) - 1))
    for place, (name, value) in zip(places, ranked, strict=True):
        first = place == 0
        style = {"y": place + 0.25, "color": INK if first else GREY, "fontsize": 11, "clip_on": True,
                 "weight": "bold" if first else "normal"}
        axes.text(0, s=shortened(name, IN_PICTURE), parse_math=False, **style)
        axes.text(1, s=f"{100 * value:.1f} %", ha="right", bbox=COVER, **style)  # drawn over a long name
    axes.set(xlim=(0, 1), ylim=(-4.4, 0.55))
    axes.set_axis_off()


def shortened(text, most):
    return text if len(text) <= most else text[:most - 1] + "…"
