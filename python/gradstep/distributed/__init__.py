"""Optimizers whose states are divided among ranks, on MPI (`pip install gradstep[mpi]`).

For torch.distributed see `gradstep.torch.distributed`.
"""

from gradstep.distributed.batch_norm import (
    sync_batch_norm,
    sync_batch_norm_backward,
    synchronize,
)
from gradstep.distributed.checkpoint import from_plain, to_plain
from gradstep.distributed.mpi import MpiTransport
from gradstep.distributed.optimizer import ShardedOptimizer
from gradstep.distributed.transport import (
    DistributedError,
    LocalTransport,
    Transport,
    in_process,
)

__all__ = [
    "DistributedError",
    "LocalTransport",
    "MpiTransport",
    "ShardedOptimizer",
    "Transport",
    "from_plain",
    "in_process",
    "sync_batch_norm",
    "sync_batch_norm_backward",
    "synchronize",
    "to_plain",
]
