"""How good predictions are: scikit-learn's numbers from NumPy alone, and AUC within groups."""

from gradstep.train.metrics.classification import (
    accuracy,
    confusion_matrix,
    f1,
    log_loss,
    precision,
    recall,
)
from gradstep.train.metrics.ranking import GroupAUC, group_auc, roc_auc, roc_curve

__all__ = [
    "GroupAUC",
    "accuracy",
    "confusion_matrix",
    "f1",
    "group_auc",
    "log_loss",
    "precision",
    "recall",
    "roc_auc",
    "roc_curve",
]
