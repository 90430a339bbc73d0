"""Layers of torch on the CPU: torch.nn.functional, and the operators under it.

"torch" is what a user writes: forward without a graph, backward by torch.autograd.grad on a graph
that is kept. "torch aten" calls the operators themselves, with a result made beforehand where they
take one. Tensors are in memory that torch allocates (see torch_optim about huge pages).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import gradstep as gs
import numpy as np

from ..between import Between, apart
from ..halves import Half
from ..layers import EPS, Layer, drawn_by_itself
from ..stored import nothing
from ..work import Arrays, Contender, Inputs, Ready, Work
from .torch_optim import tensors_of

REQUIRES = ("torch",)

Call = Callable[[], Any]
# What torch lacks of the functions of gradstep.
ABSENT = ("batch_norm_stats",)


def contenders(work: Work) -> list[Contender]:
    """Both ways, where torch has them."""
    if isinstance(work, Between):
        return [apart("torch", c) for c in contenders(work.work) if c.name == "torch"]
    if isinstance(work, Half):
        return [Contender("torch", in_bfloat16, compared=nothing)]
    if not isinstance(work, Layer) or work.function in ABSENT:
        return []
    compared = drawn_by_itself(work) if work.draws else None
    found = [Contender("torch", partial(make, False), compared=compared)]
    if work.function in DIRECT:
        found.append(Contender("torch aten", partial(make, True), compared=compared))
    return found


class Tensors:
    """The arrays of a work as tensors: inputs shared by all contenders of torch, parameters not.

    With channels last, x and dy are (N, C, H, W) tensors in that order of memory.
    """

    def __init__(self, work: Layer, inputs: Inputs) -> None:
        self.torch: Any = import_module("torch")
        self.torch.set_num_threads(gs.get_num_threads())
        self.work = work
        self.shared = inputs.once("torch", partial(tensors_of, self.torch))
        self.inputs = {
            name: self.moved(tensor) for name, tensor in zip(work.names, self.shared, strict=True)
        }
        self.parameters = {
            name: self.torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in work.parameters().items()
        }

    @property
    def channels_last(self) -> bool:
        return self.work.keywords.get("axis") == -1

    def moved(self, tensor: Any) -> Any:
        return tensor.movedim(-1, 1) if self.channels_last else tensor

    def array(self, value: Any) -> Any:
        """As NumPy; what is not a tensor stays."""
        if not isinstance(value, self.torch.Tensor):
            return value
        value = value.float() if value.dtype == self.torch.bfloat16 else value
        last = self.channels_last and value.ndim > 1
        return (value.movedim(1, -1) if last else value).detach().numpy()

    def results(self, result: Any) -> Arrays:
        values = result if isinstance(result, (tuple, list)) else (result,)
        arrays = tuple(self.array(value) for value in values)
        return [a.copy() for a in self.work.results(arrays if len(arrays) > 1 else arrays[0])]


def in_bfloat16(work: Half, inputs: Inputs) -> Ready:
    """The same on bfloat16 tensors; parameters are float32, as under autocast."""
    tensors = Tensors(work.inner, Inputs([array.astype(np.float32) for array in inputs.arrays]))
    tensors.shared = [each.bfloat16() for each in tensors.shared]
    tensors.inputs = dict(zip(work.inner.names, tensors.shared, strict=True))
    ready = _made(False, work.inner, tensors)
    return replace(
        ready, feed=lambda values: ready.feed([value.astype(np.float32) for value in values])
    )


def make(direct: bool, work: Layer, inputs: Inputs) -> Ready:
    """What a user writes, or the operator under it."""
    return _made(direct, work, Tensors(work, inputs))


def _made(direct: bool, work: Layer, tensors: Tensors) -> Ready:
    """The call is made anew with the inputs: graphs and saved results belong to values."""
    call: Call
    result: Any = None

    def prepare() -> None:
        nonlocal call
        if direct:
            call = DIRECT[work.function](tensors)
        elif work.backward or work.function in ("cross_entropy", "mse"):
            call = by_autograd(tensors)
        else:
            call = partial(functional(tensors), tensors.inputs.get("x"))

    def run() -> None:
        nonlocal result
        result = call()

    def fill(values: Arrays) -> None:
        for tensor, value in zip(tensors.shared, values, strict=True):
            tensor.copy_(tensors.torch.from_numpy(value))
        prepare()

    prepare()
    return Ready(run, fill, lambda: tensors.results(result))


def functional(t: Tensors) -> Callable[[Any], Any]:
    """The forward function of the work, of x."""
    f, work, v = t.torch.nn.functional, t.work, t.parameters
    p, w, b, in_place = work.p, v["weight"], v["bias"], work.in_place
    last = work.shape[-1:]
    table: dict[str, Callable[[Any], Any]] = {
        "dropout": lambda x: f.dropout(x, p, inplace=in_place),
        "dropout_mask": lambda x: t.torch.empty(work.shape, dtype=t.torch.bool).bernoulli_(1 - p),
        "drop_connect": lambda x: f.dropout(x, p),
        "spatial_dropout": lambda x: f.dropout2d(x, p),
        "drop_path": partial(drop_path, t.torch, p),
        "alpha_dropout": lambda x: f.alpha_dropout(x, p, training=True),
        "batch_norm": lambda x: f.batch_norm(
            x, v["running_mean"], v["running_var"], w, b, work.training, 0.1, EPS
        ),
        "layer_norm": lambda x: f.layer_norm(x, last, w, b, EPS),
        "rms_norm": lambda x: f.rms_norm(x, last, w, EPS),
        "group_norm": lambda x: f.group_norm(x, work.groups, w, b, EPS),
        "instance_norm": lambda x: f.instance_norm(x, weight=w, bias=b, eps=EPS),
        "relu": lambda x: f.relu(x, inplace=in_place),
        "leaky_relu": f.leaky_relu,
        "prelu": lambda x: f.prelu(x, w),
        "sigmoid": t.torch.sigmoid,
        "tanh": t.torch.tanh,
        "silu": f.silu,
        "selu": f.selu,
        "mish": f.mish,
        "gelu": lambda x: f.gelu(x, approximate=work.keywords.get("approximate", "none")),
        "softmax": lambda x: f.softmax(x, -1),
        "log_softmax": lambda x: f.log_softmax(x, -1),
        "maxout": lambda x: x.unflatten(1, (-1, work.k)).amax(2),
        "cross_entropy": lambda x: f.cross_entropy(x, v["targets"]),
        "mse": lambda x: f.mse_loss(x, t.inputs["other"]),
    }
    return table[work.forward]


def drop_path(torch: Any, p: float, x: Any) -> Any:
    """As timm writes it: one draw for each sample."""
    return x * x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - p).div_(1 - p)


def by_autograd(t: Tensors) -> Call:
    """The gradients of one graph again and again, or, of a loss, its value and a new graph."""
    work, dy = t.work, t.inputs.get("dy")
    x = (t.inputs["x"] if "x" in t.inputs else t.inputs["dy"]).detach().requires_grad_()
    wanted = [x]
    norm = work.forward.endswith("_norm")
    for name in ("weight", "bias"):
        if (norm or (work.forward, name) == ("prelu", "weight")) and (
            (work.forward, name) != ("rms_norm", "bias")
        ):
            t.parameters[name] = t.parameters[name].detach().requires_grad_()
            wanted.append(t.parameters[name])
    forward = functional(t)
    if not work.backward:

        def loss_and_gradient() -> Any:
            loss = forward(x)
            return loss.detach(), t.torch.autograd.grad(loss, x)[0]

        return loss_and_gradient
    return partial(t.torch.autograd.grad, forward(x), wanted, dy, retain_graph=True)


def mask_and_product(t: Tensors) -> Call:
    """Dropout with its mask and result in buffers."""
    x, keep = t.inputs["x"], 1 - t.work.p
    mask = t.torch.zeros_like(x)
    y = x if t.work.in_place else t.torch.zeros_like(x)
    return lambda: t.torch.mul(x, mask.bernoulli_(keep).div_(keep), out=y)


def into(find: Callable[[Any], Callable[..., Any]], *more: Any) -> Callable[[Tensors], Call]:
    """A function of x with a preallocated result."""

    def build(t: Tensors) -> Call:
        x = t.inputs["x"]
        y = x if t.work.in_place else t.torch.zeros_like(x)
        return partial(find(t.torch), x, *more, out=y)

    return build


def gelu(t: Tensors) -> Call:
    kind = t.work.keywords.get("approximate", "none")
    x = t.inputs["x"]
    y = t.torch.zeros_like(x)
    return partial(t.torch._C._nn.gelu, x, approximate=kind, out=y)


def gelu_backward(t: Tensors) -> Call:
    kind = t.work.keywords.get("approximate", "none")
    x, dy = t.inputs["x"], t.inputs["dy"]
    dx = t.torch.zeros_like(x)
    return partial(
        t.torch.ops.aten.gelu_backward.grad_input, dy, x, approximate=kind, grad_input=dx
    )


def gradient(operator: str, *more: Any, of_y: bool = True) -> Callable[[Tensors], Call]:
    """An operator of dy and y (or x) with a preallocated result."""

    def build(t: Tensors) -> Call:
        x, dy = t.inputs["x"], t.inputs["dy"]
        saved = functional(t)(x) if of_y else x
        operation = getattr(t.torch.ops.aten, operator).grad_input
        return partial(operation, dy, saved, *more, grad_input=t.torch.zeros_like(x))

    return build


def softmax_gradient(operator: str) -> Callable[[Tensors], Call]:
    def build(t: Tensors) -> Call:
        x, dy = t.inputs["x"], t.inputs["dy"]
        y, dx = functional(t)(x), t.torch.zeros_like(x)
        operation = getattr(t.torch.ops.aten, operator).out
        name = "grad_input" if operator == "_softmax_backward_data" else "out"
        return partial(operation, dy, y, -1, t.torch.float32, **{name: dx})

    return build


def batch_norm(t: Tensors) -> Call:
    v, x = t.parameters, t.inputs["x"]
    saved = [t.torch.zeros(t.work.channels if t.work.training else 0) for _ in range(2)]
    out = (t.torch.zeros_like(x), *saved)
    arguments = (v["weight"], v["bias"], v["running_mean"], v["running_var"], t.work.training)
    return partial(t.torch.native_batch_norm, x, *arguments, 0.1, EPS, out=out)


def batch_norm_backward(t: Tensors) -> Call:
    v, x, dy = t.parameters, t.inputs["x"], t.inputs["dy"]
    w, b = v["weight"], v["bias"]
    _, mean, invstd = t.torch.native_batch_norm(x, w, b, None, None, True, 0.1, EPS)
    operation = t.torch.ops.aten.native_batch_norm_backward.default
    arguments = (w, None, None, mean, invstd, True, EPS, [True] * 3)
    return partial(operation, dy, x, *arguments)


def layer_norm_backward(t: Tensors) -> Call:
    v, x, dy = t.parameters, t.inputs["x"], t.inputs["dy"]
    w, b, size = v["weight"], v["bias"], [t.work.shape[-1]]
    _, mean, invstd = t.torch.native_layer_norm(x, size, w, b, EPS)
    operation = t.torch.ops.aten.native_layer_norm_backward.default
    return partial(operation, dy, x, size, mean, invstd, w, b, [True] * 3)


def group_norm_backward(t: Tensors) -> Call:
    v, x, dy, groups = t.parameters, t.inputs["x"], t.inputs["dy"], t.work.groups
    n, c, *space = t.work.shape
    size = (n, c, int(np.prod(space)), groups)
    _, mean, invstd = t.torch.native_group_norm(x, v["weight"], v["bias"], *size, EPS)
    operation = t.torch.ops.aten.native_group_norm_backward.default
    return partial(operation, dy, x, mean, invstd, v["weight"], *size, [True] * 3)


def cross_entropy(t: Tensors) -> Call:
    """Forward and backward of its two operators, in buffers."""
    aten, x, targets = t.torch.ops.aten, t.inputs["x"], t.parameters["targets"]
    scores, slope, dx = (t.torch.zeros_like(x) for _ in range(3))
    one, mean, ignored = t.torch.ones(()), 1, -100

    def run() -> Any:
        t.torch.log_softmax(x, -1, out=scores)
        loss, weight = aten.nll_loss_forward.default(scores, targets, None, mean, ignored)
        aten.nll_loss_backward.grad_input(
            one, scores, targets, None, mean, ignored, weight, grad_input=slope
        )
        aten._log_softmax_backward_data.out(slope, scores, -1, t.torch.float32, out=dx)
        return loss, dx

    return run


DIRECT: dict[str, Callable[[Tensors], Call]] = {
    "dropout": mask_and_product,
    "relu": into(lambda torch: torch.clamp_min, 0.0),
    "relu_backward": gradient("threshold_backward", 0),
    "leaky_relu": into(lambda torch: torch._C._nn.leaky_relu),
    "leaky_relu_backward": gradient("leaky_relu_backward", 0.01, False, of_y=False),
    "sigmoid": into(lambda torch: torch.sigmoid),
    "sigmoid_backward": gradient("sigmoid_backward"),
    "tanh": into(lambda torch: torch.tanh),
    "tanh_backward": gradient("tanh_backward"),
    "silu": into(lambda torch: torch._C._nn.silu),
    "silu_backward": gradient("silu_backward", of_y=False),
    "gelu": gelu,
    "gelu_backward": gelu_backward,
    "softmax": into(lambda torch: torch.softmax, -1),
    "softmax_backward": softmax_gradient("_softmax_backward_data"),
    "log_softmax": into(lambda torch: torch.log_softmax, -1),
    "log_softmax_backward": softmax_gradient("_log_softmax_backward_data"),
    "batch_norm": batch_norm,
    "batch_norm_backward": batch_norm_backward,
    "layer_norm_backward": layer_norm_backward,
    "group_norm_backward": group_norm_backward,
    "cross_entropy": cross_entropy,
}
