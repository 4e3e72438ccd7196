"""Collected when this folder is named only (`make test-slurm`): it may install packages, and waits for a scheduler."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # fake_training


def pytest_ignore_collect(collection_path, config):
    named = any(Path(word.partition("::")[0]).resolve().is_relative_to(HERE) for word in config.args)
    return None if named else True
