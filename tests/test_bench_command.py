"""`gradstep bench`: comparison of runs, counts, threads, and one clear line for what goes wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep.train import cli

sys.path.insert(0, str(Path(__file__).parents[1]))  # python -m bench runs in place

from bench import compare, counted_calls, instructions, peers, report
from bench.__main__ import main
from bench.instructions import Counts, committed, count_instructions, risen, where
from bench.layers import Layer
from bench.measure import Rules, Task, Timing, interleave
from bench.options import parser, reproducing
from bench.progress import Progress
from bench.runner import BASE, LAYER, LIMIT, Result, Row, run
from bench.scaling import ONE, Threaded, by_threads
from bench.steps import Step, single
from bench.suites import SUITES, Choice
from bench.targets import verdicts
from bench.work import Contender, Inputs, Ready, Work, largest_error

ROOT = Path(__file__).parents[1]
ONCE = Rules(rounds=1, seconds=0.0, pause=0.0)
WORK = single("AdamW", 4096)


def measured(**seconds: Sequence[float]) -> Result:
    """`WORK` with these rounds of gradstep (`own`), the limit and other peers."""
    names = {"own": BASE, "bound": "gradstep bound step()"}
    rows = [Row(names.get(k, k), Timing(tuple(v), 1)) for k, v in seconds.items()]
    return Result("small", WORK, rows)


def as_run(*results: Result, counts: Counts | None = None) -> dict[str, Any]:
    """As if `--json` had written it and somebody had read it."""
    found = report.as_json(report.Report({}, results, [], counts=counts))
    return json.loads(json.dumps(found))


def drifted(factor: float) -> list[float]:
    return [factor * seconds for seconds in (1.0, 1.02, 0.98, 1.01, 0.99, 1.0, 1.5)]


# Comparison


def test_a_drift_of_the_machine_moves_times_and_no_ratio() -> None:
    old, new = (
        as_run(measured(own=drifted(f), limit=drifted(0.8 * f), torch=drifted(2 * f)))
        for f in (1.0, 1.4)
    )
    found = compare.moves(old, new)
    assert {move.column for move in found} == {compare.TIME}
    assert len(found) == 3


@pytest.mark.parametrize(("factor", "word"), [(1.3, "worse"), (0.7, "better")])
def test_a_change_of_gradstep_shows_in_its_share_of_the_limit_and_against_peers(
    factor: float, word: str
) -> None:
    others = {"limit": drifted(0.8), "torch": drifted(2.0)}
    old = as_run(measured(own=drifted(1.0), **others))
    new = as_run(measured(own=drifted(factor), **others))
    steady = [move for move in compare.moves(old, new) if move.column != compare.TIME]
    assert {(m.peer, m.column) for m in steady} == {
        (BASE, compare.SHARE),
        ("torch", compare.RATIO),
    }
    assert all((move.gain < 0) == (word == "worse") for move in steady)
    text = report.comparison(*compare.changes(old, new), "old.json")
    lines = [line for line in text.splitlines() if "small: AdamW, 4 096" in line]
    assert [line.split("|")[-2].strip() for line in lines] == [word, word, word]
    assert lines[0].count("|") == 8


def test_what_is_within_its_spread_has_not_moved() -> None:
    noisy = [1.0, 1.3, 0.8, 1.2, 0.9, 1.1, 1.4]
    old = as_run(measured(own=noisy))
    new = as_run(measured(own=[1.15 * seconds for seconds in noisy]))
    assert compare.moves(old, new) == []
    assert len(compare.changes(old, new)[0]) == 1


def test_changes_below_three_per_cent_are_not_shown() -> None:
    old, new = as_run(measured(own=[1.0] * 7)), as_run(measured(own=[1.02] * 7))
    assert compare.moves(old, new) == []


def test_the_worst_change_comes_first() -> None:
    others = {f"peer {i}": drifted(1.0) for i in range(3)}
    old = as_run(measured(own=drifted(1.0), **others))
    others = {f"peer {i}": drifted(f) for i, f in enumerate((1.2, 0.5, 0.8))}
    found = compare.moves(old, as_run(measured(own=drifted(1.0), **others)))
    assert [m.peer for m in found if m.column == compare.RATIO] == ["peer 1", "peer 2", "peer 0"]


def test_works_of_one_run_only_are_named() -> None:
    old = as_run(
        measured(own=[1.0]), Result("small", single("Lion", 1), [Row(BASE, Timing((1.0,), 1))])
    )
    found, alone = compare.changes(old, as_run(measured(own=[1.0])))
    assert alone == ["small, Lion, 1"]
    assert "small, Lion, 1" in report.comparison(found, alone, "old")


def test_instruction_counts_are_compared() -> None:
    runs = [as_run(counts=Counts({"relu": n, "add": 50.0}, "how")) for n in (100.0, 120.0)]
    (move,) = compare.moves(*runs)
    assert (move.work, move.column, move.gain < 0) == ("relu", compare.COUNT, True)


def command(*arguments: str) -> int:
    return main([*arguments, "--peers", "limit", "--sizes", "17"], ONCE, short=True)


def test_two_files_are_compared_without_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.__main__.run", lambda *arguments: pytest.fail("measured"))
    for name, factor in (("old", 1.0), ("new", 2.0)):
        runs = as_run(measured(own=drifted(factor), limit=drifted(1.0)))
        (tmp_path / name).write_text(json.dumps(runs), encoding="utf-8")
    assert main(["--compare", str(tmp_path / "old"), str(tmp_path / "new")]) == 0
    out = capsys.readouterr().out
    assert f"## Since {tmp_path / 'old'}" in out and "worse" in out and "-50%" in out


def test_a_run_is_compared_with_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "old.json"
    arguments = ("--suite", "small", "--only", "AdamW, 17")
    assert command(*arguments, "--json", str(file)) == 0
    capsys.readouterr()
    assert command(*arguments, "--compare", str(file)) == 0
    assert f"## Since {file}" in capsys.readouterr().out


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "fast"], "argument --suite: 'fast', expected some of optimizers,models,"),
        (["--sizes", "0"], "argument --sizes: '0', expected an integer >= 1"),
        (["--compare", "a", "b", "c"], "argument --compare: expected one file or two"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_arguments_end_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments, short=True, program="gradstep bench")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gradstep bench: error: {message}")


@pytest.mark.parametrize("text", ["{", "[]", '{"header": {}}', None])
def test_a_file_that_is_no_run_ends_in_one_line(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "old.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert main(["--compare", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m bench: error: ") and "old.json" in line


def test_a_name_that_no_work_has_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--suite", "small", "--only", "SGD?"], ONCE, short=True) == 2
    assert "--only: 'SGD?' is in no name" in capsys.readouterr().err


# The command of the package


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """gradstep.bench, also where gradstep is not installed: the folder bench beside it."""
    monkeypatch.setattr(gs, "__path__", [*gs.__path__, str(ROOT)])


def test_the_package_has_a_short_form_that_ends_in_a_table_and_writes_nothing(
    packaged: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--suite", "small", "--sizes", "17", "--only", ", 17", "--peers", "limit"]
    assert cli.main(["bench", *arguments]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("| small | AdamW, 17 | ")
    assert "- command: `gradstep bench --suite small --only ', 17' --sizes 17" in out
    assert re.search(r"\[1/1, \d:\d\d, about 0:00 left\] AdamW, 17: ", err)
    assert list(tmp_path.iterdir()) == []


def test_an_installation_without_benchmarks_says_where_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    assert cli.main(["bench"]) == 2
    assert "run python -m bench in a checkout" in capsys.readouterr().err


def test_only_a_checkout_has_a_folder_for_results() -> None:
    assert parser("python -m bench", False).parse_args([]).output == ROOT / "bench" / "results"
    assert parser("gradstep bench", True).parse_args([]).output is None


def test_the_short_form_is_quick_unless_told_otherwise() -> None:
    assert parser("gradstep bench", True).parse_args([]).quick
    assert not parser("gradstep bench", True).parse_args(["--no-quick"]).quick
    assert not parser("python -m bench", False).parse_args([]).quick


def test_the_command_beside_a_table_measures_it_again() -> None:
    arguments = ["--optimizers", "SGD,Lion", "--sizes", "1,2", "--quick", "--threads", "1"]
    options = parser("python -m bench", False).parse_args(arguments)
    words = reproducing(options, "small").removeprefix("python -m bench ").split()
    again = parser("python -m bench", False).parse_args(words)
    assert again.suite == ("small",)
    same = ("optimizers", "sizes", "quick", "threads", "peers", "only")
    assert all(getattr(again, name) == getattr(options, name) for name in same)
    assert "--suite" not in reproducing(options)


# Rounds


def test_a_slow_call_is_left_out_after_its_warm_up() -> None:
    now = 0.0

    def takes(*costs: float) -> Callable[[], None]:
        remaining = list(costs)

        def call() -> None:
            nonlocal now
            now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return call

    # The second compiles at its first call.
    tasks = {"slow": Task(takes(2.0)), "once": Task(takes(9.0, 0.1)), "fast": Task(takes(0.1))}
    assert set(interleave({"slow": tasks["slow"]}, Rules(1, 0.02, 0.0, 1.0), lambda: now)) == {
        "slow"
    }
    found = interleave(tasks, Rules(2, 0.02, 0.0, 1.0), lambda: now, lambda seconds: None)
    assert set(found) == {"once", "fast"}
    assert found["once"].median == pytest.approx(0.1)


def test_a_peer_for_which_there_is_no_patience_is_in_the_table() -> None:
    class Module:
        @staticmethod
        def contenders(work: Work) -> list[Contender]:
            return [Contender("slow", slow)]

    def slow(work: Step, inputs: Inputs) -> Ready:
        return replace(work.reference(inputs), timed=lambda calls: 1.0 * calls)

    chosen = [*peers.load(()), peers.Peer("slow", Module, {}, ())]
    rows = {row.name: row for row in run("small", WORK, chosen, replace(ONCE, patience=0.5)).rows}
    assert rows["slow"] == Row("slow", None, "not timed: a call takes more than 0.5 s", error=0.0)
    assert rows[BASE].timing is not None


def test_progress_tells_the_time_gone_and_to_go(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 10.0, 90.0])
    progress = Progress([single("SGD", 1), single("SGD", 9_000_000)], lambda: next(times))
    progress.done("first")
    progress.done("second")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "[1/2, 0:10, about 0:39 left] first"
    assert second == "[2/2, 1:30, about 0:00 left] second"


# Work


def test_a_contender_may_say_why_it_is_not_timed() -> None:
    class Module:
        @staticmethod
        def contenders(work: Work) -> list[Contender]:
            return [Contender("late", Step.reference, untimed="no time")]

    (row,) = run("small", WORK, [peers.Peer("late", Module, {}, ())], ONCE).rows
    assert row == Row("late", remark="not timed: no time")


def test_the_pipeline_unscales_checks_clips_steps_and_zeroes() -> None:
    for work in SUITES["pipeline"](Choice()):
        assert isinstance(work, Step) and work.skips_nonfinite and work.consumes_inputs
        assert work.title == "unscale + check + clip + AdamW + zero gradients"
    work = replace(WORK, clip_norm=1.0, loss_scale=64.0)
    plain = replace(work, loss_scale=None)
    (scaled,), (grads,) = work.inputs(3).arrays, plain.inputs(3).arrays
    np.testing.assert_array_equal(scaled, 64 * grads)
    np.testing.assert_array_equal(work.parameters(work.inputs(3))[0], grads)


def without_check(work: Step, inputs: Inputs) -> Ready:
    optimizer = gs.AdamW(
        params := work.parameters(inputs),
        **work.keywords,
        clip_norm=work.clip_norm,
        grad_scale=1 / (work.loss_scale or 1),
    )
    run = lambda: optimizer.step(inputs.arrays, zero_grads=True)  # noqa: E731
    return work.ready(run, params, inputs.arrays)


def without_unscaling(work: Step, inputs: Inputs) -> Ready:
    optimizer = gs.AdamW(
        params := work.parameters(inputs),
        **work.keywords,
        clip_norm=work.clip_norm,
        on_nonfinite="skip",
    )

    def run() -> None:
        optimizer.step(inputs.arrays)
        for grad in inputs.arrays:
            grad.fill(0)

    return work.ready(run, params, inputs.arrays)


@pytest.mark.parametrize("make", [without_check, without_unscaling])
def test_a_pipeline_that_leaves_something_out_is_found(make: Any) -> None:
    # Clipping hides a factor of all gradients unless they are small.
    work = replace(WORK, clip_norm=1e4, loss_scale=1024.0)
    assert not largest_error(Contender("wrong", make), work) <= 1e-4


def test_both_calls_of_gradstep_use_the_same_memory() -> None:
    inputs = WORK.inputs(0)
    own = [c for peer in peers.load(()) for c in peer.contenders(WORK) if c.name != LIMIT]
    first, second = (contender.make(WORK, inputs).outputs()[0] for contender in own)
    assert first is second


@pytest.mark.parametrize("inner", [WORK, Layer("dropout", (1000,))], ids=lambda work: work.name)
def test_the_same_work_is_done_by_one_thread_and_by_all(inner: Any) -> None:
    names = {LAYER: 3, f"{LAYER}, {ONE}": 1, LIMIT: 3, f"{LIMIT}, {ONE}": 1}
    with gs.threads(3):
        work = Threaded(inner)
        found = {c.name: c for peer in peers.load(()) for c in peer.contenders(work)}
        assert found.keys() == names.keys()
        assert largest_error(found[LAYER], work) == 0.0
        counts: list[int] = []
        spy = Ready(lambda: counts.append(gs.get_num_threads()), lambda values: None, list)
        for contender in by_threads("spy", Contender("", lambda work, inputs: spy)):
            timed = contender.make(work, Inputs([])).timed
            assert timed is not None and timed(4) > 0
        assert counts == [3] * 5 + [1] * 5
        assert gs.get_num_threads() == 3


def test_the_scaling_of_a_kernel_is_judged() -> None:
    work = next(w for w in SUITES["threads"](Choice()) if w.name == "AdamW, 262 144, by threads")
    for one, text in ((1.9, "met"), (1.5, "missed by 20.0%")):
        rows = [Row(LAYER, Timing((1.0,), 1)), Row(f"{LAYER}, {ONE}", Timing((one,), 1))]
        result = Result("threads", work, rows)
        line = report.markdown(report.Report({}, [result], verdicts([result])))
        assert f"| {one:.2f}×, {text} " in line
        assert result.fastest_peer() is None


# Instructions


def test_a_machine_without_valgrind_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions.shutil, "which", lambda name: None)
    assert count_instructions() == Counts({}, "not counted: valgrind is not installed")


def test_a_valgrind_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "valgrind"
    fake.write_text("#!/bin/sh\necho first >&2\necho no licence >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(instructions.shutil, "which", lambda name: str(fake))
    assert count_instructions().how == "not counted: valgrind ended with 3: no licence"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
def test_every_call_has_a_count_of_a_plausible_size() -> None:
    found = count_instructions()
    assert list(found.by_call) == list(counted_calls.calls()), found.how
    assert all(100 < count < 1e6 for count in found.by_call.values())
    one, six = (found.by_call[f"AdamW bound step(), {n} of 64"] for n in ("1 tensor", "6 tensors"))
    assert six > one + 5 * 64 // 8  # instructions cannot be fewer than vectors
    before, made = committed()
    if where() == made:
        assert not risen(found.by_call, before), "python -m bench.instructions --write, if meant"


def test_counts_that_rise_are_told() -> None:
    assert risen({"a": 102, "b": 104, "c": 1}, {"a": 100, "b": 100}) == [
        "b: 104 instructions, 100 before"
    ]


# Pictures


def test_a_peer_keeps_its_colour_and_shares_it_with_no_other_library() -> None:
    plots = pytest.importorskip("bench.plots")
    pairs = [("torch", "torch fused"), (BASE, LAYER), ("JAX", "optax donated")]
    assert all(plots.colour(a) == plots.colour(b) for a, b in pairs)
    libraries = (LIMIT, LAYER, "torch", "numba", "JAX", "DeepSpeed", "bitsandbytes", "NumPy")
    assert len({plots.colour(name) for name in (*libraries, "oneDNN", "scikit-learn")}) == 10


def test_every_table_and_picture_has_its_command_and_place() -> None:
    result = measured(own=[1.0], limit=[0.5], torch=[2.0])
    text = report.markdown(
        report.Report(
            {"CPU": "one"},
            [result],
            [],
            {"small": "python -m bench --suite small", "calls": "python -m bench --suite calls"},
            Counts({"relu": 1234.4}, "how"),
            [report.Picture("Bars", "small.png", "small"), report.Picture("All", "o.png", "")],
        )
    )
    lines = [line for line in text.splitlines() if line]
    place = lines.index("## small")
    assert lines[place + 1] == "command: `python -m bench --suite small`"
    assert "![Bars](small.png)" in lines[place + 2 : lines.index("## calls")]
    assert "command: `python -m bench --suite calls`" in lines
    assert "| relu | 1 234        |" in lines
    assert "![All](o.png)" in lines[: lines.index("## small")]
    assert "| small | AdamW, 4 096 | 1 s      | 0%     | torch        | 2 s   | 2.00" in text


def test_a_quick_run_leaves_out_what_its_header_names(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--suite", "small", "--only", ", 17", "--sizes", "17"]
    for quick in ("--quick", "--no-quick"):
        chosen = [*arguments, quick, "--peers", "numpy_reference,numpy_inplace"]
        assert main([*chosen, "--json", os.devnull], ONCE, short=True) == 0
        out, err = capsys.readouterr()
        assert ("- left out in a quick run: NumPy reference," in out) == (quick == "--quick")
        assert ("NumPy reference " in err.splitlines()[-1]) == (quick == "--no-quick")
        assert "NumPy in place " in err.splitlines()[-1]
