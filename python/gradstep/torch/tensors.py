"""What the autograd functions share: which tensors they take, and their memory as NumPy's.

A permutation of the dimensions in which a tensor lies contiguous in memory is called its order;
None is the usual one. It lets channels last and transposed tensors through without a copy.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version

from gradstep import _core
from gradstep.arrays import Array

Order: TypeAlias = tuple[int, ...] | None

_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)
_DTYPES = (torch.float32, torch.float64)
HALVES = (torch.bfloat16, torch.float16)
# Whether NumPy has the former, so that arrays can be made of such tensors.
HAS_BFLOAT16 = find_spec("ml_dtypes") is not None


def is_watched() -> bool:
    """Whether a compiler, tracer, transform or dispatch mode wants to see torch's own operators."""
    # First, because torch.compile follows this branch and must not come to the rest.
    if torch.compiler.is_compiling():
        return True
    return _core.is_watched()


# Tracers, functorch's transforms, dispatch modes, levels of forward-mode derivatives.
_core.watch_by(
    torch._C._is_tracing,
    torch._C._are_functorch_transforms_active,
    torch._C._len_torch_dispatch_stack,
    forward_ad,
)


def _keys(*names: str) -> int:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    for name in names:
        keys = keys.add(getattr(torch._C.DispatchKey, name))
    return int(keys.raw_repr())


_keys_of: Any = torch._C._dispatch_keys
# What a tensor in ordinary memory of the CPU may be dispatched by. Everything else adds a key:
# devices, layouts, lazy negation, zeros without memory, subclasses with operators of their own,
# wrappers of transforms.
_OTHER_KEYS = ~_keys("ADInplaceOrView", "AutogradCPU", "AutocastCPU")


def refusal(tensor: Any, dtypes: Sequence[torch.dtype] = _DTYPES) -> str | None:
    """Why native code cannot take the memory of a tensor for its elements; None if it can.

    What was found and what was expected, as it stands behind "params['weight']: ".
    """
    if not isinstance(tensor, torch.Tensor):
        return f"{type(tensor).__name__}, expected a torch.Tensor"
    if not _keys_of(tensor).raw_repr() & _OTHER_KEYS:
        if tensor.dtype not in dtypes:
            return _other_dtype(tensor, dtypes)
        if not tensor.data_ptr() and tensor.numel():
            return "its storage holds nothing (freed or resized), expected elements in memory"
        return None
    return _what_else(tensor, dtypes)


def _other_dtype(tensor: torch.Tensor, dtypes: Sequence[torch.dtype]) -> str:
    *first, last = map(str, dtypes)
    expected = f"{', '.join(first)} or {last}" if first else last
    return f"{tensor.dtype}, expected {expected}"


def _what_else(tensor: torch.Tensor, dtypes: Sequence[torch.dtype]) -> str:
    if tensor.layout is not torch.strided:
        return f"layout {tensor.layout}, expected a dense tensor"
    if _keys_of(tensor).has(torch._C.DispatchKey.Python):
        kind = type(tensor).__name__
        return f"a {kind}, which has operators of its own, expected a plain tensor"
    if tensor.device.type != "cpu":
        return f"on {tensor.device}, expected a CPU tensor"
    if tensor.dtype not in dtypes:
        return _other_dtype(tensor, dtypes)
    if tensor.is_neg():
        return "a lazily negated view, expected memory; use .resolve_neg()"
    if tensor._is_zerotensor():
        return "zeros without memory, expected elements in memory; use .clone()"
    return f"a tensor with {_keys_of(tensor)}, expected a plain tensor"


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether native code may stand in for torch's operators on this tensor, which is not empty.

    Not for subclasses, which may want to see them.
    """
    return type(tensor) in _PLAIN_TYPES and _core.are_floats(tensor)


def is_native(
    x: torch.Tensor, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
) -> bool:
    """Whether our kernels take these; otherwise torch's own implementation has to.

    The others must be plain and contiguous, and of x's type.
    """
    if is_watched():
        return False
    return (
        type(x) in _PLAIN_TYPES
        and (weight is None or type(weight) in _PLAIN_TYPES)
        and (bias is None or type(bias) in _PLAIN_TYPES)
        and _core.are_floats(x, weight, bias)
    )


def wants_grad(*tensors: torch.Tensor | None) -> bool:
    """Whether autograd records an operation on these."""
    if not torch.is_grad_enabled():
        return False
    for tensor in tensors:  # noqa: SIM110
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes this one."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def memory_order(x: torch.Tensor) -> Order:
    """The order in which x is contiguous. None also where there is no such order."""
    if x.is_contiguous():
        return None
    strides = x.stride()
    order = tuple(sorted(range(x.dim()), key=lambda dim: (-strides[dim], dim)))
    return order if x.permute(order).is_contiguous() else None


def channels_last_order(x: torch.Tensor) -> Order:
    """The order (N, ..., C) if x is in torch's memory format channels_last or channels_last_3d."""
    # Of three dimensions torch knows no such format and makes the result contiguous.
    if x.dim() not in (4, 5) or x.is_contiguous():
        return None
    order = (0, *range(2, x.dim()), 1)
    return order if x.permute(order).is_contiguous() else None


def array(tensor: torch.Tensor, order: Order = None) -> Array:
    """The tensor's own memory as an array. The tensor must be plain and contiguous in `order`.

    Raises RuntimeError where it has elements and no memory. The array keeps the tensor alive, but
    not its storage from being resized: hold it for one call.
    """
    found = _core.tensor_array(tensor)
    if found is None:
        raise RuntimeError(f"tensor of shape {tuple(tensor.shape)}: {refusal(tensor)}")
    return found if order is None else found.transpose(order)


def optional_array(tensor: torch.Tensor | None) -> Array | None:
    """The same for a tensor that may be missing."""
    return None if tensor is None else array(tensor)


def laid_out(x: torch.Tensor, order: Order) -> torch.Tensor:
    """x with its memory contiguous in this order; copied if it is not.

    Autograd may bring gradients of any strides, and hooks may bring back saved tensors so.
    """
    if order is None:
        return x.contiguous()
    return x.permute(order).contiguous().permute(inverse(order))


def written(tensors: Iterable[torch.Tensor]) -> None:
    """Tells autograd that the memory of these was written behind its back."""
    # Tensors made in inference mode count no versions.
    increment_version([tensor for tensor in tensors if not tensor.is_inference()])


class _Word(threading.local):
    """Memory for one number of this thread's: made anew, it would cost half of the draw."""

    def __init__(self) -> None:
        with torch.inference_mode(False):  # whose tensors could not be written outside of it
            self.word = torch.empty((), dtype=torch.int64, device="cpu")


_own = _Word()


def draw_seed() -> int:
    """A seed from torch's default CPU generator: torch.manual_seed governs it."""
    return int(_own.word.random_().item())
