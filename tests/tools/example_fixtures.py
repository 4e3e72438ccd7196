"""The example methods of ``examples/methods/`` on three small tasks: ``name``, ``example``, ``trio``, ``sequence``,
``chain`` and ``finished``. A module takes them by ``pytest_plugins = ["cli_fixtures", "example_fixtures"]``."""

import pytest
from cli_files import write_pictures
from example_runs import COMMON, EXAMPLES

from src.main import main

SHADES = {"dark": 0.8, "light": 0.25}  # class folder -> hue


@pytest.fixture(params=EXAMPLES)
def name(request):
    return request.param


@pytest.fixture
def example(name):
    return EXAMPLES[name]


@pytest.fixture(scope="session")
def trio(world, tmp_path_factory):
    """-> {task: its word for a command}: the tasks of ``world`` and a third one."""
    root = tmp_path_factory.mktemp("trio")
    for part, number in (("train", 5), ("test", 4)):
        write_pictures(root / "shades" / part, SHADES, number)
    return {"colours": world.colours, "tones": world.tones, "shades": f"folder:{root / 'shades'}"}


@pytest.fixture
def sequence(cli, world, trio, tmp_path):
    """-> sequence(folder, word, ...): the three tasks by a command line with these words."""
    def call(name, *words):
        done = cli("--load", world.model, *COMMON, "--dataset-order", ",".join(trio.values()), "--save",
                   tmp_path / name, *words)
        assert done.status == 0, done.err
        return tmp_path / name
    return call


@pytest.fixture
def chain(cli, world, trio, tmp_path):
    """-> chain(word, ..., tasks=(the three)): the checkpoints of one command a task, each of which loads what the one
    before has left and scores all three."""
    def call(*words, tasks=tuple(trio)):
        left = [world.model]
        for task in tasks:
            done = cli("--load", left[-1], *words, *COMMON, "--train-dataset", trio[task], "--save", tmp_path,
                       "--eval-datasets", ",".join(trio.values()))
            assert done.status == 0, done.err
            left.append(tmp_path / f"{task}.pth")
        return left[1:]
    return call


@pytest.fixture(scope="session")
def finished(world, trio, tmp_path_factory):
    """-> finished(name): the folder of the three tasks by an example, run once; no test may change it. Called within a
    test, so that no picture is drawn."""
    folders = {}

    def of(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("finished") / name
            words = ["--load", world.model, *EXAMPLES[name].words, *COMMON, "--dataset-order", ",".join(trio.values()),
                     "--save", folders[name]]
            assert main([str(word) for word in words]) == 0
        return folders[name]
    return of
