"""JAX on the CPU: optimizers of optax, dropout and batch norm, all of them compiled (jitted).

JAX sizes its threads by the CPUs that it may use, so it has a process of its own. "donated" gives
the old parameters and states to the call, which may then write into them; the default makes new
ones. Calls are made one after the other without waiting; the time ends when the last result is
there. Arrays of JAX do not change: its gradients need no zeroing, and none is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import repeat
from typing import Any

import numpy as np

from ..between import Between, apart
from ..layers import EPS, Layer, drawn_by_itself
from ..remote import there
from ..steps import Step
from ..work import Arrays, Contender, Inputs, Ready, Work

REQUIRES = ("jax", "optax")

ENVIRONMENT = {"JAX_PLATFORMS": "cpu"}
LARGE = 1 << 26  # the default holds all arrays twice
MANY = 1_000  # compiling a step of 10 000 tensors takes minutes
ALWAYS = 1 << 30  # so many gradients in turn may be other than finite
GENERATORS = ("threefry2x32", "rbg")  # the default is the first, the fastest the second


def contenders(work: Work) -> list[Contender]:
    """Optimizers donated and not, dropout with two generators, batch norm."""
    if isinstance(work, Between):
        best = [c for c in contenders(work.work) if c.name in BEST]
        return [apart("jax", replace(c, make=BEST[c.name]), ENVIRONMENT) for c in best if work.own]
    if isinstance(work, Step):
        return [*map(partial(_contender, work), (True, False))] if _known(work) else []
    if not isinstance(work, Layer) or work.in_place:
        return []
    if work.function == "dropout":
        compared = drawn_by_itself(work)
        return [
            Contender(f"JAX {name}", _remote(partial(dropout, name)), compared=compared)
            for name in GENERATORS
        ]
    if work.forward == "batch_norm" and work.training:
        return [Contender("JAX", _remote(batch_norm))]
    return []


def _contender(work: Step, donated: bool) -> Contender:
    name = "optax donated" if donated else "optax default"
    compared = None if work.clip_norm is None else _parameters
    return Contender(
        name,
        _remote(partial(step, donated)),
        most=None if donated else LARGE,
        untimed="too many tensors to compile" if len(work.shapes) > MANY else "",
        compared=compared,
    )


def _parameters(inputs: Arrays, outputs: Arrays) -> Arrays:
    """Without the gradients, which a work that zeroes them lists after the parameters."""
    return outputs[: len(inputs)]


def _remote(make: Callable[[Any, Inputs], Ready]) -> Callable[[Any, Inputs], Ready]:
    return partial(there, "jax", ENVIRONMENT, make)


def _known(work: Step) -> bool:
    """AMSGrad of optax takes the maximum after the bias correction: another formula."""
    return work.optimizer in OPTAX and not work.hyper.get("amsgrad")


def _adam(name: str, h: Mapping[str, Any], **more: Any) -> Any:
    b1, b2 = h["betas"]
    return getattr(_optax(), name)(h["lr"], b1=b1, b2=b2, **more)


def _optax() -> Any:
    return import_module("optax")


def nadam(h: Mapping[str, Any]) -> Any:
    """As in PyTorch: that of optax has no schedule for the momentum."""
    optax: Any = _optax()
    jnp: Any = import_module("jax.numpy")
    tree: Any = import_module("jax").tree
    (b1, b2), eps, decay = h["betas"], h["eps"], h["momentum_decay"]

    def beta(t: Any) -> Any:
        return b1 * (1 - 0.5 * 0.96 ** (t * decay))

    def init(params: Any) -> Any:
        zeros = tree.map(jnp.zeros_like, params)
        return jnp.zeros((), jnp.int32), jnp.ones(()), zeros, tree.map(jnp.zeros_like, params)

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        t, product = state[0] + 1, state[1] * beta(state[0] + 1)
        m = tree.map(lambda m, g: b1 * m + (1 - b1) * g, state[2], grads)
        v = tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state[3], grads)
        of_g = (1 - beta(t)) / (1 - product)
        of_m = beta(t + 1) / (1 - product * beta(t + 1))

        def change(m: Any, v: Any, g: Any) -> Any:
            return (of_g * g + of_m * m) / (jnp.sqrt(v / (1 - b2**t)) + eps)

        return tree.map(change, m, v, grads), (t, product, m, v)

    return optax.chain(optax.GradientTransformation(init, update), optax.scale(-h["lr"]))


OPTAX: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "SGD": lambda h: _optax().sgd(h["lr"], h["momentum"] or None),
    "Adagrad": lambda h: _optax().adagrad(
        h["lr"],
        initial_accumulator_value=0.0,
        eps=h["eps"] ** 2,  # under the root
    ),
    "RMSprop": lambda h: _optax().rmsprop(
        h["lr"], decay=h["alpha"], eps=h["eps"], eps_in_sqrt=False
    ),
    "Adadelta": lambda h: _optax().adadelta(h["lr"], rho=h["rho"], eps=h["eps"]),
    "Adam": lambda h: _adam("adam", h, eps=h["eps"]),
    "AdamW": lambda h: _adam("adamw", h, eps=h["eps"], weight_decay=h["weight_decay"]),
    "NAdam": nadam,
    "Adamax": lambda h: _adam("adamax", h, eps=h["eps"]),
    "RAdam": lambda h: _adam("radam", h, eps=h["eps"]),
    "Lion": lambda h: _adam("lion", h, weight_decay=h["weight_decay"]),
}


def ready(call: Callable[[], Any], fill: Callable[[Arrays], None], outputs: Any) -> Ready:
    """A call that returns its arrays before they are there."""
    block: Callable[[Any], Any] = import_module("jax").block_until_ready

    def timed(calls: int) -> float:
        result = None
        start = time.perf_counter()
        for _ in repeat(None, calls):
            result = call()
        block(result)
        return time.perf_counter() - start

    return Ready(partial(timed, 1), fill, outputs, timed)


def arrays_of(values: Arrays) -> list[Any]:
    jnp: Any = import_module("jax.numpy")
    return [jnp.array(value) for value in values]


def _transform(work: Step) -> Any:
    """The optimizer, and before it what the work does to the gradients."""
    optax, transform = _optax(), OPTAX[work.optimizer](work.hyper)
    if work.clip_norm is not None:
        transform = optax.chain(optax.clip_by_global_norm(work.clip_norm), transform)
    if work.loss_scale is not None:
        transform = optax.chain(optax.scale(1 / work.loss_scale), transform)
    return optax.apply_if_finite(transform, ALWAYS) if work.skips_nonfinite else transform


def step(donated: bool, work: Step, inputs: Inputs) -> Ready:
    """Parameters, states and gradients are lists of arrays, one for each tensor."""
    jax: Any = import_module("jax")
    optax, transform = _optax(), _transform(work)
    params, grads = arrays_of(work.parameters(inputs)), arrays_of(inputs.arrays)
    state = transform.init(params)

    @partial(jax.jit, donate_argnums=(0, 1) if donated else ())
    def update(params: Any, state: Any, grads: Any) -> Any:
        changes, state = transform.update(grads, state, params)
        return optax.apply_updates(params, changes), state

    def call() -> Any:
        nonlocal params, state
        params, state = update(params, state, grads)
        return params, state

    def fill(values: Arrays) -> None:
        grads[:] = arrays_of(values)

    return ready(call, fill, lambda: [np.array(p) for p in params])


def dropout(generator: str, work: Layer, inputs: Inputs) -> Ready:
    """As in Flax, with a new key for every call."""
    jax: Any = import_module("jax")
    keep = 1 - work.p
    (x,) = arrays_of(inputs.arrays)
    key = jax.random.key(0, impl=generator)
    y = None

    def drop(key: Any, x: Any) -> Any:
        key, own = jax.random.split(key)
        kept = jax.random.bernoulli(own, keep, x.shape)
        return key, jax.lax.select(kept, x / keep, jax.numpy.zeros_like(x))

    compiled = jax.jit(drop)

    def call() -> Any:
        nonlocal key, y
        key, y = compiled(key, x)
        return y

    def fill(values: Arrays) -> None:
        nonlocal x
        (x,) = arrays_of(values)

    return ready(call, fill, lambda: [np.array(y)])


def normalized(axis: int, x: Any, weight: Any, bias: Any) -> Any:
    """Batch norm in training, by the two moments."""
    jnp: Any = import_module("jax.numpy")
    others = tuple(i for i in range(x.ndim) if i != axis)
    mean = x.mean(others, keepdims=True)
    variance = (x * x).mean(others, keepdims=True) - mean * mean
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    scale = weight.reshape(shape) / jnp.sqrt(variance + EPS)
    return (x - mean) * scale + bias.reshape(shape)


def batch_norm(work: Layer, inputs: Inputs) -> Ready:
    """Forward, or backward from what forward has kept."""
    jax: Any = import_module("jax")
    parameters = arrays_of([work.parameters()[name] for name in ("weight", "bias")])
    forward = jax.jit(partial(normalized, work.channel_axis))
    keeping = jax.jit(partial(jax.vjp, partial(normalized, work.channel_axis)))
    backward = jax.jit(lambda pull, dy: pull(dy))
    given: list[Any] = []
    result: Any = None

    def fill(values: Arrays) -> None:
        x, *dy = arrays_of(values)
        given[:] = [keeping(x, *parameters)[1], *dy] if work.backward else [x, *parameters]

    def call() -> Any:
        nonlocal result
        result = backward(*given) if work.backward else forward(*given)
        return result

    def outputs() -> Arrays:
        return [np.array(array) for array in (result if work.backward else [result])]

    fill(inputs.arrays)
    return ready(call, fill, outputs)


# At their best, by the names of contenders: what stands in other processes, between other work.
BEST: dict[str, Callable[[Any, Inputs], Ready]] = {
    "optax donated": partial(step, True),
    "JAX rbg": partial(dropout, "rbg"),
}
