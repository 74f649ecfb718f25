"""Segment a lesion from several co-registered scans, see which scan was used, keep working when some are missing.

The public names, each loaded when first used, so that importing this package stays cheap.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "MAML": "methods.maml", "ModalityAwareModule": "networks.modality_aware", "METHODS": "methods",
    "MutualLearningLoss": "losses",
    "Task": "tasks", "TASKS": "tasks", "Case": "data.cases", "find_cases": "data.cases",
    "DataError": "errors", "MissingModalityError": "errors",
    "plan": "planning", "Plan": "planning", "Trainer": "training", "Predictor": "inference", "evaluate": "evaluation",
    "explore": "widgets", "view3d": "widgets",
    "from_pretrained": "sharing", "save_pretrained": "sharing",
    "dice": "metrics", "assd": "metrics", "hd95": "metrics",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
