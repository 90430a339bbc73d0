"""Training: what a loop over epochs needs around the steps. Imported where it is first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradstep.train import metrics
    from gradstep.train.averages import EMA, SWA, update_batch_norm
    from gradstep.train.batches import MiniBatches
    from gradstep.train.inspection import (
        Description,
        LayerSummary,
        OverfitTest,
        describe,
        overfit_test,
    )
    from gradstep.train.lr_search import LrSearch, find_lr
    from gradstep.train.monitors import EarlyStopping, ReduceOnPlateau
    from gradstep.train.splits import k_fold, validation_split
    from gradstep.train.weights import class_weights, sample_weights

__all__ = [
    "EMA",
    "SWA",
    "Description",
    "EarlyStopping",
    "LayerSummary",
    "LrSearch",
    "MiniBatches",
    "OverfitTest",
    "ReduceOnPlateau",
    "class_weights",
    "describe",
    "find_lr",
    "k_fold",
    "metrics",
    "overfit_test",
    "sample_weights",
    "update_batch_norm",
    "validation_split",
]

_PLACES = {
    "averages": ("EMA", "SWA", "update_batch_norm"),
    "batches": ("MiniBatches",),
    "inspection": ("Description", "LayerSummary", "OverfitTest", "describe", "overfit_test"),
    "lr_search": ("LrSearch", "find_lr"),
    "monitors": ("EarlyStopping", "ReduceOnPlateau"),
    "splits": ("k_fold", "validation_split"),
    "weights": ("class_weights", "sample_weights"),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    """What is imported when it is first asked for."""
    if name == "metrics":
        return import_module("gradstep.train.metrics")
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'gradstep.train' has no attribute {name!r}")
    return getattr(import_module(f"gradstep.train.{_PLACE_OF[name]}"), name)
