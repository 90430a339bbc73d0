"""A stress of two Python threads in native calls, for a module built with ThreadSanitizer.

`tools/sanitized_tests thread` runs it; without arguments all scenes, else those named. Each is a
list of calls that repeat side by side, the first of them the given number of times.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import gradstep as gs
import numpy as np

F32 = np.float32
N = 1 << 16  # more than the caller does alone
Call = Callable[[], Any]
SCENES: dict[str, Callable[[], list[Call]]] = {}


def scene(make: Callable[[], list[Call]]) -> Callable[[], list[Call]]:
    SCENES[make.__name__] = make
    return make


def ones(*shape: int) -> Any:
    return np.ones(shape, F32)


def stepping(**options: Any) -> Any:
    """An optimizer of three tensors, bound to its gradients."""
    grads = [ones(N), ones(64, 100), ones(3)]
    opt = gs.AdamW([np.zeros_like(g) for g in grads], **options)
    opt.bind(grads)
    return opt


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
    """Under the optimizer's lock: one of two is refused."""
    plan = stepping()._plan

    def step() -> None:
        try:
            plan.step(None, 1.0, 1.0, True, False)
        except RuntimeError as error:
            assert "in the middle of a step" in str(error), error

    return [step, step, lambda: (plan.step_count, plan.steps)]


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
def dropout_and_norms() -> list[Call]:
    x, y, out = ones(64, 1000), ones(64, 1000), ones(64, 1000)
    running = np.zeros(1000, F32), ones(1000)

    def norms() -> None:
        gs.batch_norm(x, None, None, *running, training=True, out=out)
        gs.layer_norm(x, None, None)
        gs.group_norm(x.reshape(8, 8, 1000), 4)

    return [norms, lambda: gs.dropout(y, 0.5, seed=1, out=y), lambda: gs.global_norm([x])]


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
