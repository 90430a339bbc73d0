"""Every public function, constructor and method, with good values for its arguments.

Signatures are read from the package: a new function is here by itself where its arguments have
names that others have; where a name is new, `argument` says what is missing. `Argument.takes` says
which other values an argument may take; a call that succeeds with any other is a defect.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import gradstep as gs
from argument_kinds import Argument, filled, instance, mapping
from call_arguments import ARGUMENTS, SPECIAL
from gradstep import nn, train
from gradstep.ops import fused
from train_arguments import SPECIAL_IN_TRAINING, load, save

# What the library makes for its users, names of types, bases, and what no argument can be of.
MADE_FOR_USERS = {
    "Description",
    "Group",
    "GroupAUC",
    "LayerSummary",
    "LrSearch",
    "OverfitTest",
    "StepInfo",
    "Summary",
}
TYPES = {"FloatArray", "Schedule"}
BASES = {"Optimizer", "Layer"}

OPERATORS = ("__call__", "__mul__")
HOOKS = {"formula", "schedule"}  # what classes give to their base
MODULES: tuple[ModuleType, ...] = (gs, nn, gs.init)
IN_TRAINING: tuple[ModuleType, ...] = (train, train.metrics, fused)
ALL_SPECIAL = SPECIAL | SPECIAL_IN_TRAINING


class Call(NamedTuple):
    """name: "Class.method" or "function". function: whose signature it has."""

    name: str
    prepare: Callable[[], tuple[Callable[..., Any], Any]]  # what to call, and its object if any
    arguments: dict[str, Argument]
    required: tuple[str, ...]
    function: Any
    positional: str | None = None  # the argument *name, if there is one


def argument(name: str, parameter: str) -> Argument:
    """That of a call, by the longest name that is known."""
    places = [name]
    thing, _, method = name.partition(".")
    if method:
        kinds = next(found for m in (gs, nn, train) if (found := getattr(m, thing, None)))
        places += [f"{base.__name__}.{method}" for base in kinds.__mro__[1:]] + [method]
    for place in places:
        if f"{place}.{parameter}" in ALL_SPECIAL:
            return ALL_SPECIAL[f"{place}.{parameter}"]
    if parameter not in ARGUMENTS:
        raise AssertionError(f"{name}: what is `{parameter}`? Say so in ARGUMENTS or SPECIAL")
    return ARGUMENTS[parameter]


def call_of(name: str, function: Any, prepare: Callable[[], tuple[Any, Any]]) -> Call:
    parameters = inspect.signature(function).parameters
    arguments = {p: argument(name, p) for p in parameters if p not in ("self", "cls")}
    optional = {p for p in arguments if parameters[p].default is not inspect.Parameter.empty}
    required = [p for p in arguments if p not in optional - {"grads", "steps"}]
    several = [p for p in arguments if parameters[p].kind is inspect.Parameter.VAR_POSITIONAL]
    positional = several[0] if several else None
    return Call(name, prepare, arguments, tuple(required), function, positional)


def invoke(call: Call, function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    if call.positional is None:
        return function(**given)
    values = given[call.positional]
    named = {name: value for name, value in given.items() if name != call.positional}
    return function(*(values if isinstance(values, tuple) else [values]), **named)


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
        yield from calls_of(module)


def training_calls() -> Iterator[Call]:
    """Those of `gradstep.train`, of what is fused, and of checkpoints with one part."""
    for module in IN_TRAINING:
        yield from calls_of(module)
    for function in (save, load):
        yield call_of(function.__name__, function, partial(lambda f: (f, None), function))


def calls_of(module: ModuleType) -> Iterator[Call]:
    elsewhere = {"find_lr"} if module is train else {"save", "load"}
    for name in sorted({*module.__all__} - MADE_FOR_USERS - TYPES - BASES - elsewhere):
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
