"""Regression: scores in the data's own units, and every option of a training."""

import json

import numpy as np
import pytest

from tests.command.outcomes import table


@pytest.fixture
def prices(folder):
    """Prices around 1,000 that three columns explain but for some noise."""
    rng = np.random.default_rng(4)
    lines = ["size,rooms,town,price"]
    for i in range(150):
        size, rooms, town = rng.gamma(4, 20), rng.integers(1, 6), "abc"[i % 3]
        price = 600 + 5 * size + 30 * rooms + 100 * (town == "b") + rng.normal(0, 10)
        lines.append(f"{size:.2f},{rooms},{town},{price:.2f}")
    (folder / "prices.csv").write_text("\n".join(lines))
    return ["--data", "prices.csv", "--epochs", "40", "--lr", "0.005"]


def test_scores_are_those_of_the_predictions(train, run, prices, folder):
    pytest.importorskip("safetensors")
    out = train(*prices, "--save", "m", "--json", "r.json").out
    assert "prices.csv: 3 columns, numbers from " in out
    assert "regression, as the labels are fractions such as" in out
    (row,) = table(out)
    final = json.loads((folder / "r.json").read_text())["runs"][0]["histories"][0]["epochs"][-1]
    assert row["train RMSE"] == f"{final['train_rmse']:.4g}"
    assert row["valid RMSE"] == f"{final['valid_rmse']:.4g}"
    assert row["valid MAE"] == f"{final['valid_mae']:.4g}"
    assert row["valid R²"] == f"{final['valid_r2']:.4f}"
    assert final["valid_r2"] > 0.9 and 5 < final["valid_mae"] < final["valid_rmse"] < 60
    # The rows that validate, found again from the seed, by what the saved model says of them.
    from gradstep.train.splits import validation_split

    said = np.array(run("predict", "m", "prices.csv").out.split()[1:], float)
    true = np.loadtxt("prices.csv", delimiter=",", skiprows=1, usecols=3)
    _, valid = validation_split(150, 0.2, seed=1)
    errors = said[valid] - true[valid]
    assert final["valid_rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-4)
    assert final["valid_mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-4)
    assert final["valid_r2"] == pytest.approx(1 - np.mean(errors**2) / true[valid].var(), rel=1e-4)


def test_units_change_nothing_but_the_units(result, prices, folder):
    lines = (folder / "prices.csv").read_text().splitlines()
    cells = [line.rsplit(",", 1) for line in lines[1:]]
    thousand = [f"{start},{1024 * float(price)}" for start, price in cells]
    (folder / "other.csv").write_text("\n".join([lines[0], *thousand]))
    ends = [
        result(*prices, *more)["runs"][0]["histories"][0]["epochs"][-1]
        for more in ([], ["--data", "other.csv"])
    ]
    assert ends[1]["valid_loss"] == ends[0]["valid_loss"]
    assert ends[1]["valid_rmse"] == pytest.approx(1024 * ends[0]["valid_rmse"], rel=1e-12)


@pytest.mark.parametrize("loss", ["squared", "absolute", "huber"])
def test_every_loss_learns(train, prices, loss):
    (row,) = table(train(*prices, "--loss", loss).out)
    assert float(row["valid R²"]) > 0.85


def test_an_outlier_pulls_less_at_a_loss_that_is_no_square(result, folder):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(200)
    y = 3 * x + rng.normal(0, 0.1, 200)
    y[::10] += 40
    np.savetxt(folder / "o.csv", np.column_stack([x, y]), delimiter=",", fmt="%.4f")
    options = ["--data", "o.csv", "--epochs", "60", "--seed", "3"]
    off = {
        loss: result(*options, "--loss", loss)["runs"][0]["histories"][0]["epochs"][-1]["valid_mae"]
        for loss in ("squared", "absolute", "huber")
    }
    assert off["absolute"] < off["squared"] and off["huber"] < off["squared"]


def test_folds_validate_every_row_once_without_strata(train, prices, folder):
    done = train(*prices, "--folds", 3, "--json", "r.json")
    (row,) = table(done.out)
    histories = json.loads((folder / "r.json").read_text())["runs"][0]["histories"]
    found = [history["epochs"][-1]["valid_rmse"] for history in histories]
    assert row["valid RMSE"] == f"{np.mean(found):.4g} ± {np.std(found, ddof=1):.4g}"
    assert "100 rows to train, 50 to validate, 3 folds" in done.out


def test_options_of_a_training_work(train, prices):
    out = train(*prices[:4], "--find-lr", "--compare", "adam,momentum", "--schedule", "cosine").out
    assert out.count("<- suggested") == 2 and len(table(out)) == 2
    (row,) = table(train(*prices, "--early-stopping", 3, "--epochs", 500).out)
    assert "(best" in row["epochs"]
    (row,) = table(train(*prices, "--overfit", 8, "--epochs", 400).out)
    assert float(row["train RMSE"]) < 15


def test_plain_descent_has_rates_that_do_not_diverge(train, prices):
    done = train(*prices[:4], "--compare", "sgd,momentum,nesterov")
    assert done.err == ""
    assert all(float(row["valid R²"]) > 0.5 for row in table(done.out))


def test_divergence_is_told(train, prices):
    done = train(*prices, "--optimizer", "sgd", "--lr", "5", code=1)
    assert done.err.startswith("gradstep: sgd: diverged, the loss")


def test_curves_are_drawn(train, prices, folder):
    pytest.importorskip("matplotlib")
    train(*prices, "--output", "curves.svg")
    assert "<!-- RMSE -->" in (folder / "curves.svg").read_text()
