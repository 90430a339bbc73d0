"""gradstep computes on the threads of torch's OpenMP, with the same bits as on its own."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

torch = pytest.importorskip("torch")
gt: Any = pytest.importorskip("gradstep.torch")
kept_memory: Any = pytest.importorskip("gradstep.torch.kept_memory")

SIZE = 1 << 20


@pytest.fixture(autouse=True)
def borrowed() -> Iterator[None]:
    """Two threads of torch, put back after the test."""
    threads, before = torch.get_num_threads(), _core.threads_borrowed()
    torch.set_num_threads(2)
    gs.set_num_threads(2)
    if not gt.threads.borrow_threads():
        pytest.skip("this torch computes on no OpenMP that can be found")
    yield
    torch.set_num_threads(threads)
    if not before:
        _core.return_threads()


def results() -> list[Any]:
    """A step, a dropout and a norm on arrays that are worth several threads, on the team."""
    return gt.threads.on_team(computations)()  # type: ignore[no-any-return]


def computations() -> list[Any]:
    x = np.linspace(-1, 1, SIZE, dtype=np.float32)
    weights = x.copy()
    gs.AdamW(weights).step(x)
    return [weights, gs.dropout(x, 0.5, seed=1), *gs.layer_norm(x.reshape(-1, 256))]


def test_importing_the_adapter_borrows_the_threads() -> None:
    assert _core.threads_borrowed()


def test_calls_through_torch_take_the_team_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def on() -> bool:
        before = _core.use_team(False)
        _core.use_team(before)
        return bool(before)

    seen: list[bool] = []

    def spy(function: Any) -> Any:
        """A function of torch's that native calls come by when they make their results."""

        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(on())
            _core.use_team(seen[-1])
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(gs, "dropout", spy(gs.dropout))
    layers = torch.nn.Sequential(gt.LayerNorm(8), gt.Dropout(0.5))
    types = (torch.Tensor, torch.nn.Parameter)
    _core.use_torch(*types, spy(torch.empty_like), kept_memory.new_like, kept_memory.LARGE)
    try:
        layers(torch.randn(4, 8, requires_grad=True)).sum().backward()
    finally:
        kept_memory.lend_results()
    # Two results of the dropout, that of the norm and its three gradients.
    assert seen == [True] * 6
    assert not on()
    gs.dropout(np.ones((4, 8), np.float32), 0.5, seed=1)
    assert not seen[-1]


def test_the_team_is_let_go_after_an_error() -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        gt.threads.on_team(fail)()
    assert not _core.use_team(False)


def test_a_team_gives_the_same_bits_as_threads_of_our_own() -> None:
    on_team = results()
    _core.return_threads()
    for ours, theirs in zip(results(), on_team, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_size_of_the_team_does_not_matter(threads: int) -> None:
    expected = results()
    torch.set_num_threads(threads)
    for ours, right in zip(results(), expected, strict=True):
        np.testing.assert_array_equal(ours, right)


def test_several_python_threads_compute_at_once() -> None:
    expected, found = results(), list[Any]()

    def compute() -> None:
        torch.ones(SIZE).mul(2).sum()
        found.append(results())

    threads = [threading.Thread(target=compute) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for own in found:
        for ours, right in zip(own, expected, strict=True):
            np.testing.assert_array_equal(ours, right)


def computed(queue: Any) -> None:
    queue.put((_core.threads_borrowed(), [float(result.sum()) for result in results()]))


def test_a_forked_child_computes_on_threads_of_its_own() -> None:
    expected = [float(result.sum()) for result in results()]  # the team exists
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=computed, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == (False, expected)
    child.join(timeout=60)
    assert child.exitcode == 0


FORKED = """
import os, sys
{before}
child = os.fork()
if child == 0:
    import gradstep.torch as gt
    import torch
    from gradstep import _core
    gt.threads.borrow_threads()  # as often as one likes
    torch.set_num_threads(1)  # else torch itself waits for the threads of its parent
    x = torch.ones(1 << 12, 256)
    torch.set_num_threads(2)
    gt.functional.layer_norm(x, (256,))
    print(_core.threads_borrowed(), flush=True)
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
TEAM = "import torch; torch.set_num_threads(2); torch.ones(1 << 22).mul(2).sum()"


@pytest.mark.parametrize(
    "before, borrowed",
    (
        (TEAM, False),
        (TEAM + "; import gradstep", False),
        (TEAM + "; import gradstep.torch", False),
        ("", True),
        ("import gradstep", True),
    ),
)
def test_a_forked_child_that_imports_the_adapter_first(before: str, borrowed: bool) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKED.format(before=before)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.split() == [str(borrowed)]


WORKERS = """
import torch
torch.set_num_threads(2)
torch.ones(1 << 22).mul(2).sum()

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        import gradstep.torch as gt
        gt.keep_memory(1 << 28)
        return gt.LayerNorm(256)(gt.Dropout()(torch.ones(1 << 12, 256))).detach()

loader = torch.utils.data.DataLoader(
    Data(), num_workers=2, multiprocessing_context="fork", timeout=60
)
print(len(list(loader)))
"""


def test_workers_of_a_data_loader_import_the_adapter_first() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WORKERS], capture_output=True, text=True, timeout=90, check=True
    )
    assert run.stdout.split() == ["4"]
