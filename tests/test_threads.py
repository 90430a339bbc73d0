"""Threads of ours, threads of Python, forks and interrupts: whole steps with the same bits, or an
error, never something between.

One promise and its helpers (children, gates, interrupted steps): hence the length.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

F4 = np.float32
BUSY = "this optimizer is in the middle of a step"
# More than one item of work, so that the pool is used and the GIL given away.
LARGE = 400_000


def good(size: Any = 6, dtype: Any = F4, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


def together(*tasks: Callable[[], Any]) -> None:
    """Runs each task on a thread of its own, all from one moment on; raises what they raised."""
    start = threading.Barrier(len(tasks))
    errors: list[BaseException] = []

    def run(task: Callable[[], Any]) -> None:
        start.wait()
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Python threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# The setting


@pytest.mark.parametrize("n", [1, 2, 7, 1024, np.int64(3)])
def test_the_number_of_threads_is_what_was_set(n: int) -> None:
    gs.set_num_threads(n)
    assert gs.get_num_threads() == gs.build_info()["threads"] == n


@pytest.mark.parametrize(
    ("n", "kind", "message"),
    [
        (0, ValueError, "n: 0, expected an integer from 1 to 1024"),
        (-1, ValueError, "n: -1, expected an integer from 1 to 1024"),
        (1025, ValueError, "n: 1025, expected an integer from 1 to 1024"),
        (2**70, ValueError, f"n: {2**70}, expected an integer from 1 to 1024"),
        (True, TypeError, "n: bool, expected an integer"),
        (2.0, TypeError, "n: float, expected an integer"),
        ("2", TypeError, "n: str, expected an integer"),
        (None, TypeError, "n: NoneType, expected an integer"),
    ],
)
def test_bad_numbers_of_threads_are_refused(n: Any, kind: type[Exception], message: str) -> None:
    gs.set_num_threads(5)
    for call in (lambda: gs.set_num_threads(n), lambda: gs.threads(n).__enter__()):
        with pytest.raises(kind) as caught:
            call()
        assert str(caught.value) == message
        assert gs.get_num_threads() == 5


def test_threads_are_put_back_whatever_happens() -> None:
    gs.set_num_threads(5)
    with gs.threads(2):
        with pytest.raises(ZeroDivisionError), gs.threads(3):
            assert gs.get_num_threads() == 3
            raise ZeroDivisionError
        assert gs.get_num_threads() == 2
        gs.set_num_threads(7)
    assert gs.get_num_threads() == 5

    def interrupted() -> Iterator[None]:
        with gs.threads(4):
            yield

    generator = interrupted()
    next(generator)
    assert gs.get_num_threads() == 4
    del generator
    assert gs.get_num_threads() == 5


def test_workers_compute_with_subnormal_numbers() -> None:
    params, grads = np.full(LARGE, 1e-40, F4), np.full(LARGE, -1e-42, F4)
    optimizer, expected = gs.SGD(params, lr=1.0), F4(1e-40)
    with gs.threads(3):
        for _ in range(100):  # a worker may come too late for the first ones
            optimizer.step(grads)
            expected += F4(1e-42)
    assert np.unique(params).tolist() == [float(expected)]
    assert F4(1e-45) * F4(1) > 0


# Several Python threads


def test_disjoint_optimizers_may_step_at_once() -> None:
    classes = list(gs.OPTIMIZERS.values())[:8]
    grads = [good(LARGE // 8, seed=50 + t) for t in range(4)]

    def trained(cls: type[gs.Optimizer], found: dict[Any, bytes]) -> None:
        w = good(LARGE // 8)
        optimizer = cls(w, clip_norm=1.0)
        for t in range(12):
            optimizer.step(grads[t % 4])
        found[cls] = w.tobytes()

    alone: dict[Any, bytes] = {}
    for cls in classes:
        trained(cls, alone)
    at_once: dict[Any, bytes] = {}
    with gs.threads(3):
        together(*(lambda cls=cls: trained(cls, at_once) for cls in classes))
    assert at_once == alone


def test_switching_levels_and_threads_changes_no_step_under_way() -> None:
    expected, w = good(LARGE), good(LARGE)
    grads = [good(LARGE, seed=t) for t in range(3)]
    plain, disturbed = gs.Adam(expected, clip_norm=1.0), gs.Adam(w, clip_norm=1.0)
    for t in range(60):
        plain.step(grads[t % 3])
    done = threading.Event()

    def step() -> None:
        for t in range(60):
            disturbed.step(grads[t % 3])
        done.set()

    def switch() -> None:
        levels, i = gs.build_info()["simd_levels"], 0
        while not done.is_set():
            i += 1
            gs.use_simd(levels[i % len(levels)])
            gs.set_num_threads(i % 4 + 1)

    together(step, switch)
    assert w.tobytes() == expected.tobytes()


def counting(size: int, **options: Any) -> tuple[gs.Optimizer, Any, Any]:
    """An optimizer whose every whole step subtracts 1 from all of w."""
    w, g = np.zeros(size, F4), np.ones(size, F4)
    return gs.SGD(w, lr=1.0, **options), w, g


def assert_whole(optimizer: gs.Optimizer, w: Any, steps: int) -> None:
    assert np.unique(w).tolist() == [-float(steps)]
    assert optimizer.state_dict()["state"][0]["step"] == steps
    assert optimizer.step_count == steps


@pytest.mark.parametrize("size", [4, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("method", ["step", "bound"])
def test_one_optimizer_on_several_threads_takes_whole_steps(
    size: int, method: str, eager_switches: None
) -> None:
    optimizer, w, g = counting(size)
    optimizer.bind(g)
    args = () if method == "bound" else (g,)
    taken: list[int] = []

    def work() -> None:
        for _ in range(3000 if size == 4 else 40):
            try:
                taken.append(optimizer.step(*args).step)
            except RuntimeError as error:
                assert str(error) == BUSY

    together(work, work, work)
    assert_whole(optimizer, w, len(taken))
    assert sorted(taken) == list(range(1, len(taken) + 1))


def test_a_change_of_kernel_waits_for_the_step_under_way(eager_switches: None) -> None:
    optimizer, w, g = counting(4 * LARGE)
    taken: list[int] = []

    def work(change: bool) -> None:
        for i in range(40):
            try:
                if change:  # a buffer without momentum: the same steps from another kernel
                    optimizer.momentum = 1e-300 if i % 2 else 0.0
                taken.append(optimizer.step(g).step)
            except RuntimeError as error:
                assert str(error) == BUSY

    together(lambda: work(False), lambda: work(True))
    assert_whole(optimizer, w, len(taken))


def assert_of_one_moment(saved: dict[str, Any]) -> None:
    """Of an optimizer whose buffer counts its steps."""
    state = saved["state"][0]
    buffer = state["momentum_buffer"]
    assert buffer.min() == buffer.max() == float(state["step"])
    assert saved["step"] == state["step"]


def checkpoint_in_a_step() -> bool:
    """Whether the checkpoint began before the step had ended; it is of one moment anyway."""
    optimizer, w, g = counting(16 * LARGE, momentum=1.0)
    with gs.threads(1):
        begin = threading.Event()  # a new thread may run before `start` returns
        stepping = threading.Thread(target=lambda: (begin.wait(), optimizer.step(g)))
        stepping.start()
        begin.set()
        while w[0] == 0:
            time.sleep(0)
        during = bool(w[-1] == 0)
        saved = optimizer.state_dict()
        stepping.join()
    assert_of_one_moment(saved)
    return during


def test_a_checkpoint_during_a_step_waits_for_its_end() -> None:
    # Beside other processes a step may end before this thread sees that it has begun.
    assert any(checkpoint_in_a_step() for _ in range(20))


def test_a_step_waits_until_a_checkpoint_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, _, g = counting(10, momentum=1.0)
    optimizer.step(g)
    other = threading.Thread(target=lambda: optimizer.step(g))
    key = gs.SGD._key

    def meanwhile(self: gs.Optimizer, i: int) -> Any:
        other.start()
        other.join(0.2)
        assert other.is_alive()
        return key(self, i)

    with monkeypatch.context() as patch:
        patch.setattr(gs.SGD, "_key", meanwhile)
        saved = optimizer.state_dict()
    other.join()
    assert_of_one_moment(saved)
    assert (saved["step"], optimizer.step_count) == (1, 2)


@pytest.mark.parametrize("what", ["load_state_dict", "reference_step"])
def test_nothing_else_writes_during_a_step(what: str, eager_switches: None) -> None:
    optimizer, w, g = counting(4 * LARGE, momentum=1.0)
    saved = optimizer.state_dict()
    done = threading.Event()

    def step() -> None:
        for _ in range(40):
            try:
                optimizer.step(g)
            except RuntimeError as error:
                assert str(error) == BUSY
        done.set()

    def write() -> None:
        while not done.is_set():
            try:
                getattr(optimizer, what)(saved if what == "load_state_dict" else g)
            except RuntimeError as error:
                assert str(error) == BUSY

    together(step, write)
    (buffer,) = optimizer.state[0].values()
    assert len(np.unique(w)) == len(np.unique(buffer)) == 1
    assert optimizer.step_count == optimizer.state_dict()["state"][0]["step"]


def test_a_step_waits_until_a_checkpoint_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, w, g = counting(10, momentum=1.0)
    optimizer.step(g)
    saved = optimizer.state_dict()
    optimizer.step(g)
    other = threading.Thread(target=lambda: optimizer.step(g))

    def meanwhile(*arguments: Any) -> Any:
        other.start()
        other.join(0.2)
        assert other.is_alive()
        return target(*arguments)

    target = gs.Optimizer._take_state
    monkeypatch.setattr(gs.Optimizer, "_take_state", meanwhile)
    optimizer.load_state_dict(saved)
    other.join()
    assert optimizer.step_count == optimizer.state_dict()["state"][0]["step"] == 2
    assert w.tolist() == [-(1.0 + 2.0 + 2.0)] * 10


class Nested:
    """A gradient whose export takes a step of the optimizer it is meant for."""

    def __init__(self, array: Any, inside: Callable[[], Any]) -> None:
        self.array, self.inside = array, inside

    def __dlpack__(self, **options: Any) -> Any:
        self.inside()
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_a_step_inside_the_checks_of_a_step_mixes_no_gradients() -> None:
    w = [np.zeros(3), np.zeros(3)]
    optimizer = gs.SGD(w, lr=1.0)
    taken = [10.0]

    def inside() -> None:
        try:
            optimizer.step([np.ones(3), np.ones(3)])
            taken.append(1.0)
        except RuntimeError as error:
            assert str(error) == BUSY

    optimizer.step([np.full(3, 10.0), Nested(np.full(3, 10.0), inside)])
    assert [p.tolist() for p in w] == [[-sum(taken)] * 3] * 2
    assert optimizer.step_count == len(taken)


# Interrupts and forks

INTERRUPTED = """
import signal, numpy as np, gradstep as gs
w, g = np.zeros({size}, np.float32), np.ones({size}, np.float32)
optimizer = gs.SGD(w, lr=1.0)
signal.signal(signal.SIGALRM, signal.default_int_handler)
for i in range({times}):
    try:
        signal.setitimer(signal.ITIMER_REAL, {seconds} * (1 + i % 7))
        while True:
            optimizer.step(g)
    except KeyboardInterrupt:
        pass
    steps = optimizer.state_dict()["state"][0]["step"]
    assert np.unique(w).tolist() == [-float(steps)], "half a step"
    assert optimizer.step_count == steps, f"{{optimizer.step_count}} counted of {{steps}} taken"
"""


@pytest.mark.parametrize(("size", "seconds"), [(8, 1e-4), (3_000_000, 2e-3)])
def test_an_interrupt_leaves_whole_steps(size: int, seconds: float, python: Any) -> None:
    times = 300 if size == 8 else 20
    python(INTERRUPTED.format(size=size, seconds=seconds, times=times))


def test_an_interrupted_change_of_kernel_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, contents: Any
) -> None:
    class Interrupted:
        """A plan during whose making somebody presses Ctrl-C, late or early."""

        def __init__(self, *arguments: Any) -> None:
            self.plan = _core.Plan(*arguments)

        def bind(self, grads: Any) -> None:
            raise KeyboardInterrupt

    optimizer, w, g = counting(10)
    optimizer.bind(g)
    optimizer.step()
    optimizer.momentum = 0.5
    before = contents(optimizer)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("gradstep.optim.optimizer._core", SimpleNamespace(Plan=Interrupted))
        optimizer.step()
    assert contents(optimizer) == before
    optimizer.step()
    optimizer.step()
    assert np.unique(w).tolist() == [-3.5]


FORK = """
import os, threading, time, numpy as np, gradstep as gs
gs.set_num_threads(3)
rng = np.random.default_rng(0)
g = [rng.standard_normal(300_000).astype(np.float32) for _ in range(4)]

def train():
    w = np.ones(300_000, np.float32)
    optimizer = gs.AdamW(w, clip_norm=1.0)
    for t in range(8):
        optimizer.step(g[t % 4])
    return w.tobytes()

expected = train()

def pool_workers():
    tasks = os.listdir("/proc/self/task") if os.path.exists("/proc/self/task") else []
    names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in tasks]
    return names.count("gradstep") if tasks else 2

def check():
    if gs.get_num_threads() != 3:
        return 1
    if train() != expected or train() != expected:
        return 2
    late = time.monotonic() + 20
    while pool_workers() != 2:  # a thread names itself once it runs
        if time.monotonic() > late:
            return 3
    return 0

def child():
    code = 4
    try:
        code = check()
    finally:
        os._exit(code)

def forked():
    pid = os.fork()
    if pid == 0:
        child()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
FORK_IDLE = f"{FORK}\nassert [forked() for _ in range(5)] == [0] * 5"
# A child knows from its copy of the memory that a step was under way: some of w is new, not all.
FORK_MIDDLE = f"""{FORK}
import signal
w, one = np.zeros(1 << 22, np.float32), np.ones(1 << 22, np.float32)
shared = gs.SGD(w, lr=1.0)
NOT_YET = 99

def middle():
    return w.min() != w.max()

def in_the_middle(check, times=5):
    late, codes = time.monotonic() + 40, []
    while len(codes) < times and time.monotonic() < late:
        before = w[0]
        while w[0] == before:
            time.sleep(0)
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            code = NOT_YET
            try:
                code = check() if middle() else NOT_YET
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        codes += [code] if code != NOT_YET else []
    return codes

stop = False
def work():
    while not stop:
        shared.step(one)
worker = threading.Thread(target=work)
worker.start()
"""
FORK_BUSY = f"""{FORK_MIDDLE}
codes = in_the_middle(check)
stop = True
worker.join()
assert codes == [0] * 5, codes
assert train() == expected
"""
# What the thread that does not exist in the child was doing is not known there: an error is right,
# waiting for that thread is not.
FORK_SHARED = f"""{FORK_MIDDLE}
def refused():
    try:
        shared.state_dict()
        shared.step(one)
    except RuntimeError as error:
        assert "in the middle of a step" in str(error)
        return check()
    return 5
codes = in_the_middle(refused)
stop = True
worker.join()
assert codes == [0] * 5, codes

# The specification keeps others waiting without a step of the plan's.
formula, entered, leave = gs.SGD.formula, threading.Event(), threading.Event()
def held(*arguments):
    entered.set()
    leave.wait()
    return formula(*arguments)
gs.SGD.formula = staticmethod(held)
worker = threading.Thread(target=lambda: shared.reference_step(one))
worker.start()
entered.wait()
def goes_on(check=check):
    signal.alarm(20)
    shared.step(one)
    shared.state_dict()
    return check()
check = goes_on
assert forked() == 0
leave.set()
worker.join()
"""
FORK_POOL = f"""{FORK}
import multiprocessing
def task(i):
    return train() == expected
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map_async(task, range(6)).get(50) == [True] * 6
    assert train() == expected
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(
    "code",
    [FORK_IDLE, FORK_BUSY, FORK_SHARED, FORK_POOL],
    ids=["idle", "busy", "shared optimizer", "process pool"],
)
def test_a_forked_child_computes_the_same(code: str, python: Any) -> None:
    python(code)


def test_a_step_on_many_more_threads_than_cores() -> None:
    grads = good(LARGE * 3)
    expected, w = good(LARGE * 3, seed=1), good(LARGE * 3, seed=1)
    with gs.threads(1):
        gs.NAdam(expected).step(grads)
    with gs.threads(64):
        gs.NAdam(w).step(grads)
    assert w.tobytes() == expected.tobytes()
    assert math.isfinite(float(w.sum()))
