"""A stress of Python threads in native calls, for a module built with ThreadSanitizer and for a
Python without the GIL.

`tools/sanitized_tests thread` runs it, and `tests/test_free_threading.py` where there is no GIL;
without arguments all scenes, else those named. Each is a list of calls that repeat side by
side, the first of them the given number of times.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import gradstep as gs
import numpy as np
from gradstep import _core

F32 = np.float32
N = 1 << 16  # more than the caller does alone
Call = Callable[[], Any]
SCENES: dict[str, Callable[[], list[Call]]] = {}


def scene(make: Callable[[], list[Call]]) -> Callable[[], list[Call]]:
    SCENES[make.__name__] = make
    return make


def ones(*shape: int) -> Any:
    return np.ones(shape, F32)


def refused_if_busy(call: Call) -> Call:
    """One call of two at once on a plan, under its optimizer's lock, is refused."""

    def tried() -> Any:
        try:
            return call()
        except RuntimeError as error:
            assert "in the middle of a step" in str(error), error
            return None

    return tried


def stepping(**options: Any) -> Any:
    """An optimizer of three tensors, bound to its gradients."""
    grads = [ones(N), ones(64, 100), ones(3)]
    opt = gs.AdamW([np.zeros_like(g) for g in grads], **options)
    opt.bind(grads)
    return opt


@scene
def first_meeting_of_bfloat16() -> list[Call]:
    """First of all: what is known of another package's type is found in a process's first call."""
    import ml_dtypes

    x = np.ones(10, ml_dtypes.bfloat16)
    return [lambda: gs.relu(x), lambda: gs.gelu(x), lambda: gs.global_norm([x])]


@scene
def two_optimizers() -> list[Call]:
    first, second = stepping(clip_norm=1.0), stepping(on_nonfinite="skip")
    return [first.step, second.step]


@scene
def one_optimizer() -> list[Call]:
    opt, grads = stepping(), [ones(N), ones(64, 100), ones(3)]
    return [opt.step, lambda: opt.step(grads), lambda: opt.reference_step(grads)]


@scene
def one_plan() -> list[Call]:
    plan = stepping()._plan
    taken: list[int] = []

    def step() -> None:
        found = plan.step(None, 1.0, 1.0, True, False)
        taken.append(found[0])

    def look() -> None:
        for _ in range(100):
            least = len(taken)
            steps = plan.steps
            assert len(set(steps)) == 1
            assert least <= steps[0] <= plan.step_count

    return [refused_if_busy(step), refused_if_busy(step), look]


@scene
def one_small_plan() -> list[Call]:
    """Of calls so short that each keeps the GIL, or what stands for it: no step is lost."""
    param, grad = np.zeros(3), np.ones(3)
    plan = gs.SGD(param, lr=1.0)._plan
    taken: list[int] = []

    def step() -> None:
        taken.append(plan.step([grad], 1.0, 0.0, False, False)[0])

    def look() -> None:
        assert plan.step_count <= len(taken) + 3  # one in each thread that has not told

    step = refused_if_busy(step)
    return [step, step, step, look]


@scene
def parts_of_one_plan() -> list[Call]:
    grads = [ones(N), ones(64, 100), ones(3)]
    plan = gs.SGD([np.zeros_like(g) for g in grads], lr=1.0)._plan

    def step() -> None:
        plan.begin(grads, 1.0)
        plan.update_part(0, 0, N)
        plan.end()

    def others() -> None:
        plan.bind(grads)
        plan.check(None)
        plan.gradient_block_sums(None)
        plan.unbind()

    def tried(call: Call) -> Call:
        def one() -> None:
            try:
                call()
            except (RuntimeError, ValueError) as error:
                expected = "in the middle of a step", "before begin", "grads: None"
                assert any(each in str(error) for each in expected), error

        return one

    return [tried(step), tried(step), tried(others)]


@scene
def counters_of_a_running_step() -> list[Call]:
    opt, counts = stepping(), [0]

    def look() -> None:
        counts.append(opt.step_count)
        assert counts[-2] <= counts[-1]
        counts.pop(0)
        assert len(set(opt._plan.steps)) == 1

    return [opt.step, look]


@scene
def number_of_threads() -> list[Call]:
    opt, sizes = stepping(), iter(range(10**9))
    return [opt.step, lambda: gs.set_num_threads(1 + next(sizes) % 4), gs.get_num_threads]


@scene
def state_of_a_running_step() -> list[Call]:
    opt = stepping()
    saved = opt.state_dict()
    return [opt.step, opt.state_dict, lambda: opt.load_state_dict(saved)]


@scene
def hyperparameters_of_a_running_step() -> list[Call]:
    opt = stepping(lr=gs.cosine(1e-3, 1000))
    return [opt.step, lambda: setattr(opt, "clip_norm", 0.5), lambda: setattr(opt, "lr", 1e-3)]


@scene
def options_of_a_running_step() -> list[Call]:
    """What one thread sets holds in the next step, whoever takes it."""
    opt, grads, scales = gs.SGD([np.zeros(3)], lr=1.0), [np.zeros(3)], count(1)

    def scale() -> None:
        for _ in range(100):
            opt.grad_scale = float(next(scales))
            opt.step(grads)
            assert opt._scale == opt.grad_scale

    def step() -> None:
        for _ in range(100):
            opt.step(grads)

    return [scale, step, step]


@scene
def gradients_that_others_replace() -> list[Call]:
    opt, grads = stepping(), [ones(N), ones(64, 100), ones(3)]

    def replace() -> None:
        grads[:] = [ones(N), None, ones(3)]

    return [lambda: opt.step(grads), lambda: opt.step(grads), replace]


@scene
def types_of_other_libraries() -> list[Call]:
    """What is known of a type is asked once, of a few types: here there are many more."""

    def ask() -> None:
        kinds = [type(f"Tensor{i}", (), {}) for i in range(3)]
        for kind in kinds * 3:
            assert not _core.are_floats(kind())

    return [ask, ask, ask]


@scene
def watched_containers() -> list[Call]:
    """Lists and dicts that their owner changes meanwhile."""
    listed = [object() for _ in range(20)]
    state = {i: {"a": object(), "b": object()} for i in range(20)}
    watch = _core.TensorWatch(listed, state, [])

    def change() -> None:
        listed.append(object())
        state[len(state)] = {}
        state[3]["c"] = object()
        state[3].pop("c")
        state.popitem()
        listed.pop()

    def make() -> None:
        _core.TensorWatch(listed, state, [])

    return [lambda: watch.holds(listed, state), change, make]


@scene
def dropout_and_norms() -> list[Call]:
    x, y, out = ones(64, 1000), ones(64, 1000), ones(64, 1000)
    running = np.zeros(1000, F32), ones(1000)

    def norms() -> None:
        gs.batch_norm(x, None, None, *running, training=True, out=out)
        gs.layer_norm(x, None, None)
        gs.group_norm(x.reshape(8, 8, 1000), 4)

    drop = gs.Dropout(0.5, seed=1)
    return [
        norms,
        lambda: gs.dropout(y, 0.5, seed=1, out=y),
        lambda: gs.global_norm([x]),
        lambda: drop(x),
        lambda: drop(x),
    ]


@scene
def threads_with_their_own() -> list[Call]:
    """Training by four threads, of which none knows of the others."""

    def train() -> None:
        grads = [ones(100, 20), ones(20)]
        opt, drop = gs.Adam([np.zeros_like(g) for g in grads], lr=0.1), gs.Dropout(0.5, seed=1)
        for _ in range(5):
            x, *_ = gs.layer_norm(drop(ones(100, 20)), None, None)
            assert np.isfinite(x).all()
            opt.step(grads)
        assert len({float(p.ravel()[0]) for p in opt._arrays}) == 1

    return [train] * 4


@scene
def blas_threads() -> list[Call]:
    def switch() -> None:
        gs.use_blas_threads()
        gs.use_blas_threads(False)

    return [switch, switch]


@scene
def activations_and_losses() -> list[Call]:
    x, logits, targets = ones(64, 1000), ones(1000, 64), np.zeros(1000, np.int64)
    return [
        lambda: gs.cross_entropy(logits, targets),
        lambda: gs.gelu(x),
        lambda: gs.softmax(x),
        lambda: gs.describe({"x": x}),
    ]


@scene
def instruction_sets() -> list[Call]:
    opt = stepping()
    return [opt.step, lambda: gs.use_simd("baseline"), gs.simd_level, gs.build_info]


def run(calls: list[Call], times: int) -> None:
    """All of them at once; what one raises ends the process with its traceback."""
    failures: list[BaseException] = []
    start, done = threading.Barrier(len(calls)), threading.Event()

    def first() -> None:
        start.wait()
        for _ in range(times):
            calls[0]()

    def other(call: Call) -> None:
        start.wait()
        while not done.is_set():
            call()

    def guarded(work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    threads = [threading.Thread(target=guarded, args=(first,))]
    threads += [threading.Thread(target=guarded, args=(other, call)) for call in calls[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure


def main(names: list[str], times: int = 100) -> None:
    gs.set_num_threads(2)
    for name in names or SCENES:
        run(SCENES[name](), times)
        print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
