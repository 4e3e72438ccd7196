"""One version of every package that is installed, for each supported Python and system -> constraints.txt:

    python scripts/constraints.py              # print
    python scripts/constraints.py --write      # into the file, which keeps its versions where they still fit
    python scripts/constraints.py --upgrade    # with the newest versions instead

The file is of use as ``pip install -r requirements.txt -c constraints.txt``. Run the tests before it is committed: its
versions count as tested. Needs uv, which resolves for all systems at once.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from src.machine.notices import complain  # noqa: E402

FILE = ROOT / "constraints.txt"
HEAD = """\
# Versions that were tested together, on Linux with Python 3.10 to 3.13: the same environment in a year, by
# pip install -r requirements.txt -c constraints.txt, or pip install WHEEL -c constraints.txt.
# Written by scripts/constraints.py.
"""
LOWEST_PYTHON = "3.10"
ELSEWHERE = re.compile(r"sys_platform == '(win32|emscripten)'")  # systems on which this does not run


def lines(resolved):
    """Return the pins of a resolution that matter here."""
    return [line for line in resolved.splitlines() if line and not ELSEWHERE.search(line)]


def resolve(file, upgrade=False):
    """Return the pins of all that requirements.txt asks for. ``file``: pins to keep where they fit."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise FileNotFoundError("uv, which resolves versions, is not installed: pip install uv")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / FILE.name
        if file.is_file():
            shutil.copyfile(file, target)
        subprocess.run([uv, "pip", "compile", str(ROOT / "requirements.txt"), "--universal", "--python-version",
                        LOWEST_PYTHON, "--no-header", "--no-annotate", "--quiet", "--output-file", str(target),
                        *["--upgrade"] * upgrade], check=True, stdout=subprocess.DEVNULL)
        return lines(target.read_text(encoding="utf-8"))


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into constraints.txt")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions, not those of constraints.txt")
    config = parser.parse_args(words)
    try:
        text = HEAD + "\n".join(resolve(FILE, config.upgrade)) + "\n"
    except FileNotFoundError as error:
        complain(str(error))
        return 2
    except subprocess.CalledProcessError as error:
        complain(f"uv could not resolve the requirements (status {error.returncode}); see its message above")
        return 2
    if config.write:
        FILE.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
