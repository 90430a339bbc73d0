"""The compiled kernels of gradstep."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep.arrays import Array, Name

__version__: str
compiler: str
SUM_BLOCK: int
ACTIVATIONS: dict[str, int]
CHANNEL_ROWS: int

class Plan:
    def __init__(
        self,
        groups: Sequence[tuple[str, Sequence[str]]],
        tensors: Sequence[tuple[Any, ...]],
        labels: tuple[str, str, str] = ...,
    ) -> None: ...
    def set_hyper(self, group: int, values: Sequence[float]) -> None: ...
    def bind(self, grads: Sequence[Any]) -> None: ...
    def unbind(self) -> None: ...
    def check(self, grads: Sequence[Any] | None) -> None: ...
    def step(
        self,
        grads: Sequence[Any] | None,
        grad_scale: float,
        clip_norm: float,
        check_finite: bool,
        zero_grads: bool = False,
    ) -> tuple[int, float | None, bool]: ...
    def gradient_block_sums(self, grads: Sequence[Any] | None) -> list[NDArray[np.float64]]: ...
    steps: list[int]
    step_count: int

class TensorWatch:
    def __init__(self, listed: list[Any], state: dict[Any, Any], moving: list[Any]) -> None: ...
    def holds(self, listed: list[Any], state: dict[Any, Any]) -> bool: ...

class TensorNumbers:
    def __init__(self, tensors: list[Any]) -> None: ...
    def unchanged(self) -> bool: ...
    def write(self, values: Sequence[float]) -> None: ...
    def count(self, places: Sequence[int] | None) -> None: ...
    @property
    def values(self) -> list[float]: ...

def are_floats(x: Any, *others: Any) -> bool: ...
def tensor_array(tensor: Any) -> NDArray[Any] | None: ...
def simd_levels() -> list[str]: ...
def compiled_simd_levels() -> list[str]: ...
def simd_level() -> str: ...
def use_simd(level: str) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def tune(name: str, value: int) -> int: ...
def borrow_threads(parallel: int, thread_num: int, max_threads: int) -> None: ...
def use_blas_threads(on: bool) -> bool: ...
def use_team(on: bool) -> bool: ...
def return_threads() -> None: ...
def threads_borrowed() -> bool: ...
def fail_allocation(n: int) -> int: ...  # where the linker can
def optimizer_kernels() -> dict[str, tuple[str, ...]]: ...
def assignment_kernels() -> dict[str, tuple[str, ...]]: ...
def global_norm(arrays: Sequence[Any], names: Sequence[Name], argument: str) -> float: ...
def summarize(
    arrays: Sequence[Any], names: Sequence[Name], argument: str
) -> list[tuple[float, float, float, float, int]]: ...
def dropout(
    x: Any, p: Any, seed: Any, offset: Any, out: Any, argument: str, first: int = 0
) -> Array: ...
def alpha_dropout(x: Any, p: Any, seed: Any, offset: Any, out: Any, backward: bool) -> Array: ...
def group_dropout(
    x: Any, p: Any, axis: Any, seed: Any, offset: Any, out: Any, argument: str
) -> Array: ...
def dropout_mask(
    keep: Array, n: int, p: Any, seed: Any, offset: Any, packed: bool, first: int = 0
) -> None: ...
def philox_block(seed: int, offset: int, block: int) -> tuple[int, int, int, int]: ...

_Array = NDArray[Any]
_Doubles = NDArray[np.float64]

def batch_norm(
    x: _Array,
    weight: _Array | None,
    bias: _Array | None,
    running_mean: _Array | None,
    running_var: _Array | None,
    training: bool,
    momentum: float | None,
    num_batches_tracked: int | None,
    eps: float,
    axis: int,
    activation: str | None,
    out: _Array | None,
) -> tuple[_Array, _Doubles, _Doubles]: ...
def batch_norm_backward(
    dy: _Array,
    x: _Array,
    weight: _Array | None,
    mean: _Doubles,
    invstd: _Doubles,
    training: bool,
    axis: int,
    activation: str | None,
    bias: _Array | None,
    out: _Array | None,
) -> tuple[_Array, _Array, _Array]: ...
def batch_norm_stats(x: _Array, axis: int) -> tuple[_Doubles, _Doubles, int]: ...
def layer_norm(
    x: _Array,
    weight: _Array | None,
    bias: _Array | None,
    eps: float,
    axes: int | None,
    out: _Array | None,
) -> tuple[_Array, _Doubles, _Doubles]: ...
def layer_norm_backward(
    dy: _Array,
    x: _Array,
    weight: _Array | None,
    mean: _Doubles,
    invstd: _Doubles,
    axes: int | None,
    out: _Array | None,
) -> tuple[_Array, _Array, _Array]: ...
def rms_norm(
    x: _Array, weight: _Array | None, eps: float, axes: int | None, out: _Array | None
) -> tuple[_Array, _Doubles]: ...
def rms_norm_backward(
    dy: _Array,
    x: _Array,
    weight: _Array | None,
    invstd: _Doubles,
    axes: int | None,
    out: _Array | None,
) -> tuple[_Array, _Array]: ...
def group_norm(
    x: _Array,
    groups: int | None,
    weight: _Array | None,
    bias: _Array | None,
    eps: float,
    out: _Array | None,
) -> tuple[_Array, _Doubles, _Doubles]: ...
def group_norm_backward(
    dy: _Array,
    x: _Array,
    groups: int | None,
    weight: _Array | None,
    mean: _Doubles,
    invstd: _Doubles,
    out: _Array | None,
) -> tuple[_Array, _Array, _Array]: ...

# The same on torch's tensors: the result, recorded by autograd for `call`, or for None the result
# and the statistics. None where an argument is none that the function takes. needs: which inputs
# of an autograd function want a gradient.
def use_torch(
    tensor: type, parameter: type, empty_like: Any, large_like: Any, large: int
) -> None: ...
def record_by(grad_enabled: Any, record: Any) -> None: ...
def recorded(call: Any, x: Any, weight: Any, bias: Any, found: tuple[Any, ...]) -> Any: ...
def keep_for_backward(
    ctx: Any, x: Any, weight: Any, bias: Any, call: Any, found: tuple[Any, ...]
) -> Any: ...
def tensor_layer_norm(call: Any, x: Any, sizes: Any, weight: Any, bias: Any, eps: Any) -> Any: ...
def tensor_layer_norm_backward(
    dy: Any, x: Any, weight: Any, mean: _Doubles, invstd: _Doubles, axes: int, needs: Any
) -> Any: ...
def tensor_rms_norm(call: Any, x: Any, sizes: Any, weight: Any, eps: Any) -> Any: ...
def tensor_rms_norm_backward(
    dy: Any, x: Any, weight: Any, invstd: _Doubles, axes: int, needs: Any
) -> Any: ...
def tensor_group_norm(
    call: Any, x: Any, groups: int | None, weight: Any, bias: Any, eps: Any
) -> Any: ...
def tensor_group_norm_backward(
    dy: Any,
    x: Any,
    groups: int | None,
    weight: Any,
    mean: _Doubles,
    invstd: _Doubles,
    needs: Any,
) -> Any: ...
def tensor_batch_norm(
    call: Any,
    x: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: Any,
    eps: Any,
    relu: bool,
) -> Any: ...
def tensor_batch_norm_backward(
    dy: Any,
    x: Any,
    weight: Any,
    bias: Any,
    mean: _Doubles,
    invstd: _Doubles,
    training: bool,
    channels_last: bool,
    relu: bool,
    needs: Any,
) -> Any: ...

# Activations and losses; the index is that of ACTIVATIONS.
def activate(index: int, x: Any, out: Any, parameter: float) -> NDArray[Any]: ...
def activate_backward(
    index: int, dy: Any, saved: Any, argument: str, out: Any, parameter: float
) -> NDArray[Any]: ...
def softmax(log_form: bool, x: Any, axis: int, out: Any) -> NDArray[Any]: ...
def softmax_backward(log_form: bool, dy: Any, y: Any, axis: int, out: Any) -> NDArray[Any]: ...
def cross_entropy(
    logits: Any,
    targets: Any,
    weight: Any,
    smoothing: float,
    ignored: int,
    reduction: int,
    out: Any,
) -> tuple[Any, NDArray[Any]]: ...
def mse(prediction: Any, target: Any, out: Any) -> tuple[float, NDArray[Any]]: ...
def prelu(x: Any, weight: Any, axis: int, out: Any) -> NDArray[Any]: ...
def prelu_backward(
    dy: Any, x: Any, weight: Any, axis: int, out: Any
) -> tuple[NDArray[Any], NDArray[Any]]: ...
def maxout(x: Any, pieces: int, axis: int, out: Any) -> NDArray[Any]: ...
def maxout_backward(dy: Any, x: Any, pieces: int, axis: int, out: Any) -> NDArray[Any]: ...
