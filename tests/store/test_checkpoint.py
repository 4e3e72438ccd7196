"""Checkpoints: plain, whole or not there, and known to be whole."""

import errno
import hashlib
import io
import os
import random
from collections import Counter, OrderedDict

import pytest
import torch
from cli_files import listing

from clip import loader
from clip.catalog import completed
from clip.model import CLIP
from src.datasets.common import Task
from src.errors import UserError
from src.store.checkpoint import (
    CheckpointError,
    carry_bytes,
    finished_again,
    finished_checkpoint,
    in_words,
    read_checked,
    save_tensors,
    without_carry,
    write_checked,
)

TINY = {"embed_dim": 8, "image_resolution": 16, "vision_layers": 1, "vision_width": 16, "vision_heads": 2,
        "vision_patch_size": 8, "context_length": 16, "vocab_size": 3, "transformer_width": 16, "transformer_heads": 2,
        "transformer_layers": 1, "vocabulary": [49406, 49407]}
TASK = Task("DTD", ("a", "b"), ["{c}"], {}, train_data="4 shots", lists={"--split-file": "12ab"})


def finished(model, start=None, **changes):
    arguments = {"dataset": "DTD", "source": "csv:DTD", "task": TASK, "metrics": {"DTD": {"top1": 1.0, "top5": 2.0}},
                 "iteration": 7, "carry": {}, "config": {"lr": {"": 1e-5}}, "name": None}
    return finished_checkpoint(model, start or {}, **(arguments | changes))


def test_saved_and_read(tmp_path):
    model = CLIP(**TINY)
    save_tensors(tmp_path / "DTD.pth", finished(model, name="mine"))
    plain = torch.load(tmp_path / "DTD.pth", weights_only=True)
    assert plain["history"] == [{"dataset": "DTD", "source": "csv:DTD", "classnames": ["a", "b"],
                                 "train_data": "4 shots", "lists": {"--split-file": "12ab"},
                                 "metrics": {"DTD": {"top1": 1.0, "top5": 2.0}}}]
    assert plain["format"] == 1 and plain["architecture"] == completed(TINY) and plain["model"] == "mine"
    again = loader.build(loader.read_checkpoint(tmp_path / "DTD.pth"))
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_bytes_tell_values_only(tmp_path):
    """Whatever was read from a file before, and which texts and lists are one object."""
    word, values = "".join(["a", " word"]), ["x", 1]
    content = {"carry": {"one": values, "two": values, word: word}, "own": OrderedDict(w=torch.ones(3)),
               "dataset": word}
    save_tensors(tmp_path / "1.pth", content)
    read = torch.load(tmp_path / "1.pth", weights_only=True)
    apart = {"carry": {"one": ["x", 1], "two": ["x", 1], "a word": "".join(["a", " word"])}, "own": read["own"],
             "dataset": "a word"}
    for number, other in enumerate((read, apart), start=2):
        save_tensors(tmp_path / f"{number}.pth", other)
        assert (tmp_path / f"{number}.pth").read_bytes() == (tmp_path / "1.pth").read_bytes()
    assert read == apart | {"own": read["own"]} and type(read["own"]) is OrderedDict


def test_a_task_that_was_finished_elsewhere_leaves_the_same():
    """From a start with other scores in its history and other heads, under another configuration."""
    model, more = CLIP(**TINY), {"carry": {"Memory": {"a": torch.ones(2)}}, "own": {"E": {"w": torch.ones(1)}}}
    first = finished(CLIP(**TINY), carry={"Other": {"b": 2}})
    here = {**first, "history": [first["history"][0] | {"metrics": {"Food": {"top1": 3.0}}}]}
    there, metrics = finished(model, first, dataset="MNIST", **more), {"MNIST": {"top1": 1.0}}
    again = finished_again(there, here, dataset="MNIST", source="csv:DTD", task=TASK, metrics=metrics,
                           config={"seed": 9}, name="mine")
    assert again["config"] == {"seed": 9} and again["history"][0]["metrics"] == {"Food": {"top1": 3.0}}
    assert again["history"][1] == there["history"][1] | {"metrics": metrics}
    assert again["carry"] == there["carry"] and again["own"] == there["own"] and again["heads"] == there["heads"]
    assert again["iteration"] == there["iteration"] and list(again) == list(there)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again["state_dict"].items())


def test_it_is_a_copy(tmp_path):
    model = CLIP(**TINY)
    checkpoint = finished(model)
    with torch.no_grad():
        model.text_projection.add_(1)
    assert not torch.equal(checkpoint["state_dict"]["text_projection"], model.text_projection)
    assert not checkpoint["state_dict"]["text_projection"].requires_grad


def test_what_earlier_tasks_left_goes_on():
    start = finished(CLIP(**TINY), carry={"Memory": {"a": 1}, "Other": {"b": 2}})
    start["heads"]["DTD"] = torch.ones(2)
    second = finished(CLIP(**TINY), start, dataset="MNIST", carry={"Memory": {"a": 3}})
    assert [task["dataset"] for task in second["history"]] == ["DTD", "MNIST"]
    assert second["carry"] == {"Memory": {"a": 3}, "Other": {"b": 2}}
    assert set(second["heads"]) == {"DTD"}
    assert len(start["history"]) == 1 and start["carry"]["Memory"] == {"a": 1}, "the start itself is not changed"


def test_a_checkpoint_without_its_carry_says_which_and_hands_it_on():
    whole = finished(CLIP(**TINY), carry={"Memory": {"a": torch.ones(3)}, "Other": {"b": 2}})
    left = without_carry(whole, "MNIST.pth")
    assert left["carry"] == {}
    assert left["carry_left_out"] == {"Memory": "MNIST.pth", "Other": "MNIST.pth"} and whole["carry"].keys() == {
        "Memory", "Other"}, "the checkpoint itself is not changed"
    assert {key for key in whole if left[key] is whole[key]} == whole.keys() - {"carry"}
    after = finished(CLIP(**TINY), left, dataset="EuroSAT", carry={"Memory": {"a": 1}})
    assert after["carry"] == {"Memory": {"a": 1}} and after["carry_left_out"] == {"Other": "MNIST.pth"}
    assert without_carry(after, "Food.pth")["carry_left_out"] == {"Other": "MNIST.pth", "Memory": "Food.pth"}
    assert "carry_left_out" not in finished(CLIP(**TINY), whole)


def test_the_bytes_of_what_hooks_carry():
    content = {"a": torch.ones(3, 5), "b": [{"c": torch.ones(2, dtype=torch.float64)}, 7], "d": ("x", torch.ones(1))}
    sizes = carry_bytes({"carry": {"Memory": content, "Other": {"b": 2}}})
    assert sizes == {"Memory": 4 * 15 + 8 * 2 + 4} and carry_bytes({}) == {}
    assert in_words({"A": 3 * 2 ** 19, "B": 2 ** 20}) == "2.5 MiB that A and B carry"
    assert in_words({"A": 2 ** 20}) == "1.0 MiB that A carries"


# Files that know whether they are whole.

CONTENT = {"iteration": 7, "weights": {"a": torch.arange(6.).view(2, 3)}, "generator": torch.get_rng_state(),
           "name": "ä", "rates": [1e-5, None, True], (1, "x"): b"\0\xff"}


def same(one, other):
    """Equal in value and type, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_same_can_tell():
    assert same(CONTENT, CONTENT) and not same(CONTENT, {**CONTENT, "iteration": 7.0})
    assert not same([torch.zeros(2)], [torch.zeros(2).double()]) and not same({"a": [1]}, {"a": [2]})


def test_checked_content_comes_back(tmp_path):
    write_checked(tmp_path / "new" / "file", CONTENT)
    assert same(read_checked(tmp_path / "new" / "file"), CONTENT)
    assert listing(tmp_path) == {"new", "new/file"}


def test_a_checked_file_is_plain_torch_and_plain_sha256(tmp_path):
    write_checked(tmp_path / "file", CONTENT)
    assert same(torch.load(tmp_path / "file", weights_only=True), CONTENT)
    content = (tmp_path / "file").read_bytes()
    assert hashlib.sha256(content[:-88]).hexdigest().encode() in content[-88:]


@pytest.mark.parametrize("dtype", [dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)
                                   and dtype.itemsize <= 16 and str(dtype).removeprefix("torch.") in (
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64", "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2")], ids=str)
def test_every_type_of_tensor_comes_back(dtype, tmp_path):
    values = torch.tensor([0, 1, 1, 0, 1, 1]).view(2, 3).to(dtype)
    write_checked(tmp_path / "file", {"whole": values, "part": values[:, 1:], "turned": values.T, "none": values[:0],
                                      "one": values[0, 0]})
    read = read_checked(tmp_path / "file")
    for name, expected in (("whole", values), ("part", values[:, 1:]), ("turned", values.T), ("none", values[:0]),
                           ("one", values[0, 0])):
        assert read[name].dtype == dtype and read[name].shape == expected.shape
        assert read[name].tolist() == expected.tolist()


@pytest.mark.parametrize("value", [{1, 2}, Counter("aab"), OrderedDict(a=1), torch.Size([2, 3]), torch.float16, b"",
                                   bytearray(b"a"), 2 + 3j, torch.device("cuda", 1), 2 ** 80, -1, 3.5, (), ("a",), [[]],
                                   "x" * 70000, b"y" * 300], ids=lambda value: str(value)[:20])
def test_every_plain_type_comes_back(value, tmp_path):
    write_checked(tmp_path / "file", {"value": value})
    assert same(read_checked(tmp_path / "file"), {"value": value})


def test_parameters_and_shared_storages_come_back(tmp_path):
    values = torch.arange(4.)
    write_checked(tmp_path / "file", {"a": torch.nn.Parameter(values), "b": values, "c": values[1:]})
    read = read_checked(tmp_path / "file")
    read["b"][1] = 9
    assert read["a"].tolist() == [0, 9, 2, 3] and read["c"].tolist() == [9, 2, 3]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("checked") / "file"
    write_checked(path, CONTENT)
    return path.read_bytes()


def assert_damaged(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_checked(path)
    assert caught.value.damaged and str(path) in str(caught.value)


def test_a_cut_file_is_known_to_be_damaged(tmp_path, whole):
    for length in (*range(0, len(whole), 23), *range(len(whole) - 100, len(whole))):
        assert_damaged(tmp_path / "file", whole[:length])


def test_a_flipped_bit_is_known_to_be_damage(tmp_path, whole):
    rng = random.Random(0)
    places = [*range(0, len(whole), 41), *range(len(whole) - 90, len(whole))]
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << rng.randrange(8)
        assert_damaged(tmp_path / "file", bytes(content))


def test_longer_and_other_files_are_damaged(tmp_path, whole):
    for content in (whole + b"x", whole + whole, whole[:50] + whole, b"x" * 500, b"\0" * len(whole)):
        assert_damaged(tmp_path / "file", content)
    save_tensors(tmp_path / "plain", CONTENT)
    assert_damaged(tmp_path / "file", (tmp_path / "plain").read_bytes())


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("nothing", "folder"):
        with pytest.raises(CheckpointError, match=name) as caught:
            read_checked(tmp_path / name)
        assert not caught.value.damaged and ("No such file" in str(caught.value) or "Is a dir" in str(caught.value))


def test_a_sealed_file_of_something_else_is_not_called_damaged(tmp_path):
    buffer = io.BytesIO()
    torch.save({"x": random.Random}, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    (tmp_path / "file").write_bytes(buffer.getvalue() + f"\nclip-continual sha256 {digest}\n".encode())
    with pytest.raises(CheckpointError, match="random.Random") as caught:
        read_checked(tmp_path / "file")
    assert not caught.value.damaged


class Full:
    """A file that fails at its n-th write."""

    def __init__(self, file, count, number):
        self.file, self.count, self.number = file, count, number

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.count -= 1
        if self.count < 0:
            raise OSError(self.number, os.strerror(self.number))
        return self.file.write(data)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("write", [save_tensors, write_checked])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, write, number):
    """At each write in turn, until none is left to fail."""
    import src.machine.files
    path, failed = tmp_path / "file", 0
    write(path, {"old": 1})
    before = path.read_bytes()
    real = src.machine.files.Path.open
    while True:
        with monkeypatch.context() as patched:
            patched.setattr(src.machine.files.Path, "open", lambda path, mode, failed=failed: FullContext(
                real(path, mode), failed, number))
            try:
                write(path, CONTENT)
                break
            except UserError as error:
                assert str(path) in str(error) and os.strerror(number) in str(error)
        assert path.read_bytes() == before and listing(tmp_path) == {"file"}
        failed += 1
    assert failed > 10 and path.read_bytes() != before and listing(tmp_path) == {"file"}


class FullContext(Full):
    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.file.close()


def test_a_head_of_other_classes_is_dropped_when_its_name_is_trained_again():
    """Two folders may end in the same word, and the new history entry would vouch for the old head."""
    start = finished(CLIP(**TINY))
    start["heads"]["DTD"] = torch.ones(2, 9)
    assert torch.equal(finished(CLIP(**TINY), start)["heads"]["DTD"], torch.ones(2, 9))
    other = finished(CLIP(**TINY), start, task=Task("DTD", ("b", "a"), ["{c}"], {}))
    assert other["heads"] == {} and [entry["classnames"] for entry in other["history"]] == [["a", "b"], ["b", "a"]]
