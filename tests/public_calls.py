"""Every public function, constructor and method, with good values for its arguments.

Signatures are read from the package: a new function is here by itself where its arguments have
names that others have; where a name is new, `argument` says what is missing. `Argument.takes` says
which other values an argument may take; a call that succeeds with any other is a defect.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from functools import partial
from numbers import Real
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import gradstep as gs
import numpy as np
from gradstep import nn

F4, F8 = np.dtype(np.float32), np.dtype(np.float64)
FLOATS = (F4, F8)
STORED = (*FLOATS, np.dtype(np.float16))  # what gradients may be, and bfloat16
Takes = Callable[[Any], bool]


class Argument(NamedTuple):
    """How to make a good value, and which others may be taken."""

    make: Callable[[], Any]
    takes: Takes


# What counts as what


def is_index(value: Any) -> bool:
    """Integers of anybody, and arrays without axes of NumPy's; no truth values."""
    if isinstance(value, (bool, np.bool_, np.timedelta64, type)):
        return False
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "iu"
    return hasattr(value, "__index__")


def real(value: Any) -> float:
    """As a float; NaN for what is no number."""
    if isinstance(value, bool) or not isinstance(value, Real) or isinstance(value, np.timedelta64):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf  # type: ignore[operator]


def dense(value: Any, dtypes: Any = FLOATS, order: str = "C", written: bool = False) -> bool:
    """Plain arrays as kernels take them. Scalars may be read as arrays without axes."""
    if not written and (type(value) is float or isinstance(value, np.generic)):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        return False
    flags = value.flags
    if value.dtype not in dtypes or (written and not flags.writeable):
        return False
    if order == "none":
        return True
    contiguous = flags.c_contiguous or (order == "any" and flags.f_contiguous)
    return bool(flags.aligned and contiguous)


def is_tree(value: Any, written: bool) -> bool:
    if isinstance(value, (Iterator, ValuesView)):
        return True  # walked by now; what is in it is tried elsewhere
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return all(is_tree(branch, written) for branch in value)
    return dense(value, FLOATS if written else STORED, "any", written)


# Kinds of arguments


def optional(argument: Argument) -> Argument:
    return Argument(argument.make, lambda v: v is None or argument.takes(v))


def integer(good: int, least: float = -np.inf, most: float = np.inf) -> Argument:
    return Argument(lambda: good, lambda v: is_index(v) and least <= int(v) <= most)


def number(good: float, fits: Callable[[float], bool]) -> Argument:
    return Argument(lambda: good, lambda v: bool(fits(real(v))))


def between(least: float, most: float = np.inf) -> Callable[[float], bool]:
    return lambda x: least <= x <= most and bool(np.isfinite(x))


def choice(good: Any, *others: Any) -> Argument:
    allowed = (good, *others)
    return Argument(
        lambda: good, lambda v: v in allowed if isinstance(v, str) or v is None else False
    )


def flag(good: bool) -> Argument:
    return Argument(lambda: good, lambda v: isinstance(v, (bool, np.bool_)))


def function(good: Callable[..., Any]) -> Argument:
    return Argument(lambda: good, callable)


def filled(*shape: int, dtype: Any = F4) -> Any:
    return np.linspace(1, 2, int(np.prod(shape)), dtype=dtype).reshape(shape)


def any_array(*shape: int, order: str = "C", written: bool = False) -> Argument:
    """Arrays of any shape, as far as this argument alone can tell."""
    return Argument(partial(filled, *shape), lambda v: dense(v, order=order, written=written))


def array(*shape: int, dtype: Any = F4, order: str = "C", written: bool = False) -> Argument:
    """Arrays of this very shape and type, or types."""
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,)
    takes = partial(dense, dtypes=dtypes, order=order, written=written)
    return Argument(
        partial(filled, *shape, dtype=dtypes[0]), lambda v: takes(v) and np.shape(v) == shape
    )


def hyper(good: float, fits: Callable[[float], bool]) -> Argument:
    """A number or a function of the step."""
    return Argument(lambda: good, lambda v: callable(v) or bool(fits(real(v))))


def pair(good: tuple[float, float], fits: Callable[[float], bool]) -> Argument:
    def takes(value: Any) -> bool:
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            return False
        return all(callable(v) or fits(real(v)) for v in value)

    return Argument(lambda: good, takes)


def sequence(good: Sequence[Any], item: Takes) -> Argument:
    def takes(value: Any) -> bool:
        if isinstance(value, Iterator):
            return True
        unordered = (str, bytes, bytearray, set, Mapping, type)
        if not isinstance(value, Iterable) or isinstance(value, unordered):
            return False
        return all(map(item, value))

    return Argument(lambda: list(good), takes)


def instance(make: Callable[[], Any], *kinds: type) -> Argument:
    return Argument(make, lambda v: isinstance(v, kinds))


def mapping(make: Callable[[], Any]) -> Argument:
    return Argument(make, lambda v: False)


def tree(written: bool) -> Argument:
    return Argument(partial(filled, 4, 6), lambda v: is_tree(v, written))


def is_shape(value: Any) -> bool:
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return False
    sizes = value if isinstance(value, Sequence) else [value]
    return all(is_index(size) and int(size) >= 0 for size in sizes)


def is_dtype(value: Any) -> bool:
    try:
        return value is not None and np.dtype(value) in FLOATS
    except (TypeError, ValueError):
        return False


PROBABILITY = number(0.5, between(0, 1))
POSITIVE = lambda x: x > 0  # noqa: E731
BELOW_1 = lambda x: 0 <= x < 1  # noqa: E731
RATE = between(0)
SIZE = integer(6, 1)
COUNT = integer(9, 1, 2**63 - 1)
LIKE_X = array(4, 6)
CHANNELS = optional(array(6))
WORD = integer(3, 0, 2**64 - 1)


def schedule(good: Any) -> Argument:
    return Argument(lambda: good, lambda v: callable(v) or bool(RATE(real(v))))


def descend(lr: float) -> Callable[[], float]:
    """One of `find_lr`'s models."""
    weight = np.array([1.0, 1.0])

    def step() -> float:
        loss = 0.5 * float(weight @ weight)
        weight[:] -= lr * weight
        return loss

    return step


# By name of the argument.
ARGUMENTS: dict[str, Argument] = {
    # arrays
    "x": any_array(4, 6),
    "dy": LIKE_X,
    "y": LIKE_X,
    "out": optional(array(4, 6, written=True)),
    "weight": CHANNELS,
    "bias": CHANNELS,
    "running_mean": optional(any_array(6, written=True)),
    "running_var": optional(any_array(6, written=True)),
    "mean": array(6, dtype=F8),
    "invstd": array(6, dtype=F8),
    "logits": any_array(4, 6),
    "targets": Argument(
        lambda: np.array([0, 1, 2, 3]), partial(dense, dtypes=(np.dtype("i4"), np.dtype("i8")))
    ),
    "prediction": array(4, 6, order="any"),
    "target": LIKE_X,
    "sample_weight": Argument(
        partial(filled, 4),
        lambda v: v is None or (isinstance(v, np.ndarray) and v.shape == (4,)),
    ),
    "stats": sequence([(filled(6, dtype=F8), filled(6, dtype=F8), 4)] * 2, lambda v: False),
    # trees
    "grads": tree(written=True),
    "tree": tree(written=False),
    "params": tree(written=True),
    "average": tree(written=True),
    "value": LIKE_X,
    # numbers
    "p": PROBABILITY,
    "seed": WORD,
    "offset": WORD,
    "slope": number(0.1, np.isfinite),
    "label_smoothing": PROBABILITY,
    "ignore_index": integer(-100, -(2**63), 2**63 - 1),
    "num_batches_tracked": optional(integer(1, 1, 2**63 - 1)),
    "axes": optional(integer(1, 1, 1)),
    "groups": integer(3, 1, 3),
    "k": integer(2, 1, 2),
    "axis": integer(1, -2, 1),
    "n": integer(2, 1, 1024),
    "beta": number(0.5, BELOW_1),
    "step": optional(integer(2, 1, 2**62)),
    "max_norm": number(1.0, POSITIVE),
    "gain": number(1.0, RATE),
    "std": number(1.0, RATE),
    # hyperparameters
    "lr": hyper(0.1, RATE),
    "eps": hyper(1e-5, RATE),
    "momentum": hyper(0.5, RATE),
    "dampening": hyper(0.0, np.isfinite),
    "lr_decay": hyper(0.0, RATE),
    "initial_accumulator_value": number(0.0, RATE),
    "weight_decay": hyper(0.0, RATE),
    "l1": hyper(0.0, RATE),
    "alpha": hyper(0.9, between(0, 1)),
    "rho": hyper(0.9, between(0, 1)),
    "betas": pair((0.9, 0.99), BELOW_1),
    "momentum_decay": hyper(0.004, between(0, 100)),
    "clip_value": optional(hyper(1.0, POSITIVE)),
    "clip_norm": optional(hyper(1.0, POSITIVE)),
    "grad_scale": hyper(1.0, np.isfinite),
    # schedules and searches
    "steps": COUNT,
    "every": COUNT,
    "period": COUNT,
    "growth": COUNT,
    "boundaries": sequence([3], lambda v: is_index(v) and int(v) >= 1),
    "values": sequence([0.1, 0.2], lambda v: bool(RATE(real(v)))),
    "schedules": sequence([0.1, 0.2], lambda v: callable(v) or bool(RATE(real(v)))),
    "schedule": schedule(0.1),
    "then": schedule(0.1),
    "factor": number(0.5, RATE),
    "decay": number(0.5, RATE),
    "power": number(0.5, POSITIVE),
    "floor": number(0.05, between(0, 0.1)),
    "pct_start": PROBABILITY,
    "div_factor": number(2.0, between(1)),
    "final_div_factor": number(2.0, between(1)),
    "start_factor": optional(PROBABILITY),
    "make": function(descend),
    "low": number(0.01, POSITIVE),
    "high": number(0.1, POSITIVE),
    "progress": optional(function(lambda row: None)),
    # layers
    "inputs": SIZE,
    "outputs": SIZE,
    "channels": SIZE,
    "dtype": Argument(lambda: np.float32, is_dtype),
    "columns": SIZE,
    "frequencies": SIZE,
    "features": integer(3, 1),
    "sigma": number(0.1, RATE),
    "function": instance(nn.ReLU, nn.Layer),
    "master": choice(None, "split", "float32"),
    "state_dtype": choice("float32", "bfloat16", "int8"),
    "copy_to": Argument(
        lambda: None, lambda v: v is None or getattr(v, "dtype", None) == np.float16
    ),
    "rng": Argument(
        lambda: np.random.default_rng(0),
        lambda v: v is None or isinstance(v, np.random.Generator) or (is_index(v) and int(v) >= 0),
    ),
    "init": Argument(lambda: "he_normal", lambda v: callable(v) or v in [*nn.INITIALISERS]),
    "sizes": sequence([6, 5, 3], lambda v: is_index(v) and int(v) >= 1),
    "dropout": number(0.5, BELOW_1),
    "input_dropout": number(0.5, BELOW_1),
    "layers": instance(lambda: (nn.Linear(6, 6, 0), nn.ReLU()), nn.Layer),
    "state_dict": mapping(dict),
    # flags and names
    **dict.fromkeys(
        ("training", "packed", "on", "nesterov", "centered", "amsgrad", "maximize", "batch_norm"),
        flag(True),
    ),
    **dict.fromkeys(("decoupled_weight_decay", "lr_in_momentum", "zero_grads"), flag(False)),
    "activation": choice(None, "relu"),
    "approximate": choice("none", "tanh"),
    "reduction": choice("mean", "sum", "none"),
    "on_nonfinite": choice("apply", "skip", "raise"),
    "level": choice("baseline", *gs.build_info()["simd_levels"]),
    "shape": Argument(lambda: (3, 4), is_shape),
}

DROPPING = ("dropout", "drop_connect", "drop_path", "spatial_dropout", "alpha_dropout")
# Where a name is another matter: the nearest of "Class.method.name", "method.name".
SPECIAL: dict[str, Argument] = {
    **{
        f"{name}.x": any_array(4, 6, order="any")
        for name in ("relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "selu", "mish")
    },
    "batch_norm.momentum": optional(PROBABILITY),
    "layer_norm_backward.mean": array(4, dtype=F8),
    "layer_norm_backward.invstd": array(4, dtype=F8),
    "rms_norm_backward.invstd": array(4, dtype=F8),
    "rms_norm.eps": optional(number(1e-5, RATE)),
    "group_norm_backward.mean": array(4, 3, dtype=F8),
    "group_norm_backward.invstd": array(4, 3, dtype=F8),
    "instance_norm.x": any_array(4, 6, 5),
    "instance_norm.out": optional(array(4, 6, 5, written=True)),
    "instance_norm_backward.x": array(4, 6, 5),
    "instance_norm_backward.dy": array(4, 6, 5),
    "instance_norm_backward.out": optional(array(4, 6, 5, written=True)),
    "instance_norm_backward.mean": array(4, 6, dtype=F8),
    "instance_norm_backward.invstd": array(4, 6, dtype=F8),
    "maxout.out": optional(array(4, 3, written=True)),
    "maxout_backward.dy": array(4, 3),
    "prelu.weight": array(6),
    "prelu_backward.weight": array(6),
    "drop_connect.weight": any_array(4, 6),
    **{f"{name}_backward.dy": any_array(4, 6) for name in DROPPING},
    "Dropout.backward.dy": array(4, 6, dtype=FLOATS),
    "global_norm.grads": tree(written=False),
    "clip_value_.value": number(1.0, POSITIVE),
    "constant.value": Argument(lambda: 0.5, lambda v: isinstance(v, Real)),
    **{f"{name}.lr": number(0.1, RATE) for name in gs.SCHEDULES},
    **{f"{name}.alpha": number(0.5, RATE) for name in gs.SCHEDULES},
    **{f"{name}.__call__.step": COUNT for name in gs.SCHEDULES},
    "warmup.steps": integer(9, 0, 2**63 - 1),
    "find_lr.factor": number(3.0, lambda x: 1 < x < np.inf),
    "find_lr.steps": integer(2, 2),
    "BatchNorm.momentum": optional(PROBABILITY),
    "mlp.seed": integer(3, 0),
    "PeriodicEmbedding.columns": sequence([1, 4], lambda v: is_index(v) and int(v) >= 0),
    "PeriodicEmbedding.forward.x": any_array(4, 6, order="none"),
    "PeriodicEmbedding.backward.dy": array(4, 12, dtype=FLOATS, order="none"),
    "PeriodicEmbedding.parameter_gradients.dy": array(4, 12, dtype=FLOATS, order="none"),
    "Scale.forward.x": any_array(4, 6, order="none"),
    "Scale.backward.dy": array(4, 6, dtype=FLOATS, order="none"),
    "Scale.parameter_gradients.dy": array(4, 6, dtype=FLOATS, order="none"),
    "Parametric.backward.dy": array(4, 6, order="none"),
    "Parametric.parameter_gradients.dy": array(4, 6, order="none"),
    "mlp.activation": choice("relu", *nn.ACTIVATIONS),
    "Linear.bias": flag(True),
    "Linear.forward.x": any_array(4, 6, order="none"),
    "Linear.backward.dy": array(4, 6, dtype=FLOATS, order="none"),
    "Linear.parameter_gradients.dy": array(4, 6, dtype=FLOATS, order="none"),
    "Sequential.forward.x": any_array(4, 6, order="none"),  # to a Linear
    "Maxout.backward.dy": array(4, 3),
    "Maxout.parameter_gradients.dy": array(4, 3),
    "Softmax.axis": integer(1),
    "LogSoftmax.axis": integer(1),
    "PReLU.axis": integer(1),
    "SpatialDropout.axis": integer(1),
    "Maxout.k": SIZE._replace(make=lambda: 2),
    "Optimizer.add_param_group.group": mapping(lambda: {"params": filled(3)}),
    "ewma_.value": array(4, 6, dtype=STORED),
    "Optimizer.bind.grads": optional(array(4, 6, dtype=STORED)),  # None leaves a tensor alone
    "Optimizer.step.grads": array(4, 6, dtype=STORED),
    "Optimizer.reference_step.grads": array(4, 6, dtype=STORED),
}

# What the library makes for its users, names of types, and bases.
MADE_FOR_USERS = {"Group", "LrSearch", "StepInfo", "Summary"}
TYPES = {"FloatArray", "Schedule"}
BASES = {"Optimizer", "Layer"}
FILES = {"save", "load"}  # whose wrong arguments test_checkpoint.py has

OPERATORS = ("__call__", "__mul__")
HOOKS = {"formula", "schedule"}  # what classes give to their base
MODULES: tuple[ModuleType, ...] = (gs, nn, gs.init)


class Call(NamedTuple):
    """name: "Class.method" or "function". own: what the call may change beside its arguments."""

    name: str
    prepare: Callable[[], tuple[Callable[..., Any], Any]]  # what to call, and its object if any
    arguments: dict[str, Argument]
    required: tuple[str, ...]
    positional: str | None = None  # the argument *name, if there is one


def argument(name: str, parameter: str) -> Argument:
    """That of a call, by the longest name that is known."""
    places = [name]
    thing, _, method = name.partition(".")
    if method:
        kinds = getattr(gs, thing, None) or getattr(nn, thing)
        places += [f"{base.__name__}.{method}" for base in kinds.__mro__[1:]] + [method]
    for place in places:
        if f"{place}.{parameter}" in SPECIAL:
            return SPECIAL[f"{place}.{parameter}"]
    if parameter not in ARGUMENTS:
        raise AssertionError(f"{name}: what is `{parameter}`? Say so in ARGUMENTS or SPECIAL")
    return ARGUMENTS[parameter]


def call_of(name: str, function: Any, prepare: Callable[[], tuple[Any, Any]]) -> Call:
    parameters = inspect.signature(function).parameters
    arguments = {p: argument(name, p) for p in parameters if p not in ("self", "cls")}
    optional = {p for p in arguments if parameters[p].default is not inspect.Parameter.empty}
    required = [p for p in arguments if p not in optional - {"grads"}]
    several = [p for p in arguments if parameters[p].kind is inspect.Parameter.VAR_POSITIONAL]
    return Call(name, prepare, arguments, tuple(required), several[0] if several else None)


def invoke(call: Call, function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    if call.positional is None:
        return function(**given)
    values = given[call.positional]
    return function(*(values if isinstance(values, tuple) else [values]))


def made(call: Call) -> Any:
    """An object of the class, from good values of what its constructor needs."""
    given = {name: call.arguments[name].make() for name in call.required}
    return invoke(call, call.prepare()[0], given)


def used(call: Call) -> Any:
    """The same after a call that others build upon."""
    thing = made(call)
    if isinstance(thing, (nn.Layer, gs.Dropout)):
        thing.forward(filled(4, 6))
    if isinstance(thing, gs.Optimizer):
        thing.step(filled(4, 6))
    return thing


def methods_of(kind: type) -> Iterator[str]:
    """Methods that are the package's own."""
    for name, member in inspect.getmembers(kind):
        if not isinstance(member, FunctionType) or not member.__module__.startswith("gradstep"):
            continue
        if name in OPERATORS or (not name.startswith("_") and name not in HOOKS):
            yield name


def public_calls() -> Iterator[Call]:
    for module in MODULES:
        for name in sorted({*module.__all__} - MADE_FOR_USERS - TYPES - BASES - FILES):
            thing = getattr(module, name)
            if not isinstance(thing, (FunctionType, type)):
                continue
            call = call_of(name, thing, partial(lambda thing: (thing, None), thing))
            yield call
            if isinstance(thing, type):
                yield from method_calls(name, thing, call)


def method_calls(name: str, kind: type, constructor: Call) -> Iterator[Call]:
    for method in methods_of(kind):
        if method == "parameter_gradients" and not made(constructor).grads:
            continue  # reads nothing

        def prepare(method: str = method) -> tuple[Any, Any]:
            thing = used(constructor)
            return getattr(thing, method), thing

        call = call_of(f"{name}.{method}", getattr(kind, method), prepare)
        if "state_dict" in call.arguments:
            state = mapping(lambda: used(constructor).state_dict())
            if not state.make():
                state = instance(dict, Mapping)
            call = call._replace(arguments={**call.arguments, "state_dict": state})
        yield call
