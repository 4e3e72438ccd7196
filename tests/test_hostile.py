"""Files of foreign origin: none is executed, whichever way it comes in, and none of ours is misread when damaged."""

import io
import os
import pickle
import tarfile

import pytest
import torch
from hostile_files import (
    members,
    named,
    openai_archive,
    our_checkpoint,
    pickled,
    plain,
    saved,
    tensor,
    tiny_model,
    zipped,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from clip.errors import LoadError
from clip.loader import build, read_checkpoint

HEADS = {"vision_heads": 1, "transformer_heads": 1}  # which no file of so small a model tells

pytest_plugins = ["cli_fixtures"]


class Bomb:
    """Makes a folder when it is unpickled by a reader that trusts its file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def instructions(canary):
    """The bomb as instructions of a pickle, its value dropped."""
    return named("os", "mkdir") + plain((str(canary),)) + b"R0"


def in_a_zip(canary):
    return saved({"state_dict": Bomb(canary)})


def before_the_weights(canary):
    files = members(our_checkpoint())
    return zipped({**files, "archive/data.pkl": b"\x80\x02" + instructions(canary) + files["archive/data.pkl"][2:]})


def as_an_expression(canary):
    """What is left of a lambda in a file: a call of eval."""
    call = named("builtins", "eval") + plain((f"(lambda: __import__('os').mkdir({str(canary)!r}))()",)) + b"R"
    return zipped({"archive/data.pkl": pickled(call)})


def in_an_archive(canary):
    files = members(openai_archive())
    name = next(name for name in files if name.endswith("/data.pkl"))
    return zipped({**files, name: b"\x80\x02" + instructions(canary) + files[name][2:]})


def in_the_attributes_of_a_module(canary):
    module = named("__torch__", "A") + b")\x81}" + plain("a") + named("os", "mkdir") + plain((str(canary),)) + b"Rsb"
    return zipped({"archive/data.pkl": pickled(module), "archive/constants.pkl": b""})


def in_the_old_format(canary):
    return saved({"state_dict": Bomb(canary)}, _use_new_zipfile_serialization=False)


def in_the_old_format_s_keys(canary):
    """Behind the content stands a second pickle, the names of the storages."""
    file = saved(tiny_model().state_dict(), _use_new_zipfile_serialization=False)
    place = file.rindex(b"\x80\x02]")
    return file[:place] + b"\x80\x02" + instructions(canary) + file[place + 2:]


def plain_pickle(canary):
    return pickle.dumps({"state_dict": Bomb(canary)}, protocol=0)


def newest_pickle(canary):
    return pickle.dumps({"state_dict": Bomb(canary)}, protocol=5)


def tar(canary):
    """torch's format before 0.1.10."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as target:
        for name in ("pickle", "storages", "tensors"):
            content = pickle.dumps(Bomb(canary), protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_in_a_zip(canary):
    return zipped({"archive/data.pkl": in_a_zip(canary), "archive/version": b"3"})


KINDS = (in_a_zip, before_the_weights, as_an_expression, in_an_archive, in_the_attributes_of_a_module,
         in_the_old_format, in_the_old_format_s_keys, plain_pickle, newest_pickle, tar, zip_in_a_zip)


@pytest.mark.parametrize("make", [in_a_zip, before_the_weights, as_an_expression, in_an_archive, in_the_old_format,
                                  plain_pickle, newest_pickle])
def test_the_bombs_are_real(make, tmp_path):
    content = make(tmp_path / "canary")
    if content.startswith(b"PK"):
        files = members(content)
        content = files[next(name for name in files if name.endswith("data.pkl"))]
    try:
        if make is in_the_old_format:
            torch.load(io.BytesIO(content), weights_only=False)
        else:
            pickle.loads(content)
    except (pickle.UnpicklingError, ModuleNotFoundError, AttributeError):
        pass  # behind the bomb stands what plain pickle does not know
    assert (tmp_path / "canary").exists()


def assert_refused(done, file, canary):
    assert not canary.exists()
    assert done.status == 2 and str(file) in done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 0, done.err


@pytest.mark.parametrize("make", KINDS)
def test_load(make, train, tmp_path):
    canary, file = tmp_path / "canary", tmp_path / "file.pth"
    file.write_bytes(make(canary))
    done = train(tmp_path / "out", "--load", file)
    assert_refused(done, file, canary)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [in_a_zip, in_an_archive, in_the_old_format])
def test_ref_model(make, train, world, tmp_path):
    canary, file = tmp_path / "canary", tmp_path / "file.pth"
    file.write_bytes(make(canary))
    done = train(tmp_path / "out", "--method", "ZSCL", "--ref-dataset", world.tones, "--ref-model", file)
    assert_refused(done, file, canary)


@pytest.mark.parametrize("make", [in_a_zip, in_an_archive, in_the_old_format, tar])
def test_orthogonal_gradients_path(make, train, tmp_path):
    canary, file = tmp_path / "canary", tmp_path / "file.pth"
    file.write_bytes(make(canary))
    done = train(tmp_path / "out", "--orthogonal-gradients", 4, "--orthogonal-gradients-path", file)
    assert_refused(done, file, canary)


@pytest.mark.parametrize("make", [in_a_zip, in_an_archive])
def test_published_name_in_the_cache(make, cli, world, tmp_path, monkeypatch):
    canary, file = tmp_path / "canary", tmp_path / "ViT-B-32.pt"
    file.write_bytes(make(canary))
    monkeypatch.setenv("CLIP_CACHE", str(tmp_path))
    done = cli("--model", "ViT-B/32", "--train-dataset", world.colours, "--iterations", 1, "--save", tmp_path / "out")
    assert_refused(done, file, canary)


def test_other_members_of_an_archive_are_left_alone(tmp_path):
    canary, file = tmp_path / "canary", tmp_path / "file.pt"
    files, bomb = members(openai_archive()), pickle.dumps(Bomb(canary), protocol=2)
    root = next(name for name in files if name.endswith("/data.pkl")).removesuffix("/data.pkl")
    code = next(name for name in files if name.startswith(f"{root}/code/") and name.endswith(".py"))
    file.write_bytes(zipped({**files, f"{root}/constants.pkl": bomb, code: b"import os\n", f"{root}/extra/x": bomb}))
    build(read_checkpoint(file, HEADS))
    assert not canary.exists()


def test_a_claim_of_much_memory_is_refused_by_the_command(train, tmp_path):
    file = tmp_path / "file.pth"
    file.write_bytes(zipped({"archive/data.pkl": pickled(tensor(count=2 ** 40, size=(2 ** 40,))),
                             "archive/data/0": bytes(16)}))
    assert_refused(train(tmp_path / "out", "--load", file), file, tmp_path / "canary")


# Damage: what is read of a damaged file is what was written, or nothing.

FILES = {"ours": our_checkpoint(), "state dict": saved(tiny_model().state_dict()), "archive": openai_archive()}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@st.composite
def damaged(draw, content):
    """A file cut, with bits flipped, or with other bytes in a place; half of the places are in its last part, where
    the directory of a zip archive is."""
    def place():
        last = draw(st.booleans()) * max(0, len(content) - 3000)
        return draw(st.integers(last, len(content) - 1))
    way = draw(st.sampled_from(("cut", "flip", "overwrite", "insert")))
    if way == "cut":
        return content[:place()]
    changed = bytearray(content)
    if way == "flip":
        for _ in range(draw(st.integers(1, 3))):
            changed[place()] ^= 1 << draw(st.integers(0, 7))
    else:
        start, put = place(), draw(st.binary(min_size=1, max_size=20))
        changed[start:start + (len(put) if way == "overwrite" else 0)] = put
    return bytes(changed)


def read_or_refused(path, content):
    """What a file of this content gives, or None where it is refused; anything else is raised."""
    path.write_bytes(content)
    try:
        checkpoint = read_checkpoint(path, HEADS)
        build(checkpoint)
    except LoadError as error:
        assert str(error).isprintable()
        return None
    return checkpoint


def damage(kind, tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("damage") / "file"
    expected = read_or_refused(path, FILES[kind])
    assert expected is not None

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True)
    @given(damaged(FILES[kind]))
    def check(content):
        found = read_or_refused(path, content)
        assert found is None or same(found, expected)
    check()


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files(kind, tmp_path_factory):
    damage(kind, tmp_path_factory, 40)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_many_damaged_files(kind, tmp_path_factory):
    damage(kind, tmp_path_factory, 500)


def damaged_tree(kind, tmp_path_factory, examples):
    """Wrong bytes in the pickle under a right checksum: what is read is of no matter, that it ends well is."""
    path, files = tmp_path_factory.mktemp("tree") / "file", members(FILES[kind])
    name = next(name for name in files if name.endswith("/data.pkl"))

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True)
    @given(damaged(files[name]))
    def check(tree):
        read_or_refused(path, zipped({**files, name: tree}))
    check()


@pytest.mark.parametrize("kind", FILES)
def test_damaged_trees(kind, tmp_path_factory):
    damaged_tree(kind, tmp_path_factory, 40)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_many_damaged_trees(kind, tmp_path_factory):
    damaged_tree(kind, tmp_path_factory, 500)


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(st.sampled_from((b"", b"PK\3\4", b"\x80\x02", saved(1, _use_new_zipfile_serialization=False))), st.binary())
def test_random_bytes(tmp_path_factory, start, content):
    assert read_or_refused(tmp_path_factory.mktemp("bytes") / "file", start + content) is None
