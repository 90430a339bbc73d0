"""Dropout and normalisation as functions, with the signatures of torch.nn.functional."""

from gradstep.torch.nn.dropouts import alpha_dropout, dropout, dropout1d, dropout2d, dropout3d
from gradstep.torch.nn.norms import batch_norm, group_norm, instance_norm, layer_norm, rms_norm

__all__ = [
    "alpha_dropout",
    "batch_norm",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "rms_norm",
]
