"""Digests of what a run reads: each changes with what it is of, and with nothing else; and what is missing."""

import hashlib
import io
import json
import shutil

import numpy as np
import pytest
import torch
from cli_files import picture

from src.args import parse
from src.datasets.common import Split, Task
from src.run.build import command_of
from src.run.inputs import (
    changes,
    content_digest,
    dataset_digests,
    digests_of,
    listing_digests,
    missing,
    roles_of,
    tensors_digest,
)

pytest_plugins = ["cli_fixtures"]


def sha(content):
    return hashlib.sha256(content).hexdigest()


def command(words):
    return command_of(parse([str(word) for word in words]))


@pytest.fixture
def own(world, tmp_path):
    """The world's model and one of its datasets, where a test may change them; and its run's words."""
    shutil.copytree(world.root / "colours", tmp_path / "colours")
    shutil.copy(world.model, tmp_path / "tiny.pth")
    return tmp_path, ("--dataset-order", f"folder:{tmp_path / 'colours'}", "--model", tmp_path / "tiny.pth",
                      "--iterations", "1", "--device", "cpu")


# -- weights -----------------------------------------------------------------------------------------------------------


def test_a_digest_of_tensors_by_hand():
    tensors = {"b": torch.tensor(1.5), "a": torch.tensor([[1, 2]], dtype=torch.int32)}
    plain = (b"a torch.int32 (1, 2)\n" + np.array([1, 2], "<i4").tobytes()
             + b"b torch.float32 ()\n" + np.array(1.5, "<f4").tobytes())
    assert tensors_digest(tensors) == sha(plain)
    assert tensors_digest(dict(sorted(tensors.items()))) == sha(plain)


@pytest.mark.parametrize("other", [{"a": torch.tensor([1.0, 2.0000002])}, {"b": torch.tensor([1.0, 2.0])},
                                   {"a": torch.tensor([[1.0], [2.0]])},
                                   {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)}])
def test_any_bit_name_shape_or_type_changes_it(other):
    assert tensors_digest(other) != tensors_digest({"a": torch.tensor([1.0, 2.0])})


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.bool])
def test_types_that_numpy_may_lack(kind):
    assert len(tensors_digest({"a": torch.ones(3, dtype=kind)})) == 64


def test_a_view_counts_as_its_values():
    assert tensors_digest({"a": torch.arange(6.0).reshape(2, 3).T}) == tensors_digest(
        {"a": torch.arange(6.0).reshape(2, 3).T.contiguous()})


# -- data --------------------------------------------------------------------------------------------------------------


def drawn(pixels=0, labels=(0, 1)):
    images = [np.full((2, 3, 3), 7, np.uint8), np.full((2, 3, 3), pixels, np.uint8)]
    return Split(images.__getitem__, list(labels))


def test_digests_of_a_split_by_hand():
    assert listing_digests(drawn()) == {"images": 2, "listing": sha(json.dumps(
        [["0 0", "1 1"], [0, 1], None]).encode())}
    each = [sha(b"uint8 (2, 3, 3)\n" + bytes([value] * 18)) for value in (7, 0)]
    assert content_digest(drawn()) == sha("\n".join(each).encode())


def test_labels_numpy_made_count_as_numbers():
    assert listing_digests(drawn(labels=np.array([0, 1]))) == listing_digests(drawn())


def test_files_count_with_their_bytes_in_order(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path in paths:
        path.write_bytes(path.name.encode())
    split = Split(None, [0, 0, 0], ["a", "b", "c"], path=paths.__getitem__)
    assert content_digest(split) == sha("\n".join(sha(name) for name in (b"a", b"b", b"c")).encode())
    assert content_digest(split.subset([1, 0, 2])) != content_digest(split)


def task(classes=("x", "y"), sentences=("one",), **splits):
    return Task("t", list(classes), ["{c}"], splits or {"train": drawn(), "test": drawn(1)}, list(sentences))


def test_what_is_scored_trained_and_referred_to():
    found = dataset_digests(task(), {"train", "test", "reference"})
    assert list(found) == ["classes", "test", "train", "reference"]
    assert set(found["train"]) == {"images", "listing", "content"}
    assert set(found["reference"]) == {"images", "listing", "sentences"}
    assert set(dataset_digests(task(), {"test"})) == {"classes", "test"}


@pytest.mark.parametrize(("other", "changed"), [
    ({"classes": ("x", "z")}, ["classes"]), ({"test": drawn(2), "train": drawn()}, ["test content"]),
    ({"test": drawn(1, (1, 1)), "train": drawn()}, ["test listing"]), ({"sentences": ("two",)}, [])])
def test_each_part_has_its_digest(other, changed):
    assert changes(dataset_digests(task(), {"train", "test"}), dataset_digests(task(**other), {"train", "test"})
                   ) == changed


def test_changes_are_paths():
    before = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert changes(before, before) == []
    assert changes(before, {"a": {"b": 1, "c": {"d": 4}}, "f": 3}) == ["a c d", "e", "f"]
    assert changes("damaged", before) == [""]


# -- a run -------------------------------------------------------------------------------------------------------------


def test_the_roles_of_a_run():
    found = roles_of(command("--dataset-order toy-sizes,toy-colours --eval-datasets toy-shapes --method ZSCL "
                             "--ref-dataset toy-reference --ref-sentences random --iterations 1".split()))
    assert found == {"toy-sizes": {"train", "test"}, "toy-colours": {"train", "test"}, "toy-shapes": {"test"},
                     "toy-reference": {"reference"}}
    evaluation = "--dataset-order toy-sizes,toy-colours --eval-only --eval-split val --method ZSCL".split()
    assert roles_of(command(evaluation)) == {"toy-sizes": {"val"}, "toy-colours": {"val"}}


def changed_by(own, change):
    """What differs once ``change(folder)`` was done."""
    folder, words = own
    before = digests_of(command(words))
    assert changes(before, digests_of(command(words))) == []
    change(folder)
    return [text.replace(f"folder:{folder / 'colours'}", "colours") for text in changes(
        before, digests_of(command(words)))]


def test_a_class_name_an_image_and_a_weight_are_seen(own):
    assert changed_by(own, lambda folder: picture(folder / "colours/test/blue/0.png", 0.1, 1)) == [
        "datasets colours test content"]
    assert changed_by(own, lambda folder: (folder / "colours/train/blue/0.png").unlink()) == [
        f"datasets colours train {part}" for part in ("images", "listing", "content")]
    assert "datasets colours classes" in changed_by(own, lambda folder: [
        (folder / "colours" / part / "blue").rename(folder / "colours" / part / "azure") for part in ("train", "test")])

    def one_bit(folder):
        content = torch.load(folder / "tiny.pth", weights_only=True)
        content["state_dict"]["logit_scale"] += 1e-6
        torch.save(content, folder / "tiny.pth")
    assert changed_by(own, one_bit) == ["weights start tensors", "weights start file"]


def test_a_custom_method_and_an_architecture_count(own, tmp_path):
    (tmp_path / "my.py").write_text("from src.models.finetune import Finetune\n\n\nclass Mine(Finetune):\n    pass\n",
                                    encoding="utf-8")
    words = (*own[1], "--method", f"{tmp_path / 'my.py'}:Mine")
    assert digests_of(command(own[1]))["files"] == {}
    assert digests_of(command(words))["files"] == {"--method": sha((tmp_path / "my.py").read_bytes())}
    hooks = f"{tmp_path / 'my.py'}:Watch"
    assert digests_of(command((*own[1], "--hooks", f"{hooks}(every=2)")))["files"] == {
        f"--hooks {hooks}": sha((tmp_path / "my.py").read_bytes())}

    def other_mean(folder):
        content = torch.load(folder / "tiny.pth", weights_only=True)
        content["architecture"]["mean"] = [0.5, 0.5, 0.5]
        torch.save(content, folder / "tiny.pth")
    assert changed_by(own, other_mean) == ["weights start architecture", "weights start file"]


def test_looking_writes_and_prints_nothing(own, capsys):
    folder, words = own
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    digests_of(command(words))
    missing(command(words))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert capsys.readouterr() == ("", "")


def test_a_teacher_of_another_file_counts(own, world):
    words = (*own[1], "--method", "ZSCL", "--ref-dataset", "toy-reference", "--ref-sentences", "random")
    with_teacher = digests_of(command((*words, "--ref-model", world.model)))
    assert set(digests_of(command(words))["weights"]) == {"start"} and set(with_teacher["weights"]) == {
        "start", "teacher"}
    assert with_teacher["weights"]["teacher"]["tensors"] == with_teacher["weights"]["start"]["tensors"]


def test_all_that_is_missing_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path / "cache"))
    words = ("--dataset-order DTD,StanfordCars,toy-sizes --method ZSCL --ref-dataset ImageNet --ref-sentences "
             f"conceptual_captions --iterations 1 --model toy --data-location {tmp_path} --ref-model RN50").split()
    fetched, sentences = missing(command(words))
    assert fetched == ["DTD"]
    starts = ("the weights of RN50 are not at ", "DTD is not at ",
              "StanfordCars is not at ", "ImageNet is not at ", "conceptual_captions is not at ")
    assert [next(start for start in starts if sentence.startswith(start)) for sentence in sentences] == [*starts]
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_of_weights_is_missing_too(own):
    (own[0] / "tiny.pth").write_bytes(b"x")
    _, sentences = missing(command(own[1]))
    assert len(sentences) == 1 and "tiny.pth" in sentences[0]


def test_printing_works_again_afterwards(own):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", io.StringIO())
        missing(command(own[1]))
        print("heard")
        import sys
        assert sys.stdout.getvalue() == "heard\n"
