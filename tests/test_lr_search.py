"""The search for a first learning rate: what it tries, what it calls diverged, what it suggests."""

import dataclasses
import math
import pickle
import re
import sys
from collections.abc import Callable, Iterable
from itertools import chain, repeat
from pathlib import Path

import gradstep as gs
import numpy as np
import pytest
from gradstep.train.lr_search import LrRow, LrSearch, find_lr

Make = Callable[[float], Callable[[], float]]

SPECTRA = {
    "one curvature": np.array([1.0]),
    "three": np.array([1.0, 0.5, 0.1]),
    "ill-conditioned": np.logspace(0, -3, 20),
    "flat": np.linspace(0.01, 1, 30),
}


def quadratic(curvatures: np.ndarray, noise: float = 0.0) -> Make:
    """Gradient descent on sum(c * w**2) / 2, stable below the rate 2 / max(c)."""

    def make(lr: float) -> Callable[[], float]:
        weights, random = np.ones_like(curvatures), np.random.default_rng(0)

        def step() -> float:
            loss = 0.5 * float(curvatures @ weights**2)
            gradient = curvatures * weights + noise * random.normal(size=weights.size)
            weights[:] -= lr * gradient
            return loss

        return step

    return make


def scripted(losses: dict[float, Iterable[float]]) -> Make:
    """Each rate has its losses written down; the last one repeats."""

    def make(lr: float) -> Callable[[], float]:
        script = list(losses[lr])
        return chain(script, repeat(script[-1])).__next__

    return make


def best_rate(curvatures: np.ndarray, steps: int) -> float:
    """The best stable rate by brute force, judged by the same mean of the last fifth."""
    rates = np.linspace(0.001, 0.999, 1_000) * 2 / curvatures.max()
    powers = 2 * np.arange(steps - steps // 5, steps)
    shrunk = np.abs(1 - rates[:, None] * curvatures)[:, :, None] ** powers
    return float(rates[np.argmin(np.einsum("c,rct->r", curvatures, shrunk))])


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.7, 1.0, 1.5, 17.0, 1e3])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_suggestion_is_stable_and_within_three_times_of_the_best(
    spectrum: str, scale: float
) -> None:
    curvatures = scale * SPECTRA[spectrum]
    suggestion = find_lr(quadratic(curvatures)).suggestion
    assert suggestion < 2 / curvatures.max()
    assert 1 / 3.1 < suggestion / best_rate(curvatures, 50) < 3.1


def test_a_rate_barely_above_the_stability_limit_is_not_suggested() -> None:
    curvatures = np.array([1.0, 0.5, 0.3])
    found = find_lr(quadratic(curvatures), low=2.02 / 3**6, high=6.1)
    barely = found.rows[6]
    assert barely.lr == pytest.approx(2.02)
    assert not barely.diverged
    assert not barely.fell
    assert found.suggestion == found.rows[5].lr


def test_noise_does_not_hide_the_descent() -> None:
    found = find_lr(quadratic(np.logspace(0, -2, 20), noise=0.5))
    assert 0.01 < found.suggestion < 2


def test_noise_at_the_end_is_not_taken_for_a_climb() -> None:
    decay = 0.5 + np.exp(-np.arange(50) / 10)
    scripts = {}
    for seed in range(20):
        noise = np.random.default_rng(seed).uniform(0.5, 1.5, size=50)
        scripts[float(2**seed)] = decay * noise
    found = find_lr(scripted(scripts), low=1, high=2.0**19, factor=2)
    assert sum(row.fell for row in found.rows) >= 18


def test_rates_rise_by_the_factor_up_to_and_including_high() -> None:
    found = find_lr(quadratic(np.array([0.1])), low=0.001, high=1.0, factor=10)
    assert [row.lr for row in found.rows] == [0.001, 0.001 * 10, 0.001 * 100, 0.001 * 1_000]
    found = find_lr(quadratic(np.array([0.1])), low=0.25, high=3.9, factor=2)
    assert [row.lr for row in found.rows] == [0.25, 0.5, 1.0, 2.0]
    defaults = [row.lr for row in find_lr(quadratic(np.array([1.0]))).rows]
    assert defaults == [1e-6 * 3**i for i in range(15)]
    assert len(find_lr(quadratic(np.array([1e-3])), high=1e308, factor=1e200).rows) == 2


def test_every_rate_gets_a_fresh_model_and_the_same_number_of_steps() -> None:
    made: list[float] = []
    taken: list[int] = []

    def make(lr: float) -> Callable[[], float]:
        made.append(lr)
        taken.append(0)

        def step() -> float:
            taken[-1] += 1
            return 1.0 / taken[-1]

        return step

    found = find_lr(make, low=1, high=27, steps=20)
    assert made == [1, 3, 9, 27]
    assert taken == [20] * 4
    assert [row.steps for row in found.rows] == taken
    # The mean over the last fifth, steps 17 to 20.
    assert found.rows[0].last == pytest.approx((1 / 17 + 1 / 18 + 1 / 19 + 1 / 20) / 4, rel=1e-14)


def test_a_diverging_run_ends_at_the_first_loss_above_four_times_the_first() -> None:
    # At rate 2.5 each step multiplies the loss by (1 - 2.5)**2 = 2.25, and 2.25**2 > 4.
    found = find_lr(quadratic(np.array([1.0])), low=0.1, high=2.5, factor=25)
    assert found.rows[1] == LrRow(2.5, 0.5, 0.5 * 2.25**2, steps=3, fell=False, diverged=True)
    at_the_limit = find_lr(scripted({1: [1.0, 0.5], 3: [1.0, 4.0, 0.1]}), low=1, high=3)
    assert not at_the_limit.rows[1].diverged


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_a_loss_that_is_not_finite_is_divergence(loss: float) -> None:
    scripts = {1.0: [1.0, 0.5], 3.0: [1.0, 0.4], 9.0: [1.0, 0.1, 0.1, loss], 27.0: [1.0, 0.01]}
    found = find_lr(scripted(scripts), low=1, high=27)
    assert [row.diverged for row in found.rows] == [False, False, True, False]
    assert found.rows[2].steps == 4
    assert found.suggestion == 3.0


@pytest.mark.parametrize("error", [FloatingPointError("overflow in exp"), OverflowError("exp")])
def test_a_step_that_fails_in_floating_point_is_divergence(error: Exception) -> None:
    def make(lr: float) -> Callable[[], float]:
        losses = iter([1.0, 0.5] if lr > 1 else [1.0] + [0.5] * 99)

        def step() -> float:
            for loss in losses:
                return loss
            raise error

        return step

    found = find_lr(make, low=1, high=3)
    assert (found.rows[1].diverged, found.rows[1].steps) == (True, 3)
    assert math.isnan(found.rows[1].last)
    assert found.suggestion == 1


def test_other_errors_of_a_step_come_through() -> None:
    def make(lr: float) -> Callable[[], float]:
        return {}["no such batch"]  # type: ignore[no-any-return]

    with pytest.raises(KeyError, match="no such batch"):
        find_lr(make)


def test_overflow_in_numpy_warns_only_outside_of_the_search() -> None:
    big = np.full(3, 1e300)

    def make(lr: float) -> Callable[[], float]:
        return lambda: float((big * big)[0]) if lr > 1 else 2.0

    with pytest.raises(ValueError, match="no rate from 1 to 3 lowered the loss"):
        find_lr(make, low=1, high=3)
    with pytest.raises(RuntimeWarning, match="overflow"):
        big * big


def test_rates_above_a_diverged_one_do_not_count() -> None:
    scripts = {1.0: [2.0, 1.5], 3.0: [2.0, 1.2], 9.0: [2.0, 90.0], 27.0: [2.0, 0.1]}
    found = find_lr(scripted(scripts), low=1, high=27)
    assert [row.fell for row in found.rows] == [True, True, False, True]
    assert found.suggestion == 3.0


def test_a_loss_that_climbs_back_does_not_count() -> None:
    scripts = {1.0: [2.0] * 10 + [1.5], 3.0: [2.0] * 10 + [0.1] * 20 + [1.0]}
    found = find_lr(scripted(scripts), low=1, high=3)
    assert [row.fell for row in found.rows] == [True, False]
    assert found.suggestion == 1.0


def test_of_equal_losses_the_lower_rate_is_suggested() -> None:
    scripts = {1.0: [2.0, 1.5], 3.0: [2.0, 0.0], 9.0: [2.0, 0.0], 27.0: [2.0, 0.0]}
    assert find_lr(scripted(scripts), low=1, high=27).suggestion == 3.0


def test_an_accidentally_small_first_loss_is_not_taken_for_the_loss_before_training() -> None:
    scripts = {1.0: [0.01, 2, 2, 2, 1.9], 3.0: [0.01, 2, 2, 1, 1], 9.0: [0.01, 2, 9, 0]}
    found = find_lr(scripted(scripts), low=1, high=9, steps=20)
    assert [row.diverged for row in found.rows] == [False, False, True]
    assert found.suggestion == 3.0


def test_the_lowest_rate_may_diverge_as_well() -> None:
    with pytest.raises(ValueError, match="diverged, expected a lower rate"):
        find_lr(quadratic(np.array([1.0])), low=2.1)


def test_a_negative_loss_may_fall_further() -> None:
    scripts = {1.0: [-1.0, -2.0], 3.0: [-1.0, -9.0], 9.0: [-1.0, 2.0], 27.0: [-1.0, 2.1]}
    found = find_lr(scripted(scripts), low=1, high=27)
    assert [row.diverged for row in found.rows] == [False, False, False, True]
    assert found.suggestion == 3.0


def test_the_same_search_gives_the_same_answer_and_survives_pickling() -> None:
    found = find_lr(quadratic(np.array([1.0, 0.1]), noise=0.1))
    assert find_lr(quadratic(np.array([1.0, 0.1]), noise=0.1)) == found
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.suggestion = 1.0  # type: ignore[misc]


def test_progress_gets_each_row_when_its_run_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[LrRow] = []
    found = find_lr(quadratic(np.array([1.0])), low=0.1, progress=seen.append)
    assert tuple(seen) == found.rows
    find_lr(quadratic(np.array([1.0])), low=0.1, progress=print)
    assert capsys.readouterr().out.splitlines() == [str(row) for row in found.rows]


def test_the_table_is_aligned_and_marks_the_suggestion() -> None:
    rows = (
        LrRow(1e-6, 2.3, 2.25, 50, True, False),
        LrRow(0.001, 2.3, 0.123456, 50, True, False),
        LrRow(10.0, 2.3, math.nan, 7, False, True),
    )
    assert str(LrSearch(rows, 0.001)).splitlines() == [
        "      rate  first loss   last loss",
        "     1e-06         2.3        2.25",
        "     0.001         2.3      0.1235  <- suggested",
        "        10         2.3         nan  diverged at step 7",
    ]
    low = "The lowest rate did best: try a lower `low`."
    assert str(LrSearch(rows, 1e-6)).splitlines()[-1] == low
    high = "The highest rate did best: try a higher `high`."
    assert str(LrSearch(rows[:2], 0.001)).splitlines()[-1] == high


def test_plot_writes_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "rates.png"
    find_lr(quadratic(np.array([1.0]))).plot(path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    find_lr(quadratic(np.array([1e-3]))).plot(str(path))


def test_plot_without_matplotlib_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_lr(quadratic(np.array([1.0])))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="needs matplotlib, which is not installed"):
        found.plot(tmp_path / "rates.png")


def test_an_optimizer_of_the_package_can_be_searched() -> None:
    curvatures = np.array([1.0, 0.25])

    def make(lr: float) -> Callable[[], float]:
        weights = np.ones(2)
        optimizer = gs.SGD(weights, lr=lr)

        def step() -> float:
            loss = 0.5 * float(curvatures @ weights**2)
            optimizer.step(curvatures * weights)
            return loss

        return step

    assert gs.find_lr(make) == find_lr(quadratic(curvatures))


def test_when_every_rate_diverges_the_error_says_so() -> None:
    message = "low: 3, every rate from there to 9 diverged, expected a lower rate"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        find_lr(quadratic(np.array([1.0])), low=3)


def test_a_loss_that_is_not_finite_before_training_is_not_blamed_on_the_rate() -> None:
    with pytest.raises(ValueError, match="make: the first loss is not finite at any rate"):
        find_lr(scripted({1.0: [math.nan], 3.0: [math.inf]}), low=1, high=3)


def test_when_no_rate_lowers_the_loss_the_error_shows_the_table() -> None:
    message = "make: no rate from 1 to 3 lowered the loss without diverging, expected one that does"
    with pytest.raises(
        ValueError, match=f"^{re.escape(message)}\n      rate  first loss"
    ) as caught:
        find_lr(scripted({1.0: [1.0], 3.0: [1.0, 2.0]}), low=1, high=3)
    assert "suggested" not in str(caught.value)


WRONG_KIND = [
    ({"make": 3}, "make: int, expected a function of the rate"),
    ({"make": lambda lr: 1.5}, "make(1e-06): float, expected a function without arguments"),
    ({"make": lambda lr: lambda: None}, "loss: NoneType, expected a number"),
    ({"make": lambda lr: lambda: "low"}, "loss: str, expected a number"),
    ({"make": lambda lr: lambda: np.ones(2)}, "loss: ndarray, expected a number"),
    ({"low": "1"}, "low: str, expected a number > 0"),
    ({"high": None}, "high: NoneType, expected a number >= low = 1e-06"),
    ({"factor": True}, "factor: bool, expected a number > 1"),
    ({"steps": 50.0}, "steps: float, expected an integer"),
    ({"progress": True}, "progress: bool, expected a function of a row, or None"),
]
WRONG_VALUE = [
    ({"low": 0}, "low: 0, expected a number > 0"),
    ({"low": math.nan}, "low: nan, expected a finite number > 0"),
    ({"high": 1e-7}, "high: 1e-07, expected a number >= low = 1e-06"),
    ({"high": math.inf}, "high: inf, expected a finite number >= low = 1e-06"),
    ({"factor": 1.0}, "factor: 1.0, expected a number > 1"),
    ({"steps": 1}, "steps: 1, expected an integer >= 2"),
]
WRONG = [(TypeError, *row) for row in WRONG_KIND] + [(ValueError, *row) for row in WRONG_VALUE]


@pytest.mark.parametrize(("kind", "arguments", "message"), WRONG, ids=[w[2] for w in WRONG])
def test_a_wrong_argument_is_named_with_what_was_expected(
    kind: type[Exception], arguments: dict[str, object], message: str
) -> None:
    arguments = {"make": quadratic(np.array([1.0])), **arguments}
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        find_lr(**arguments)  # type: ignore[arg-type]
