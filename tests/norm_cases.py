"""Every kind of normalisation, native and reference, as cases that tests run through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradstep as gs
import numpy as np
from gradstep.spec import norm as spec


@dataclass(frozen=True)
class Norm:
    """One kind on one shape. `parameters` are weight and bias; arrays are never changed."""

    kind: str
    shape: tuple[int, ...]
    axis: int = 1  # or the number of groups, or of trailing axes
    training: bool = True
    activation: str | None = None
    affine: bool = True

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        extra = "" if self.affine else ", plain"
        extra += "" if self.training else ", running"
        return f"{self.kind} {size}, {self.axis}{extra}{', relu' if self.activation else ''}"

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        if self.kind in ("layer", "rms"):
            return self.shape[len(self.shape) - self.axis :]
        return (self.shape[self.axis if self.kind == "batch" else 1],)

    def inputs(self, dtype: Any, seed: int = 3) -> dict[str, Any]:
        """x, dy, weight, bias and running statistics."""
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(self.shape) * 3 + rng.standard_normal(self.shape[-1:] or 1)
        numbers = {"x": x, "dy": rng.standard_normal(self.shape)}
        numbers["weight"] = rng.standard_normal(self.parameter_shape)
        numbers["bias"] = rng.standard_normal(self.parameter_shape)
        numbers["mean"] = rng.standard_normal(self.parameter_shape)
        numbers["var"] = rng.random(self.parameter_shape) + 0.5
        found: dict[str, Any] = {key: value.astype(dtype) for key, value in numbers.items()}
        if not self.affine:
            found["weight"] = found["bias"] = None
        return found

    def forward(self, of: dict[str, Any], *, native: bool = True, **out: Any) -> tuple[Any, ...]:
        """What the call returns, then the running statistics that it left."""
        x, weight, bias = of["x"], of["weight"], of["bias"]
        call: Any = getattr(gs if native else spec, self._name("", native))
        if self.kind == "batch":
            running = of["mean"].copy(), of["var"].copy()
            settings: Any = {"training": self.training, "axis": self.axis}
            settings["activation"] = self.activation
            return (*call(x, weight, bias, *running, **settings, **out), *running)
        if self.kind == "group":
            found: Any = call(x, self.axis, weight, bias, **out)
        elif self.kind == "instance" and native:
            found = call(x, weight, bias, **out)
        elif self.kind == "instance":
            found = call(x, x.shape[1], weight, bias, **out)
        elif self.kind == "rms":
            found = call(x, weight, axes=self.axis, eps=1e-6, **out)
        else:
            found = call(x, weight, bias, axes=self.axis, **out)
        return tuple(found)

    def backward(
        self, of: dict[str, Any], *, native: bool = True, statistics: Any = None, **out: Any
    ) -> tuple[Any, ...]:
        """The gradients, with the statistics of the reference unless others are given."""
        if statistics is None:
            found = self.forward(of, native=False)
            statistics = found[1:2] if self.kind == "rms" else found[1:3]
        call: Any = getattr(gs if native else spec, self._name("_backward", native))
        before: Any = (of["dy"], of["x"])
        settings: Any = dict(out)
        if self.kind == "batch":
            settings.update(training=self.training, axis=self.axis, activation=self.activation)
            settings["bias"] = of["bias"]
        elif self.kind == "group":
            before += (self.axis,)
        elif self.kind == "instance" and not native:
            before += (of["x"].shape[1],)
        elif self.kind in ("layer", "rms"):
            settings["axes"] = self.axis
        return tuple(call(*before, of["weight"], *statistics, **settings))

    def _name(self, suffix: str, native: bool) -> str:
        if native:
            return f"{self.kind}_norm{suffix}"
        kind = "group" if self.kind == "instance" else self.kind
        return f"{kind}_norm{suffix}"


def batches() -> Iterator[Norm]:
    first = [(2, 3, 7, 7), (3, 17, 5), (25, 40, 14, 14), (2, 3, 70, 70), (5, 2, 4096), (2, 1, 4097)]
    first += [(33, 3), (2050, 3), (7, 300), (1030, 63), (40, 64), (9, 1100), (2, 1), (4, 5, 1, 1)]
    last = [(2050, 3), (5, 7, 9, 64), (2, 3, 17), (1500, 65), (1, 300, 1)]
    for shapes, axis in ((first, 1), (last, -1)):
        for shape in shapes:
            yield Norm("batch", shape, axis)
            yield Norm("batch", shape, axis, activation="relu")
            yield Norm("batch", shape, axis, training=False, affine=False)
            yield Norm("batch", shape, axis, training=False, activation="relu")


def siblings() -> Iterator[Norm]:
    for kind in ("layer", "rms"):
        for shape, axes in (((5, 7), 1), ((130, 33), 1), ((3, 4, 5), 2), ((2, 9000), 1), ((6,), 1)):
            yield Norm(kind, shape, axes)
        yield Norm(kind, (70, 768), 1, affine=False)
    for shape, groups in (((2, 6, 5, 5), 2), ((3, 4), 2), ((2, 4, 65, 65), 4), ((70, 8, 3), 1)):
        yield Norm("group", shape, groups)
    for shape in ((2, 3, 7, 7), (40, 33, 16), (2, 2, 4100)):
        yield Norm("instance", shape, affine=shape[0] == 2)


def empties() -> Iterator[Norm]:
    for shape, axis in (((0, 3), 1), ((0, 3, 4), 1), ((2, 0, 4), 1), ((2, 3, 0), 1), ((0, 5), -1)):
        yield Norm("batch", shape, axis)
        yield Norm("batch", shape, axis, training=False)
    yield from (Norm("layer", (0, 4), 1), Norm("rms", (0, 4), 1))
    yield from (Norm("group", (0, 4, 3), 2), Norm("instance", (0, 4, 3)))


CASES = [*batches(), *siblings()]
EMPTY = list(empties())
