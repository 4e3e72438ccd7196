"""A frozen teacher's features of a whole reference set, in a file: encoded once for all tasks and runs with it."""

import hashlib

import torch

from src.datasets.transforms import EvalTransform
from src.errors import UserError
from src.machine.files import WriteError, atomic_file
from src.machine.notices import warn
from src.models.fingerprints import digests
from src.models.memory import tensors_of
from src.models.modeling import image_features

FLAG = "--keep-ref-features"
FORMAT = "features 1"
FILL = 128  # images that are encoded together


def kept_features(state, teacher, reference):
    """(N, D) of the N images of a Reference under the transform of evaluation, L2-normalised, on the teacher's device;
    NaN for an image that cannot be decoded.

    From the file of this teacher's weights, precision and images where that is there; otherwise every image is encoded
    now, processes share them, and the file is written. UserError where nothing tells whether the images change.
    """
    split = reference.images
    if state.images.root is None or reference.from_code or not (split.path or split.content):
        raise UserError(f"{FLAG}: nothing tells whether the reference images have changed, as files do; leave it out")
    path = state.images.folder / f"teacher-{_digest(state, teacher, split)}.npy"
    shape, like = (len(split), teacher.text_projection.shape[1]), teacher.logit_scale
    found = _read(path, shape)
    everywhere = state.world.sum(like.new_tensor([float(found is not None)]))
    if everywhere.item() == state.world.size:
        return torch.from_numpy(found).to(like)
    features = _encoded(state, teacher, split, like.new_zeros(shape))
    if state.world.first:
        _write(path, features)
    state.world.wait()
    return features


@torch.no_grad()
def _encoded(state, teacher, split, table):
    known = table.new_zeros(len(table))
    for batch in state.once(split, "teacher's features", FILL):
        rows = batch.indices.to(table.device)
        with state.device.autocast():
            table[rows] = image_features(teacher, batch.images).to(table)
        known[rows] = 1
    table, known = state.world.sum(table), state.world.sum(known)
    table[known == 0] = torch.nan
    return table


def _digest(state, teacher, split):
    """What changes when the features do: images and their decoders, the image tower's bits, the precision."""
    named = sorted(tensors_of(teacher.visual))
    weights = [(name, str(value.dtype), tuple(value.shape)) for name, value in named]
    bits = digests([value for _, value in named])
    content = [FORMAT, state.images.digest(split, EvalTransform(teacher.image_resolution)), teacher.architecture,
               teacher.mean, teacher.std, state.device.device.type, state.device.precision, weights, bits]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _read(path, shape):
    """The content of a file, None where there is none; of a damaged one with a warning."""
    import numpy
    if not path.is_file():
        return None
    try:
        found = numpy.load(path)
    except (OSError, ValueError, EOFError):
        found = None
    if found is None or found.shape != shape:
        warn(f"{path} is damaged: reference images are encoded again")
        return None
    return found


def _write(path, features):
    import numpy
    try:
        with atomic_file(path) as file:
            numpy.save(file, features.cpu().numpy())
    except WriteError as error:
        print(f"note: the teacher's features are not kept: {error}", flush=True)
        return
    print(f"note: the teacher's features of {len(features)} reference images are kept in {path}", flush=True)
