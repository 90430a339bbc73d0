"""Stock PyTorch and gradstep in its place: training steps, optimizers and modules.

"gradstep" takes gradstep.torch's optimizer and modules (by `accelerate`), the others stock ones.
The "limit" of a training step is the same without optimizer, dropout and normalisation: no work on
these can make a step faster than that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import gradstep as gs
import numpy as np

from ..layers import Layer, drawn_by_itself
from ..steps import Step, feed
from ..stored import nothing
from ..training import ThroughTorch, Training
from ..work import Arrays, Contender, Inputs, Ready, Work
from . import gradstep as own
from . import torch_optim

REQUIRES = ("torch",)

Make = Callable[[Any, Inputs], Ready]

LR = 1e-3
BASE = "gradstep step(grads)"
STOCK = ("torch fused", "torch default")
BATCH_NORMS = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}


def contenders(work: Work) -> list[Contender]:
    """Stock settings, gradstep, and what bounds both."""
    if isinstance(work, Training):
        rounds = nothing if work.autocast else None
        return [
            Contender("gradstep", partial(train, accelerated), compared=rounds),
            Contender("torch fused", partial(train, partial(stock, fused=True)), compared=rounds),
            Contender("torch default", partial(train, stock), compared=rounds),
            Contender("limit", partial(train, bare), checked=False),
        ]
    if not isinstance(work, ThroughTorch):
        return []
    if isinstance(work.inner, Step):
        return _optimizers(work.inner)
    compared = drawn_by_itself(work.inner) if work.inner.draws else None
    return [
        Contender("gradstep", partial(module, "gradstep.torch"), compared=compared),
        Contender("torch", partial(module, "torch.nn"), compared=compared),
    ]


def _optimizers(step: Step) -> list[Contender]:
    """The class of gradstep.torch, what it calls, and torch's class."""
    made: dict[str, Make] = {"gradstep": optimizer_class, BASE: own.given}
    made |= {c.name: c.make for c in torch_optim.contenders(step) if c.name in STOCK}
    return [Contender(name, partial(_inner, make)) for name, make in made.items()]


def _inner(make: Make, work: ThroughTorch, inputs: Inputs) -> Ready:
    return make(work.inner, inputs)


def optimizer_class(work: Step, inputs: Inputs) -> Ready:
    """The optimizer of gradstep.torch, on tensors that torch allocated."""
    return torch_optim.make({}, work, inputs, import_module("gradstep.torch"))


def module(library: str, work: ThroughTorch, inputs: Inputs) -> Ready:
    """A module in training: forward with a graph, or backward on one that is kept."""
    torch: Any = import_module("torch")
    torch.set_num_threads(gs.get_num_threads())
    layer: Any = work.inner
    network = _module(torch, import_module(library), layer)
    tensors = inputs.once("torch", partial(torch_optim.tensors_of, torch))
    x = tensors[0].requires_grad_()
    wanted = (x, *network.parameters())
    y = result = network(x)

    def forward() -> None:
        nonlocal result
        result = network(x)

    def backward() -> None:
        nonlocal result
        result = torch.autograd.grad(y, wanted, tensors[1], retain_graph=True)

    def fill(values: Arrays) -> None:
        nonlocal y
        feed([tensor.detach().numpy() for tensor in tensors], values)
        y = network(x)

    found = (lambda: result) if layer.backward else (lambda: (result,))
    return Ready(
        backward if layer.backward else forward,
        fill,
        lambda: [tensor.detach().numpy().copy() for tensor in found()],
    )


def _module(torch: Any, library: Any, layer: Layer) -> Any:
    """A torch.nn module or gradstep's, with the parameters of the layer."""
    if layer.forward == "dropout":
        return library.Dropout(layer.p)
    made = getattr(library, BATCH_NORMS[len(layer.shape)])(layer.channels)
    for name, parameter in made.named_parameters():
        parameter.data.copy_(torch.from_numpy(layer.parameters()[name]))
    return made


def stock(torch: Any, network: Any, **keywords: bool) -> Any:
    """torch.optim.AdamW; keywords: fused, or none for the default."""
    return torch.optim.AdamW(network.parameters(), LR, **keywords)


def accelerated(torch: Any, network: Any) -> Any:
    """gradstep's modules in the place of stock ones, and its AdamW."""
    library: Any = import_module("gradstep.torch")
    library.accelerate(network)
    return library.AdamW(network.parameters(), LR)


def bare(torch: Any, network: Any) -> None:
    """Nothing in the place of dropout and normalisation, and no optimizer."""
    removed = (torch.nn.Dropout, torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, removed):
                setattr(parent, name, torch.nn.Identity())


def reference(work: Training, inputs: Inputs) -> Ready:
    """Stock PyTorch in float64."""
    return train(partial(stock, foreach=False), work, inputs, double=True)


def train(
    prepare: Callable[[Any, Any], Any], work: Training, inputs: Inputs, double: bool = False
) -> Ready:
    """A step of a network that begins with the same weights for every contender.

    prepare: changes the network and returns its optimizer, if any.
    """
    torch: Any = import_module("torch")
    torch.set_num_threads(gs.get_num_threads())
    network = _network(torch, work)
    network = network.double() if double else network
    optimizer = prepare(torch, network)
    batch: list[Any] = [None, None]
    loss: Any = None

    def run() -> None:
        nonlocal loss
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=work.autocast and not double):
            logits = network(batch[0]).flatten(0, -2)
            loss = torch.nn.functional.cross_entropy(logits, batch[1])
        loss.backward()
        if optimizer is not None:
            optimizer.step()

    def fill(values: Arrays) -> None:
        x, y = (torch.from_numpy(value.copy()) for value in values)
        if work.x == work.y:  # tokens and those that follow them
            x = _whole(x, work.classes)
        batch[0] = x.double() if double and x.is_floating_point() else x
        batch[1] = _whole(y, work.classes).flatten()

    fill(inputs.arrays)
    return Ready(run, fill, lambda: _figures(network, loss))


def _network(torch: Any, work: Training) -> Any:
    networks: Any = import_module("..torch_networks", __package__)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return networks.NETWORKS[work.network](work, **work.keywords)


def _whole(x: Any, classes: int) -> Any:
    """Whole numbers below `classes`, made of any."""
    return (x.abs() * 1000).long() % classes


def _figures(network: Any, loss: Any) -> Arrays:
    """The loss and the norm of each parameter.

    Not parameters themselves: the first steps of Adam move one whose gradient is zero but for
    rounding as far as any other.
    """
    norms = [parameter.detach().double().norm().numpy() for parameter in network.parameters()]
    return [loss.detach().double().numpy(), *(np.asarray(norm) for norm in norms)]
