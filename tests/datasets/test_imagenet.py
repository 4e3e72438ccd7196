"""ImageNet's class names and the files of names that --class-names reads."""

import pytest

from src.datasets.imagenet import open_clip_metadata, read_class_names
from src.errors import UserError


def test_names_and_prompts():
    names, prompts = open_clip_metadata().IMAGENET_CLASSNAMES, open_clip_metadata().OPENAI_IMAGENET_TEMPLATES
    assert len(names) == 1000 and len(prompts) == 80
    # Curated: what the folders' own names leave ambiguous is told apart.
    assert (names[0], names[134], names[517], names[999]) == (
        "tench", "crane bird", "construction crane", "toilet paper")
    assert prompts[0]("cat") == "a bad photo of a cat."


def test_names_are_written_on_demand(tmp_path):
    path = tmp_path / "data" / "text_classes" / "imagenet_classes.txt"
    names = read_class_names(path)
    assert len(names) == 1000 and names[:2] == ["tench", "goldfish"] and names[-1] == "toilet paper"
    assert path.read_text(encoding="utf-8").splitlines() == names
    assert read_class_names(path) == names
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_that_is_there_is_kept(tmp_path):
    path = tmp_path / "imagenet_classes.txt"
    path.write_text("mine\n", encoding="utf-8")
    assert read_class_names(path) == ["mine"] and path.read_text(encoding="utf-8") == "mine\n"


def test_lines(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("  red disc \n\nblue\r\ncafé\n".encode())
    assert read_class_names(str(path)) == ["red disc", "blue", "café"]


@pytest.mark.parametrize(("name", "content"), [
    ("missing.txt", None), ("empty.txt", b""), ("blank.txt", b"\n \n"), ("binary.txt", b"\xff\xfe\x00")])
def test_faulty_files(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"--class-names .*{name}"):
        read_class_names(tmp_path / name)
    assert content is not None or not (tmp_path / name).exists()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="--class-names .*imagenet_classes.txt"):
        read_class_names(tmp_path / "file" / "imagenet_classes.txt")
