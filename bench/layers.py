"""The work of a layer: one call of a dropout, normalisation, activation or loss function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gradstep as gs
import numpy as np
from gradstep.spec import activations, dropout, losses, norm

from .steps import copied, feed, spaced
from .work import Arrays, Inputs, Ready

__all__ = [
    "ARGUMENTS",
    "DRAWN_AXES",
    "EPS",
    "SEED",
    "Layer",
    "called",
    "drawn_by_itself",
    "own",
    "reference_of",
]

SEED = 110
EPS = 1e-5

# Functions and what they read, in the order of their arguments. dy: the gradient of the result.
# y, mean, invstd: what the forward function gave. The rest is the same for all peers.
ARGUMENTS: dict[str, str] = {
    "dropout": "x p",
    "dropout_backward": "dy p",
    "dropout_mask": "shape p",
    "spatial_dropout": "x p",
    "spatial_dropout_backward": "dy p",
    "drop_path": "x p",
    "drop_path_backward": "dy p",
    "drop_connect": "x p",
    "drop_connect_backward": "dy p",
    "alpha_dropout": "x p",
    "alpha_dropout_backward": "dy p",
    "batch_norm": "x weight bias running_mean running_var",
    "batch_norm_backward": "dy x weight mean invstd",
    "batch_norm_stats": "x",
    "layer_norm": "x weight bias",
    "layer_norm_backward": "dy x weight mean invstd",
    "rms_norm": "x weight",
    "rms_norm_backward": "dy x weight invstd",
    "group_norm": "x groups weight bias",
    "group_norm_backward": "dy x groups weight mean invstd",
    "instance_norm": "x weight bias",
    "instance_norm_backward": "dy x weight mean invstd",
    "prelu": "x weight",
    "prelu_backward": "dy x weight",
    "maxout": "x k",
    "maxout_backward": "dy x k",
    "cross_entropy": "x targets",
    "mse": "x other",
    **{f: "x" for f in ("relu", "leaky_relu", "sigmoid", "tanh", "selu")},
    **{f: "x" for f in ("silu", "gelu", "mish", "softmax", "log_softmax")},
    **{f"{f}_backward": "dy y" for f in ("relu", "leaky_relu", "sigmoid", "tanh", "selu")},
    **{f"{f}_backward": "dy y" for f in ("softmax", "log_softmax")},
    **{f"{f}_backward": "dy x" for f in ("silu", "gelu", "mish")},
}
DROPOUTS = tuple(name for name, reads in ARGUMENTS.items() if reads.endswith(" p"))
DRAWN_AXES = {"spatial_dropout": 2, "drop_path": 1}  # the leading ones; otherwise all
ALLOCATE = ("dropout_mask", "batch_norm_stats")  # these have no argument `out`

# Where one reference serves several functions.
REFERENCES = {
    "dropout_backward": "dropout",
    "drop_connect": "dropout",
    "drop_connect_backward": "dropout",
    "spatial_dropout_backward": "spatial_dropout",
    "drop_path_backward": "drop_path",
    "instance_norm": "group_norm",
    "instance_norm_backward": "group_norm_backward",
}
SMALL_SHAPES = {1: (4099,), 2: (70, 18), 4: (6, 8, 5, 7)}


@dataclass(frozen=True)
class Layer:
    """A call of `gs.<function>` on float32 arrays.

    shape: of the input. keywords: of the function, as far as they are not the defaults here. note:
    words for the tables. groups: of group norm. k: of maxout. in_place: whether the result takes
    the place of the input.
    """

    function: str
    shape: tuple[int, ...]
    keywords: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    groups: int = 32
    k: int = 2
    in_place: bool = False
    p: float = 0.5

    @property
    def name(self) -> str:
        place = spaced(self.shape[0]) if len(self.shape) == 1 else "×".join(map(str, self.shape))
        words = [self.function, self.note, "in place" if self.in_place else ""]
        return f"{' '.join(filter(None, words))}, {place}"

    @property
    def forward(self) -> str:
        """The function that this one is the gradient of, or itself."""
        return self.function.removesuffix("_backward")

    @property
    def backward(self) -> bool:
        return self.function != self.forward

    @property
    def draws(self) -> bool:
        """Whether random numbers decide on the result."""
        return self.function in DROPOUTS

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def streams(self) -> int | None:
        """How many arrays of the input's size go past, or None where one is of another size."""
        if self.function in ALLOCATE or self.forward == "maxout":
            return None
        return 1 + len({"x", "y", "dy", "other"} & set(ARGUMENTS[self.function].split()))

    @property
    def ideal_bytes(self) -> int:
        """Every input is read once, every result of its size written once.

        What has to be known of a channel or row before its first result can be written is small
        enough to stay in a cache.
        """
        if self.streams is not None:
            return 4 * self.streams * self.elements
        if self.function == "dropout_mask":
            return self.elements
        words = {"batch_norm_stats": 1.0, "maxout": 1 + 1 / self.k}
        return round(4 * self.elements * words.get(self.function, 2 + 1 / self.k))

    @property
    def consumes_inputs(self) -> bool:
        return self.in_place

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arrays in `inputs`. The gradient needs x too, to make what forward gives it."""
        if self.function == "dropout_mask":
            return ()
        if self.backward:
            return ("dy",) if self.draws else ("x", "dy")
        return ("x", "other") if self.function == "mse" else ("x",)

    @property
    def channel_axis(self) -> int:
        """Along which the parameters lie."""
        if self.forward in ("layer_norm", "rms_norm"):
            return -1
        return int(self.keywords.get("axis", 1)) % len(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[self.channel_axis]

    @property
    def training(self) -> bool:
        return bool(self.keywords.get("training", True))

    def small(self) -> Layer:
        return replace(self, shape=SMALL_SHAPES[len(self.shape)], groups=4)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Of an array in `inputs`, or of the result ("dy" has the same)."""
        if name != "dy" or self.forward != "maxout":
            return self.shape
        return (self.shape[0], self.shape[1] // self.k, *self.shape[2:])

    def inputs(self, seed: int) -> Inputs:
        """Normal numbers, in memory every page of which was written."""
        generator = np.random.default_rng(seed)
        arrays = [np.empty(self.shape_of(name), np.float32) for name in self.names]
        for array in arrays:
            generator.standard_normal(out=array, dtype=np.float32)
        return Inputs([*arrays])

    def constants(self) -> dict[str, Any]:
        """The arguments that are neither inputs nor made from them, by name."""
        c = self.channels if len(self.shape) > 1 else 1
        statistics = self.function == "batch_norm" and not self.training
        slopes = self.forward == "prelu"
        return {
            "shape": self.shape,
            "p": self.p,
            "k": self.k,
            "groups": self.groups,
            "weight": np.linspace(0.05, 0.4, c) if slopes else np.linspace(0.5, 1.5, c),
            "bias": np.linspace(-1, 1, c),
            "running_mean": np.linspace(-0.5, 0.5, c) if statistics else None,
            "running_var": np.linspace(0.5, 2, c) if statistics else None,
            "targets": np.arange(self.shape[0]) * 7 % c,
        }

    def parameters(self) -> dict[str, Any]:
        """`constants` with the arrays of numbers in float32."""
        return {
            name: value.astype(np.float32)
            if isinstance(value, np.ndarray) and value.dtype == np.float64
            else value
            for name, value in self.constants().items()
        }

    def call_keywords(self, function: str) -> dict[str, Any]:
        """For `function`, which is this work's or its forward function."""
        keywords = dict(self.keywords)
        if function in ("batch_norm", "batch_norm_backward"):
            keywords.setdefault("training", True)
        if function == "rms_norm":
            keywords["eps"] = EPS
        if function in DROPOUTS:
            keywords["seed"] = SEED
        return keywords

    def results(self, result: Any) -> Arrays:
        """What is compared, of what a function returned: not what forward only hands on."""
        if not isinstance(result, tuple):
            return [np.asarray(result, np.float32)] if result.dtype == bool else [result]
        if self.function in ("cross_entropy", "mse"):
            return [np.array([float(result[0])]), result[1]]
        if self.function == "batch_norm_stats":
            return [*result[:2]]
        return [*result] if self.backward else [result[0]]

    def reference(self, inputs: Inputs) -> Ready:
        return called(self, inputs, reference_of, out=False)


def called(
    work: Layer, inputs: Inputs, find: Callable[[Layer, str], Callable[..., Any]], out: bool
) -> Ready:
    """The functions of gradstep or their references, which read the same arguments.

    find: gives the function of a name. out: whether the result goes to a buffer made beforehand.
    """
    function, arguments = find(work, work.function), list[Any]()
    keywords, result = work.call_keywords(work.function), None
    if out and work.function not in ALLOCATE:
        keywords["out"] = inputs.arrays[0] if work.in_place else _result(work, inputs)

    def prepare() -> None:
        known = {**work.parameters(), **dict(zip(work.names, inputs.arrays, strict=True))}
        wanted = ARGUMENTS[work.function].split()
        if {"y", "mean", "invstd"} & set(wanted):
            known |= _saved(work, known, find)
        arguments[:] = [known[name] for name in wanted]

    def run() -> None:
        nonlocal result
        result = function(*arguments, **keywords)

    def fill(values: Arrays) -> None:
        feed(inputs.arrays, values)
        prepare()

    prepare()
    return Ready(run, fill, lambda: copied(work.results(result)))


def _saved(work: Layer, known: dict[str, Any], find: Any) -> dict[str, Any]:
    """What the forward function keeps for this one."""
    given = [known[name] for name in ARGUMENTS[work.forward].split()]
    result = find(work, work.forward)(*given, **work.call_keywords(work.forward))
    if not isinstance(result, tuple):
        return {"y": result}
    return {"y": result[0], "mean": result[1], "invstd": result[-1]}


def _result(work: Layer, inputs: Inputs) -> Any:
    """A buffer for it, every page of which was written."""
    kind = inputs.arrays[0].dtype if inputs.arrays else np.float32
    result = np.empty(work.shape_of("x" if work.backward else "dy"), kind)
    result.fill(0)
    return result


def own(work: Layer, name: str) -> Callable[..., Any]:
    """The function of gradstep."""
    found: Callable[..., Any] = getattr(gs, name)
    return found


def reference_of(work: Layer, name: str) -> Callable[..., Any]:
    """The NumPy specification of a function, called as that is."""
    wanted = REFERENCES.get(name, name)
    modules = (dropout, norm, activations, losses)
    function: Callable[..., Any] = next(getattr(m, wanted) for m in modules if hasattr(m, wanted))
    if not name.startswith("instance_norm"):
        return function
    leading = 2 if name.endswith("_backward") else 1

    def by_channel(*arguments: Any) -> Any:
        return function(*arguments[:leading], work.shape[1], *arguments[leading:])

    return by_channel


def drawn_by_itself(work: Layer) -> Callable[[Arrays, Arrays], Arrays]:
    """What can be compared where a peer draws other random numbers.

    By how much an element, relative to the largest, misses both values that it may have; and
    whether the share of what is kept lies within five standard deviations. The results of all
    correct peers are thus [1, 1].
    """

    def compared(inputs: Arrays, outputs: Arrays) -> Arrays:
        y = outputs[0].astype(np.float64)
        x = inputs[0].astype(np.float64) if inputs else np.ones(y.shape)
        kept, dropped = _alternatives(work, x)
        if_dropped, if_kept = np.abs(y - dropped), np.abs(y - kept)
        error = float(np.minimum(if_dropped, if_kept).max() / np.abs(kept).max())
        share = float(np.mean(if_kept < if_dropped))
        deviation = math.sqrt(work.p * (1 - work.p) / draws(work.forward, y.shape))
        return [np.array([1 + error, abs(share - (1 - work.p)) <= 5 * deviation])]

    return compared


def _alternatives(work: Layer, x: Any) -> tuple[Any, float]:
    """What becomes of an element that is kept, and of one that is dropped."""
    q = 1 - work.p
    if work.function == "dropout_mask":
        return x, 0.0
    if work.forward != "alpha_dropout":
        return x / q, 0.0
    scale = (q + dropout.SATURATION**2 * q * work.p) ** -0.5
    if work.backward:
        return scale * x, 0.0
    shift = -scale * work.p * dropout.SATURATION
    return scale * x + shift, scale * dropout.SATURATION + shift


def draws(forward: str, shape: tuple[int, ...]) -> int:
    """How many random decisions a dropout of arrays of this shape takes."""
    return math.prod(shape[: DRAWN_AXES.get(forward, len(shape))])
