"""Fixtures of the tests of the datasets: ``every_dataset``, ``unverified``, ``no_network``. A module takes them by
``pytest_plugins = ["dataset_fixtures"]``."""

import os
import urllib.error
from types import SimpleNamespace

import pytest
from dataset_files import WRITERS


@pytest.fixture(scope="session")
def every_dataset(tmp_path_factory):
    """``root`` with a copy of every dataset that lies on a disk, ``copies`` by name. No test may change it."""
    root = tmp_path_factory.mktemp("datasets")
    return SimpleNamespace(root=root, copies={name: write(root) for name, write in WRITERS.items()})


@pytest.fixture
def unverified(monkeypatch):
    """torchvision compares CIFAR and Flowers with published hashes, which small copies cannot have."""
    for module in ("cifar", "flowers102"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity",
                            lambda path, md5=None: os.path.isfile(path))


@pytest.fixture
def no_network(monkeypatch):
    def unreachable(address, *_, **__):
        raise urllib.error.URLError(f"no network for {getattr(address, 'full_url', address)}")
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
