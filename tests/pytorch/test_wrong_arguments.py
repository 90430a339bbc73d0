"""Wrong values for every argument of `gradstep.torch`: torch's own error, or one that names it.

Functions, modules and optimizers stand in for torch's. So the same call of torch's is the judge of
what may be taken, and what is refused in torch's words is refused as there; an error of our own
begins with the argument. After either all tensors are as they were.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gradstep.torch as gt
import numpy as np
import pytest
import torch
from argument_kinds import is_index
from call_arguments import ARGUMENTS
from gradstep.torch.nn import families
from torch.nn import functional as F
from wrong_values import FRESH, PLAIN, Liar

Make = Callable[[], Any]
INPUT_SHAPES = {"instance_norm": (2, 6, 4)}


def of(*shape: int) -> torch.Tensor:
    return torch.linspace(1, 2, int(np.prod(shape))).reshape(shape)


TENSORS: dict[str, Make] = {
    "a tensor": lambda: of(4, 6),
    "a float64 tensor": lambda: of(4, 6).double(),
    "an int tensor": lambda: torch.ones(4, 6, dtype=torch.int64),
    "a 0-d tensor": lambda: torch.tensor(0.5),
    "an empty tensor": lambda: torch.zeros(0),
    "a complex tensor": lambda: torch.ones(4, 6, dtype=torch.complex64),
    "a bool tensor": lambda: torch.ones(4, 6, dtype=torch.bool),
    "a half tensor": lambda: of(4, 6).half(),
    "a bfloat16 tensor": lambda: of(4, 6).bfloat16(),
    "a sparse tensor": lambda: of(4, 6).to_sparse(),
    "a meta tensor": lambda: torch.ones(4, 6, device="meta"),
    "a transposed tensor": lambda: of(6, 4).t(),
    "an expanded tensor": lambda: of(6).expand(4, 6),
    "a negated view": lambda: torch._neg_view(of(4, 6)),
    "a tensor of 5 columns": lambda: of(4, 5),
    "a tensor of 6": lambda: of(6),
    "a tensor of one more axis": lambda: of(1, 4, 6),
    "a tensor with a gradient": lambda: of(4, 6).requires_grad_(),
    "a list of tensors": lambda: [of(4, 6)],
    "torch.float32": lambda: torch.float32,
    "a device": lambda: torch.device("cpu"),
}


def both() -> Iterator[tuple[str, Any, Any]]:
    """Every value twice, for one call each."""
    for label, value in PLAIN.items():
        if label != "a file":  # is read by the first
            yield label, value, value
    for label, make in FRESH.items():
        yield label, make(), make()
    for label, make in TENSORS.items():
        yield label, make(), make()


def outcome(call: Callable[..., Any], given: dict[str, Any]) -> Exception | None:
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):
        try:
            call(**given)
        except Exception as error:
            return error
    return None


def contents(given: dict[str, Any]) -> list[bytes]:
    return [
        value.detach().numpy().tobytes()
        for value in given.values()
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32
        if value.layout == torch.strided and value.device.type == "cpu" and not value.is_neg()
    ]


def problem(
    argument: str, ours: Exception | None, torchs: Exception | None, value: Any
) -> str | None:
    """What is wrong about an outcome beside torch's, or None."""
    if isinstance(value, Liar):
        return None
    if ours is None:
        return None if torchs is None else f"accepted, by torch not: {torchs!r:.150}"
    where = rf"(param_groups\[0\]: )?{argument}(\[[^]]*\])?: .*expected "
    clear = re.match(where, str(ours), re.DOTALL)
    if type(ours) in (TypeError, ValueError) and clear:
        return None
    if torchs is not None and type(ours) is type(torchs) and str(ours) == str(torchs):
        return None
    return f"{ours!r:.150}, torch: {torchs!r:.80}"


GOOD: dict[str, Make] = {
    "p": lambda: 0.5,
    "training": lambda: True,
    "num_groups": lambda: 3,
    "normalized_shape": lambda: (6,),
    **dict.fromkeys(("running_mean", "running_var", "weight", "bias"), lambda: of(6)),
}


# Those of other dimensions share their code.
TWINS = re.compile(".*[23]d|dropout1d")


@pytest.mark.parametrize("name", [n for n in gt.functional.__all__ if not TWINS.fullmatch(n)])
def test_functions_take_and_refuse_what_torchs_do(name: str) -> None:
    ours, torchs = getattr(gt.functional, name), getattr(F, name)
    parameters = inspect.signature(ours).parameters
    needed = [p for p in parameters if parameters[p].default is inspect.Parameter.empty]

    def good() -> dict[str, Any]:
        shape = INPUT_SHAPES.get(name, (4, 6))
        given = {p: of(*shape) if p == "input" else GOOD[p]() for p in needed}
        return given | ({"training": True} if "training" in parameters else {})

    found = []
    for argument in parameters:
        for label, value, other in both():
            given = good() | {argument: value}
            before = contents(given)
            error = outcome(ours, given)
            if argument == "relu":
                fits = isinstance(value, bool)
                theirs = None if fits else TypeError("what torch's function does not have")
            else:
                theirs = outcome(torchs, good() | {argument: other})
            found.append((argument, label, problem(argument, error, theirs, value)))
            if error is not None and contents(given) != before:
                found.append((argument, label, "refused, but something was written"))
    assert [each for each in found if each[2]] == []


MODULES = {
    name: (getattr(gt, name), getattr(torch.nn, name))
    for name in gt.__all__
    if isinstance(getattr(gt, name), type) and issubclass(getattr(gt, name), torch.nn.Module)
    if not TWINS.fullmatch(name)
}
MODULE_INPUTS = {"Dropout1d": 3, "InstanceNorm1d": 3}


@pytest.mark.parametrize("name", MODULES)
def test_modules_take_and_refuse_what_torchs_do(name: str) -> None:
    ours, torchs = MODULES[name]
    axes = MODULE_INPUTS.get(name, 2)
    x = of(4, 6, *[2] * (axes - 2))
    good = {"num_features": 6, "num_groups": 3, "num_channels": 6, "normalized_shape": 6}
    parameters = inspect.signature(ours).parameters
    needed = {p: good[p] for p in parameters if p in good}
    found = []
    for argument in parameters:
        for label, value, other in both():
            if argument in good and isinstance(value, (int, np.integer)) and value > 2**20:
                continue  # right, and takes all memory
            error = outcome(lambda v: ours(**needed | v)(x), {"v": {argument: value}})
            if argument == "relu":
                theirs = None if isinstance(value, bool) else TypeError("torch has none")
            else:
                theirs = outcome(lambda v: torchs(**needed | v)(x), {"v": {argument: other}})
            found.append((argument, label, problem(argument, error, theirs, value)))
    assert [each for each in found if each[2]] == []


OPTIMIZERS = gt.OPTIMIZERS | {"SparseAdam": gt.SparseAdam}
FLAGS = ("foreach", "fused", "capturable", "differentiable", "maximize")
OURS_ALONE = (
    "clip_norm",
    "on_nonfinite",
    "zero_grads",
    "master",
    "state_dtype",
    "ema",
    "ema_decay",
    "seed",
    "copy_to",
)


def is_flag(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, np.bool_))


def fits(argument: str, value: Any) -> bool:
    """Whether a value is right by itself. Truth values and tensors of one number are numbers."""
    if argument == "copy_to":  # of one parameter
        half = getattr(value, "dtype", None) in (torch.float16, torch.bfloat16)
        return value is None or half or (isinstance(value, list) and value == [None])
    if isinstance(value, bool):
        value = int(value) if argument not in OURS_ALONE else value
    if isinstance(value, (torch.Tensor, np.ndarray)) and np.prod(value.shape) == 1:
        value = value.reshape(()).item() if argument not in OURS_ALONE else value
    rule = "eps" if argument == "alpha" else argument  # torch's may be above 1
    return rule in ARGUMENTS and not callable(value) and ARGUMENTS[rule].takes(value)


def stepped(kind: Any) -> Callable[..., Any]:
    """A step of an optimizer that is made with these arguments."""

    def step(given: dict[str, Any], params: Any) -> None:
        weight = torch.nn.Parameter(of(4, 6))
        weight.grad = of(4, 6).to_sparse(1) if "Sparse" in kind.__name__ else of(4, 6)
        given = {"params": [weight] if params is None else params} | given
        kind(**given).step()

    return step


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_take_and_refuse_what_torchs_do(name: str) -> None:
    kind, torchs = OPTIMIZERS[name], getattr(torch.optim, name, None)
    found = []
    for argument in inspect.signature(kind).parameters:
        if argument == "params":
            continue
        flag = argument in FLAGS
        for label, value, other in both():
            error = outcome(stepped(kind), {"given": {argument: value}, "params": None})
            if error is None and (is_flag(value) if flag else fits(argument, value)):
                continue
            if torchs is None or flag or argument in OURS_ALONE:
                theirs: Exception | None = TypeError("torch has none")
            else:
                theirs = outcome(stepped(torchs), {"given": {argument: other}, "params": None})
            found.append((argument, label, problem(argument, error, theirs, value)))
    assert [each for each in found if each[2]] == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_params_that_torch_refuses_are_refused_in_its_words(name: str) -> None:
    kind = OPTIMIZERS[name]
    torchs = getattr(torch.optim, name, torch.optim.SGD)
    found = []
    for label, value, other in both():
        error = outcome(kind, {"params": value})
        found.append((label, problem("params", error, outcome(torchs, {"params": other}), value)))
    assert [each for each in found if each[1]] == []


def test_a_step_that_is_refused_changes_no_tensor() -> None:
    """Gradients of every kind of value that torch lets be one."""
    tried = 0
    for kind in gt.OPTIMIZERS.values():
        for make in TENSORS.values():
            weight, other = torch.nn.Parameter(of(4, 6)), torch.nn.Parameter(of(4, 6))
            opt = kind([weight, other], lr=0.5)
            weight.grad = of(4, 6)
            opt.step()
            before = [weight.detach().clone(), other.detach().clone(), opt.state_dict()["state"]]
            other.grad = of(4, 6)
            try:
                weight.grad = make()
            except (RuntimeError, TypeError):
                continue  # torch's assignment
            try:
                opt.step()
            except (TypeError, ValueError, RuntimeError) as error:
                tried += 1
                assert "grad" in str(error)
                assert torch.equal(weight, before[0]) and torch.equal(other, before[1])
                assert str(opt.state_dict()["state"]) == str(before[2])
    assert tried > 5


def is_tensors(values: list[Any]) -> bool:
    return all(isinstance(value, torch.Tensor) for value in values)


def is_bytes(value: Any) -> bool:
    return is_index(value) and not isinstance(value, torch.Tensor) and value.__index__() >= 0


class Module(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


ALONE: dict[str, tuple[str, Callable[[Any], Any], Callable[[Any], bool]]] = {
    "accelerate": ("model", gt.accelerate, lambda v: False),
    "restore": ("model", gt.restore, lambda v: False),
    "register": ("kind", gt.register, lambda v: False),
    "register with a function": (
        "forward",
        lambda v: gt.register(Module, v),
        lambda v: v is None or callable(v),
    ),
    "OffloadOptimizer of params": (
        "params",
        lambda v: None if getattr(v, "is_meta", False) else gt.OffloadOptimizer(v),
        lambda v: isinstance(v, torch.Tensor) or (isinstance(v, list) and is_tensors(v)),
    ),
    "OffloadOptimizer of a class": (
        "optimizer",
        lambda v: gt.OffloadOptimizer([torch.nn.Parameter(of(3))], v),
        lambda v: False,
    ),
    "OffloadOptimizer in buckets": (
        "bucket",
        lambda v: gt.OffloadOptimizer([torch.nn.Parameter(of(3))], bucket=v),
        lambda v: is_bytes(v) and v.__index__() > 0,
    ),
    "keep_memory": ("limit", gt.keep_memory, lambda v: is_bytes(v)),
}


@pytest.mark.parametrize("name", ALONE)
def test_what_torch_does_not_have_names_its_argument(name: str) -> None:
    argument, call, takes = ALONE[name]
    found = []
    try:
        for label, value, _ in both():
            error = outcome(lambda v: call(v), {"v": value})
            theirs = None if takes(value) else TypeError("not to be taken")
            found.append((label, problem(argument, error, theirs, value)))
    finally:
        gt.keep_memory(512 << 20)
        families._registered.pop(Module, None)
    assert [each for each in found if each[1]] == []
