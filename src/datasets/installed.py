"""Files that come with packages which are installed anyway, found without importing the package."""

import importlib.util
from pathlib import Path

PARTS = {"scikit-learn": ("sklearn", "datasets"), "matplotlib": ("matplotlib", "mpl-data")}


def installed_file(name, package, *parts):
    """Path of a file of ``package``, for the dataset ``name``."""
    module, folder = PARTS[package]
    found = importlib.util.find_spec(module)
    if found is None:
        raise FileNotFoundError(f"{name} is read from the package {package}, which is not installed: "
                                f"pip install {package}")
    path = Path(found.origin).parent.joinpath(folder, *parts)
    if not path.is_file():
        raise FileNotFoundError(f"{name} is read from {'/'.join(parts)} of the package {package}, which this version "
                                f"does not have: pip install --upgrade {package}")
    return path
