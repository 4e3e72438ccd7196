"""reproductions/ -> the table of docs/reproductions.md, between its marks: what is published, what was found, and the
certificate.

    python scripts/reproductions.py            # print
    python scripts/reproductions.py --write    # into the file
    python scripts/reproductions.py --check ckpt/zeroshot/certificate.json    # report what is wrong with a certificate
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.marks import between_marks  # noqa: E402
from src.cli.reproductions import read_reproduction, reproduction_names  # noqa: E402
from src.machine.files import read_json  # noqa: E402
from src.report.certificate import faults_of  # noqa: E402
from src.report.measures import TITLES  # noqa: E402

DOCUMENT, FOLDER = ROOT / "docs" / "reproductions.md", ROOT / "reproductions"
MARK = "reproductions"
HEAD = "| `--reproduce` | number | published | within | here | certificate |\n|---|---|--:|--:|--:|---|\n"


class Faulty(Exception):
    """An invalid certificate."""


def certificates(folder):
    """Return {name of a reproduction: [(file name, content)]} of the certificates in a folder. Raise Faulty
    for an invalid one."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = checked(path)
        found.setdefault(content["name"], []).append((path.name, content))
    return found


def checked(path):
    """Return the content of a certificate of one of our reproductions. Raise Faulty if it is invalid."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise Faulty(f"{path}: cannot be read ({error})") from None
    name = content.get("name") if isinstance(content, dict) else None
    if name not in reproduction_names():
        raise Faulty(f"{path}: belongs to {name}, which is not one of {', '.join(reproduction_names())}")
    if faults := faults_of(content, read_reproduction(name)):
        raise Faulty(f"{path}: {'; '.join(faults)}")
    return content


def table(folder=FOLDER):
    """Return a row per published cell, by stage; empty if no certificate has it."""
    found = certificates(folder)
    known = sorted(map(read_reproduction, reproduction_names()), key=lambda each: (each.stage, each.name))
    return HEAD + "\n".join(row(reproduction, index, found.get(reproduction.name, []))
                            for reproduction in known for index in range(len(reproduction.expected)))


def row(reproduction, index, stored):
    """Return the row of the cell ``index``. ``stored``: [(file name, content)] of the certificates."""
    cell = reproduction.expected[index]
    here = ", ".join(shown(content["cells"][index]) for _, content in stored)
    files = ", ".join(f"[{content['date']}](../reproductions/{name})" for name, content in stored)
    cells = [f"`{reproduction.name}`", TITLES.get(cell.name, cell.name), str(cell.published), f"{cell.tolerance:g}",
             here, files]
    return f"| {' | '.join(cells)} |"


def shown(cell):
    """Return the number found here, marked if it does not pass."""
    here = "undefined" if cell["here"] is None else f"{cell['here']:.2f}"
    return here if cell["pass"] else f"{here} (fails)"


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/reproductions.md")
    parser.add_argument("--check", metavar="FILE", type=Path, help="check a certificate")
    chosen = parser.parse_args(words)
    try:
        if chosen.check:
            content = checked(chosen.check)
            print(f"{chosen.check}: a certificate of {content['name']}, {'passed' if content['passed'] else 'failed'}")
        elif chosen.write:
            DOCUMENT.write_text(between_marks(DOCUMENT.read_text(encoding="utf-8"), MARK, f"\n{table()}\n"),
                                encoding="utf-8")
        else:
            print(table())
    except Faulty as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
