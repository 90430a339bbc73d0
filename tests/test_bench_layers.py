"""The benchmarks of layers leave no function out, and let no wrong peer pass."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradstep.ops import activations, losses, norm
from gradstep.ops import dropout as dropouts

sys.path.insert(0, str(Path(__file__).parents[1]))  # bench is run in place, never installed

from bench import layer_suites, peers
from bench.layers import ARGUMENTS, Layer, drawn_by_itself
from bench.measure import Rules, Task, Timing, interleave
from bench.peers import limit, numpy_norms, onednn, torch_layers
from bench.runner import LIMIT, Result, Row, run
from bench.suites import SUITES, Choice
from bench.targets import verdicts
from bench.work import Contender, Inputs, Ready, largest_error

ONCE = Rules(rounds=1, seconds=0.0, pause=0.0)
# Not layers: a few operations of NumPy on numbers of channels, and the generator of random words.
NOT_MEASURED = {"merge_stats", "philox4x32"}
PUBLIC = sorted(
    {*dropouts.__all__, *norm.__all__, *activations.__all__, *losses.__all__} - NOT_MEASURED
)
SUITES_OF_LAYERS = ("dropout", "norms", "activations")
ALL = [work for name in SUITES_OF_LAYERS for work in SUITES[name](Choice())]
DIFFERENT = list({work.small().name: work for work in ALL}.values())


def contenders(work: Layer, *names: str) -> list[Contender]:
    loaded = [peer for peer in peers.load(names) if not peer.missing]
    return [c for peer in loaded for c in peer.contenders(work)]


@pytest.mark.parametrize("function", PUBLIC)
def test_every_layer_function_is_benchmarked_against_numpy(function: str) -> None:
    own = [work for work in ALL if work.function == function]
    assert own, "no suite has it"
    for work in own:
        names = {c.name for c in contenders(work, "numpy_layers", "numpy_norms")}
        exact_gelu = work.forward == "gelu" and not work.keywords  # NumPy has no erf
        assert {"gradstep"} | (set() if exact_gelu else {"NumPy"}) <= names
        assert LIMIT in names or work.streams is None or not work.names


@pytest.mark.parametrize("function", sorted(set(PUBLIC) - {"batch_norm_stats"}))
def test_every_layer_function_is_benchmarked_against_torch(function: str) -> None:
    pytest.importorskip("torch")
    works = [work for work in ALL if work.function == function]
    assert all("torch" in {c.name for c in contenders(w, "torch_layers")} for w in works)


def test_the_benchmarks_know_exactly_the_public_functions() -> None:
    assert sorted(ARGUMENTS) == PUBLIC


@pytest.mark.parametrize("suite", layer_suites.__all__)
def test_a_quick_run_is_part_of_a_full_one_or_of_its_sizes(suite: str) -> None:
    full = {work.name.partition(",")[0] for work in SUITES[suite](Choice())}
    quick = [work.name.partition(",")[0] for work in SUITES[suite](Choice(quick=True))]
    assert quick and set(quick) <= full


@pytest.mark.parametrize("work", DIFFERENT, ids=lambda work: work.small().name)
def test_contenders_give_the_values_of_the_reference(work: Layer) -> None:
    found = contenders(work, "numpy_layers", "numpy_norms", "torch_layers")
    for contender in found:
        if contender.checked:
            assert largest_error(contender, work) <= 1e-5, contender.name


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (Layer("relu", (8,)), 2),
        (Layer("relu", (8,), in_place=True), 2),
        (Layer("relu_backward", (8,)), 3),
        (Layer("dropout_backward", (8,)), 2),
        (Layer("batch_norm", (2, 2, 2, 1)), 2),
        (Layer("batch_norm_backward", (2, 2, 2, 1)), 3),
        (Layer("softmax_backward", (4, 2)), 3),
        (Layer("cross_entropy", (4, 2)), 2),
        (Layer("mse", (8,)), 3),
        (Layer("maxout", (4, 2)), 1.5),
        (Layer("maxout_backward", (4, 2)), 2.5),
        (Layer("dropout_mask", (8,)), 0.25),
        (Layer("batch_norm_stats", (4, 2)), 1),
    ],
    ids=lambda value: value.name if isinstance(value, Layer) else None,
)
def test_ideal_bytes_of_a_layer_count_every_array_once(work: Layer, words: float) -> None:
    assert work.ideal_bytes == 8 * 4 * words


def with_wrong_share(work: Layer, inputs: Inputs) -> Ready:
    return replace(work, p=0.4).reference(inputs)


def without_scale(work: Layer, inputs: Inputs) -> Ready:
    ready = work.reference(inputs)
    return replace(ready, outputs=lambda: [0.5 * y for y in ready.outputs()])


def with_nan(work: Layer, inputs: Inputs) -> Ready:
    ready = work.reference(inputs)
    return replace(ready, outputs=lambda: [np.append(ready.outputs()[0][:-1], np.nan)])


def with_another_mask(work: Layer, inputs: Inputs) -> Ready:
    ready = work.reference(inputs)
    kept = np.random.default_rng(0).random(inputs.arrays[0].shape) < 0.5
    return replace(ready, outputs=lambda: [inputs.arrays[0] * kept * np.float32(2)])


def test_a_dropout_with_its_own_random_numbers_is_checked_for_values_and_share() -> None:
    work = Layer("dropout", (65_536,))

    def error(make: Any, exactly: bool = False) -> float:
        compared = None if exactly else drawn_by_itself(work)
        return largest_error(Contender("peer", make, compared=compared), work)

    assert error(with_another_mask) <= 1e-6
    assert not error(with_another_mask, exactly=True) <= 1e-4
    assert not error(with_wrong_share) <= 1e-4
    assert not error(without_scale) <= 1e-4
    assert not error(with_nan) <= 1e-4


@pytest.mark.parametrize("fault", ["weight", "bias", "running_mean", "running_var"])
def test_a_norm_without_one_of_its_parameters_is_found(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Layer("batch_norm", (4, 4, 4, 4), {"training": False})
    plain = Layer.parameters

    def make(work: Layer, inputs: Inputs) -> Ready:
        with monkeypatch.context() as patch:
            ones = {fault: np.ones(work.channels, np.float32)}
            patch.setattr(Layer, "parameters", lambda self: {**plain(self), **ones})
            return numpy_norms.contenders(work)[0].make(work, inputs)

    assert largest_error(Contender("wrong", make), work) > 1e-2


def test_in_place_works_get_their_input_back_before_every_call() -> None:
    work = Layer("dropout", (4099,), in_place=True)
    rows = run("dropout", work, peers.load(("numpy_layers",)), Rules(3, 0.0, 0.0)).rows
    assert {row.name for row in rows if row.timing} == {"gradstep", "NumPy", LIMIT}
    inputs = work.inputs(0)
    (ready,) = [c.make(work, inputs) for c in contenders(work) if c.name == "gradstep"]
    ready.run()
    assert ready.outputs()[0].base is None
    assert (inputs.arrays[0] == 0).any()


@pytest.mark.parametrize("streams", [2, 3])
@pytest.mark.parametrize("in_place", [False, True])
def test_the_limit_of_a_layer_moves_its_arrays(streams: int, in_place: bool) -> None:
    function = "relu" if streams == 2 else "relu_backward"
    work = Layer(function, (1000,), in_place=in_place)
    assert work.streams == streams
    ready = limit.contenders(work)[0].make(work, work.inputs(0))
    values = [np.full(1000, 7, np.float32)] * len(work.names)
    ready.feed(values)
    for _ in range(60):
        ready.run()
    np.testing.assert_allclose(ready.outputs()[0], 7, rtol=1e-6)


def test_a_task_that_times_itself_is_believed() -> None:
    calls: list[int] = []

    def timed(count: int) -> float:
        calls.append(count)
        return 0.001 * count

    task = Task(lambda: pytest.fail("run"), timed=timed)
    timing = interleave({"A": task}, Rules(2, 0.02, 0.0))["A"]
    assert timing.median == pytest.approx(0.001)
    assert max(calls) >= 20


def test_onednn_is_named_when_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    onednn.found.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    try:
        (peer,) = [p for p in peers.load(("onednn",)) if p.name == "onednn"]
    finally:
        onednn.found.cache_clear()
    assert peer.missing == ("C++ compiler",)


@pytest.mark.skipif(onednn.found().get("oneDNN") is None, reason="needs oneDNN")
class TestOneDnn:
    @pytest.mark.parametrize(
        "work",
        [w for w in ALL if onednn.contenders(w)],
        ids=lambda work: work.name,
    )
    def test_both_layouts_give_the_values_of_the_reference(self, work: Layer) -> None:
        found = onednn.contenders(work)
        assert len(found) == (1 if work.keywords.get("axis") == -1 else 2)
        for contender in found:
            assert largest_error(contender, work) <= 1e-5, contender.name

    def test_the_program_ends_with_the_work(self) -> None:
        work = Layer("batch_norm", (6, 8, 5, 7))
        child = onednn.Program(work, "nchw")
        process: subprocess.Popen[bytes] = child.process
        assert process.poll() is None
        del child
        gc.collect()
        assert process.returncode == 0


def test_torch_keeps_channels_last_in_that_order() -> None:
    pytest.importorskip("torch")
    work = Layer("batch_norm", (2, 3, 4, 5), {"axis": -1})
    (x,) = torch_layers.Tensors(work, work.inputs(0)).inputs.values()
    assert tuple(x.shape) == (2, 5, 3, 4)
    assert x.stride()[1] == 1


def judged(**milliseconds: float) -> list[tuple[str, str | None]]:
    work = next(w for w in ALL if w.name == "batch_norm, 64×64×56×56")
    rows = [Row(k.replace("_", " "), Timing((v * 1e-3,), 1)) for k, v in milliseconds.items()]
    found = [v for v in verdicts([Result("norms", work, rows)]) if v.work == work.name]
    return [(v.basis, v.reached[2].value if v.reached[2] else None) for v in found]


def test_a_target_against_onednn_takes_its_time_if_measured_and_else_scales_torch() -> None:
    assert judged(gradstep=2.0, torch=28.8, oneDNN_blocked=8.0) == [
        ("the time itself", "2000 µs"),
        ("oneDNN blocked", "4.00×"),
    ]
    assert judged(gradstep=2.0, torch=28.8)[1] == (
        "torch × 4.1/28.8, in place of oneDNN blocked",
        "2.05×",
    )
