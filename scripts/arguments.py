"""Generate the tables of ARGUMENTS.md from src/cli/flags.py, between its marks:

    python scripts/arguments.py            # print
    python scripts/arguments.py --write    # into the file
"""

import argparse
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.marks import between_marks  # noqa: E402
from src.cli.flags import FLAGS, GROUPS  # noqa: E402
from src.cli.idle_flags import DEPENDENT, LINEAR  # noqa: E402
from src.cli.kinds import EVAL, REPRODUCE, SEQUENCE, SINGLE, STUDY, TRAIN  # noqa: E402
from src.cli.texts import shown_default, unnamed_choices  # noqa: E402
from src.models import ADD_ONS, METHODS  # noqa: E402

DOCUMENT = ROOT / "ARGUMENTS.md"
MARK = "flags"
HEAD = "| flag | default | used by | meaning | example |\n|---|---|---|---|---|\n"
# Names of kinds of runs in the column "used by"; others are named as in src.cli.kinds.
KINDS = {(TRAIN, SEQUENCE): "training", (TRAIN,): "a single task", (SEQUENCE,): "a sequence", (EVAL,): "evaluation",
         (SINGLE,): "one image", (STUDY,): "a study", (REPRODUCE,): "a reproduction"}
# Command that an example is appended to, unless it is a run by itself.
RUN = "--train-dataset DTD --iterations 1000 --lr 1e-5 --save ckpt/run"
STARTS = {"--train-dataset", "--dataset-order", "--eval-only", "--eval-single", "--report", "--list-datasets",
          "--check-data", "--fetch", "--study", "--rescore", "--reproduce"}


def tables():
    """Return all groups, each a heading and a table."""
    return "\n\n".join(f"## {heading(title)}\n\n{HEAD}" + "\n".join(map(row, flags)) for title, flags in GROUPS.items())


def heading(title):
    """Capitalise a title, unless it is a name such as iCaRL."""
    return title if title != title.lower() else title.capitalize()


def row(flag):
    cells = [f"`{flag.name}`", shown_default(flag), users(flag), meaning(flag), f"`{example(flag)}`"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def users(flag):
    """Return the methods and switches for which a flag has a meaning, else the kinds of runs."""
    methods = ", ".join(name for name, method in METHODS.items() if flag.key in method.uses)
    needed = ", ".join(f"`{name}`" for name in switches(flag))
    return " with ".join(filter(None, (methods, needed))) or ", ".join(kinds(flag.runs))


def switches(flag):
    """Return the flags of which one must be given with it."""
    rows = [add_on.switches or (key,) for key, add_on in ADD_ONS.items() if flag.key in add_on.uses]
    if any(flag.key in row for row in rows):
        return []  # it switches on its own add-on
    needed = {words.split()[1] for words, _, keys in DEPENDENT if flag.key in keys and words.startswith("without --")}
    needed |= {"--linear-eval"} if flag.key in LINEAR else set()
    needed = needed or {FLAGS[key].name for row in rows for key in row}
    return [other.name for other in FLAGS.values() if other.name in needed]


def kinds(runs):
    left, found = set(runs), []
    for names, words in KINDS.items():
        if left >= set(names):
            found.append(words)
            left -= set(names)
    return found + sorted(left)


def meaning(flag):
    text = flag.help.replace("%%", "%")
    choices = ", ".join(f"`{choice}`" for choice in unnamed_choices(flag))
    return f"{text}. One of {choices}" if choices else text


def example(flag):
    """Return words of a command line in which the flag has an effect."""
    return f"{flag.name} {flag.example}".strip()


def command_line(flag):
    """Return the example as all words after ``python -m src.main``."""
    words = shlex.split(example(flag))
    return words if {*words} & STARTS else [*shlex.split(RUN), *words]


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into ARGUMENTS.md")
    if parser.parse_args(words).write:
        DOCUMENT.write_text(between_marks(DOCUMENT.read_text(encoding="utf-8"), MARK, f"\n{tables()}\n"),
                            encoding="utf-8")
    else:
        print(tables())


if __name__ == "__main__":
    main()
