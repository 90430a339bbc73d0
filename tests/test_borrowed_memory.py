"""Memory that a call uses may be let go, moved or written by others meanwhile: never a crash.

Each test runs in a process of its own, since what it holds off is the end of the process.
"""

from __future__ import annotations

import threading
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

F32 = np.float32

START = """
import gc, threading, numpy as np, gradstep as gs
from gradstep import _core
gs.set_num_threads(2)
F32 = np.float32
"""


def test_a_list_emptied_by_another_thread_during_the_step(python: Any) -> None:
    python(
        START
        + """
n = 1 << 22  # so large that its memory is returned to the system at once
w = [np.zeros(n, F32) for _ in range(4)]
opt = gs.AdamW(w)
for _ in range(8):
    grads = [np.ones(n, F32) for _ in range(4)]
    stop = threading.Event()
    def empty():
        stop.wait()
        grads.clear()
    thread = threading.Thread(target=empty)
    thread.start()
    stop.set()
    try:
        opt._plan.step(grads, 1.0, 0.0, True, False)
    except ValueError as error:
        assert "arrays, expected 4" in str(error), error
    thread.join()
"""
    )


def test_an_element_that_empties_its_list_while_it_is_imported(python: Any) -> None:
    python(
        START
        + """
n = 1 << 22
class Emptying:
    def __init__(self, array): self.array = array
    def __dlpack__(self, **options):
        grads.clear()
        gc.collect()
        return self.array.__dlpack__(**options)
    def __dlpack_device__(self): return self.array.__dlpack_device__()
w = [np.zeros(n, F32) for _ in range(3)]
grads = [np.ones(n, F32), Emptying(np.ones(n, F32)), np.ones(n, F32)]
opt = gs.SGD(w, lr=1.0)
opt._plan.step(grads, 1.0, 0.0, False, False)
assert all((a == -1).all() for a in w) and grads == []
"""
    )


@pytest.mark.parametrize("function", ["global_norm", "summarize"])
def test_a_list_emptied_while_it_is_summed(python: Any, function: str) -> None:
    python(
        START
        + f"""
n = 1 << 22
for _ in range(6):
    arrays = [np.ones(n, F32) for _ in range(8)]
    begun = threading.Event()
    def empty():
        begun.wait()
        arrays.clear()
    thread = threading.Thread(target=empty)
    thread.start()
    begun.set()
    try:
        _core.{function}(arrays, list(range(8)), "grads")
    except IndexError:
        pass
    thread.join()
"""
    )


def test_targets_written_during_cross_entropy(python: Any) -> None:
    """A class that does not exist is an error or has come too late: nothing outside is touched."""
    python(
        START
        + """
import time
rows, classes = 1 << 18, 10
logits, targets = np.zeros((rows, classes), F32), np.zeros(rows, np.int64)
stop = False
def write():
    while not stop:
        targets[:] = 1 << 40
        targets[:] = 3
thread = threading.Thread(target=write)
thread.start()
outcomes = set()
end = time.monotonic() + 1
while time.monotonic() < end:
    try:
        loss, gradient = gs.cross_entropy(logits, targets)
        outcomes.add(True)
        assert abs(loss - np.log(10)) < 1e-6
    except ValueError as error:
        assert str(error).startswith(f"targets: {1 << 40} at "), error
        outcomes.add(False)
stop = True
thread.join()
assert outcomes
"""
    )


def test_two_threads_step_one_plan(python: Any) -> None:
    """One of them is told; the counters may be read meanwhile."""
    found = python(
        START
        + """
w = np.zeros(1 << 22, F32)
opt = gs.AdamW(w)
opt.bind(np.ones_like(w))
plan, outcomes, counts = opt._plan, [], []
def work():
    for _ in range(30):
        try:
            plan.step(None, 1.0, 1.0, True, False)
            outcomes.append("stepped")
        except RuntimeError as error:
            outcomes.append(str(error))
def look():
    while any(t.is_alive() for t in threads):
        counts.append((plan.step_count, plan.steps[0]))
threads = [threading.Thread(target=work) for _ in range(2)]
for t in threads: t.start()
look()
for t in threads: t.join()
assert set(outcomes) == {"stepped", "this optimizer is in the middle of a step"}, set(outcomes)
assert plan.step_count == plan.steps[0] == outcomes.count("stepped")
assert counts == sorted(counts) and all(a <= b for a, b in counts)
print("both")
"""
    )
    assert found == "both"


def test_two_threads_step_one_optimizer() -> None:
    w = np.zeros(1 << 18, F32)
    opt = gs.SGD(w, lr=1.0)

    def work() -> None:
        for _ in range(20):
            opt.step(np.ones_like(w))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opt.step_count == 60 and (w == -60).all()


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.setflags(write=False), "params[1]: read-only, expected a writable array"),
        (
            lambda a: a.resize(3, refcheck=False),
            "params[1]: other memory, size or dtype than when it was given, expected the same",
        ),
        (
            lambda a: a.resize(1 << 20, refcheck=False),
            "params[1]: other memory, size or dtype than when it was given, expected the same",
        ),
    ],
)
def test_parameters_frozen_or_resized_since(change: Any, message: str, bound: bool) -> None:
    params, grads = [np.zeros(5, F32), np.zeros(5, F32)], [np.ones(5, F32), np.ones(5, F32)]
    opt = gs.AdamW(params)
    opt.bind(grads)
    opt.step()
    change(params[1])
    before = params[0].tobytes(), params[1].tobytes(), opt.step_count
    with pytest.raises(ValueError) as caught:
        opt._plan.step(None if bound else grads, 1.0, 0.0, False, False)
    assert str(caught.value) == message
    assert (params[0].tobytes(), params[1].tobytes(), opt.step_count) == before


def test_bound_gradients_resized_since() -> None:
    w, g = np.zeros(5, F32), np.ones(5, F32)
    opt = gs.SGD(w)
    opt.bind(g)
    opt.step()
    g.resize(1 << 20, refcheck=False)
    with pytest.raises(ValueError, match=r"^grads: shape \(1048576,\), expected \(5,\)"):
        opt.step()


def test_bound_gradients_frozen_since_are_not_zeroed() -> None:
    w, g = np.zeros(5, F32), np.ones(5, F32)
    opt = gs.SGD(w)
    opt.bind(g)
    opt._plan.step(None, 1.0, 0.0, False, True)
    g.flags.writeable = False
    with pytest.raises(ValueError, match=r"^grads: read-only"):
        opt._plan.step(None, 1.0, 0.0, False, True)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_targets_that_are_not_aligned(dtype: Any) -> None:
    memory = np.zeros(4 * np.dtype(dtype).itemsize + 1, np.uint8)
    targets = memory[1:].view(dtype)
    assert not targets.flags.aligned
    logits = np.ones((4, 3), F32)
    with pytest.raises(ValueError, match=r"^targets: unaligned memory, expected an array aligned"):
        gs.cross_entropy(logits, targets, out=logits)
    assert (logits == 1).all()


def test_a_mask_is_only_put_where_it_fits() -> None:
    for keep, n in ((np.zeros(9, np.uint8), 10), (np.zeros((4, 4), np.uint8)[:, ::2], 8)):
        with pytest.raises(ValueError, match=r"^keep: "):
            _core.dropout_mask(keep, n, 0.5, 1, 2, False)


def test_memory_that_runs_out_is_an_error(python: Any) -> None:
    """Of the system, during work without the GIL: statistics of 20 million channels need 1.6 GB."""
    python(
        START
        + """
import resource
x = np.zeros((2, 20_000_000), F32)
y = np.zeros_like(x)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (500 << 20),) * 2)
for call in (
    lambda: gs.batch_norm(x, None, None, None, None, training=True, out=y),
    lambda: gs.group_norm(x.reshape(2, -1, 2), 1_000_000, out=y.reshape(2, -1, 2)),
):
    try:
        call()
    except MemoryError:
        pass
assert not y.any()
"""
    )


@pytest.mark.parametrize(
    ("option", "value", "kind", "message"),
    [
        ("eps", None, TypeError, "eps: NoneType, expected a number"),
        ("eps", 10**400, ValueError, "eps: "),
        ("axis", 1.0, TypeError, "axis: float, expected an integer"),
        pytest.param("axis", 10**5000, ValueError, "axis: a huge integer, expected", id="huge"),
        ("training", None, TypeError, "training: NoneType, expected True or False"),
        ("training", 1, TypeError, "training: int, expected True or False"),
        ("momentum", "0.1", TypeError, "momentum: str, expected a number"),
    ],
)
def test_norms_name_an_argument_of_the_wrong_kind(
    option: str, value: Any, kind: Any, message: str
) -> None:
    options = {"training": True, option: value}
    running = np.zeros(3, F32), np.ones(3, F32)
    with pytest.raises(kind) as caught:
        gs.batch_norm(np.ones((4, 3), F32), None, None, *running, **options)
    assert type(caught.value) is kind and str(caught.value).startswith(message)
    assert not running[0].any()
