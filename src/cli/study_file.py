"""Read the parts of a study's file: which keys go where, and how a file writes flags and values."""

from src.cli.flags import FLAGS, unknown_flag
from src.cli.texts import SWITCHED, switched
from src.cli.yaml_file import value_texts
from src.errors import UserError

PARTS = {"name": str, "about": str, "base": dict, "axes": dict, "exclude": list, "select": dict, "report": dict}
REPORT_PARTS = {"names": dict, "published": (list, str), "columns": list, "baseline": str}
PLURALS = {"recipes": "recipe", "methods": "method", "orders": "dataset-order", "seeds": "seed"}
# Flags that a study sets itself, or that would make all cells share one folder.
NOT_OF_A_CELL = ("study", "jobs", "status", "save", "resume", "overwrite", "dry_run", "export")
MOST_CELLS = 10_000
RANDOM = "random:"  # prefix of random orders


def flag_of(where, word):
    flag = FLAGS.get(PLURALS.get(word, word).replace("-", "_"))
    if flag is None:
        raise UserError(f"{where}: {unknown_flag(word, PLURALS)}")
    refuse_not_of_a_cell(where, [flag.key])
    return flag


def refuse_not_of_a_cell(where, keys):
    if "export" in keys:
        raise UserError(f"{where}: --export would write every cell into one folder; export a checkpoint of a cell by "
                        "--load FILE --export DIR")
    if found := [FLAGS[key].name for key in keys if key in NOT_OF_A_CELL]:
        raise UserError(f"{where}: {found[0]} belongs to the whole study, not to its cells; give it on the command "
                        "line")


def texts_of(where, flags):
    """Convert {word: value} of a file to {flag key: text, True, list, or None for a switch turned off}."""
    if not isinstance(flags, dict):
        raise UserError(f"{where}: expected a mapping of flags")
    found = {}
    for word, value in flags.items():
        flag = flag_of(where, word)
        if flag.key in found:
            raise UserError(f"{where}: {flag.name} is given twice")
        found[flag.key] = text_of(where, flag, value)
    return found


def text_of(where, flag, value):
    texts = value_texts(f"{where}: {flag.name}", value)
    if flag.repeated:
        return texts
    text = ",".join(texts)
    if flag.key == "dataset_order" and text.startswith(RANDOM):
        raise UserError(f"{where}: {flag.name} {text}: random orders are values of an axis; write orders: [{text}]")
    if not flag.switch:
        return text
    try:
        return switched(flag, text) or None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def shown_parts(where, report):
    """Return (the published rows to show or None, the columns)."""
    for key in ("published", "columns"):
        for name in report.get(key, []) if isinstance(report.get(key), list) else []:
            if not isinstance(name, str):
                raise UserError(f"{where}: {key}: expected names")
    for row, name in report.get("names", {}).items():
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: names: {row}: expected its name in tables")
    published = report.get("published", "true")
    if isinstance(published, str):
        if published.lower() not in SWITCHED:
            raise UserError(f"{where}: published {published}: expected a list of names, true or false")
        published = None if SWITCHED[published.lower()] else ()
    return None if published is None else tuple(published), tuple(report.get("columns", ()))
