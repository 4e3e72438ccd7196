"""clip-continual from Python: the commands of ``src.main`` as functions, with flags as keywords.

    import clip_continual as cc
    run = cc.train(method="ZSCL", dataset_order="toy", save="ckpt/toy_zscl")
    run.matrix()

See docs/python.md for the rest. Names are imported when used, so importing this package does not load
torch.
"""

import importlib

_NAMES = {
    "train": "src.api.commands", "evaluate": "src.api.commands", "classify": "src.api.commands",
    "load": "src.api.commands", "report": "src.api.commands", "Run": "src.api.results",
    "RunWarning": "src.api.session", "UserError": "src.errors", "Task": "src.datasets.python_tasks",
    "Interrupted": "src.machine.interruption", "Hooks": "src.models.hooks", "Finetune": "src.models.finetune",
}
__all__ = sorted(_NAMES)


def __getattr__(name):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_NAMES[name]), name)


def __dir__():
    return __all__
