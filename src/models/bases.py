"""Bases of gradients: arithmetic, files, and memory while a task projects off them.

A basis file is {name: {"basis": (k, numel), "energy": (k,)}}, one entry per tensor: orthonormal rows, and
the squared singular value of each. A raw file, {name: {"snapshots": (m, numel)}}, holds the gradients of an
interrupted run.
"""

import functools
import math

import torch

from clip.errors import LoadError
from clip.files import archive
from src.errors import UserError
from src.machine.device import no_tf32
from src.models.algebra import wide

# For fp32 rows, treat as rounding errors: singular values below this fraction of the largest, and the rest of a row
# after projection if below this fraction of the row.
ROUNDING = 1e-6
PASSES = 2  # per projection
STACK = 2 ** 28  # bytes of bases per product and per streamed copy; at least one basis
PIECE = 2 ** 12  # minimum values per piece: one product per piece keeps many multiprocessors of a GPU busy
RESIDENT_SHARE = 0.5  # of a CUDA device's free memory: the optimiser and the step still need room


def orthonormalised(rows):
    """Orthonormalise independent rows (k, N) in their dtype; the first i span what the first i spanned.

    QR in float64: with 40 rows of 600,000 values, QR in fp32 leaves products of 3e-5 between them, this
    1e-9.
    """
    columns, _ = torch.linalg.qr(wide(rows).T)                                      # (N, k)
    return columns.T.contiguous().to(rows.dtype)


def basis_from_gradients(rows, energy=0.97):
    """Compute a basis of gradients, (m, N) -> {"basis": (k, N), "energy": (k,)}.

    The rows are the leading right singular vectors that hold at least the share ``energy`` of the sum of
    squared singular values; "energy" is these squares, largest first. Zero rows give k = 0.

    Uses the (m, m) Gram matrix, since m is small. Its vectors lose orthogonality if rows are nearly
    collinear, hence the QR.
    """
    double = wide(rows)
    squares, vectors = torch.linalg.eigh(double @ double.T)                # (m, N) x (N, m) -> (m, m); smallest first
    squares, vectors = squares.flip(0), vectors.flip(1)
    squares = squares[squares > ROUNDING ** 2 * squares[:1]]
    sums = squares.cumsum(0)
    squares = squares[:int((sums < energy * sums[-1:]).sum()) + 1]                       # (k,)
    basis = orthonormalised(vectors[:, :len(squares)].T @ double)                        # (k, m) x (m, N) -> (k, N)
    return {"basis": basis.to(rows.dtype), "energy": squares.to(rows.dtype)}


@torch.no_grad()
def project(tensor, basis):
    """Return g - B^T (B g), the tensor without its component in the span of orthonormal rows (k, N), in its
    own dtype. The tensor has N values in any shape.

    Projects twice: if 99.9 % of a gradient lies in the span, the first pass leaves 3e-3 of the rest there
    in fp32, the second 5e-8.
    """
    wide = torch.promote_types(tensor.dtype, basis.dtype)
    rest = tensor.reshape(-1).to(wide, copy=True)
    project_one_by_one(rest[None], basis.to(tensor.device, wide)[None])
    return rest.view(tensor.shape).to(tensor.dtype)


def project_one_by_one(values, rows):
    """Project each of (n, N) values, in place, off the span of its own orthonormal rows, (n, k, N)."""
    part = torch.empty_like(values[0])  # reused: with 10 rows, reallocating costs a CPU up to a third of the time
    for rest, own in zip(values, rows, strict=True):
        for _ in range(PASSES):
            rest -= torch.mv(own.T, own @ rest, out=part)                                # (N, k) x (k,) -> (N,)


def project_batched(values, rows):
    """Compute ``project_one_by_one`` with two products for all n; only the order of summation differs.

    Splits the N values into c pieces of m: a product that sums millions of values into one row of results
    keeps few multiprocessors of a GPU busy (57 ms for 4.9 GB of bases on an H200). Rows laid out by
    ``empty_rows`` are not copied.
    """
    n, k, count = rows.shape
    c = piece_count(count)
    pieces = rows.unflatten(2, (c, -1)).transpose(1, 2).reshape(n * c, k, -1)            # (n c, k, m)
    rest = values.view(n * c, 1, -1)                                                     # (n c, 1, m)
    with no_tf32():  # 10 bits leave noise of 5e-4 of the component in the span, maybe a thousand times the rest
        for _ in range(PASSES):
            sums = torch.bmm(rest, pieces.mT)                          # (n c, 1, m) x (n c, m, k) -> (n c, 1, k)
            parts = sums.view(n, c, 1, k).sum(1, keepdim=True)                           # (n, 1, 1, k)
            parts = parts.expand(n, c, 1, k).reshape(n * c, 1, k)
            rest.baddbmm_(parts, pieces, alpha=-1)                     # (n c, 1, k) x (n c, k, m) -> (n c, 1, m)


@functools.cache
def piece_count(values):
    """Return the number of equal pieces, each of at least PIECE values if possible, that divide a vector of
    this length."""
    most = max(1, values // PIECE)
    return next(count for count in range(most, 0, -1) if values % count == 0)


# On a CPU, batching single rows takes up to twice as long at ViT-B/16's sizes, and rounds differently.
PROJECTIONS = {"cpu": project_one_by_one}


def empty_rows(shape, weight, resident):
    """Return uninitialised rows (n, k, N), on the device of ``weight`` or in pinned host memory.

    For ``project_batched`` they are stored in the order (k, n, N), so that equal pieces of all tensors have
    one stride.
    """
    n, k, count = shape
    place = weight.device if resident else "cpu"
    pinned = weight.is_cuda and not resident
    batched = weight.device.type not in PROJECTIONS
    order = (k, n, count) if batched else shape
    rows = torch.empty(order, dtype=weight.dtype, device=place, pin_memory=pinned)
    return rows.transpose(0, 1) if batched else rows


def chained(old, rows, energy=0.97):
    """Extend an entry by new gradients (m, N): keep its k old rows and append rows that hold ``energy`` of
    what the gradients have outside their span. In float64."""
    basis, rows = wide(old["basis"]), wide(rows)
    rest = torch.stack([project(row, basis) for row in rows]) if len(rows) else rows     # (m, N)
    rest[rest.norm(dim=1) <= ROUNDING * rows.norm(dim=1)] = 0
    new = basis_from_gradients(rest, energy)
    return {"basis": torch.cat([basis, new["basis"]]),
            "energy": torch.cat([wide(old["energy"]), new["energy"]])}


def within_budget(entries, budget):
    """Drop the rows with the lowest energies over all tensors until the bases fit into ``budget`` bytes.
    Return ({name: entry}, number of rows dropped)."""
    excess = sum(entry["basis"].nbytes for entry in entries.values()) - budget
    kept = {name: torch.ones(len(entry["energy"]), dtype=torch.bool) for name, entry in entries.items()}
    for _, name, row in sorted((value, name, row) for name, entry in entries.items()
                               for row, value in enumerate(entry["energy"].tolist())):
        if excess > 0:
            kept[name][row] = False
            excess -= entries[name]["basis"][row].nbytes
    return ({name: {key: value[kept[name]] for key, value in entry.items()} for name, entry in entries.items()},
            sum(int((~rows).sum()) for rows in kept.values()))


def read_file(path, flag="--orthogonal-gradients-path"):
    """Read a basis or raw file as stored, onto the host. Raise UserError, naming ``flag``, for anything else."""
    hint = "give a grad_<DATASET>.pth or .raw.pth that --orthogonal-gradients wrote"
    try:
        content = archive.read_file(path)
    except LoadError as error:
        raise UserError(f"{flag} {error}; {hint}") from None
    if not (is_raw(content) or is_basis(content)):
        raise UserError(f"{flag} {path}: is not a file of gradients; {hint}")
    return content


def is_raw(content):
    """Return whether content is that of a raw file."""
    return has_entries(content, {"snapshots": 2})


def is_basis(content):
    """Return whether content is that of a basis file, with one energy per row and no more rows than values."""
    return has_entries(content, {"basis": 2, "energy": 1}) and all(
        len(entry["energy"]) == len(entry["basis"]) <= entry["basis"].shape[1] for entry in content.values())


def has_entries(content, dimensions):
    """Return whether content is {name: {key: tensor}} with at least one name, ``dimensions`` {key: ndim},
    finite floats only."""
    return isinstance(content, dict) and bool(content) and all(
        isinstance(name, str) and isinstance(entry, dict) and entry.keys() == dimensions.keys() and all(
            isinstance(entry[key], torch.Tensor) and entry[key].is_floating_point() and entry[key].ndim == number
            and bool(entry[key].isfinite().all()) for key, number in dimensions.items())
        for name, entry in content.items())


def as_basis(content, energy=0.97):
    """Convert the content of a basis or raw file to that of a basis file, in fp32 (fp64 stays), with rows
    orthonormal to 1e-5 in whatever dtype they were stored. ``energy`` applies to raw snapshots."""
    bases = {}
    for name, entry in content.items():
        wide = {key: value.to(torch.promote_types(value.dtype, torch.float32)) for key, value in entry.items()}
        bases[name] = (basis_from_gradients(wide["snapshots"], energy) if "snapshots" in wide
                       else {**wide, "basis": orthonormalised(wide["basis"])})
    return bases


def read_gradients(path, energy=0.97):
    """Read a basis or raw file, told apart by content, as {name: {"basis": (k, numel), "energy": (k,)}}.

    Rows are fp32 (fp64 from an fp64 file) and orthonormal to 1e-5. ``energy`` applies to raw snapshots.
    Raises UserError for other files.
    """
    return as_basis(read_file(path), energy)


def resident_bytes(device):
    """Return how many bytes of bases may stay on a device: a share of the free memory on CUDA, no limit elsewhere."""
    if device.type != "cuda":
        return math.inf
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # cached by torch
    return RESIDENT_SHARE * (torch.cuda.mem_get_info(device)[0] + unused)


def alike(shapes, itemsize):
    """Group names by equal shape, from {name: (k, N)}; yield lists of names whose bases take at most STACK
    bytes together."""
    groups = {}
    for name, shape in shapes.items():
        groups.setdefault(tuple(shape), []).append(name)
    for shape, names in groups.items():
        most = max(1, STACK // (math.prod(shape) * itemsize))
        yield from (names[start:start + most] for start in range(0, len(names), most))


class BasisGroup:
    """The bases of ``names``, all (k, N), stacked as ``rows`` (n, k, N) in the dtype of ``weight``.

    They stay on the device of ``weight`` if they take at most ``room`` bytes, else in pinned host memory
    and are streamed at each use.

    ``entries`` {name: {"basis": (k, N)}}: if the stack holds a basis exactly, the entry's becomes a view of
    it, so that no basis is in memory twice.
    """

    def __init__(self, names, entries, weight, room):
        shape = len(names), *entries[names[0]]["basis"].shape
        self.names, self.device = names, weight.device
        self.resident = math.prod(shape) * weight.itemsize <= room
        self.rows = empty_rows(shape, weight, self.resident)
        for name, own in zip(names, self.rows, strict=True):
            given = entries[name]["basis"]
            own.copy_(given)
            if torch.promote_types(given.dtype, own.dtype) == own.dtype:
                entries[name]["basis"] = own

    def project(self, tensors):
        """Project n tensors of N values (any shape), in place, each off the span of its own rows."""
        values = torch.stack([tensor.reshape(-1) for tensor in tensors])                 # (n, N)
        PROJECTIONS.get(self.device.type, project_batched)(values, self._on_device())
        torch._foreach_copy_(tensors, [value.view_as(tensor) for value, tensor in zip(values, tensors, strict=True)])

    def _on_device(self):
        return self.rows.to(self.device, non_blocking=True)


def placed(shapes, entries, weight):
    """Return BasisGroups of the entries named in ``shapes`` {name: (k, N)}, on the device of ``weight`` as
    long as there is room."""
    groups, room = [], resident_bytes(weight.device)
    for names in alike(shapes, weight.itemsize):
        groups.append(BasisGroup(names, entries, weight, room))
        room -= groups[-1].rows.nbytes if groups[-1].resident else 0
    streamed = sum(group.rows.nbytes for group in groups if not group.resident)
    if streamed:
        print(f"note: {streamed / 2 ** 20:.1f} MiB of the bases stay in host memory and are copied at every step: "
              "they do not fit on the device")
    return groups
