"""Every peer is optional, named where it is missing, and right on what it is compared on."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import gradstep as gs
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # bench is run in place, never installed

from bench import peers, remote
from bench.fits import Fit
from bench.measure import Rules
from bench.peers import Peer
from bench.runner import run, threads_of_blas
from bench.steps import Step, single
from bench.suites import SUITES, Choice
from bench.work import Contender, Inputs, Ready, Work, largest_error

ROOT = Path(__file__).parents[1]
OPTIONAL = [
    name for name in peers.all_names() if importlib.import_module(f"bench.peers.{name}").REQUIRES
]


def distinct(choice: Choice) -> dict[str, Work]:
    """One work of each kind, as small as the check makes it."""
    works = [work for suite in SUITES.values() for work in suite(choice)]
    return {_kind(work): work for work in works}


def _kind(work: Work) -> str:
    return work.title if isinstance(work, Step) else work.small().name


WORKS = distinct(Choice())


@pytest.fixture(autouse=True)
def processes_end() -> Iterator[None]:
    yield
    if remote._processes:
        remote._processes.clear()
        gc.collect()


@pytest.mark.parametrize("name", peers.all_names())
def test_a_peer_says_what_it_requires_and_does_no_work_that_it_does_not_know(name: str) -> None:
    class Unknown:
        name, elements, ideal_bytes, consumes_inputs = "unknown", 1, 4, False

    (peer,) = [p for p in peers.load((name,)) if p.name == name]
    assert isinstance(peer.module.REQUIRES, tuple)
    if not peer.missing:
        assert peer.contenders(Unknown()) == []  # type: ignore[arg-type]


def test_listing_the_peers_imports_none_of_their_libraries() -> None:
    modules = {"torch", "jax", "optax", "numba", "deepspeed", "bitsandbytes", "sklearn"}
    code = (
        "import sys; from bench import peers; print([p.name for p in peers.load()]);"
        f"print(sorted({modules} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": ":".join([str(ROOT), *filter(None, sys.path)])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    names, imported = done.stdout.splitlines()
    assert imported == "[]"
    assert set(OPTIONAL) <= set(eval(names))


def test_peers_whose_libraries_are_absent_are_named_and_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(distribution: str) -> str:
        raise metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(metadata, "version", absent)
    absentees = [p for p in peers.load(tuple(OPTIONAL)) if p.name in OPTIONAL]
    assert {peer.name for peer in absentees} == set(OPTIONAL)
    for peer in absentees:
        assert peer.missing[: len(peer.module.REQUIRES)] == peer.module.REQUIRES, peer.name
    assert run("small", single("AdamW", 64), absentees, Rules(1, 0.0, 0.0)).rows == []


def installed(name: str) -> Peer:
    """The peer, if what it needs is here."""
    (peer,) = [p for p in peers.load((name,)) if p.name == name]
    if peer.missing:
        pytest.skip(f"needs {', '.join(peer.missing)}")
    return peer


def built(kernel: str) -> bool:
    """Whether DeepSpeed has compiled the optimizer before; it would take a minute now."""
    folder = os.environ.get("TORCH_EXTENSIONS_DIR", "~/.cache/torch_extensions")
    return any(Path(folder).expanduser().glob(f"**/cpu_{kernel.lower()}/cpu_{kernel.lower()}.so"))


@pytest.mark.parametrize(
    "name",
    [
        "numba_optim",
        "jax_optax",
        "deepspeed_optim",
        "bitsandbytes_optim",
        "sklearn_mlp",
        "torch_mlp",
    ],
)
def test_every_contender_gives_the_values_of_the_reference(name: str) -> None:
    peer = installed(name)
    found = [(w, c) for w in WORKS.values() for c in peer.contenders(w) if c.checked]
    assert found
    if name == "deepspeed_optim":
        found = [(w, c) for w, c in found if isinstance(w, Step) and built(w.kernel)]
    with threads_of_blas(1):  # for matrices this small
        wrong = {f"{c.name}: {w.name}": largest_error(c, w) for w, c in found}
    assert {name: error for name, error in wrong.items() if not error <= 1e-4} == {}


@pytest.mark.parametrize(
    ("name", "best"), [("numba_optim", "numba parallel"), ("jax_optax", "optax donated")]
)
def test_optimizers_are_measured_at_their_best_and_at_their_default(name: str, best: str) -> None:
    peer = installed(name)
    for optimizer in gs.OPTIMIZERS:
        names = {c.name for c in peer.contenders(single(optimizer, 64))}
        assert names == {best, f"{best.split()[0]} default"}, optimizer


def test_numba_shares_among_threads_what_is_checked() -> None:
    pytest.importorskip("numba")
    numba_optim = importlib.import_module("bench.peers.numba_optim")
    largest = max(np.prod(shape) for shape in single("AdamW", 1 << 20).small().shapes)
    assert largest > numba_optim.SERIAL_TO


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_fit_with_another_optimizer_in_the_place_of_adam_is_found(dtype: str) -> None:
    installed("sklearn_mlp")
    sklearn_mlp = importlib.import_module("bench.peers.sklearn_mlp")
    neural_network = importlib.import_module("sklearn.neural_network._multilayer_perceptron")
    solvers = importlib.import_module("gradstep.sklearn.solvers")
    work, own = Fit(dtype=dtype), neural_network.AdamOptimizer

    def other(work: Fit, inputs: Inputs) -> Ready:
        ready = sklearn_mlp.accelerated(work, inputs)
        return Ready(partial(with_another_epsilon, ready.run), ready.feed, ready.outputs)

    def with_another_epsilon(run: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(solvers, "_uncorrected", lambda epsilon, beta2, t: 1e-3)
            run()

    assert largest_error(Contender("gradstep", sklearn_mlp.accelerated), work) <= 1e-6
    assert largest_error(Contender("other", other), work) > 1e-4
    assert neural_network.AdamOptimizer is own


def test_a_fit_counts_the_bytes_of_its_steps() -> None:
    work = Fit(hidden=(2,), rows=400, epochs=3)
    assert work.elements == 785 * 2 + 3 * 10
    assert work.ideal_bytes == 56 * work.elements * 6
    assert Fit(hidden=(2,), rows=400, epochs=3, dtype="float32").ideal_bytes * 2 == work.ideal_bytes
    assert replace(work, batch=100).ideal_bytes == 2 * work.ideal_bytes


def test_what_a_step_of_no_time_would_gain_is_measured_and_undone() -> None:
    installed("sklearn_mlp")
    sklearn_mlp = importlib.import_module("bench.peers.sklearn_mlp")
    base = importlib.import_module("sklearn.neural_network._stochastic_optimizers").BaseOptimizer
    work, own = Fit(hidden=(4,), rows=200, epochs=1), base.update_params
    ready = sklearn_mlp.without_steps(work, work.inputs(0))
    ready.run()
    trained = sklearn_mlp.stock(work, work.inputs(0))
    trained.run()
    still = replace(work, epochs=2)
    further = sklearn_mlp.without_steps(still, still.inputs(0))
    further.run()
    for before, after, moved in zip(
        ready.outputs(), further.outputs(), trained.outputs(), strict=True
    ):
        assert np.array_equal(before, after) and not np.array_equal(before, moved)
    assert base.update_params is own


def doubled(work: Step, inputs: Inputs) -> Ready:
    """Wrong: two steps for one."""
    ready = work.reference(inputs)

    def run() -> None:
        ready.run()
        ready.run()

    return Ready(run, ready.feed, ready.outputs)


def failing(work: Step, inputs: Inputs) -> Ready:
    raise LookupError("no such thing")


def ending(work: Step, inputs: Inputs) -> Ready:
    os._exit(3)


def away(make: Any, **environment: str) -> Contender:
    return Contender("away", partial(remote.there, "test", environment, make))


def environment_of(work: Step, inputs: Inputs) -> Ready:
    """Gives back what the process found at its start."""
    values = [os.environ["GRADSTEP_TEST"], os.environ["OMP_NUM_THREADS"], gs.get_num_threads()]
    cpus = len(os.sched_getaffinity(0))
    found = np.array([*map(float, values), cpus], np.float32)
    return Ready(lambda: None, lambda arrays: None, lambda: [found])


@pytest.mark.parametrize("clip_norm", [pytest.param(None, marks=pytest.mark.slow), 1.0])
def test_a_work_in_another_process_gives_the_same_values(clip_norm: float | None) -> None:
    work = Step("AdamW", "64", ((64,), (3, 2)), clip_norm=clip_norm)
    assert largest_error(away(Step.reference), work) == 0.0
    (row,) = run("small", work, [alone(away(Step.reference))], Rules(2, 0.0, 0.0)).rows
    assert row.timing is not None and not row.broken


@pytest.mark.slow
def test_a_wrong_peer_in_another_process_is_reported_with_its_error() -> None:
    (row,) = run("small", single("SGD", 64), [alone(away(doubled))], Rules(1, 0.0, 0.0)).rows
    assert row.broken and row.timing is None
    assert row.error is not None and row.error > 1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (failing, "failed: RuntimeError: LookupError: no such thing"),
        pytest.param(
            *(ending, "failed: RuntimeError: its process ended with status 3"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_goes_wrong_in_another_process_is_reported_and_the_next_work_is_done(
    make: Any, message: str
) -> None:
    chosen = [alone(away(make)), alone(Contender("here", Step.reference))]
    rows = {r.name: r for r in run("small", single("SGD", 64), chosen, Rules(1, 0.0, 0.0)).rows}
    assert rows["away"].remark == message
    assert rows["here"].timing is not None
    assert largest_error(away(Step.reference), single("SGD", 64)) == 0.0


@pytest.mark.slow
def test_another_process_starts_with_its_environment_and_as_many_cpus_as_threads() -> None:
    work = single("SGD", 4)
    with gs.threads(1):
        contender = away(environment_of, GRADSTEP_TEST="7")
        (found,) = contender.make(work, work.inputs(0)).outputs()
    assert found.tolist() == [7, 1, 1, 1]


@pytest.mark.slow
def test_inputs_that_a_call_uses_up_are_fed_before_each_of_them() -> None:
    work = Step("SGD", "1", ((1,),), {"lr": 1.0}, clip_norm=100.0)
    contender = away(Step.reference)
    ready = contender.make(work, work.inputs(0))
    before = ready.outputs()[0]
    ready.feed([np.full(1, 2, np.float32)])
    assert ready.timed is not None
    assert ready.timed(3) > 0
    np.testing.assert_allclose(ready.outputs()[0], before - 6, rtol=1e-6)


@pytest.mark.slow
def test_another_process_forgets_works_and_ends() -> None:
    work = single("SGD", 4)
    first = remote.there("test", {}, Step.reference, work, work.inputs(0))
    (process,) = remote._processes.values()
    assert first.outputs()
    del first
    gc.collect()
    assert process.dropped == [0]
    second = remote.there("test", {}, Step.reference, work, work.inputs(0))
    assert process.dropped == []
    with pytest.raises(RuntimeError, match="KeyError: 0"):
        process.ask("outputs", 0)
    program = process.process
    del second, process
    remote._processes.clear()
    gc.collect()
    assert program.returncode == 0


def alone(contender: Contender) -> Peer:
    class Module:
        @staticmethod
        def contenders(work: Work) -> list[Contender]:
            return [contender]

    return Peer(contender.name, Module, {}, ())
