"""The tabular network and its layers: gradients, scales, schedules, initial values, copies."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import nn
from gradstep.optim.optimizers import AdamW
from gradstep.train.tabular import CLASSES, NUMBERS, Best, Columns, Cycles, FlatCosine, Tabular
from test_nn import check_derivative

SMALL = {"hidden": (16, 16), "epochs": 30, "batch_size": 32}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def layers(rng: np.random.Generator) -> dict[str, Any]:
    f64 = np.float64
    return {
        "scale": nn.Scale(4, f64),
        "embedding": nn.PeriodicEmbedding([2, 0], rng, frequencies=5, sigma=0.5, dtype=f64),
        "parametric selu": nn.Parametric(nn.SELU(), 4, f64),
        "parametric mish": nn.Parametric(nn.Mish(), 4, f64),
        "parametric tanh": nn.Parametric(nn.Tanh(), 4, f64),
        "in a row": nn.Sequential(
            nn.PeriodicEmbedding([0, 1, 3], rng, features=2, dtype=f64),
            nn.Scale(10, f64),
            nn.Linear(10, 3, rng, f64),
            nn.Parametric(nn.SiLU(), 3, f64),
        ),
    }


@pytest.mark.parametrize("name", layers(np.random.default_rng(0)))
def test_backward_is_the_derivative_of_forward(name: str, rng: np.random.Generator) -> None:
    check_derivative(layers(rng)[name], rng.standard_normal((5, 4)), True, rng)


def test_an_embedding_keeps_the_columns_and_adds_its_formula(rng: np.random.Generator) -> None:
    layer = nn.PeriodicEmbedding([1], rng, frequencies=4, features=3, dtype=np.float64)
    x = rng.standard_normal((6, 2))
    y = layer.forward(x)
    p = layer.params
    cosines = np.cos(2 * np.pi * x[:, 1:] * p["frequency"][0] + p["phase"][0])
    np.testing.assert_array_equal(y[:, :2], x)
    np.testing.assert_allclose(y[:, 2:], cosines @ p["weight"][0] + p["bias"][0], rtol=1e-12)


@pytest.mark.parametrize("columns", [[], [0, 0], [-1]])
def test_an_embedding_refuses_columns_that_are_none(columns: Any, rng: Any) -> None:
    with pytest.raises(ValueError, match=r"^columns: .*, expected different numbers >= 0"):
        nn.PeriodicEmbedding(columns, rng)
    with pytest.raises(TypeError, match=r"^columns\[0\]: list, expected an integer$"):
        nn.PeriodicEmbedding([[1]], rng)


def test_a_parametric_activation_begins_as_its_function_and_may_become_the_identity(
    rng: np.random.Generator,
) -> None:
    x = rng.standard_normal((7, 3)).astype(np.float32)
    layer = nn.Parametric(nn.SELU(), 3)
    np.testing.assert_allclose(layer.forward(x), gs.selu(x), rtol=1e-6, atol=1e-7)
    layer.params["weight"][...] = 0
    np.testing.assert_array_equal(layer.forward(x), x)


def test_columns_are_centred_scaled_and_clipped() -> None:
    x = np.array([[0, 5, 0, 1.0], [1, 5, 0, 2], [2, 5, 0, 3], [3, 5, 1, 4], [4, 5, 0, 5e300]])
    columns = Columns.of(x)
    np.testing.assert_array_equal(columns.median, [2, 5, 0, 3])
    np.testing.assert_allclose(columns.factor, [0.5, 0, 2, 0.5])
    np.testing.assert_array_equal(columns.several, [True, False, False, True])
    z = np.array([-1.0, 0, 0, -1])
    np.testing.assert_allclose(columns(x)[0], z / np.sqrt(1 + z**2 / 9), rtol=1e-6)
    far = columns(np.array([[1e308, -1e308, 7, -1e308]]))
    np.testing.assert_allclose(far, [[3, 0, 14 / np.sqrt(1 + 196 / 9), -3]], rtol=1e-6)
    assert columns(x).dtype == np.float32 and columns(x, np.float64).dtype == np.float64


def test_columns_of_huge_and_tiny_spreads_stay_finite() -> None:
    x = np.array([[-1.7e308, 0.0], [1.7e308, 5e-324], [0.0, 1e-323], [1e308, 0.0]])
    assert np.isfinite(Columns.of(x)(x)).all()


def test_rates_double_their_cycles_and_end_at_nothing() -> None:
    rate = Cycles(0.3, steps=150)
    zeros = [1 + 10 * (2**k - 1) for k in range(5)]  # after 0, 1, 3, 7, 15 fifteenths
    assert max(rate(t) for t in zeros) < 1e-15
    assert max(rate(t) for t in range(1, 152)) == pytest.approx(0.3, rel=1e-3)
    fall = FlatCosine(0.15, steps=100)
    assert {fall(t) for t in range(1, 52)} == {0.15} and fall(101) == 0
    assert fall(76) == pytest.approx(0.075)


def drawn(rng: np.random.Generator, rows: int = 160) -> Any:
    x = rng.standard_normal((rows, 3))
    x[:, 2] = x[:, 2] > 0  # two values: no curve over it
    return x, np.sin(2 * x[:, :1]) * x[:, 2:]


def squares(raw: Any, target: Any, weight: Any, total: float) -> float:
    difference = raw - target
    factor = 2 / total if weight is None else (2 * weight / total)[:, None]
    np.multiply(difference, factor, out=raw)
    return float(np.square(difference).mean())


def test_units_start_with_deviation_one_and_a_zero_among_the_rows(rng: Any) -> None:
    x, _ = drawn(rng, 4000)
    model = Tabular(replace(NUMBERS, **SMALL), x, 2, seed=3, dtype=np.float64)
    rows = model.columns(x, np.float64)
    for layer in model.network.layers:
        rows = layer.forward(rows, False)
        if isinstance(layer, nn.Linear):
            np.testing.assert_allclose(rows.std(axis=0), 1, rtol=1e-6)
            assert (rows.min(axis=0) < 0).all() and (rows.max(axis=0) > 0).all()
    embedding = model.network.layers[0]
    assert isinstance(embedding, nn.PeriodicEmbedding)
    assert embedding.params["bias"].shape == (2, 3)  # of two columns, not of the third


@pytest.mark.parametrize("recipe", [CLASSES, NUMBERS], ids=["selu", "mish"])
def test_it_learns_and_repeats_itself(recipe: Any, rng: np.random.Generator) -> None:
    x, target = drawn(rng)
    recipe = replace(recipe, **SMALL, lr=0.1)

    def trained(seed: int) -> Any:
        model = Tabular(recipe, x, 1, seed)
        return [e.loss for e in model.epochs(x, target, squares)], model.predict(x)

    losses, found = trained(5)
    assert losses[-1] < 0.3 * losses[0]
    again, same = trained(5)
    assert again == losses and same.tobytes() == found.tobytes()
    assert trained(6)[0] != losses


def test_rates_by_kind_are_the_ntk_parametrisation(rng: np.random.Generator) -> None:
    """Adam on W √I in a product over √I, with rate lr, is Adam on W with lr / √I."""
    inputs, x = 9, rng.standard_normal((20, 9))
    small, target = rng.standard_normal((2, 9)) / 3, rng.standard_normal((20, 2))
    large, root = small * np.sqrt(inputs), np.sqrt(inputs)
    plain = AdamW(small, lr=0.1 / root, weight_decay=0.02 * root, eps=1e-8 * root)
    ntk = AdamW(large, lr=0.1, weight_decay=0.02, eps=1e-8)
    for _ in range(50):
        gradient = (x @ small.T - target).T @ x
        plain.step(gradient)
        ntk.step(((x @ (large / root).T - target).T @ x) / root)
    np.testing.assert_allclose(large / root, small, rtol=1e-9)


def test_groups_hold_every_parameter_once(rng: np.random.Generator) -> None:
    x, _ = drawn(rng)
    model = Tabular(replace(NUMBERS, **SMALL), x, 1, seed=0)
    groups = {name: group for group in model._groups(100) for name in group["params"]}
    assert set(groups) == set(model.network.params)
    peak = {name: group["lr"].lr for name, group in groups.items()}
    decay = {name: group["weight_decay"].value for name, group in groups.items()}
    assert peak["0.weight"] == pytest.approx(0.02) and decay["0.weight"] == pytest.approx(2e-3)
    assert peak["1.weight"] == pytest.approx(1.2) and decay["1.weight"] == pytest.approx(0.12)
    assert peak["2.weight"] == pytest.approx(0.2 / 3) and decay["2.weight"] == pytest.approx(0.06)
    assert peak["2.bias"] == pytest.approx(0.02) and decay["2.bias"] == 0


def test_rows_of_weight_nothing_do_not_matter(rng: np.random.Generator) -> None:
    x, target = drawn(rng)
    weight = (np.arange(len(x)) % 4 > 0).astype(np.float32)
    changed = np.where(weight[:, None] > 0, target, 100.0)
    found = []
    for y in (target, changed):
        model = Tabular(replace(NUMBERS, **SMALL), x, 1, seed=0)
        list(model.epochs(x, y, squares, weight))
        found.append(model.predict(x))
    assert found[0].tobytes() == found[1].tobytes()


def test_a_batch_of_no_weight_is_passed_over(rng: np.random.Generator) -> None:
    x, target = drawn(rng, 32)
    model = Tabular(replace(NUMBERS, **SMALL), x, 1, seed=0)
    before = model.predict(x)
    losses = [e.loss for e in model.epochs(x, target, squares, np.zeros(32, np.float32))]
    assert set(losses) == {0.0} and model.predict(x).tobytes() == before.tobytes()


def test_a_pickle_predicts_the_same_and_holds_no_memory_to_compute_in(rng: Any) -> None:
    x, target = drawn(rng)
    model = Tabular(replace(CLASSES, **SMALL), x, 1, seed=0)
    list(model.epochs(x, target, squares))
    text = pickle.dumps(model)
    assert pickle.loads(text).predict(x).tobytes() == model.predict(x).tobytes()
    assert len(text) < 4 * sum(p.size for p in model.network.params.values()) + 10_000


def test_threads_predict_at_the_same_time(rng: np.random.Generator) -> None:
    x, _ = drawn(rng, 2000)
    model = Tabular(NUMBERS, x, 2, seed=0)
    parts = [x[i : i + 200] for i in range(0, 2000, 200)]
    alone = [model.predict(part).tobytes() for part in parts]
    with ThreadPoolExecutor(4) as pool:
        together = [y.tobytes() for y in pool.map(model.predict, parts * 5)]
    assert together == alone * 5


def test_the_last_of_the_best_is_kept() -> None:
    w = np.zeros(1)
    best = Best({"w": w})
    for error in (3.0, 1.0, np.nan, 1.0, 2.0):
        w += 1
        best.note(error)
    best.restore()
    assert w[0] == 4


def test_constant_columns_alone_can_be_trained_on() -> None:
    x = np.ones((40, 2))
    model = Tabular(replace(NUMBERS, **SMALL), x, 1, seed=0)
    list(model.epochs(x, np.full((40, 1), 0.5), squares))
    assert np.isfinite(model.predict(x)).all()
