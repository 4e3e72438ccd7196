"""A user's file of code under another name of the package, as in an installation."""

import sys
import traceback
import types

import pytest

import clip
import src.models.hooks
from src.machine import code_files
from src.models.hooks import Hooks


@pytest.fixture
def installed(monkeypatch):
    """The packages under the name that an installation gives them, and not under their own."""
    package = types.ModuleType("installed_here")
    package.src, package.clip = sys.modules["src"], clip
    monkeypatch.setattr(code_files, "PREFIX", "installed_here.")
    monkeypatch.setitem(sys.modules, "installed_here", package)
    for name in [name for name in sys.modules if name.split(".")[0] in ("src", "clip")]:
        monkeypatch.setitem(sys.modules, f"installed_here.{name}", sys.modules[name])
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError


@pytest.mark.parametrize("line", [
    "from src.models.hooks import Hooks", "from src.models import hooks; Hooks = hooks.Hooks",
    "import src.models.hooks; Hooks = src.models.hooks.Hooks", "import src.models.hooks as h; Hooks = h.Hooks",
    "import json, src.models.hooks as h; Hooks = h.Hooks; json.dumps(1)"])
def test_imports_reach_the_installed_code(installed, tmp_path, line):
    (tmp_path / "my.py").write_text(f"import clip, math\nfrom clip.model import CLIP\n{line}\n\n"
                                    "class Mine(Hooks):\n    tokenize = staticmethod(clip.tokenize)\n")
    module = code_files.load_file(str(tmp_path / "my.py"))
    assert issubclass(module.Mine, Hooks) and module.CLIP is clip.model.CLIP
    assert not (tmp_path / "__pycache__").exists()


def test_a_relative_import_fails_as_in_any_script(installed, tmp_path):
    (tmp_path / "my.py").write_text("from .other import x\n")
    with pytest.raises(ImportError):
        code_files.load_file(str(tmp_path / "my.py"))


def test_an_error_names_the_line_of_the_import(installed, tmp_path):
    (tmp_path / "my.py").write_text("import math\n\nimport clip.no_such_module\n")
    with pytest.raises(ImportError) as raised:
        code_files.load_file(str(tmp_path / "my.py"))
    frames = traceback.extract_tb(raised.value.__traceback__)
    assert [frame.lineno for frame in frames if frame.filename.endswith("my.py")] == [3]


def test_a_checkout_loads_the_file_as_it_is(tmp_path):
    (tmp_path / "my.py").write_text("import src.models.hooks\nHooks = src.models.hooks.Hooks\n")
    assert code_files.PREFIX == "" and code_files.load_file(str(tmp_path / "my.py")).Hooks is src.models.hooks.Hooks
