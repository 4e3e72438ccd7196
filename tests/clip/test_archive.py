"""What torch writes is read as torch reads it; claims, bombs and instructions that are none are refused first."""

import io
import pickle
import zipfile

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
    with_pickle,
    zipped,
)

from clip.errors import LoadError, printable
from clip.files import archive
from clip.files.archive import read_file

FOUR = torch.arange(4.).numpy().tobytes()


@pytest.fixture
def read(tmp_path, monkeypatch):
    """read(content) -> what ``read_file`` gives of these bytes; no storage may be larger than they are."""
    def call(content):
        (tmp_path / "file").write_bytes(content)
        real = torch.empty

        def empty(count, **options):
            assert count <= len(content), "memory was taken for a claim"
            return real(count, **options)
        with monkeypatch.context() as patched:
            patched.setattr(archive.torch, "empty", empty)
            return read_file(tmp_path / "file")
    return call


@pytest.fixture
def refusal(read):
    def call(content):
        with pytest.raises(LoadError) as caught:
            read(content)
        assert str(caught.value).isprintable()
        return str(caught.value)
    return call


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    else:
        assert one == other


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_content_is_torch_s(read, old, protocol):
    base = torch.arange(24).view(2, 3, 4)
    content = {"base": base, "turned": base.transpose(0, 2), "part": base[1, :, 1::2], "none": base[:, :0],
               "one": torch.tensor(3.5), "half": torch.ones(3).half(), "mask": torch.tensor([True, False]),
               "complex": torch.tensor([1 + 2j]),
               "plain": [1, -5, 2 ** 70, 1.5, "ä", None, True, (1,), (1, 2, 3, 4), b"x"]}
    file = saved(content, _use_new_zipfile_serialization=not old, pickle_protocol=protocol)
    expected = torch.load(io.BytesIO(file), weights_only=False)
    assert_same(read(file), expected)
    assert_same(expected, content)


def test_an_archive_gives_torch_s_tensors(read):
    file = openai_archive()
    found, expected = read(file), torch.jit.load(io.BytesIO(file)).state_dict()
    assert found.keys() == expected.keys() and len(found) > 20
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_hand_made_instructions_are_read(read):
    """So that the refusals below are for the reasons they name."""
    assert read(with_pickle(tensor(), _0=FOUR)).tolist() == [0, 1, 2, 3]
    assert read(with_pickle(tensor(size=(2, 2), stride=(1, 2)), _0=FOUR)).tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize("claim", [
    {"count": 2 ** 40}, {"count": 5}, {"count": 3}, {"count": -1}, {"count": 2 ** 80}, {"count": 4.0}, {"key": "1"},
    {"size": (2 ** 40,), "stride": (0,)}, {"size": (5,)}, {"size": (2 ** 20, 2 ** 20), "stride": (0, 0)},
    {"size": (2,), "stride": (4,)}, {"offset": 1}, {"offset": -1}, {"size": (-4,)}, {"stride": (-1,), "offset": 3},
    {"size": (2 ** 64,), "stride": (0,)}, {"size": (4.0,)}, {"size": (4, 1)},
    {"size": (1,) * 1000, "stride": (1,) * 1000}, {"kind": "DoubleStorage"}, {"kind": "HalfStorage"}, {"kind": "Size"}])
def test_a_tensor_that_its_storage_does_not_hold(refusal, claim):
    assert "file" in refusal(with_pickle(tensor(**claim), _0=FOUR))


def test_old_files_that_claim_more_than_they_are(read, refusal):
    file = saved(torch.arange(4.), _use_new_zipfile_serialization=False)
    assert read(file).tolist() == [0, 1, 2, 3]
    claim = b"\x8a\x06" + (2 ** 40).to_bytes(6, "little") + b"N"
    assert "larger than the file" in refusal(file.replace(b"K\x04N", claim))
    assert "differ in size" in refusal(file[:-24] + b"\xff" * 6 + file[-18:])
    assert "end after" in refusal(file[:-1])
    refusal(file[:-24])
    assert "reaches beyond" in refusal(file.replace(b"K\x04N", b"K\x03N"))


def test_the_same_storage_in_two_sizes(refusal):
    both = b"]" + b"(" + tensor() + tensor(count=2, size=(2,)) + b"e"
    assert "two sizes" in refusal(with_pickle(both, _0=FOUR))


# Zip archives.

def test_a_member_that_unpacks_to_more_than_it_is(refusal):
    count = 300_000
    files = {"a/data.pkl": pickled(tensor(count=count, size=(count,))), "a/data/0": bytes(4 * count)}
    tree = {"a/data.pkl": b"\x80\x02" + b"N0" * count + b"N."}
    for content in (zipped(files, zipfile.ZIP_DEFLATED), zipped(tree, zipfile.ZIP_DEFLATED)):
        assert len(content) < count / 50 and "compressed" in refusal(content)


def test_a_member_that_claims_more_than_the_file(refusal):
    """The sizes in the directory of the archive are no more to be trusted than those in the pickle."""
    content = bytearray(with_pickle(tensor(count=2 ** 29, size=(2 ** 29,)), _0=FOUR))
    entry = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)
    content[entry + 20:entry + 28] = 2 * (2 ** 31).to_bytes(4, "little")
    assert "larger than the file" in refusal(bytes(content))


def test_members_that_lie_on_each_other(refusal):
    """Ten names for the same bytes: each alone is smaller than the file."""
    buffer = io.BytesIO()
    tensors = b"](" + b"".join(tensor(count=1000, size=(1000,), key=str(key)) for key in range(10)) + b"e"
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr("a/data.pkl", pickled(tensors))
        target.writestr("a/data/0", bytes(4000))
        first = target.getinfo("a/data/0")
        for key in range(1, 10):
            twin = zipfile.ZipInfo(f"a/data/{key}")
            for name in ("header_offset", "CRC", "file_size", "compress_size", "compress_type"):
                setattr(twin, name, getattr(first, name))
            target.filelist.append(twin)
    refusal(buffer.getvalue())


@pytest.mark.parametrize("name", ["../data.pkl", "/data.pkl", "./data.pkl"])
def test_names_that_lead_elsewhere_lead_nowhere(read, tmp_path, name):
    before = {str(path) for path in tmp_path.parent.rglob("*")}
    root = name.removesuffix("/data.pkl")
    assert read(zipped({name: pickled(tensor()), f"{root}/data/0": FOUR, "../../canary": b"x", "/tmp/canary": b"x"}
                       )).tolist() == [0, 1, 2, 3]
    assert {str(path) for path in tmp_path.parent.rglob("*")} - before == {str(tmp_path / "file")}


@pytest.mark.parametrize("files", [
    {}, {"a": b""}, {"data.pkl": pickled(b"N")}, {"a/b/data.pkl": pickled(b"N")}, {"a/inner.pt": our_checkpoint()},
    {"a/data.pkl": pickled(b"N"), "b/data.pkl": pickled(b"N")}])
def test_archives_of_something_else(refusal, files):
    assert "data.pkl, not one" in refusal(zipped({"version": b"3", **files}))


def test_other_order_of_bytes(refusal):
    files = members(saved(torch.zeros(2)))
    assert "big-endian" in refusal(zipped({**files, "archive/byteorder": b"big"}))


def test_a_changed_value_is_seen(refusal):
    """torch's own reader does not compare checksums."""
    file = saved(torch.arange(4.))
    changed = file.replace(FOUR, torch.tensor([0., 1, 2, 4]).numpy().tobytes())
    assert torch.load(io.BytesIO(changed), weights_only=True).tolist() == [0, 1, 2, 4]
    assert "CRC" in refusal(changed)


# Instructions.

@pytest.mark.parametrize("module_name", [
    "os system", "builtins eval", "builtins getattr", "torch load", "torch Tensor", "torch._utils _import_dotted_name",
    "torch.storage _load_from_bytes", "torch.serialization load", "numpy ndarray", "functools partial",
    "torch.nn.modules.linear Linear", "__main__ x", "collections defaultdict", "operator attrgetter"])
def test_a_foreign_global_is_refused_by_its_name(refusal, module_name):
    dotted = module_name.replace(" ", ".")
    assert f"names {dotted}," in refusal(with_pickle(named(*module_name.split())))
    assert f"names {dotted}," in refusal(pickled(named(*module_name.split())))
    module, name = (b"\x8c" + bytes([len(part)]) + part.encode() for part in module_name.split())
    assert f"names {dotted}," in refusal(with_pickle(module + name + b"\x93"))


@pytest.mark.parametrize("instructions", [
    b"i" + b"os\nmkdir\n", b"(" + named("torch", "Size") + b"o", b"\x82\x01", b"P0\n", b"\x97", b"2", b"g0\n", b"I1\n",
    b"\x96" + (2 ** 50).to_bytes(8, "little"), b"\x8e" + (2 ** 50).to_bytes(8, "little")],
    ids=["inst", "obj", "ext", "persid", "buffer", "dup", "get", "int", "bytearray8", "binbytes8"])
def test_other_instructions_are_refused(refusal, instructions):
    refusal(with_pickle(instructions))


@pytest.mark.parametrize("instructions", [
    plain("os") + plain(()) + b"R", plain([]) + plain(()) + b"R", named("torch", "float32") + plain(()) + b"R",
    named("__torch__", "A") + b")R", named("torch", "Size") + b")\x81", plain([]) + plain({"a": 1}) + b"b",
    named("torch._utils", "_rebuild_tensor_v2") + plain({"__code__": 1}) + b"b",
    named("__torch__", "A") + plain({"update": 1}) + b"b", b"]" + b"K\x01K\x02s", b"}" + b"K\x01a", b"]K\x01\x90",
    b"}(K\x01u", b"(}]K\x01s", b"a", b"e", b"t", b"R", b"Q", b"h\x07", b"0", b"", b"}" + b"]N" + b"s", b"q\x01",
    named("builtins", "bytearray") + plain((2 ** 40,)) + b"R", named("builtins", "bytes") + plain((2 ** 40,)) + b"R",
    named("_codecs", "encode") + plain(("a", "rot13")) + b"R", named("collections", "Counter") + plain(([1],)) + b"R"])
def test_instructions_that_make_no_sense(refusal, instructions):
    refusal(with_pickle(instructions))


def test_a_far_place_in_the_memo_takes_no_memory(read):
    """pickle's own reader would make a table of four thousand million rows."""
    assert read(with_pickle(b"Nr\xf0\xff\xff\xff")) is None


def test_keys_that_would_take_without_end_to_hash(refusal):
    nested = plain((1,)) + b"".join(b"q\x01h\x01\x86" for _ in range(60))
    assert "is a key" in refusal(with_pickle(b"}" + nested + b"Ns"))
    assert "is a key" in refusal(with_pickle(b"]" + nested + b"aq\x00" + named("builtins", "set") + b"h\x00\x85R"))


def test_a_tree_that_names_itself_twice_in_each_level(refusal):
    one = named("__torch__", "A") + b")\x81"
    tree = one + b"".join(b"q\x01" + one + b"}(" + plain("a") + b"h\x01" + plain("b") + b"h\x01ub" for _ in range(60))
    itself = one + b"q\x01}" + plain("a") + b"h\x01sb"
    for instructions in (tree, itself):
        assert "modules" in refusal(with_pickle(instructions))


def test_copies_without_end(read, refusal):
    """A tensor or text of a million bytes and a thousand names for it."""
    text = plain("x" * 100_000) + b"q\x01"
    encode = named("_codecs", "encode") + b"h\x01" + plain("latin1") + b"\x86R"
    assert len(read(with_pickle(b"](" + text + encode + b"e"))[1]) == 100_000
    assert "times larger" in refusal(with_pickle(b"](" + text + 100 * encode + b"e"))
    many = b"](" + 100 * tensor(count=1000, size=(1000,)) + b"e"
    assert "times larger" in refusal(with_pickle(many, _0=bytes(4000)))


def test_words_of_a_file_are_plain():
    assert printable("a\nb  c") == "a b c" and printable("\x1b[31m") == "\\x1b[31m" and printable("ä") == "ä"
    assert printable("\ud800") == "\\ud800" and len(printable(10 ** 6 * "x")) < 210


def test_pickles_of_plain_values_are_no_files_of_weights(refusal):
    for protocol in range(6):
        refusal(pickle.dumps({"a": 1}, protocol=protocol))
