"""The benchmarks measure what they say, check before they time, and leave no optimizer out."""

from __future__ import annotations

import gc
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import gradstep as gs
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # bench is run in place, never installed

from bench import layer_suites, peers, report, shapes
from bench.__main__ import main
from bench.measure import Rules, Task, Timing, interleave, ratio
from bench.peers import Peer, limit, torch_optim
from bench.runner import BASE, LAYER, LIMIT, Result, Row, run
from bench.steps import Step, copied, single
from bench.suites import SUITES, Choice
from bench.targets import TARGETS, verdicts
from bench.work import Contender, Inputs, Ready, Work, largest_error

ONCE = Rules(rounds=1, seconds=0.0, pause=0.0)
TENSORS = ((3, 2), (5,))


class Clock:
    """A clock that only tasks and pauses move forward."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def task(self, name: str, *costs: float) -> Callable[[], None]:
        """A call that takes these seconds in turn, and then the last for ever."""
        remaining = list(costs)

        def run() -> None:
            self.log.append(name)
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return run

    def sleep(self, seconds: float) -> None:
        self.log.append("pause")
        self.now += seconds


def collapsed(log: list[str]) -> list[str]:
    """Without the repetitions of a name that directly follow it."""
    return [name for i, name in enumerate(log) if i == 0 or log[i - 1] != name]


def test_tasks_are_timed_in_turn_after_a_warm_up_of_each() -> None:
    clock = Clock()
    tasks = {name: Task(clock.task(name, 1.0)) for name in "ABC"}
    interleave(tasks, Rules(rounds=2, seconds=0.5), clock, clock.sleep)
    order = collapsed(clock.log)
    assert order[:3] == ["A", "B", "C"]
    assert order[3:] == ["pause", "A", "pause", "B", "pause", "C"] * 2


def test_a_short_call_is_repeated_until_the_timing_is_long_enough() -> None:
    clock = Clock()
    timing = interleave({"A": Task(clock.task("A", 0.001))}, Rules(7, 0.02), clock, clock.sleep)[
        "A"
    ]
    assert len(timing.seconds) == 7
    assert timing.calls * 0.001 >= 0.02
    assert timing.median == pytest.approx(0.001)


def test_a_call_that_gets_faster_is_repeated_more_often() -> None:
    clock = Clock()
    task = Task(clock.task("A", *[0.02] * 4, 0.001))
    timing = interleave({"A": task}, Rules(3, 0.02), clock, clock.sleep)["A"]
    assert timing.calls >= 20
    assert timing.best == pytest.approx(0.001)


def test_a_clock_that_stands_still_at_first_does_not_stop_the_measurement() -> None:
    clock = Clock()
    task = Task(clock.task("A", *[0.0] * 5, 0.01))
    assert interleave({"A": task}, Rules(1, 0.02), clock, clock.sleep)["A"].calls >= 2


def test_the_time_of_preparation_and_of_pauses_does_not_count() -> None:
    clock = Clock()
    task = Task(clock.task("A", 0.5), before=clock.task("before", 100.0))
    timing = interleave({"A": task}, Rules(2, 2.0, 50.0), clock, clock.sleep)["A"]
    assert timing.seconds == pytest.approx((0.5, 0.5))
    assert clock.log.count("before") == clock.log.count("A")


def test_garbage_is_not_collected_while_timing() -> None:
    seen: list[bool] = []
    interleave({"A": Task(lambda: seen.append(gc.isenabled()))}, ONCE)
    assert seen and not any(seen)
    assert gc.isenabled()


def test_a_ratio_compares_within_rounds() -> None:
    drifting = Timing((1.0, 4.0, 2.0), 1)
    other = Timing((2.0, 8.0, 6.0), 1)
    assert ratio(other, drifting) == 2.0
    assert other.median / drifting.median == 3.0


def test_a_timing_is_summed_up_by_median_minimum_and_spread() -> None:
    timing = Timing((2.0, 10.0, 1.0), 1)
    assert (timing.median, timing.best, timing.spread) == (2.0, 1.0, 4.5)


@pytest.mark.parametrize(
    ("model", "tensors", "parameters"),
    [
        ("MLP 784-256-128-10", 6, 235_146),
        ("ResNet-50", 161, 25_557_032),
        ("GPT-2 small", 148, 124_439_808),
    ],
)
def test_models_have_the_shapes_of_their_architecture(
    model: str, tensors: int, parameters: int
) -> None:
    assert len(shapes.MODELS[model]) == tensors
    assert shapes.count(shapes.MODELS[model]) == parameters


@pytest.mark.parametrize(
    ("optimizer", "keywords", "size"),
    [
        ("SGD", {}, 12),
        ("SGD", {"momentum": 0.9}, 20),
        ("Adagrad", {}, 20),
        ("RMSprop", {}, 20),
        ("Lion", {}, 20),
        ("AdamW", {}, 28),
        ("Adadelta", {}, 28),
        ("Adam", {"amsgrad": True}, 36),
    ],
)
def test_ideal_bytes_count_every_array_once_each_way(
    optimizer: str, keywords: dict[str, object], size: int
) -> None:
    work = single(optimizer, 10, keywords)
    assert work.ideal_bytes == 10 * size
    assert replace(work, clip_norm=1.0).ideal_bytes == 10 * (size + 8)


@pytest.mark.parametrize("optimizer", gs.OPTIMIZERS)
def test_every_optimizer_is_benchmarked_against_numpy_and_the_limit(optimizer: str) -> None:
    works = [work for work in SUITES["optimizers"](Choice()) if isinstance(work, Step)]
    own = [work for work in works if work.optimizer == optimizer]
    assert own, "no suite has it"
    for work in own:
        names = [c.name for peer in peers.load(()) for c in peer.contenders(work)]
        names += [c.name for p in peers.load(("numpy_inplace",)) for c in p.contenders(work)]
        assert {BASE, LIMIT, "NumPy in place"} <= set(names)


def test_every_target_is_measured_by_a_full_run() -> None:
    names = {work.name for suite in SUITES.values() for work in suite(Choice())}
    assert set(TARGETS) <= names


def test_names_of_works_are_unique_within_a_suite() -> None:
    for suite in SUITES.values():
        names = [work.name for work in suite(Choice())]
        assert len(names) == len(set(names))


def without_weight_decay(work: Step, inputs: Inputs) -> Ready:
    return replace(work, keywords={**work.keywords, "weight_decay": 0.0}).reference(inputs)


def without_clipping(work: Step, inputs: Inputs) -> Ready:
    return replace(work, clip_norm=1e9).reference(inputs)


def without_zeroing(work: Step, inputs: Inputs) -> Ready:
    ready = work.reference(inputs)
    kept = copied(inputs.arrays)
    return replace(ready, outputs=lambda: [*ready.outputs()[: len(kept)], *kept])


def with_one_nan(work: Step, inputs: Inputs) -> Ready:
    ready = work.reference(inputs)

    def outputs() -> list[np.ndarray]:
        arrays = copied(ready.outputs())
        arrays[-1].flat[-1] = np.nan
        return arrays

    return replace(ready, outputs=outputs)


def with_a_tail_left_out(work: Step, inputs: Inputs) -> Ready:
    params = work.parameters(inputs)
    whole = [p.size // 16 * 16 for p in params]
    body = [p.reshape(-1)[:n] for p, n in zip(params, whole, strict=True)]
    grads = [g.reshape(-1)[:n] for g, n in zip(inputs.arrays, whole, strict=True)]
    optimizer = work.build(body)
    return work.ready(lambda: optimizer.step(grads), params, inputs.arrays)


WRONG = {
    "weight decay": (without_weight_decay, None),
    "clipping": (without_clipping, 1.0),
    "zeroing": (without_zeroing, 1.0),
    "NaN": (with_one_nan, None),
    "tail": (with_a_tail_left_out, None),
}


def alone(contender: Contender) -> Peer:
    class Module:
        @staticmethod
        def contenders(work: Work) -> list[Contender]:
            return [contender]

    return Peer(contender.name, Module, {}, ())


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_peer_is_reported_with_its_error_and_not_timed(fault: str) -> None:
    make, clip_norm = WRONG[fault]
    work = replace(single("AdamW", 64), clip_norm=clip_norm)
    (row,) = run("optimizers", work, [alone(Contender("wrong", make))], ONCE).rows
    assert row.broken
    assert row.timing is None
    assert row.error is not None and not row.error <= 1e-4
    assert row.remark.startswith("wrong: relative error ")
    assert math.isnan(row.error) == (fault == "NaN")


def test_a_right_peer_passes_the_check() -> None:
    work = replace(single("AdamW", 64), clip_norm=1.0)
    assert largest_error(Contender("right", Step.reference), work) == 0.0


def test_a_peer_that_raises_is_reported_and_the_others_are_timed() -> None:
    def broken(work: Step, inputs: Inputs) -> Ready:
        raise MemoryError("too\nlarge")

    chosen = [alone(Contender("broken", broken)), alone(Contender("right", Step.reference))]
    rows = {row.name: row for row in run("small", single("SGD", 64), chosen, ONCE).rows}
    assert rows["broken"].remark == "failed: MemoryError: too large"
    assert rows["broken"].broken
    assert rows["right"].timing is not None


def test_a_slow_peer_is_left_out_of_large_works_and_the_table_says_so() -> None:
    slow = Contender("slow", Step.reference, most=10)
    (row,) = run("small", single("SGD", 11), [alone(slow)], ONCE).rows
    assert row == Row("slow", remark="not timed above 10 elements")


@pytest.mark.parametrize("keywords", [{}, {"amsgrad": True}])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_the_limit_moves_every_byte_of_the_work(
    keywords: dict[str, object], clip_norm: float | None
) -> None:
    work = replace(single("Adam", 100, keywords), clip_norm=clip_norm)
    contenders = limit.contenders(work)
    if work.states + (clip_norm is not None) > 3:
        assert contenders == []
        return
    inputs = work.inputs(0)
    ready = contenders[0].make(work, inputs)
    ready.feed([np.full(100, 7, np.float32)])
    before = ready.outputs()[0].copy()
    moves = work.states + (clip_norm is not None) + 1
    for _ in range(moves - 1):
        ready.run()
        np.testing.assert_array_equal(ready.outputs()[0], before)
    ready.run()
    assert (ready.outputs()[0] == 7).all()


def test_inputs_of_a_library_are_copied_once() -> None:
    inputs = Inputs([np.ones(2)])
    assert inputs.once("torch", copied) is inputs.once("torch", copied)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`main` with models of a few parameters, layers of a few elements and single calls."""
    monkeypatch.setattr(shapes, "MODELS", {name: TENSORS for name in shapes.MODELS})
    monkeypatch.setattr(shapes, "MANY_SMALL", {name: TENSORS for name in shapes.MANY_SMALL})
    for suite in (*layer_suites.__all__, "training", "sklearn", "distributed"):
        monkeypatch.setitem(SUITES, suite, partial(smaller, SUITES[suite]))
    return partial(tiny_main, tmp_path)


def smaller(suite: Callable[[Choice], list[Work]], choice: Choice) -> list[Work]:
    """Those works of a suite that stay different when they are small."""
    return list({work.small().name: work.small() for work in suite(choice)}.values())


@pytest.fixture
def tables_only(tiny: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The same where matplotlib is not installed."""
    monkeypatch.setattr("bench.__main__.find_spec", lambda name: None)
    return tiny


def tiny_main(folder: Path, *arguments: str) -> int:
    return main([*arguments, "--sizes", "17", "--output", str(folder)], ONCE)


def assert_it_ends_with_its_tables(
    suite: str, command: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--suite", suite, "--json", str(folder / "rounds.json")) == 0
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    assert f"## {suite}" in text and "## Targets" in text
    assert f"command: `python -m bench --suite {suite} --sizes 17 --threads " in text
    for line in ("CPU:", "SIMD", "threads:", "versions: Python", "date: 2"):
        assert line in text
    works = SUITES[suite](Choice(sizes=(17,)))
    results = json.loads((folder / "rounds.json").read_text(encoding="utf-8"))["results"]
    assert [result["work"] for result in results] == [work.name for work in works]
    for work, result in zip(works, results, strict=True):
        assert f"| {work.name} " in text
        if not result["peers"]:  # training steps, where torch is not installed
            line = next(line for line in text.splitlines() if line.startswith(f"| {work.name} "))
            assert "not measured: no installed library does this work" in line
            continue
        measured = {row["peer"] for row in result["peers"] if row.get("seconds")}
        optimizer = {BASE, "gradstep bound step()", LIMIT}
        assert (optimizer if isinstance(work, Step) else {LAYER}) <= measured
    for picture in folder.glob("*.png"):
        assert f"({picture.name})" in text
    assert list(folder.glob("*.png")) or not any(result["peers"] for result in results)


def two_rows(choice: Choice) -> list[Work]:
    return [single("AdamW", n) for n in (64, *(choice.sizes or ()))]


def test_a_suite_ends_with_its_tables(
    tiny: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(SUITES, "small", two_rows)
    assert_it_ends_with_its_tables("small", tiny, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_ends_with_its_tables(
    suite: str, tiny: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert_it_ends_with_its_tables(suite, tiny, tmp_path, capsys)


def test_absent_peers_are_named_and_the_rest_is_measured(
    tables_only: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch_optim, "REQUIRES", ("no-such-library",))
    assert tables_only("--suite", "models") == 0
    text, progress = capsys.readouterr()
    assert "no plots: matplotlib is not installed" in progress
    assert "torch_optim (no no-such-library)" in text.split("- peers not measured: ")[1]
    assert "torch fused" not in text.split("## Targets")[0]
    assert BASE in text


def test_only_the_chosen_peers_are_measured(
    tables_only: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    tables_only("--suite", "models", "--peers", "numpy_reference", "--optimizers", "Lion,SGD")
    text = capsys.readouterr().out
    measured, targets = text.split("## Targets")
    assert "NumPy reference" in measured and LIMIT in measured
    assert "NumPy in place" not in measured and "torch fused" not in measured
    assert "| Lion, ResNet-50 " in text and "| SGD, ResNet-50 " in text
    assert "| AdamW, ResNet-50 " in targets and "| AdamW, ResNet-50 " not in measured


def test_a_wrong_peer_makes_the_command_fail(
    tables_only: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = Contender("thoughtless", without_weight_decay)
    monkeypatch.setattr(peers, "load", lambda wanted: [alone(wrong)])
    assert tables_only("--suite", "models") == 1
    assert "| thoughtless | wrong: relative error " in capsys.readouterr().out


def test_the_thread_setting_holds_for_the_run_only(
    tables_only: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = gs.get_num_threads()
    tables_only("--suite", "models", "--peers", "numpy_reference", "--threads", "1")
    assert "- threads: 1 for gradstep" in capsys.readouterr().out
    assert gs.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "fast"], "--suite: 'fast', expected some of optimizers,models"),
        (["--optimizers", "Adam,adamw"], "--optimizers: 'adamw', expected some of SGD,"),
        (["--peers", "jax"], "--peers: 'jax', expected some of gradstep,limit,"),
        (["--sizes", "10,-1"], "--sizes: '-1', expected an integer >= 1"),
        (["--threads", "0"], "--threads: '0', expected an integer >= 1"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def result_of(name: str, **milliseconds: float) -> Result:
    work = next(w for suite in SUITES.values() for w in suite(Choice()) if w.name == name)
    rows = [
        Row(key.replace("_", " "), Timing((value * 1e-3,) * 3, 1))
        for key, value in milliseconds.items()
    ]
    return Result("models", work, rows)


def own(given: float, bound: float) -> dict[str, float]:
    return {"gradstep step(grads)": given, "gradstep bound step()": bound}


def judged(result: Result) -> list[list[str]]:
    """The rows of the table of targets for this work."""
    text = report.markdown(report.Report({}, [], verdicts([result])))
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines()]
    names = [line.split("|")[1].strip() if "|" in line else "" for line in text.splitlines()]
    return [row for name, row in zip(names, rows, strict=True) if name == result.work.name]


def test_a_target_in_microseconds_is_compared_directly() -> None:
    (row,) = judged(result_of("AdamW, 4 096", **own(0.0036, 0.0029)))
    assert row == ["≤ 3 µs", "the time itself", "3.6 µs, missed by 20.0%", "2.9 µs, met", "–"]


def test_a_target_against_a_peer_that_is_absent_scales_torch_fused() -> None:
    (row,) = judged(
        result_of("AdamW, GPT-2 small", torch_fused=76.0, torch_default=400.0, **own(74.0, 50.0))
    )
    assert row[0] == "≥ 1.1× best peer"
    assert row[1] == "torch fused × 74/76, in place of prime-rl"
    assert row[2:] == ["1.00×, missed by 10.0%", "1.48×, met", "–"]


def test_a_target_is_compared_with_the_best_peer_of_the_run() -> None:
    (row,) = judged(
        result_of("AdamW, GPT-2 small", torch_fused=76.0, NumPy_in_place=60.0, **own(50.0, 40.0))
    )
    assert row[1:] == ["NumPy in place", "1.20×, met", "1.50×, met", "–"]


def test_a_target_of_the_limit_is_a_share_of_it() -> None:
    (row,) = judged(result_of("NAdam, 16 777 216", limit=9.0, **own(10.0, 9.2)))
    assert row[1:] == ["limit", "0.90, missed by 5.6%", "0.98, met", "–"]


def test_targets_without_their_comparison_are_left_open() -> None:
    (row,) = judged(result_of("AdamW, ResNet-50", limit=1.0, **own(2.0, 2.0)))
    assert row[1:] == ["no peer was measured", "–", "–", "–"]
    assert all(v.reached == (None, None, None) for v in verdicts([]))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.5e-7, "250 ns"),
        (1.234e-5, "12.3 µs"),
        (0.0786, "78.6 ms"),
        (0.9996, "1000 ms"),
        (2.0, "2 s"),
    ],
)
def test_durations_have_three_digits_and_a_unit(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text
