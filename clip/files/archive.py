"""Read a file written by torch. Nothing in it is executed, and nothing is unpacked to disk.

``torch.save``'s zip archives, TorchScript's (OpenAI's layout) and torch's format before 1.6 all consist of
a pickle beside the raw bytes of tensors. The pickle's instructions are followed here, one by one, from a
table: it can build plain values and tensors, and cannot call anything else. Sizes are checked before memory
is allocated: tensors lie inside their storage, storages are uncompressed members of exactly their size, and
together they are no larger than the file. Unlike torch's own reader, this one verifies the zip format's
checksums.
"""

import io
import math
import os
import pickletools
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Sized
from pathlib import Path

import torch

from clip.errors import LoadError, printable

OLD_MAGIC = 0x1950A86A20F9469CFC6C  # torch's own, the first number in its files before 1.6
MOST_DIMENSIONS = 32
MOST_MODULES = 100_000  # a tree that contains itself twice at each level would never end
MOST_SHARING = 16  # tensors may share storages, but are copied later, so their sum over the file's size is limited
ITEM = 8  # assumed bytes per item of a list or dict
CHUNK = 1 << 24
WAY_OUT = ("copy or fetch it again if it is cut off or damaged; if it holds more than tensors and plain values, save "
           "only the model's state_dict(), with torch.save")


class Refused(ValueError):
    """Content of a file that is not read."""


def read_file(path):
    """Return the content of a file of ``torch.save`` or TorchScript: plain values, and tensors on the host.

    A TorchScript archive gives {name: tensor}. Raises LoadError, naming the reason, for a file that cannot
    be read, is damaged, or holds anything else.
    """
    try:
        with Path(path).open("rb") as file:
            return read(file, os.fstat(file.fileno()).st_size, path)
    except OSError as error:
        raise LoadError(f"{path} cannot be read ({error.strerror or error})") from None


def read(file, size, name):
    """Read like ``read_file`` from the first ``size`` bytes of an open file, called ``name`` in messages.
    OSError passes through."""
    try:
        start = file.read(4)
        file.seek(0)
        content = _read_zip(file, size) if start == b"PK\3\4" else _read_old(_Bounded(file, size), size)
        return dict(_named_tensors(content)) if isinstance(content, _Module) else content
    except OSError:
        raise
    except Exception as error:  # damaged bytes can make an instruction fail in nearly any way
        reason = str(error) if isinstance(error, Refused) else f"it is damaged: {error or type(error).__name__}"
        raise LoadError(f"{name} is not a file of weights that can be read safely ({printable(reason)}); {WAY_OUT}"
                        ) from None


# -- storages ----------------------------------------------------------------------------------------------------------


def _read_zip(file, size):
    with zipfile.ZipFile(file) as archive:
        storages = _ZipStorages(archive, size)
        return _Machine(storages, size).run(io.BytesIO(storages.member("data.pkl")))


class _ZipStorages:
    """``ROOT/data.pkl`` and the storages ``ROOT/data/KEY`` of a zip archive. Ignores all other members,
    including those with code, except the one that states the byte order."""

    def __init__(self, archive, size):
        self.archive, self.left, self.buffers = archive, size, {}
        names = archive.namelist()
        roots = [name.removesuffix("/data.pkl") for name in names
                 if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(roots) != 1:
            raise Refused(f"it has {len(roots) or 'no'} data.pkl, not one; a zip archive of a folder must be unpacked")
        self.root = roots[0]
        if f"{self.root}/byteorder" in names and self.member("byteorder") != b"little":
            raise Refused("its tensors are big-endian")

    def __call__(self, dtype, key, count):
        """Return the storage's values as a (count,) tensor."""
        if key not in self.buffers:
            self.buffers[key] = self._open(f"data/{key}", count * dtype.itemsize)
        return _typed(self.buffers[key], dtype, key, count)

    def member(self, name):
        info = self._stored(name)
        with self.archive.open(info) as source:
            return source.read()

    def _open(self, name, needed):
        info = self._stored(name)
        if info.file_size != needed:
            raise Refused(f"{name} has {info.file_size} bytes, its tensors need {needed}")
        buffer = torch.empty(needed, dtype=torch.uint8)
        with self.archive.open(info) as source:
            _fill(buffer, source, name)
            source.read(1)  # reaching the end compares the checksum
        return buffer

    def _stored(self, name):
        info = self.archive.getinfo(f"{self.root}/{name}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise Refused(f"{name} is compressed, which torch never does")
        self.left -= info.file_size
        if self.left < 0:
            raise Refused("its members are larger than the file")
        return info


def _read_old(stream, size):
    storages = _OldStorages(size)
    magic, _, machine = (_Machine(storages, size).run(stream) for _ in range(3))
    if type(magic) is not int or magic != OLD_MAGIC:
        raise Refused("it is a pickle, not a file that torch saved")
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Refused("its tensors are big-endian")
    content = _Machine(storages, size).run(stream)
    storages.fill(stream, _Machine(storages, size).run(stream))
    return content


class _OldStorages:
    """Storages whose bytes follow the pickle: allocated first, filled later."""

    def __init__(self, size):
        self.left, self.buffers, self.counts = size, {}, {}

    def __call__(self, dtype, key, count):
        if key not in self.buffers:
            self.left -= count * dtype.itemsize
            if self.left < 0:
                raise Refused("its tensors are larger than the file")
            self.buffers[key], self.counts[key] = torch.empty(count * dtype.itemsize, dtype=torch.uint8), count
        return _typed(self.buffers[key], dtype, key, count)

    def fill(self, stream, keys):
        if not isinstance(keys, list) or {*map(_key, keys)} != self.buffers.keys():
            raise Refused("its tensors and their bytes do not belong together")
        for key in keys:
            if int.from_bytes(stream.read(8), "little") != self.counts[key]:
                raise Refused(f"storage {key} and its tensors differ in size")
            _fill(self.buffers[key], stream, f"storage {key}")


class _Bounded:
    """A file that is never asked for more bytes than it has, because reading a claimed length would
    allocate it first."""

    def __init__(self, file, size):
        self.file, self.size, self.tell, self.readline = file, size, file.tell, file.readline
        self.readinto = file.readinto

    def read(self, count):
        return self.file.read(min(count, self.size - self.file.tell()))


def _typed(buffer, dtype, key, count):
    if count * dtype.itemsize != len(buffer):
        raise Refused(f"storage {key} is claimed in two sizes")
    return buffer.view(dtype)


def _fill(buffer, source, name):
    """Fill a whole (N,) uint8 tensor; fewer bytes are an error."""
    target, done = memoryview(buffer.numpy()), 0
    while done < len(target):
        count = source.readinto(target[done:done + CHUNK])
        if not count:
            raise Refused(f"the bytes of {name} end after {done} of {len(target)}")
        done += count


# -- the pickle --------------------------------------------------------------------------------------------------------


class _Module(dict):
    """Stands in for a TorchScript module: its attributes and nothing that could run."""


class _Function:
    """A function that a pickle may call."""

    def __init__(self, call):
        self.call = call


class _Machine:
    """Follows the instructions of one pickle. ``storages(dtype, key, count)`` returns a (count,) tensor."""

    def __init__(self, storages, size):
        self.storages, self.left = storages, MOST_SHARING * size
        self.stack, self.memo = [], {}

    def run(self, stream):
        for instruction, argument, _ in pickletools.genops(stream):
            if instruction.name not in STEPS:
                raise Refused(f"it has the pickle instruction {instruction.name}, which is not supported")
            STEPS[instruction.name](self, argument)
        return self.stack.pop()

    def push(self, value):
        self.stack.append(value)

    def pop(self, count):
        """Pop the topmost ``count`` values, lowest first."""
        if len(self.stack) < count:
            raise Refused("it is damaged: a value is missing")
        values = self.stack[len(self.stack) - count:]
        del self.stack[len(self.stack) - count:]
        return values

    def pop_to_mark(self):
        place = len(self.stack) - 1
        while self.stack[place] is not MARK:  # below the lowest value: IndexError
            place -= 1
            if place < 0:
                raise Refused("it is damaged: a mark is missing")
        values = self.stack[place + 1:]
        del self.stack[place:]
        return values

    def name_global(self, module, name):
        if module.split(".")[0] == "__torch__":
            self.push(_Module)
        elif (module, name) in GLOBALS:
            self.push(GLOBALS[module, name])
        else:
            raise Refused(f"it names {module}.{name}, which is not allowed")

    def call(self, _):
        function, arguments = self.pop(2)
        if not isinstance(function, _Function):
            raise Refused("it calls something that is not a function")
        result = function.call(*arguments)
        self.left -= _weight(result)
        if self.left < 0:
            raise Refused("its content is many times larger than the file")
        self.push(result)

    def make(self, _):
        cls, arguments = self.pop(2)
        if cls is not _Module or arguments:
            raise Refused("it creates an object of an unknown class")
        self.push(_Module())

    def build(self, _):
        target, attributes = self.pop(2)
        if isinstance(target, _Module):
            target.update(attributes)
        elif not isinstance(target, OrderedDict):  # a state dict's attributes are notes about versions
            raise Refused("it sets attributes of something that has none")
        self.push(target)

    def storage(self, _):
        kind, dtype, key, _, count, *view = self.stack.pop()
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(key) is not str or any(view):
            raise Refused("it holds a tensor of an unknown kind")
        if type(count) is not int or count < 0:
            raise Refused(f"storage {key} has no size")
        self.push(self.storages(dtype, key, count))

    def extend(self, values):
        if not isinstance(self.stack[-1], list):
            raise Refused("it appends to something that is not a list")
        self.stack[-1].extend(values)

    def set_items(self, values):
        if not isinstance(self.stack[-1], dict) or len(values) % 2:
            raise Refused("it sets items of something that is not a dict")
        self.stack[-1].update(zip(map(_key, values[::2]), values[1::2], strict=True))

    def add_items(self, values):
        if not isinstance(self.stack[-1], set):
            raise Refused("it adds to something that is not a set")
        self.stack[-1].update(map(_key, values))


MARK = object()
SCALARS = (str, int, float, bool, bytes, type(None))


def _key(value):
    """Return a dict's key if its type is allowed. Hashing tuples of tuples may never end, since they can
    contain each other."""
    if type(value) in SCALARS or type(value) is tuple and all(type(part) in SCALARS for part in value):
        return value
    raise Refused(f"a {type(value).__name__} is a key")


def _weight(result):
    """Return the bytes that a call allocated; calls are where a few instructions can make many copies."""
    if isinstance(result, torch.Tensor):
        return result.nbytes
    if isinstance(result, (bytes, bytearray)):
        return len(result)
    return ITEM * len(result) if isinstance(result, Sized) else 0


def _nothing(machine, _):
    """Ignore an instruction."""


STEPS = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _nothing),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
                     "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"), _Machine.push),
    **{name: lambda machine, _, value=value: machine.push(value)
       for name, value in {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": MARK, "EMPTY_TUPLE": ()}.items()},
    **{name: lambda machine, _, kind=kind: machine.push(kind())
       for name, kind in {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}.items()},
    **{f"TUPLE{count}": lambda machine, _, count=count: machine.push(tuple(machine.pop(count))) for count in (1, 2, 3)},
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "POP": lambda machine, _: machine.pop(1),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.pop_to_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, place: machine.memo.update({place: machine.stack[-1]})),
    "MEMOIZE": lambda machine, _: machine.memo.update({len(machine.memo): machine.stack[-1]}),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, place: machine.push(machine.memo[place])),
    "GLOBAL": lambda machine, names: machine.name_global(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name_global(*map(str, machine.pop(2))),
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.make,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}


# -- names that a pickle may use ---------------------------------------------------------------------------------------


def _tensor(values, offset, size, stride, *_):
    """Return a view of the storage's ``values`` (N,); it must lie inside and be no larger."""
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > MOST_DIMENSIONS or any(type(n) is not int or n < 0 for n in numbers):
        raise Refused("a tensor has an impossible shape")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count > len(values) or count and last >= len(values):
        raise Refused(f"a tensor of {count} values reaches beyond its storage of {len(values)}")
    return torch.as_strided(values, size, stride, offset if count else 0)


def _tensor_of_bytes(values, offset, size, stride, _grad, _hooks, dtype, *_):
    return _tensor(values.view(dtype), offset, size, stride)


def _ordered(pairs=()):
    return OrderedDict((_key(key), value) for key, value in pairs)


def _counter(counts=None):
    if not isinstance(counts or {}, dict):
        raise Refused("it makes a Counter of something that is not a dict")
    return Counter(counts)


def _bytes(text, encoding):
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"bytes in {encoding}")
    return text.encode("latin1")


def _bytearray(content=b""):
    if not isinstance(content, bytes):  # a number would allocate that much
        raise Refused("it makes a bytearray of something that is not bytes")
    return bytearray(content)


def _size(lengths):
    if not all(type(length) is int for length in lengths):
        raise Refused("it makes a size of something that is not numbers")
    return torch.Size(lengths)


STORAGES = {"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
            "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
            "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
            "BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128}
GLOBALS = {
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
    **{("torch", name): dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)},
    ("torch.storage", "UntypedStorage"): torch.uint8,
    ("torch._utils", "_rebuild_tensor"): _Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Function(_tensor_of_bytes),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda data, *_: data),
    **{("torch.jit._pickle", f"build_{kind}list"): _Function(lambda values, *_: values)
       for kind in ("int", "double", "bool", "tensor")},
    ("torch", "Size"): _Function(_size),
    ("collections", "OrderedDict"): _Function(_ordered),
    ("collections", "Counter"): _Function(_counter),
    ("_codecs", "encode"): _Function(_bytes),
    **{(module, name): _Function(call) for module in ("builtins", "__builtin__") for name, call in {
        "set": lambda values=(): set(map(_key, values)), "bytes": lambda: b"",
        "bytearray": _bytearray,
        "complex": complex}.items()},
    ("torch", "device"): _Function(torch.device),
}


def _named_tensors(module):
    """Yield (dotted name, tensor) of a module and all modules below it."""
    waiting, seen = [("", module)], 0
    while waiting:
        prefix, current = waiting.pop()
        seen += 1
        if seen > MOST_MODULES:
            raise Refused(f"it has more than {MOST_MODULES} modules")
        for name, value in current.items():
            if isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", value))
            elif isinstance(value, torch.Tensor):
                yield prefix + str(name), value
