"""Write report.html of a finished sequence, a self-contained file that needs no network, and its pictures beside it."""

import base64
import functools
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from src.cli.flags import FLAGS
from src.cli.kinds import EVAL
from src.cli.texts import command_line, shown
from src.machine.files import atomic_file
from src.machine.notices import warn
from src.report import colours
from src.report.charts import loss_chart, score_chart
from src.report.conditions import conditions_of_run, with_source
from src.report.durations import duration, size
from src.report.figures import texts_of, write_confusions, write_pictures
from src.report.fonts import unreadable
from src.report.head import head_facts, whole_seconds
from src.report.heat import heat_map, losses_of
from src.report.measures import ACCURACY, DEFINITIONS, RETRIEVAL, SUMMARY, TITLES, defined, measure_of
from src.report.runs import read_run, read_task
from src.report.scores import RATE, SCORE_TITLES, curves, loss_terms, mean_of, term_title, trains
from src.report.sequence import sequence_metrics

HERE = Path(__file__).parent
MEANINGS = {  # each number in a few words
    "transfer": "accuracy on tasks not yet trained", "avg": "accuracy over all tasks and times",
    "last": "accuracy once all is trained", "forgetting": "points lost since a task was best",
    "bwt": "points changed since a task was trained", "mean_rsum": "sum of the six recalls, mean over the sets, of 600",
    "i2t_r1": "images whose caption comes first", "t2i_r1": "captions whose image comes first",
    "forgetting_r1": "points of image-to-text R@1 lost since the best"}
PAIR_TITLES = {"mean_rsum": "rsum", "i2t_r1": "R@1 image to text", "t2i_r1": "R@1 text to image"}
LOSSES = ("forgetting", "forgetting_r1", "bwt")  # zero-shot has none of them
SPACE_TITLES = {"task": "Each task among its own classes", "seen": "Each task among the classes of all tasks so far",
                "all": "Each task among the classes of the whole sequence",
                RETRIEVAL.space: "Image-text retrieval"}


def write_report(folder):
    """Write ``report.html`` and the pictures of the finished sequence in ``folder``.

    The run is already stored: an error here only draws a warning.
    """
    try:
        run = read_run(folder)
        write_page(run, run.folder / "report.html")
        write_pictures(run, run.folder)
        confusions = write_confusions(run, run.folder)
        letters = unreadable(texts_of(run, confusions))
        if confusions or letters:
            write_page(run, run.folder / "report.html", confusions, letters)
    except Exception as error:  # drawing libraries may raise anything
        warn(f"no full report in {folder} ({type(error).__name__}: {error}); its results are complete")


def write_page(run, path, confusions=(), letters=""):
    """Write the page of a SequenceRun, as one HTML file."""
    with atomic_file(path, "w") as file:
        file.write(page(run, confusions, letters))


def write_task_report(folder, task, conditions):
    """Write ``report_<task>.html`` of a task trained by itself into ``folder``, like ``write_report``.

    ``conditions``: {label space: Conditions}.
    """
    try:
        run = read_task(folder, task, {space: asdict(found) for space, found in conditions.items()})
        write_page(run, run.folder / f"report_{task}.html")
    except Exception as error:  # as above
        warn(f"no report of {task} in {folder} ({type(error).__name__}: {error}); its results are complete")


def page(run, confusions=(), letters=""):
    """Return the HTML of a SequenceRun. Every text from its files is escaped.

    ``confusions`` {dataset: path of a picture} are embedded. ``letters``: those that pictures lack.
    """
    terms = loss_terms(run)
    charts = {term: loss_chart(term_title(term), tasks) for term, tasks in terms.items()}
    return environment().get_template("page.html").render(
        style=style(), run=run, title=run.name, facts=head_facts(run), numbers=[] if run.untrained else headlines(run),
        sections=[_section(run, space) for space in run.spaces], rate=charts.pop(RATE, None),
        losses=list(charts.values()), divergences=any(term.endswith("_kl") for term in terms), costs=_costs(run),
        flags=_flags(run), command=command_line(run.command) if run.command else "",
        confusions={name: _embedded(path) for name, path in dict(confusions).items()}, origin=_origin(run),
        definitions=_definitions(run), letters=letters)


def _definitions(run):
    """Return [(title, definition)] of the numbers on the page: those of a sequence, or only recalls."""
    shown_alone = ("recall", "rsum") if run.measure is RETRIEVAL else ()
    return [(TITLES[key], DEFINITIONS[key]) for key in shown_alone] if run.single else defined(run.space)


def _embedded(path):
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


@functools.cache
def environment():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    found = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                        lstrip_blocks=True)
    found.filters |= {"one": one_decimal, "parted": parted}
    return found


def one_decimal(value):
    """Format a number for display: 52.1, −3.8, and never −0.0."""
    return "–" if value is None else f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def parted(text):
    """Allow line breaks after the commas of a text."""
    from markupsafe import Markup, escape
    return Markup(str(escape(text)).replace(",", ",<wbr>"))


@functools.cache
def style():
    """Return the style sheet, with the colours of heat maps and of runs for light and dark pages."""
    from markupsafe import Markup
    text = (HERE / "page.css").read_text(encoding="utf-8")
    rules = {
        "/* light */": colours.heat_rules(colours.BLUES, colours.ORANGE_BLUE) + colours.run_rules(colours.RUNS),
        "/* dark */": colours.heat_rules(colours.NIGHT, colours.ORANGE_BLUE_NIGHT) + colours.run_rules(
            colours.RUNS_NIGHT)}
    for mark, found in rules.items():
        text = text.replace(mark, found)
    return Markup(text)


# -- the numbers of the head -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Headline:
    """Hold one number beside zero-shot CLIP's. ``tone``: "good" or "bad", empty for neither."""

    title: str
    meaning: str
    value: float | None
    zero_shot: float | None
    verdict: str = ""
    tone: str = ""
    note: str = ""


def headlines(run, space=None):
    """Return the numbers of a label space, by default the run's first."""
    space = space or run.space
    if run.single:
        return _single_headlines(run, space)
    return HEADLINES[measure_of(space)](run.spaces[space])


def _accuracy_headlines(summary):
    names, start = summary["datasets"], summary.get("zero_shot")
    start = [start[name] for name in names] if start else []
    unmoved = sequence_metrics([start] * len(names)) if start and None not in start else dict.fromkeys(SUMMARY)
    lost = dict(zip(names, losses_of(summary), strict=True))
    worst = max(lost, key=lambda name: lost[name] or 0.0)
    notes = {"forgetting": f"most: {worst}, {lost[worst]:.1f}"} if lost[worst] else {}
    # If tasks have no score before they are trained, zero-shot's mean covers other cells than the run's.
    comparable = SUMMARY if summary["transfer"] is not None or len(names) == 1 else ("last",)
    return [_headline(key, TITLES[key], summary[key], unmoved[key] if key in comparable else None, notes.get(key, ""))
            for key in SUMMARY]


def _single_headlines(run, space):
    """Return the scores of a single task on its own dataset, and the mean over the others."""
    [task], columns = run.order, run.spaces[space]["datasets"]
    measure, scores = measure_of(space), run.matrices[space]
    own = [place for place, name in enumerate(columns) if trains(task, name)]
    others = [place for place in range(len(columns)) if place not in own]
    found = [Headline(SCORE_TITLES[score], f"on {columns[place]}", scores[score][task][place], None)
             for place in own for score in measure.matrices]
    if others:
        first = measure.matrices[0]
        found.append(Headline(f"{SCORE_TITLES[first]} elsewhere", f"mean over {len(others)} other datasets",
                              mean_of([scores[first][task][place] for place in others]), None))
    return found


def _retrieval_headlines(summary):
    first, last = summary["rows"][0], summary["rows"][-1]

    def mean(row, score):
        return row and sum(row[name][score] for name in summary["datasets"]) / len(row)
    lost = summary["forgetting_r1"]
    worst = max(lost, key=lost.get)
    return [
        _headline("mean_rsum", PAIR_TITLES["mean_rsum"], summary["mean_rsum"], mean(first, "rsum")),
        *(_headline(key, PAIR_TITLES[key], mean(last, key), mean(first, key)) for key in ("i2t_r1", "t2i_r1")),
        _headline("forgetting_r1", TITLES["forgetting_r1"], sum(lost.values()) / len(lost), None,
                  f"most: {worst}, {lost[worst]:.1f}" if lost[worst] > 0 else "")]


HEADLINES = {ACCURACY: _accuracy_headlines, RETRIEVAL: _retrieval_headlines}


def _headline(key, title, value, zero_shot, note=""):
    headline = Headline(title, MEANINGS[key], value, zero_shot, note=note)
    if key in LOSSES or None in (value, zero_shot):
        return headline
    change = round(value, 1) - round(zero_shot, 1)  # of the displayed numbers
    if abs(change) < 0.05:
        return replace(headline, verdict="no change")
    tone, words = ("good", "better") if change > 0 else ("bad", "worse")
    return replace(headline, verdict=f"{'▲' if change > 0 else '▼'} {abs(change):.1f} {words}", tone=tone)


# -- matrices and curves -----------------------------------------------------------------------------------------------


def _section(run, space):
    """Return what the page shows for one label space."""
    matrices = {score: heat_map(run, space, score) for score in run.matrices[space]}
    shown = 1 if measure_of(space).folds_matrices else len(matrices)
    return {"space": space, "title": SPACE_TITLES.get(space, space), "id": f"space-{space}",
            "head": with_source(conditions_of_run(run, space).text(), run.spaces[space]),
            "numbers": headlines(run, space) if space != run.space and not run.untrained else [],
            "matrices": [*matrices.values()][:shown], "folded": [*matrices.values()][shown:],
            "charts": [score_chart(name, *found) for name, found in curves(run, space).items()
                       if not (run.untrained or run.single)]}


# -- cost and command --------------------------------------------------------------------------------------------------


def _costs(run):
    """Return [(task, [texts])] and a sequence's total, for the table of costs."""
    rows = [(task, [duration(facts.seconds), _or_none(facts.images_per_second, "{:,.0f}"),
                    size(facts.peak_memory_bytes), _or_none(facts.trainable_values, "{:,}"), _copies(facts.copies)])
            for task, facts in run.tasks.items()]
    total = [duration(whole_seconds(run)), "", size(run.peak_memory_bytes), "", ""]
    return {"rows": rows, "total": [] if run.single else total}


def _or_none(value, form):
    return "–" if value is None else form.format(value)


def _copies(copies):
    return "–" if not copies else ", ".join(f"{name} {round(count, 2):g}" for name, count in copies.items())


def _flags(run):
    """Return [(origin, [(flag, value)])], given flags first and defaults last.

    If nothing was trained, flags of training are left out.
    """
    found = {}
    acts = {key: EVAL in FLAGS[key].runs if key in FLAGS else True for key in run.flags} if run.untrained else {}
    for key, flag in run.flags.items():
        if not acts.get(key, True):
            continue
        name = FLAGS[key].name if key in FLAGS else f"--{key.replace('_', '-')}"
        found.setdefault(flag.get("origin", "unknown"), []).append((name, shown(flag["value"])))
    return sorted(found.items(), key=lambda item: (item[0] != "flag", item[0] == "default"))


def _origin(run):
    """Return [(name, value)]: where and with what it ran."""
    return [(name, value) for name, value in (
        ("Commit", run.commit), ("Hardware", run.hardware), ("Seed", run.seed), ("Precision", run.precision),
        ("Folder", str(run.folder)), *run.versions.items()) if value is not None]
