"""src/cli/flags.py -> the tables of ARGUMENTS.md, between its marks:

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
from src.cli.texts import shown_default  # noqa: E402
from src.models import ADD_ONS, METHODS  # noqa: E402

DOCUMENT = ROOT / "ARGUMENTS.md"
MARK = "flags"
HEAD = "| flag | default | used by | meaning | example |\n|---|---|---|---|---|\n"
# Kinds of runs in the words of the column "used by"; others are called as src.cli.kinds calls them.
KINDS = {(TRAIN, SEQUENCE): "training", (TRAIN,): "a single task", (SEQUENCE,): "a sequence", (EVAL,): "evaluation",
         (SINGLE,): "one image", (STUDY,): "a study", (REPRODUCE,): "a reproduction"}
# What an example is added to, unless it names a run of its own.
RUN = "--train-dataset DTD --iterations 1000 --lr 1e-5 --save ckpt/run"
STARTS = {"--train-dataset", "--dataset-order", "--eval-only", "--eval-single", "--report", "--list-datasets",
          "--check-data", "--fetch", "--study", "--rescore", "--reproduce"}


def tables():
    """All groups, each a heading and a table."""
    return "\n\n".join(f"## {heading(title)}\n\n{HEAD}" + "\n".join(map(row, flags)) for title, flags in GROUPS.items())


def heading(title):
    """With a capital, unless it is a name such as iCaRL."""
    return title if title != title.lower() else title.capitalize()


def row(flag):
    cells = [f"`{flag.name}`", shown_default(flag), users(flag), meaning(flag), f"`{example(flag)}`"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def users(flag):
    """The methods and switches that a flag means something to, else the kinds of runs."""
    methods = ", ".join(name for name, method in METHODS.items() if flag.key in method.uses)
    needed = ", ".join(f"`{name}`" for name in switches(flag))
    return " with ".join(filter(None, (methods, needed))) or ", ".join(kinds(flag.runs))


def switches(flag):
    """The flags of which one must be there beside it."""
    rows = [add_on.switches or (key,) for key, add_on in ADD_ONS.items() if flag.key in add_on.uses]
    if any(flag.key in row for row in rows):
        return []  # it switches its add-on on itself
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
    told = all(choice in text for choice in flag.choices)
    choices = "" if told else f". One of {', '.join(f'`{choice}`' for choice in flag.choices)}"
    return text + choices


def example(flag):
    """Words of a command line in which the flag acts."""
    return f"{flag.name} {flag.example}".strip()


def command_line(flag):
    """The example as all words after ``python -m src.main``."""
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
