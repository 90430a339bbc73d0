"""The report page: all of it is there, in one file, of what was trained and of nothing else."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from gradstep.train import loop as training
from gradstep.train.page.charts import Chart, ticks
from gradstep.train.page.evidence import calibration

# Elements without an end.
VOID = {"meta", "img", "circle", "path", "rect", "polyline"}


class Page(HTMLParser):
    """Headings, texts and tables of a page whose elements all end where they should."""

    def __init__(self, text):
        super().__init__()
        self.open, self.headings, self.tables, self.tags = [], [], [], []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if "h2" in self.open:
            self.headings.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


@pytest.fixture
def report(train, folder):
    def report(*arguments, code=0):
        done = train("--report", "page", *arguments, code=code)
        assert [path.name for path in (folder / "page").iterdir()] == ["index.html"]
        text = (folder / "page" / "index.html").read_text("utf-8")
        assert not re.search(r"https?://|<script|<link|url\(", text)
        return Page(text), text, done

    return report


SHARED = ["Results", "Over the epochs"]
LAST = ["Layers", "Worst mistakes", "Data", "To repeat it"]
CLASSES = ["Confusion matrix", "ROC", "Calibration"]


def test_the_page_of_classes(report, folder):
    page, text, done = report()
    assert page.headings == [*SHARED, *CLASSES, *LAST]
    assert "report    page" in done.out
    assert page.text.replace("\n", "").startswith("three.npz - gradstep trainthree.npz: 3 classes")
    results, _, matrix, scores, areas, wrong = page.tables
    assert results[0][:3] == ["optimizer", "lr", "epochs"] and results[1][2] == "3"
    counts = np.array([[int(cell or 0) for cell in row[1:]] for row in matrix[1:]])
    assert counts.sum(axis=1).tolist() == [18, 12, 6]
    right = 100 * np.trace(counts) / 36
    assert f"{right:.2f} %" == results[1][6]
    assert f"was right on {right:.1f} % of 36 rows" in page.text
    assert scores[1][2] == f"{100 * counts[0, 0] / 18:.1f} %" and scores[1][4] == "18"
    assert [row[0] for row in areas[1:]] == ["0", "1", "2", "mean"]
    assert all(row[1] == row[2] for row in areas[1:])
    assert len(wrong) == 1 + 36 - np.trace(counts)
    assert "gradstep train --data three.npz --layers 16 --epochs 3 --no-output" in page.text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    # loss, score, ROC, calibration, how often, weights, gradients; not the signs of the legends
    assert page.tags.count("figure") == 7


def test_the_page_of_two_classes_has_one_curve(report):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 3))
    np.savez("two.npz", X=x, y=np.where(x[:, 0] > 0, "<b>yes</b>", "no"))
    page, text, _ = report("--data", "two.npz")
    assert [row[0] for row in page.tables[4]] == ["positive class", "no"]
    assert "<b>yes" not in text and "&lt;b&gt;yes" in text


def test_the_page_of_a_regression(report, folder):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, 2))
    rows = [f"{a:.3f},{'uv'[i % 2]},{100 + 10 * a:.3f}" for i, (a, _) in enumerate(x)]
    (folder / "t.csv").write_text("\n".join(["a,kind,price", *rows]))
    page, _, _ = report("--data", "t.csv", "--epochs", 9)
    assert page.headings == [*SHARED, "Predictions", *LAST]
    results, _, wrong = page.tables
    rmse = results[0].index("valid RMSE")
    assert f"is off by {results[1][rmse]} (root mean square) on 18 rows" in page.text
    assert len(wrong) == 13 and re.match(r"line \d+", wrong[1][0])
    line = int(wrong[1][0].split()[1])
    true = rows[line - 2].split(",")[2]
    assert float(wrong[1][1]) == pytest.approx(float(true), rel=1e-3)
    assert wrong[1][-1].startswith("a = ") and "kind = " in wrong[1][-1]
    off = [abs(float(row[3])) for row in wrong[1:]]
    assert off == sorted(off, reverse=True) and off[0] > 0
    assert float(wrong[1][3]) == pytest.approx(float(wrong[1][2]) - float(wrong[1][1]), rel=0.01)


def test_folds_are_judged_together_and_the_best_optimizer_in_detail(report):
    page, _, _ = report("--folds", 4, "--compare", "sgd,adam", "--lr", "0.01")
    counts = np.array([[int(cell or 0) for cell in row[1:]] for row in page.tables[2][1:]])
    assert counts.sum(axis=1).tolist() == [90, 60, 30]
    assert "Of 2 optimizers adam had the lowest validation loss" in page.text
    assert "Confusion matrix of adam" in page.headings


def test_weights_that_early_stopping_kept_are_judged(report):
    page, _, _ = report("--early-stopping", 2, "--epochs", 500, "--lr", "0.05")
    results, matrix = page.tables[0], page.tables[2]
    counts = np.array([[int(cell or 0) for cell in row[1:]] for row in matrix[1:]])
    assert results[1][6] == f"{100 * np.trace(counts) / 36:.2f} %"
    assert re.search(r"of which number \d+ was kept", page.text)


def test_many_classes_have_a_list_of_confusions(report):
    rng = np.random.default_rng(0)
    np.savez("many.npz", X=rng.standard_normal((250, 4)), y=np.arange(250) % 25)
    page, _, _ = report("--data", "many.npz")
    assert page.tables[2][0] == ["true class", "was taken for", "rows"]


def test_interrupted_and_diverged_trainings_have_a_page(report, monkeypatch):
    page, _, _ = report("--lr", "1e25", "--optimizer", "sgd", code=1)
    assert "diverged, the loss is not finite any more" in page.text
    evaluate, calls = training.evaluate, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(training, "evaluate", interrupted)
    page, _, _ = report(code=130)
    assert "Interrupted: adam, after epoch 2 of 3." in page.text and page.tables[0][1][2] == "2"


def test_images_are_shown(report):
    pytest.importorskip("sklearn")
    _, text, _ = report("--data", "digits", "--epochs", 1)
    assert text.count("data:image/png;base64,") == 12


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/page", "no/page, expected a folder in one that exists"),
        ("three.npz", "three.npz, expected a folder"),
        ("/proc/self", "/proc/self: .*, expected one to write to"),
    ],
)
def test_a_page_that_cannot_be_written_is_told_before(train, untrained, path, message):
    err = train("--report", path, code=2).err
    assert re.fullmatch(f"gradstep: error: --report: {message}\n", err)


def test_charts_leave_out_what_is_no_number():
    chart = Chart("t", "x", "y", (0, 2), (0.1, 10), log=True)
    chart.line([(0, 1), (1, np.nan), (2, 0)], "c0")
    chart.dots([(0, np.inf)], "c1")
    assert chart.html().count("<circle") == 1
    for bounds in ((np.nan, np.nan), (1.0, 1.0), (0.0, 0.0)):
        assert "<svg" in Chart("t", "x", "y", bounds, bounds).html()
    assert [text for _, text in ticks(0.0, 25.0)] == ["0", "5", "10", "15", "20", "25"]


def test_charts_of_many_points_stay_small():
    rng = np.random.default_rng(0)
    chart = Chart("t", "x", "y", (0, 1), (0, 1))
    chart.line([(0.0, 0.0), *((i / 1e5, i / 1e5) for i in range(100_000)), (1.0, 1.0)], "c0")
    text = chart.html()
    assert len(text) < 20_000 and text.count("378.0,10.0") == 1
    few = Chart("t", "x", "y", (0, 1), (0, 1))
    few.line(list(zip(np.linspace(0, 1, 50), rng.random(50), strict=True)), "c0")
    assert few.html().split('points="')[1].split('"')[0].count(",") == 50


def test_calibration_counts_each_tenth():
    rng = np.random.default_rng(0)
    chance = rng.random(20_000)
    rows = calibration(chance, rng.random(20_000) < chance)
    assert len(rows) == 10 and rows[:, 2].sum() == 20_000
    np.testing.assert_allclose(rows[:, 0], rows[:, 1], atol=0.04)
