"""torch's modules with the options and shapes that ours are compared on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from gradstep import _core


class Case(NamedTuple):
    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    shape: tuple[int, ...]
    layout: str

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}-{options}-{'x'.join(map(str, self.shape))}-{self.layout}"

    def module(self, namespace: Any, dtype: torch.dtype) -> torch.nn.Module:
        """The module with the weights that the seed gives, which are neither 1 nor 0."""
        module: torch.nn.Module = getattr(namespace, self.name)(*self.args, **self.options)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.uniform_(0.5, 1.5, generator=generator)
        return module.to(dtype)

    def x(self, dtype: torch.dtype) -> torch.Tensor:
        x = torch.randn(self.shape, generator=torch.Generator().manual_seed(2), dtype=dtype) + 3
        return LAYOUTS[self.layout](x)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "strided": lambda x: torch.stack((x, x), -1)[..., 0],
    "expanded": lambda x: x[:, :1].expand(x.shape),
}
CHANNELS = 6
SHAPES = {
    1: ((5, CHANNELS, 4), (5, CHANNELS)),
    2: ((4, CHANNELS, 3, 5),),
    3: ((2, CHANNELS, 3, 2, 4),),
}
RUNNING: tuple[dict[str, Any], ...] = (
    {},
    {"affine": False},
    {"bias": False},
    {"momentum": None},
    {"momentum": 0.3, "eps": 1e-3},
    {"track_running_stats": False},
)


def channel_norms() -> Iterator[Case]:
    for dims, shapes in SHAPES.items():
        for shape in shapes:
            for layout in LAYOUTS:
                for options in RUNNING:
                    yield Case(f"BatchNorm{dims}d", (CHANNELS,), options, shape, layout)
        for options in RUNNING:
            if "momentum" in options:
                options = options | {"affine": True, "track_running_stats": True}
            for layout in ("contiguous", "channels_last", "strided"):
                yield Case(f"InstanceNorm{dims}d", (CHANNELS,), options, shapes[0], layout)
            yield Case(f"InstanceNorm{dims}d", (CHANNELS,), options, shapes[0][1:], "contiguous")


def trailing_norms() -> Iterator[Case]:
    for shape, size in (((4, 6), 1), ((3, 5, 8), 1), ((3, 5, 8), 2), ((2, 3, 4, 5), 3), ((7,), 1)):
        inner = shape[-size:]
        for layout in ("contiguous", "strided") + (("transposed",) if len(shape) > 1 else ()):
            for options in ({}, {"elementwise_affine": False}, {"eps": 1e-2}):
                yield Case("LayerNorm", (inner,), options, shape, layout)
                yield Case("RMSNorm", (inner,), options, shape, layout)
            yield Case("LayerNorm", (inner,), {"bias": False}, shape, layout)


def group_norms() -> Iterator[Case]:
    for shape in ((4, 6), (4, 6, 5), (2, 6, 3, 4), (2, 6, 2, 3, 2)):
        for layout in LAYOUTS:
            for groups in (1, 2, 6) if len(shape) > 2 else (1, 2):
                yield Case("GroupNorm", (groups, 6), {}, shape, layout)
            yield Case("GroupNorm", (2, 6), {"affine": False}, shape, layout)
            yield Case("GroupNorm", (2, 6), {"eps": 0.1, "bias": False}, shape, layout)


NORMS = [*channel_norms(), *trailing_norms(), *group_norms()]


class NativeCalls:
    """Records the calls on tensors that native code took: what they were given, and returned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[tuple[tuple[Any, ...], Any]] = []
        for name in dir(_core):
            if name.startswith("tensor_") and name != "tensor_array":
                monkeypatch.setattr(_core, name, self._recorded(getattr(_core, name)))

    def _recorded(self, function: Any) -> Any:
        def call(*args: Any) -> Any:
            result = function(*args)
            if result is not None:
                self.taken.append((args, result))
            return result

        return call

    def memory(self) -> set[int]:
        """Addresses of the tensors of more than one dimension."""
        values = [value for args, result in self.taken for value in (*args, result)]
        return {v.data_ptr() for v in values if isinstance(v, torch.Tensor) and v.dim() > 1}


def copied(x: torch.Tensor) -> torch.Tensor:
    """A leaf that requires a gradient, with x's values and strides, expanded ones aside."""
    x = x.detach()
    copy = x.clone() if 0 in x.stride() else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    return copy.copy_(x).requires_grad_()


def assert_close(ours: Any, torchs: Any, what: str = "") -> None:
    """Within rounding: both sum in their own order.

    The gradients of constant rows are differences of numbers 1 / √eps = 316 times as large.
    """
    tight = isinstance(torchs, torch.Tensor) and torchs.dtype == torch.float64
    rtol, atol = (1e-10, 1e-10) if tight else (3e-5, 3e-4)
    torch.testing.assert_close(
        ours, torchs, rtol=rtol, atol=atol, msg=lambda text: f"{what}: {text}"
    )
