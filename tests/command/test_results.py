"""What `gradstep train` prints and writes, and what its options do."""

import json
import re

import gradstep as gs
import numpy as np
import pytest
from gradstep.train import cli, job
from gradstep.train import loop as training

from tests.command.outcomes import table, without_times


def test_digits_reach_97_percent_with_the_defaults(run, folder):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    done = run("train")
    (row,) = table(done.out)
    assert row["optimizer"] == "adam" and row["epochs"] == "20"
    assert float(row["valid acc"].rstrip(" %")) >= 97
    assert (folder / "gradstep-train.png").read_bytes().startswith(b"\x89PNG")
    assert done.err == ""


def test_table_has_the_numbers_of_the_json_file(train, folder):
    (row,) = table(train("--json", "result.json").out)
    history = json.loads((folder / "result.json").read_text())["runs"][0]["histories"][0]
    final = history["epochs"][-1]
    assert row["train loss"] == f"{final['train_loss']:.4f}"
    assert row["valid loss"] == f"{final['valid_loss']:.4f}"
    assert row["valid acc"] == f"{100 * final['valid_accuracy']:.2f} %"
    assert len(history["epochs"]) == 3


def test_table_lines_up(train):
    out = train("--compare", "sgd,adam,momentum").out
    lines = out[out.index("optimizer ") :].splitlines()[:4]
    assert len({len(line) for line in lines}) == 1


def test_time_table_tells_where_an_epoch_went(train):
    done = train(
        "--batch-norm", "--dropout", "0.5", "--activation", "tanh", "--compare", "sgd,adam"
    )
    rows = table(done.out, "time of")
    assert [row.pop("time of") for row in rows] == ["sgd", "adam"]
    for row in rows:
        columns = ["matrix products", "normalisation", "dropout", "activations + loss"]
        assert list(row) == [*columns, "optimizer", "rest"]
        shares = [int(share.removesuffix(" %")) for share in row.values()]
        assert all(share >= 0 for share in shares) and abs(sum(shares) - 100) <= 3
        assert all(shares[:4])
    (row,) = table(train().out, "time of")
    assert row["normalisation"] == row["dropout"] == "0 %"


def test_network_options_reach_the_network(monkeypatch, train):
    made, make = [], job.mlp

    def spy(*arguments, **keywords):
        made.append(make(*arguments, **keywords))
        return made[-1]

    monkeypatch.setattr(job, "mlp", spy)
    network = ["--batch-norm", "--dropout", "0.25", "--activation", "Leaky-ReLU"]
    out = train(*network, "--init", "xavier_uniform", "--early-stopping", 1).out
    layers = made[-1].layers
    names = [type(layer).__name__ for layer in layers]
    assert names == ["Linear", "BatchNorm", "LeakyReLU", "Dropout", "Linear"]
    assert layers[3].p == 0.25
    train("--input-dropout", "0.125", "--dropout", "0.25")
    layers = made[-1].layers
    assert [type(layer).__name__ for layer in layers[:2]] == ["Dropout", "Linear"]
    assert layers[0].p == 0.125 and layers[3].p == 0.25
    fresh = make([6, 16, 3], seed=1, init="xavier_uniform", batch_norm=True)
    first = made[0].params["0.weight"]
    np.testing.assert_array_equal(first, fresh.params["0.weight"])
    assert "6-16-3, batch norm, leaky_relu, dropout 0.25, 179 parameters, float32, start xav" in out


def test_zero_weights_learn_nothing_but_the_bias(result):
    epochs = result("--init", "zeros")["runs"][0]["histories"][0]["epochs"]
    assert {epoch["train_accuracy"] for epoch in epochs} == {0.5}


def test_compare_gives_each_optimizer_the_same_start_and_batches(result):
    alone = [result("--optimizer", name)["runs"][0] for name in ("adam", "sgd")]
    together = result("--compare", "Adam, SGD")["runs"]
    assert without_times(together) == without_times(alone)


def test_same_seed_same_result(result):
    runs = [without_times(result("--seed", seed)["runs"]) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_seed_reaches_split_weights_and_batches(train, monkeypatch):
    seeds = {}

    def spy(owner, name):
        function = getattr(owner, name)

        def called(*arguments, **keywords):
            seeds[name] = keywords.get("seed", arguments[-1])
            return function(*arguments, **keywords)

        monkeypatch.setattr(owner, name, called)

    spy(cli.splits, "validation_split")
    spy(job, "mlp")
    spy(training, "train")
    train("--seed", 23)
    assert seeds == {"validation_split": 23, "mlp": 23, "train": 23}


def test_threads_are_limited_during_the_training_only(train, monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before, fit = gs.get_num_threads(), training.train
    seen = set()

    def spy(*arguments, **keywords):
        seen.add(gs.get_num_threads())
        seen.update(pool["num_threads"] for pool in threadpoolctl.threadpool_info())
        return fit(*arguments, **keywords)

    monkeypatch.setattr(training, "train", spy)
    train("--threads", 1)
    assert seen == {1} and gs.get_num_threads() == before


def test_batch_sizes_make_steps(train):
    for batch, steps in (("all", 1), (1, 144), (64, 3), (1000, 1)):
        out = train("--batch", batch, "--epochs", 1).out
        assert f"1 epochs of {steps} steps, batch {batch}," in out


def test_folds_give_mean_and_deviation(train, folder):
    done = train("--folds", 4, "--json", "result.json")
    (row,) = table(done.out)
    histories = json.loads((folder / "result.json").read_text())["runs"][0]["histories"]
    accuracies = [100 * history["epochs"][-1]["valid_accuracy"] for history in histories]
    expected = f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f} %"
    assert len(histories) == 4 and row["valid acc"] == expected
    assert "135 rows to train, 45 to validate, 4 folds" in done.out


def test_early_stopping_tells_the_best_epoch(train):
    done = train("--early-stopping", 2, "--epochs", 500, "--lr", 0.05)
    (row,) = table(done.out)
    ran, best = map(int, re.fullmatch(r"(\d+) \(best (\d+)\)", row["epochs"]).groups())
    assert ran == best + 2 < 500


def test_overfit_learns_its_rows_by_heart(train):
    out = train("--overfit", 10, "--epochs", 300).out
    assert table(out)[0]["train acc"] == "100.00 %"
    assert "10 rows to train, 36 to validate" in out


def test_overfit_takes_more_epochs_unless_told(run):
    assert (
        "300 epochs of 1 steps"
        in run("train", "--data", "three.npz", "--no-output", "--overfit", 5).out
    )


def test_class_weights_change_the_loss(result):
    plain, weighted = result(), result("--class-weights", "balanced")
    losses = [r["runs"][0]["histories"][0]["epochs"][0]["valid_loss"] for r in (plain, weighted)]
    assert losses[0] != losses[1]


def test_schedule_weight_decay_and_clipping_reach_the_optimizer(monkeypatch, train):
    made, make = [], training.make_optimizer

    def spy(*arguments, **keywords):
        made.append(make(*arguments, **keywords))
        return made[-1]

    monkeypatch.setattr(training, "make_optimizer", spy)
    train("--schedule", "one-cycle", "--weight-decay", "0.25", "--clip-norm", "2", "--lr", "0.5")
    (optimizer,) = made
    assert optimizer.clip_norm == 2 and optimizer.param_groups[0]["weight_decay"] == 0.25
    assert optimizer.param_groups[0]["lr"] == gs.one_cycle(0.5, 9)


def test_find_lr_shows_the_rates_and_trains_with_the_best(train):
    out = train("--find-lr", "--optimizer", "sgd").out
    suggested = float(re.search(r"([\d.e+-]+) +\S+ +\S+  <- suggested", out).group(1))
    assert float(table(out)[0]["lr"]) == pytest.approx(suggested, rel=0.01)
    assert out.index("<- suggested") < out.index("train loss")


def test_csv_with_a_named_label_trains(train, folder):
    rng = np.random.default_rng(0)
    lines = [f"{x:.3f},{'yes' if x > 0 else 'no'},{x + 1:.3f}" for x in rng.standard_normal(50)]
    (folder / "table.csv").write_text("\n".join(["a,kind,b", *lines]))
    out = train("--data", "table.csv", "--label", "kind", "--epochs", 60, "--lr", 0.05).out
    assert "table.csv: 2 columns, 2 classes, 40 rows to train, 10 to validate\n" in out
    assert "\n          line 1 taken as header (a, kind, b), label column kind\n" in out
    assert table(out)[0]["valid acc"] == "100.00 %"


def test_times_in_milliseconds_are_told_apart(train, folder):
    start = 1_700_000_000_000
    lines = [f"{start + i},{'late' if i >= 200 else 'early'}" for i in range(400)]
    (folder / "times.csv").write_text("\n".join(lines))
    out = train("--data", "times.csv", "--epochs", 60, "--lr", 0.02).out
    assert float(table(out)[0]["valid acc"].rstrip(" %")) >= 97


def test_csv_header_and_first_column_can_be_told(train, folder):
    rows = [f"{i % 2},{i % 7},{i % 5}" for i in range(70)]
    (folder / "table.csv").write_text("\n".join(["8,1,2", *rows]))
    out = train("--data", "table.csv", "--label", "first", "--header", "yes").out
    assert "table.csv: 2 columns, 2 classes, 56 rows to train" in out
    assert "line 1 taken as header (8, 1, 2), label column 8\n" in out


def test_quiet_prints_nothing(train):
    done = train("--quiet")
    assert done.out == done.err == ""


def test_divergence_is_told_and_json_stays_valid(train, folder):
    done = train("--optimizer", "sgd", "--lr", "1e25", "--json", "result.json", code=1)
    assert done.err == (
        "gradstep: sgd: diverged, the loss is not finite any more; "
        "try a lower --lr than 1e+25, or --clip-norm 1\n"
    )
    content = json.loads((folder / "result.json").read_text(), parse_constant=pytest.fail)
    assert content["runs"][0]["histories"][0]["epochs"][-1]["train_loss"] is None


def test_other_optimizers_finish_when_one_diverges(train, monkeypatch):
    monkeypatch.setitem(training.DEFAULT_LR, "sgd", 1e25)
    done = train("--compare", "sgd,adam", code=0)
    assert [row["optimizer"] for row in table(done.out)] == ["sgd", "adam"]
    assert (
        done.err.startswith("gradstep: sgd: diverged, the loss is not finite")
        and "adam" not in done.err
    )


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "lion"])
def test_a_loss_that_ends_far_above_its_start_is_divergence(train, name):
    done = train("--optimizer", name, "--lr", "1e9", code=1)
    assert re.fullmatch(
        rf"gradstep: {name}: diverged, the loss (ended at [\d.e+]+|is not finite any more); "
        r"try a lower --lr than 1e\+09, or --clip-norm 1\n",
        done.err,
    )


@pytest.mark.parametrize("options", [["--lr", "1e-6"], ["--dropout", "0.9"], ["--batch", "1"]])
def test_a_loss_that_stays_where_it_was_is_no_divergence(train, options):
    assert train(*options).err == ""
