"""Build the wheel: all packages of the checkout inside one, ``clip_continual``.

    pip install .            # the command clip-continual and ``import clip_continual``, from any folder
    pip install '.[wilds]'   # with an extra: wilds, tensorboard, wandb, streams, dev

A checkout has its packages at the top (``src``, ``clip``), so that ``python -m src.main`` works without
installing. Installed under those names, they would replace OpenAI's ``clip`` and shadow every project's
``src``. The wheel therefore holds them as ``clip_continual.src`` and ``clip_continual.clip``, with imports
renamed during the build; nothing else reaches site-packages. Files keep their places relative to each
other.
"""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
PACKAGE = "clip_continual"
FOLDERS = ("src", "clip", "recipes", "reproductions/specs")  # each becomes PACKAGE/<folder>
ENTRY = f"{PACKAGE}.src.main:main"
INIT = f"{PACKAGE}/__init__.py"  # the only file of the checkout's package
# Extras without a list in requirements.txt: the tests have a stand-in for wandb, whose 0.17 fails beside NumPy 2,
# and image-text streams need nothing that is not required anyway.
OTHER_EXTRAS = {"wandb": ["wandb>=0.19"], "streams": []}
# Old name -> new name, in this order.
RENAMES = (
    (re.compile(r"^(\s*)import clip$", re.MULTILINE), rf"\1from {PACKAGE} import clip"),
    (re.compile(r"^(\s*(?:from|import) )(src|clip)(?=[. ])", re.MULTILINE), rf"\1{PACKAGE}.\2"),
    (re.compile(r"python -m src\.main\b"), "clip-continual"),
    (re.compile(r"(?<![\w./])src\.(?=[a-z])"), f"{PACKAGE}.src."),  # "module:Class" in a table, and prose
)


def renamed(text):
    """Return a module's text with names as they are inside the package."""
    for pattern, new in RENAMES:
        text = pattern.sub(new, text)
    return text


def build_package(folder):
    """Write the package into ``folder``: INIT and FOLDERS, with renamed imports."""
    target = Path(folder) / PACKAGE
    target.mkdir(parents=True)
    shutil.copyfile(ROOT / INIT, target / "__init__.py")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for module in target.rglob("*.py"):
        module.write_text(renamed(module.read_text(encoding="utf-8")), encoding="utf-8")
    return target


class BuildUnderOneName(build_py):
    """Put the renamed package into the wheel."""

    def run(self):
        shutil.rmtree(self.build_lib, ignore_errors=True)  # deleted files must not survive from an earlier build
        build_package(self.build_lib)


class RefuseEditable(editable_wheel):
    """Reject ``pip install -e``, which would skip the renaming."""

    def run(self):
        raise SystemExit("error: an editable installation would put `src` and `clip` on the path of every project; "
                         "work in the checkout (make setup, then python -m src.main), or use pip install .")


def requirements():
    """Return the lists of requirements.txt, {extra: lines}: a line ``# [extra] ...`` begins one, "" is what runs."""
    lists, extra = {"": []}, ""
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"# \[(\w+)\]", line):
            extra = found[1]
            lists[extra] = []
        elif line and not line.startswith("#"):
            lists[extra].append(line)
    return lists


def extras():
    """Return {extra: lines} of the wheel. ``dev`` has all that the tests import, as a checkout has it."""
    lists = requirements()
    del lists[""]
    return {**lists, **OTHER_EXTRAS, "dev": [line for lines in lists.values() for line in lines]}


if __name__ == "__main__":
    # The package's content comes only from BuildUnderOneName.
    setup(packages=[PACKAGE], install_requires=requirements()[""],
          cmdclass={"build_py": BuildUnderOneName, "editable_wheel": RefuseEditable}, extras_require=extras(),
          entry_points={"console_scripts": [f"clip-continual = {ENTRY}"]})
