"""Segment a lesion from several co-registered scans, see which scan was used, keep working when some are missing.

The public names, each loaded when first used, so that importing this package stays cheap.
"""

from importlib import import_module

from maml_toolkit.system import showing

__version__ = "0.1.0"

_HOME = {
    "MAML": "methods.maml", "ModalityAwareModule": "networks.modality_aware", "METHODS": "methods",
    "MutualLearningLoss": "methods.losses",
    "Task": "data.tasks", "TASKS": "data.tasks", "Case": "data.cases", "find_cases": "data.cases",
    "DataError": "system.errors", "MissingModalityError": "system.errors",
    "plan": "training.planning", "Plan": "training.planning", "Trainer": "training.trainer",
    "Predictor": "prediction.predictor", "evaluate": "evaluation",
    "explore": "pictures.widgets", "view3d": "pictures.widgets",
    "phantoms": "data.phantoms", "plots": "pictures.plots", "report": "pictures.report",
    "from_pretrained": "sharing", "save_pretrained": "sharing",
    "dice": "evaluation.metrics", "assd": "evaluation.metrics", "hd95": "evaluation.metrics",
    "nsd": "evaluation.metrics", "lesion_wise": "evaluation.lesions",
}
__all__ = sorted(_HOME)

showing.drawn_by = f"{__name__}.pictures.cards"      # of whom the lower floors know nothing


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOME[name]}")
    return home if _HOME[name].endswith(f".{name}") else getattr(home, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
