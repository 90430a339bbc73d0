"""The training loop: what it promises about weights, batches, stopping and reproducibility."""

import gradstep as gs
import numpy as np
import pytest
from gradstep.nn import mlp
from gradstep.train.batches import batches
from gradstep.train.datasets import Split
from gradstep.train.loop import (
    DEFAULT_LR,
    OPTIMIZER_NAMES,
    SCHEDULE_NAMES,
    Epoch,
    History,
    evaluate,
    make_optimizer,
    step_function,
    train,
)
from gradstep.train.monitors import EarlyStopping
from gradstep.train.objectives import Classification
from gradstep.train.report import Run, draw_curves, time_table
from gradstep.train.weights import balanced_class_weights


def two_rings(count, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    angle, radius = rng.uniform(0, 2 * np.pi, count), 1 + y + rng.normal(0, 0.1, count)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return x.astype(np.float32), y.astype(np.intp)


@pytest.fixture(scope="module")
def rings():
    return Split(*two_rings(200, 1), *two_rings(100, 2))


@pytest.fixture
def noise():
    """Labels without a pattern: more training only makes the validation loss worse."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, 8)).astype(np.float32)
    return Split(x[:40], rng.integers(0, 2, 40), x[40:], rng.integers(0, 2, 20))


REGULAR = {"batch_norm": True, "dropout": 0.2}


def fit(data, name="adam", lr=None, network=None, **options):
    model = mlp([data.x.shape[1], 32, 2], seed=options.get("seed", 0), **network or {})
    optimizer = make_optimizer(name, model.params, lr or DEFAULT_LR[name])
    return model, train(model, data, optimizer, **{"epochs": 30, "batch_size": 32} | options)


@pytest.mark.parametrize("name", OPTIMIZER_NAMES)
def test_every_optimizer_learns_with_its_default_rate(rings, name):
    _, history = fit(rings, name, batch_size=8, epochs=80)
    assert history.final.valid_scores["accuracy"] > 0.95
    assert history.final.train_loss < 0.5 * history.epochs[0].train_loss


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
def test_every_schedule_starts_positive_and_stays_within_the_rate(name):
    schedule = SCHEDULE_NAMES[name](0.1, 200, 10)
    rates = [schedule(t) if callable(schedule) else schedule for t in range(1, 201)]
    assert all(0 < rate <= 0.1 for rate in rates)
    assert max(rates) == pytest.approx(0.1, rel=1e-2)
    assert (rates[-1] < rates[0]) == (name != "constant")


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_schedules_exist_for_the_shortest_training(name, steps):
    schedule = SCHEDULE_NAMES[name](0.1, steps, 1)
    assert all(0 <= schedule(t) <= 0.1 for t in range(1, steps + 1) if callable(schedule))


def test_history_reports_the_rate_of_the_schedule(rings):
    _, history = fit(rings, "sgd", gs.exponential(0.1, 0.5, period=7), epochs=3)
    assert [epoch.lr for epoch in history.epochs] == pytest.approx(
        [0.1 * 0.5 ** (t / 7) for t in (6, 13, 20)]
    )


@pytest.mark.parametrize("batch_size", [1, 32, 200, 1000, None])
def test_any_batch_size_trains(rings, batch_size):
    lr, epochs = (0.02, 20) if batch_size == 1 else (0.5, 200)
    _, history = fit(rings, "sgd", lr, batch_size=batch_size, epochs=epochs)
    assert history.final.valid_scores["accuracy"] > 0.95


def test_full_batch_is_gradient_descent(rings):
    model, _ = fit(rings, "sgd", 0.5, batch_size=None, epochs=3)
    expected = mlp([2, 32, 2])
    for _ in range(3):
        _, gradient = gs.cross_entropy(expected.forward(rings.x), rings.y)
        expected.backward(gradient)
        for name, p in expected.params.items():
            p -= np.float32(0.5) * expected.grads[name]
    for name, p in model.params.items():
        np.testing.assert_allclose(p, expected.params[name], rtol=1e-5, atol=1e-6)


def test_an_epoch_shows_every_row_once_with_its_label():
    x, y = np.arange(10.0)[:, None], np.arange(10)
    rng = np.random.default_rng(0)
    epochs = [[(bx.copy(), by.copy()) for bx, by in batches(x, y, 4, rng)] for _ in range(2)]
    orders = []
    for epoch in epochs:
        assert [len(by) for _, by in epoch] == [4, 4, 2]
        orders.append(np.concatenate([by for _, by in epoch]))
        np.testing.assert_array_equal(np.concatenate([bx for bx, _ in epoch])[:, 0], orders[-1])
        np.testing.assert_array_equal(np.sort(orders[-1]), y)
    assert (orders[0] != orders[1]).any()


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 6, 9, 10])
@pytest.mark.parametrize("size", [2, 4, 5])
def test_a_last_batch_that_is_too_small_is_joined_to_the_one_before(rows, size):
    x, y = np.arange(float(rows))[:, None], np.arange(rows)
    parts = [y.copy() for _, y in batches(x, y, size, np.random.default_rng(0), smallest=2)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), y)
    assert all(2 <= len(part) <= size + 1 for part in parts)
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)


def test_batch_norm_trains_where_one_row_would_be_left(rings):
    rest = Split(rings.x[:129], rings.y[:129], rings.valid_x, rings.valid_y)
    _, history = fit(rest, lr=0.02, network=REGULAR, batch_size=32, epochs=100)
    assert history.final.valid_scores["accuracy"] > 0.9


@pytest.mark.parametrize("network", [{}, REGULAR])
def test_same_seed_gives_the_same_history_and_another_seed_does_not(rings, network):
    def losses(seed):
        epochs = fit(rings, seed=seed, epochs=3, network=network)[1].epochs
        return [epoch.train_loss for epoch in epochs]

    assert losses(4) == losses(4) != losses(5)


@pytest.mark.parametrize("network", [{}, REGULAR | {"activation": "tanh"}])
def test_metrics_do_not_depend_on_threads_or_instruction_set(rings, network):
    results = set()
    for level in gs.build_info()["simd_levels"]:
        for count in (1, 2):
            gs.use_simd(level)
            gs.set_num_threads(count)
            results.add(fit(rings, epochs=3, network=network)[1].final.valid_loss)
    assert len(results) == 1


def test_final_metrics_are_those_of_the_weights_left_in_the_model(rings):
    model, history = fit(rings, epochs=4)
    final = history.final
    assert evaluate(model, rings.valid_x, rings.valid_y) == (final.valid_loss, final.valid_scores)


def test_evaluation_in_parts_is_the_mean_over_all_rows():
    x, y = two_rings(2500, 4)
    model, weights = mlp([2, 8, 2]), np.array([1.0, 3.0])
    loss, scores = evaluate(model, x, y, Classification(weights))
    logits = model.forward(x)
    assert scores["accuracy"] == np.mean(logits.argmax(axis=1) == y)
    expected, _ = gs.cross_entropy(logits, y, weight=weights.astype(np.float32))
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("network", [{}, REGULAR])
def test_early_stopping_stops_after_patience_and_restores_the_best_state(noise, network):
    model, history = fit(noise, "adam", 0.01, network, epochs=200, patience=3)
    losses = [epoch.valid_loss for epoch in history.epochs]
    assert history.stopped_early and history.best == int(np.argmin(losses))
    assert len(losses) == history.best + 4 < 200
    assert evaluate(model, noise.valid_x, noise.valid_y)[0] == min(losses)


def test_without_patience_every_epoch_runs(noise):
    _, history = fit(noise, "adam", 0.01, epochs=40)
    assert len(history.epochs) == 40 and history.best == 39 and not history.stopped_early


def test_a_few_rows_are_learned_by_heart(noise):
    few = Split(noise.x[:10], noise.y[:10], noise.valid_x, noise.valid_y)
    _, history = fit(few, epochs=400)
    assert history.final.train_scores["accuracy"] == 1 and history.final.train_loss < 0.01


def test_divergence_ends_training_and_is_told(rings):
    _, history = fit(rings, "sgd", 1e20, epochs=10)
    assert history.diverged and len(history.epochs) < 10


def test_class_weights_shift_answers_to_the_rare_class():
    rng = np.random.default_rng(0)
    y = (np.arange(400) % 10 == 0).astype(np.intp)
    x = (rng.standard_normal((400, 1)) + y[:, None]).astype(np.float32)
    hits = []
    for weights in (None, np.array([1.0, 9.0])):
        model, _ = fit(Split(x, y, x, y), objective=Classification(weights))
        hits.append(np.count_nonzero(model.forward(x[y == 1]).argmax(axis=1)))
    assert hits[1] > 2 * hits[0]


def test_step_function_continues_over_epochs_with_the_batches_of_train(rings):
    model, history = fit(rings, epochs=3)
    other = mlp([2, 32, 2])
    optimizer = make_optimizer("adam", other.params, DEFAULT_LR["adam"])
    step = step_function(other, rings, optimizer, batch_size=32)
    losses = [step() for _ in range(3 * 7)]
    for name, p in model.params.items():
        np.testing.assert_array_equal(other.params[name], p)
    sizes = [32] * 6 + [8]
    assert np.dot(losses[:7], sizes) / 200 == pytest.approx(history.epochs[0].train_loss)


def test_early_stopping_brings_back_running_statistics_and_dropout_counters(noise):
    model, history = fit(noise, "adam", 0.01, REGULAR, epochs=200, patience=3)
    calls = 2 * (history.best + 1)  # two batches an epoch
    assert model.buffers["1.num_batches_tracked"] == model.buffers["2.calls"] == calls
    assert history.stopped_early


def test_parts_of_the_time_are_part_of_the_epoch(rings):
    kinds = {"products", "activations", "loss", "optimizer"}
    for network, more in (
        ({}, set()),
        (REGULAR | {"activation": "tanh"}, {"normalisation", "dropout"}),
    ):
        for epoch in fit(rings, epochs=3, network=network)[1].epochs:
            parts = {kind: epoch.parts[kind] for kind in kinds | more}
            assert all(part > 0 for part in parts.values())
            assert sum(parts.values()) < epoch.seconds
            assert set(epoch.parts) - {"networks"} == set(parts)


def test_share_and_seconds_come_from_the_epochs():
    epochs = [
        Epoch(0, {}, 0, {}, 0, seconds, {"optimizer": part, "loss": 1})
        for seconds, part in [(1, 0.5), (2, 0.5), (9, 2)]
    ]
    history = History(epochs, best=1)
    assert history.final is epochs[1]
    assert history.seconds_per_epoch == 2
    assert history.share("optimizer") == 0.25
    assert history.share("optimizer", "loss", "dropout") == 0.5


def test_time_table_adds_up_to_the_whole():
    parts = {
        **{"products": 4, "normalisation": 2, "dropout": 1, "activations": 0.5, "loss": 0.7},
        **{"optimizer": 0.8, "networks": 8.5},
    }
    histories = [
        History([Epoch(0, {}, 0, {}, 0, 10, parts)]),
        History([Epoch(0, {}, 0, {}, 0, 10, {})]),
    ]
    head, *rows = time_table([Run("a", 1, histories[:1]), Run("b", 1, histories)]).splitlines()
    columns = ["matrix products", "normalisation", "dropout", "activations + loss", "optimizer"]
    assert head.split("  ")[0] == "time of" and all(name in head for name in [*columns, "rest"])
    shares = [[int(word) for word in row.split() if word.isdigit()] for row in rows]
    assert shares == [[40, 20, 10, 12, 8, 10], [20, 10, 5, 6, 4, 55]]


def test_curves_are_drawn_for_many_short_and_diverged_runs(tmp_path):
    pytest.importorskip("matplotlib")
    fine = Epoch(0.5, {"accuracy": 0.8}, 0.6, {"accuracy": 0.7}, 0.1, 1.0, {})
    broken = Epoch(np.nan, {"accuracy": 0.1}, np.nan, {"accuracy": 0.1}, 0.1, 1.0, {})
    runs = [(f"run {i}", [History([fine] * (i + 1), best=0), History([broken])]) for i in range(12)]
    draw_curves(runs, "title", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: 0, expected at least 1"),
        ({"batch_size": 0}, "batch_size: 0, expected at least 1"),
        ({"patience": 0}, "patience: 0, expected an integer >= 1"),
        (
            {"batch_size": 1, "network": REGULAR},
            "batch_size: 1, expected at least 2 with batch norm",
        ),
    ],
)
def test_impossible_numbers_are_refused(rings, options, message):
    with pytest.raises(ValueError, match=message):
        fit(rings, **options)


def test_one_row_is_too_few_for_batch_norm(rings):
    one = Split(rings.x[:1], rings.y[:1], rings.valid_x, rings.valid_y)
    with pytest.raises(ValueError, match="data: 1 row, expected at least 2 with batch norm"):
        fit(one, network=REGULAR, batch_size=None)


def test_balanced_weights_let_classes_count_alike():
    y = np.array([0] * 90 + [1] * 9 + [3])
    weights = balanced_class_weights(y, 4)
    totals = np.bincount(y, weights=weights[y], minlength=4)
    np.testing.assert_allclose(totals[[0, 1, 3]], 25)
    assert weights[2] == 0


def test_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="name: 'adem', expected one of sgd, "):
        make_optimizer("adem", np.zeros(2), 0.1)


def test_recipes_and_settings_reach_the_optimizer():
    optimizer = make_optimizer("nesterov", np.zeros(2), 0.1, weight_decay=0.25, clip_norm=None)
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, gs.SGD)
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 0.25)
    assert make_optimizer("adamw", np.zeros(2), 0.1, weight_decay=None).weight_decay == 1e-2


def test_patience_counts_epochs_since_the_lowest_loss():
    w = np.array([0.0])
    stopping = EarlyStopping({"w": w}, patience=2)
    stops = []
    for epoch, loss in enumerate([3.0, 1.0, 2.0, 1.0]):
        w[:] = epoch
        stops.append(stopping.update(loss))
    assert stops == [False, False, False, True]
    assert stopping.restore() == 1 and w[0] == 1
