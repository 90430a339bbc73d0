"""Optimizers for PyTorch whose states are divided among the processes of torch.distributed (gloo).

Each process has all parameters, as under DistributedDataParallel. Parameters that are themselves in
parts (FSDP2, DTensor) need nothing from here: the classes of `gradstep.torch` step on them.
"""

from gradstep.torch.distributed.checkpoint import to_state_dict
from gradstep.torch.distributed.gloo import GlooTransport
from gradstep.torch.distributed.optimizer import ShardedOptimizer, unreduced

__all__ = ["GlooTransport", "ShardedOptimizer", "to_state_dict", "unreduced"]
