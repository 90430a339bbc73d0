"""Where memory runs out, a call raises MemoryError and leaves every byte as it was.

As in SQLite's tests of this kind the first allocation of a call fails, then the second, and so on
until it succeeds: once for those of the module's own C++, once for those of the interpreter.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

needs_hook = pytest.mark.skipif(
    not hasattr(_core, "fail_allocation"), reason="this linker cannot redirect operator new"
)

F32 = np.float32
Call = Callable[[], Any]
# What a call may change, and the call.
Case = Callable[[], tuple[list[Any], Call]]


def filled(*shape: int, dtype: Any = F32) -> Any:
    return np.linspace(-1, 2, int(np.prod(shape)), dtype=dtype).reshape(shape)


def function(name: str, *arguments: Any) -> Case:
    """A native function; "out" stands for memory like that of the first array."""

    def make() -> tuple[list[Any], Call]:
        given = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        model = next(a for a in given if isinstance(a, np.ndarray))
        given = [np.full_like(model, 7) if isinstance(a, str) and a == "out" else a for a in given]
        call = getattr(_core, name)
        return [a for a in given if isinstance(a, np.ndarray)], lambda: call(*given)

    return make


def optimizer(use: Callable[[Any, list[Any], list[Any]], Any], **options: Any) -> Case:
    """A use of an optimizer that has taken two steps, given its parameters and gradients."""

    def make() -> tuple[list[Any], Call]:
        params, grads = [filled(9000), filled(3)], [filled(9000), filled(3)]
        opt = gs.AdamW(params, **options)
        for _ in range(2):
            opt.step(grads)
        opt.bind(grads)
        held = [a for row in opt._states for a in row.values()]
        changes = [*params, *grads, *held, Counters(opt)]
        return changes, lambda: use(opt, params, grads)

    return make


class Counters:
    """What an optimizer has beside arrays, compared like one."""

    def __init__(self, opt: Any) -> None:
        self.opt = opt

    def tobytes(self) -> bytes:
        opt = self.opt
        groups = [(dict(group), group["params"]) for group in opt.param_groups]
        options = opt.clip_norm, opt.lr, opt.amsgrad, [list(own) for own in opt._states]
        return repr((opt.step_count, opt._plan.steps, groups, options, opt._kernels)).encode()


def saved(**options: Any) -> dict[str, Any]:
    opt = gs.AdamW([filled(9000), filled(3)], lr=0.5, clip_norm=2.0, **options)
    opt.step([filled(9000), filled(3)])
    return opt.state_dict()


SAVED = {amsgrad: saved(amsgrad=amsgrad) for amsgrad in (False, True)}
BIG = filled(8, 6, 500)  # more than the caller does alone
HALF = BIG.astype(np.float16)
W, ROW = filled(6), filled(500)
STATISTICS = (filled(6, dtype=np.float64), filled(6, dtype=np.float64) + 2)
RUNNING = (filled(6), filled(6) + 2)
ROWS = (filled(8, 6, dtype=np.float64), filled(8, 6, dtype=np.float64) + 2)
GROUPS = (filled(8, 3, dtype=np.float64), filled(8, 3, dtype=np.float64) + 2)
LOGITS = filled(3000, 10)
TARGETS = (np.arange(3000) % 10).astype(np.int64)
LONG = filled(1, 70_000)
FUNCTIONS: dict[str, Case] = {
    "dropout": function("dropout", BIG, 0.5, 1, 2, "out", "x"),
    "alpha_dropout": function("alpha_dropout", BIG, 0.5, 1, 2, "out", False),
    "spatial_dropout": function("spatial_dropout", BIG, 0.5, 1, 1, 2, "out", "x"),
    "drop_path": function("drop_path", BIG, 0.5, 1, 2, "out", "x"),
    "dropout_mask": function("dropout_mask", np.zeros(9000, np.bool_), 9000, 0.5, 1, 2, False),
    "batch_norm": function(
        "batch_norm", BIG, W, W, *RUNNING, True, 0.1, None, 1e-5, 1, None, "out"
    ),
    "batch_norm_backward": function(
        "batch_norm_backward", BIG, BIG, W, *STATISTICS, True, 1, None, None, "out"
    ),
    "batch_norm_stats": function("batch_norm_stats", BIG, 1),
    "layer_norm": function("layer_norm", BIG, None, None, 1e-5, None, "out"),
    "layer_norm_backward": function("layer_norm_backward", BIG, BIG, ROW, *ROWS, None, "out"),
    "rms_norm": function("rms_norm", BIG, None, 1e-5, None, "out"),
    "rms_norm_backward": function("rms_norm_backward", BIG, BIG, ROW, ROWS[1], None, "out"),
    "group_norm": function("group_norm", BIG, 3, W, W, 1e-5, "out"),
    "group_norm_backward": function("group_norm_backward", BIG, BIG, 3, W, *GROUPS, "out"),
    "instance_norm": function("instance_norm", BIG, W, W, 1e-5, "out"),
    "instance_norm_backward": function("instance_norm_backward", BIG, BIG, W, *ROWS, "out"),
    "activate": function("activate", 0, BIG, "out", 0.0),
    "activate_backward": function("activate_backward", 0, BIG, BIG, "y", "out", 0.0),
    "bias_activation": function("bias_activation", 0, LOGITS, filled(10), 0.0, 0.5, 1, 0, "out"),
    "bias_activation_backward": function(
        "bias_activation_backward", 4, LOGITS, LOGITS, "saved", filled(10), 0.0, 0.5, 1, 0, "out"
    ),
    "softmax": function("softmax", False, LOGITS, 1, "out"),
    "softmax of a long row": function("softmax", False, LONG, 1, "out"),
    "softmax_backward": function("softmax_backward", False, LOGITS, LOGITS, 1, "out"),
    "cross_entropy": function("cross_entropy", LOGITS, TARGETS, None, 0.1, -100, 0, "out"),
    "cross_entropy of each": function("cross_entropy", LOGITS, TARGETS, None, 0.0, -100, 2, "out"),
    "mse": function("mse", BIG, BIG, "out"),
    "prelu": function("prelu", BIG, W, 1, "out"),
    "prelu_backward": function("prelu_backward", BIG, BIG, W, 1, "out"),
    "maxout": function("maxout", BIG, 2, 1, np.full((8, 3, 500), 7, F32)),
    "maxout_backward": function("maxout_backward", filled(8, 3, 500), BIG, 2, 1, BIG + 1),
    "global_norm": lambda: ([BIG], lambda: _core.global_norm([BIG, W], [0, 1], "grads")),
    "summarize": lambda: ([BIG], lambda: _core.summarize([BIG, W], [0, 1], "tree")),
    "block_sums": lambda: ([BIG], lambda: _core.block_sums(BIG, "array")),
    "narrow": function("narrow", BIG, HALF),
    "widen": function("widen", HALF, BIG, True),
    "layer_norm in 16 bits": function("layer_norm", HALF, None, None, 1e-5, None, "out"),
    "batch_norm in 16 bits": function(
        "batch_norm", HALF, W, W, *RUNNING, True, 0.1, None, 1e-5, 1, None, "out"
    ),
}
STATE: dict[str, Case] = {
    "step": optimizer(lambda opt, p, g: opt._plan.step(g, 1.0, 0.5, True, False)),
    "step that zeroes": optimizer(lambda opt, p, g: opt._plan.step(g, 1.0, 0.0, False, True)),
    "bound step": optimizer(lambda opt, p, g: opt._plan.step(None, 1.0, 0.5, True, False)),
    "bind": optimizer(lambda opt, p, g: opt._plan.bind([a.copy() for a in g])),
    "check": optimizer(lambda opt, p, g: opt._plan.check(g)),
    "set_hyper": optimizer(
        lambda opt, p, g: opt._plan.set_hyper(0, list(opt._current[0].values()))
    ),
    "steps": optimizer(lambda opt, p, g: setattr(opt._plan, "steps", [7, 7])),
    "accumulate": optimizer(lambda opt, p, g: gs.accumulate(p, into=g)),
    "gradient_block_sums": optimizer(lambda opt, p, g: opt._plan.gradient_block_sums(g)),
    "load": optimizer(lambda opt, p, g: opt.load_state_dict(SAVED[False])),
    "load with another kernel": optimizer(lambda opt, p, g: opt.load_state_dict(SAVED[True])),
    "add a group": optimizer(lambda opt, p, g: opt.add_param_group({"params": [ROW]})),
    "state_dict": optimizer(lambda opt, p, g: opt.state_dict()),
    "copy": optimizer(lambda opt, p, g: copy.deepcopy(opt)),
    "a new plan": optimizer(lambda opt, p, g: gs.SGD(p)),
    "a step of 8 bits": optimizer(
        lambda opt, p, g: opt._plan.step(g, 1.0, 0.5, True, False), state_dtype="int8"
    ),
    "a new plan of 8 bits": optimizer(lambda opt, p, g: gs.Adam(p, state_dtype="int8")),
}
CASES = FUNCTIONS | STATE


def unharmed(arrays: list[Any], before: list[bytes], where: str) -> None:
    for i, (array, bytes_before) in enumerate(zip(arrays, before, strict=True)):
        assert array.tobytes() == bytes_before, f"{where}: number {i} of what it may change"


@needs_hook
@pytest.mark.parametrize("name", CASES)
def test_each_native_allocation_may_fail(name: str) -> None:
    with gs.threads(3):
        for n in range(1, 200):
            arrays, call = CASES[name]()
            before = [a.tobytes() for a in arrays]
            _core.fail_allocation(n)
            try:
                call()
                failed = False
            except MemoryError:
                failed = True
            finally:
                left = _core.fail_allocation(0)
            if failed:
                unharmed(arrays, before, f"allocation {n}")
            elif left > 0:
                return
    raise AssertionError("it never ran to its end")


# What pybind11 and CPython make of it in some places.
OTHER = re.compile("allocate|Unable to convert call argument")

INTERPRETER = """
import sys, _testcapi
sys.path.insert(0, {folder!r})
from test_allocation import CASES, OTHER, unharmed
for name, case in CASES.items():
    since = 0  # the last failure: some are made up for
    for n in range(2000):
        arrays, call = case()
        before = [a.tobytes() for a in arrays]
        error = None
        _testcapi.set_nomemory(n, n + 1)
        try:
            call()
        except BaseException as caught:
            error = caught
        _testcapi.remove_mem_hooks()
        since = since + 1 if error is None else 0
        if since > 25:
            break
        if error is not None:
            assert isinstance(error, MemoryError) or OTHER.search(str(error)), (name, n, error)
            unharmed(arrays, before, f"{{name}}, allocation {{n}} of Python")
    else:
        raise AssertionError(name)
print("passed", len(CASES))
"""


def test_each_allocation_of_the_interpreter_may_fail(python: Any) -> None:
    pytest.importorskip("_testcapi")
    folder = str(Path(__file__).parent)
    assert f"passed {len(CASES)}" in python(INTERPRETER.format(folder=folder))


NO_MEMORY = {
    "fail_allocation", "set_num_threads", "get_num_threads", "tune", "use_simd", "simd_level",
    "simd_levels", "compiled_simd_levels", "missing_simd_features",
    "optimizer_kernels", "assignment_kernels",
    "borrow_threads", "return_threads", "threads_borrowed", "use_team", "use_blas_threads",
    "uses_blas_threads", "flush_denormals", "restore_denormals",
    "philox_block", "are_floats",
    "use_torch", "record_by", "recorded", "keep_for_backward", "watch_by", "is_watched",
    "norm_backward", "norm_backward_method", "norm_gradients",
}  # fmt: skip


def test_every_native_function_is_here() -> None:
    """Those that touch no caller's memory aside."""
    native = {
        name for name in dir(_core) if callable(getattr(_core, name)) and not name.startswith("_")
    }
    classes = {name for name in native if isinstance(getattr(_core, name), type)}
    native = {name for name in native if not name.startswith("tensor_")}  # tests/pytorch has these
    missing = native - classes - NO_MEMORY - set(FUNCTIONS)
    assert missing == set()
    assert classes == {"NormCall", "Plan", "TensorNumbers", "TensorWatch"}
