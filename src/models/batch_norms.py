"""Batch norms in training: which batches provide statistics, and over which rows."""

import contextlib

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # of SyncBatchNorm too

from src.errors import UserError
from src.models.modeling import trains


def has_norms(model):
    """Return whether a model has batch norms, in any mode."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def training_norms(model):
    """Return the batch norms that are in training mode."""
    return [module for module in model.modules()
            if isinstance(module, _BatchNorm) and module.training]


class StepNorms:
    """Context ``with norms(rows, skipped):`` around each step of a task, and around its batch of reference
    images.

    A batch of one image, or of fewer than there are processes, has no usable statistics: the model's
    batch norms in training mode then normalise by their running statistics and leave these unchanged. A
    note reports the first such batch caused by ``skipped`` images; ``images`` is what it calls them. Short
    last batches of an epoch are known before the task begins and get no note.
    """

    def __init__(self, model, processes, images="images"):
        self._model, self._least, self._images, self._noted = model, least_rows(processes), images, False

    @contextlib.contextmanager
    def __call__(self, rows, skipped=0):
        few = training_norms(self._model) if rows < self._least else ()
        if few and skipped and not self._noted:
            self._noted = True
            print(f"note: {skipped} of {rows + skipped} {self._images} of a batch could not be decoded: the rest is "
                  "normalised by the running statistics of batch norms, like every batch of a single image",
                  flush=True)
        for norm in few:
            norm.eval()
        try:
            yield
        finally:
            for norm in few:
                norm.train()


def least_rows(processes):
    """Return the minimum rows of a batch with statistics: two, and one per process."""
    return max(2, processes)


def trains_statistics(state):
    """Return whether the task's steps update the statistics of batch norms."""
    return state.settings.batch_norm == "train" and trains(state.model, "image") and has_norms(state.model)


def require_statistics(state, rows):
    """Refuse batches with too few ``rows`` to train batch norms on."""
    if trains_statistics(state) and rows < least_rows(state.world.size):
        raise UserError(f"--batch-norm train with batches of {rows} image{'s' * (rows > 1)}: batch norms need at least "
                        f"{least_rows(state.world.size)} for their statistics; give larger batches (--batch-size, "
                        "--ref-batch-size), more images, or --batch-norm eval")


def share_statistics(state):
    """Make batch norms that train in several processes see the whole batch."""
    if state.world.size == 1 or not training_norms(state.model):
        return
    if state.device.device.type != "cuda":
        raise UserError("--batch-norm train with several processes: torch synchronises batch norms on CUDA "
                        "only; run one process, or give --batch-norm eval")
    nn.SyncBatchNorm.convert_sync_batchnorm(state.model)  # in place: replaces the norms, keeps their parameters
