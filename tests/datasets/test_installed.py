"""Files of installed packages: found without an import, and a clear message where they are not."""

import subprocess
import sys

import pytest

from src.datasets import installed


def test_a_file_is_found_without_importing_its_package():
    code = ("import sys; from src.datasets.installed import installed_file as f; "
            "assert f('x', 'matplotlib', 'fonts', 'ttf', 'DejaVuSans.ttf').is_file(); "
            "assert f('x', 'scikit-learn', 'images', 'china.jpg').is_file(); "
            "sys.exit('sklearn' in sys.modules or 'matplotlib' in sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_package_and_a_missing_file_are_named(monkeypatch):
    with pytest.raises(FileNotFoundError, match="mini-letters is read from fonts/none.ttf of the package matplotlib"):
        installed.installed_file("mini-letters", "matplotlib", "fonts", "none.ttf")
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="toy-digits .* pip install scikit-learn"):
        installed.installed_file("toy-digits", "scikit-learn", "data", "digits.csv.gz")
