"""Batch norms in training: which batches have statistics, and whose rows these are of."""

import contextlib

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # of SyncBatchNorm too

from src.errors import UserError
from src.models.modeling import trains


def has_norms(model):
    """Return whether a model has batch norms, in whatever mode."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def training_norms(model):
    """The batch norms that are in training mode."""
    return [module for module in model.modules()
            if isinstance(module, _BatchNorm) and module.training]


class StepNorms:
    """``with norms(rows, skipped):`` around each step of a task, and around its batch of reference images: the model's
    batch norms in training mode normalise by their running statistics, and leave these, where a batch of ``rows`` has
    no statistics of its own: one image, or fewer than there are processes. A note names the first such batch that
    ``skipped`` images made, of what ``images`` says; what an epoch leaves is known before the task begins."""

    def __init__(self, model, processes, images="images"):
        self._model, self._least, self._images, self._noted = model, least_rows(processes), images, False

    @contextlib.contextmanager
    def __call__(self, rows, skipped=0):
        few = training_norms(self._model) if rows < self._least else ()
        if few and skipped and not self._noted:
            self._noted = True
            print(f"note: {skipped} of {rows + skipped} {self._images} of a batch could not be decoded: the rest is "
                  "normalised by the running statistics of batch norms, as each batch of a single image is",
                  flush=True)
        for norm in few:
            norm.eval()
        try:
            yield
        finally:
            for norm in few:
                norm.train()


def least_rows(processes):
    """The rows from which on a batch has statistics: two, and one for each process."""
    return max(2, processes)


def trains_statistics(state):
    """Return whether the task's steps update the statistics of batch norms."""
    return state.settings.batch_norm == "train" and trains(state.model, "image") and has_norms(state.model)


def require_statistics(state, rows):
    """Refuse batches whose ``rows`` batch norms cannot be trained on."""
    if trains_statistics(state) and rows < least_rows(state.world.size):
        raise UserError(f"--batch-norm train with batches of {rows} image{'s' * (rows > 1)}: batch norms need at least "
                        f"{least_rows(state.world.size)} for their statistics; give larger batches (--batch-size, "
                        "--ref-batch-size), more images, or --batch-norm eval")


def share_statistics(state):
    """Where several processes train batch norms, these see the whole batch."""
    if state.world.size == 1 or not training_norms(state.model):
        return
    if state.device.device.type != "cuda":
        raise UserError("--batch-norm train with several processes: torch has batch norms that see all processes' "
                        "images on CUDA only; run one process, or give --batch-norm eval")
    nn.SyncBatchNorm.convert_sync_batchnorm(state.model)  # in place: the norms below it, with their parameters
