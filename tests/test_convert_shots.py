"""convert_shots.py: pickled lists of shots to a file that --shots-file reads."""

import pickle

import pytest
from cli_files import read_json

import convert_shots

pytest_plugins = ["cli_fixtures"]


@pytest.fixture
def pickled(world, tmp_path):
    """Two images per class of the pictures of ``world``, under another root than theirs."""
    rows = [(f"/their/place/colours/train/{name}/{index}.png", label, name)
            for label, name in enumerate(("blue", "green", "red_disc")) for index in (0, 3)]
    path = tmp_path / "shot_2-seed_1.pkl"
    path.write_bytes(pickle.dumps({"train": rows, "val": []}))
    return path


def test_a_run_reads_what_is_converted(pickled, world, train, tmp_path, capsys):
    target = tmp_path / "shots.json"
    assert convert_shots.main(["--input", f"{world.colours}={pickled}", "--output", str(target)]) == 0
    assert "colours, 3 classes, 6 training images" in capsys.readouterr().out
    done = train(tmp_path / "out", "--shots-file", target, "--shots", 2)
    assert done.status == 0, done.err
    kept = read_json(tmp_path / "out" / "shots.json")["datasets"]["colours"]["train"]
    assert [[image[-len("/0.png"):] for image in row["images"]] for row in kept] == [["/0.png", "/3.png"]] * 3


def test_several_datasets_make_one_file(pickled, tmp_path):
    target = tmp_path / "shots.json"
    words = [word for name in ("DTD", "Flowers") for word in ("--input", f"{name}={pickled}")]
    assert convert_shots.main([*words, "--output", str(target)]) == 0
    assert [*read_json(target)["datasets"]] == ["DTD", "Flowers"]


@pytest.mark.parametrize(("words", "fragment"), [
    (["--input", "DTDD={pickled}", "--output", "{folder}/a.json"], "no dataset 'DTDD'"),
    (["--input", "DTD={folder}/none.pkl", "--output", "{folder}/a.json"], "none.pkl: cannot be read"),
    (["--input", "DTD={pickled}", "--output", "{pickled}/a.json"], "--output")])
def test_one_message_and_nothing_written(pickled, tmp_path, capsys, words, fragment):
    words = [word.format(pickled=pickled, folder=tmp_path) for word in words]
    assert convert_shots.main(words) == 2
    error = capsys.readouterr().err
    assert fragment in error and len(error.splitlines()) == 1 and not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("names", [("DTD", "DTD"), ("folder:a/pets", "folder:b/pets")])
def test_a_dataset_that_is_given_twice_is_refused(pickled, tmp_path, capsys, names):
    """Both would be written under one name, and only the last kept."""
    words = [word for name in names for word in ("--input", f"{name}={pickled}")]
    assert convert_shots.main([*words, "--output", str(tmp_path / "a.json")]) == 2
    error = capsys.readouterr().err
    assert f"--input {names[1]}" in error and "is given twice" in error and not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("words", [[], ["--input", "DTD", "--output", "a"], ["--input", "DTD=a"]])
def test_what_argparse_refuses(words):
    with pytest.raises(SystemExit):
        convert_shots.main(words)
