"""How well networks of gradstep predict on tables: python -m bench.tables --help.

Every model is fitted to the same 80 % of the rows and scored on the rest, for several splits:
accuracy for classes, R² for numbers. The peers are pytabkit's RealMLP-TD (Holzmüller, Grinsztajn &
Steinwart 2024, arXiv:2407.04491), scikit-learn's MLP behind a StandardScaler, and its gradient
boosted trees as an orientation. Rows go to a JSON file; those that are in it are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from time import perf_counter
from typing import Any

import numpy as np

from bench.table_sets import SETS, Table, load

__all__ = ["MODELS", "main", "markdown", "measure"]

TEST_SHARE = 0.2


def _tabular(classes: bool, seed: int) -> Any:
    from gradstep.sklearn import MLPClassifier, MLPRegressor

    return (MLPClassifier if classes else MLPRegressor)(preset="tabular", random_state=seed)


def _realmlp(classes: bool, seed: int) -> Any:
    from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

    model = RealMLP_TD_Classifier if classes else RealMLP_TD_Regressor
    return model(device="cpu", random_state=seed, n_threads=1, verbosity=0)


def _sklearn_mlp(classes: bool, seed: int) -> Any:
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = (MLPClassifier if classes else MLPRegressor)(random_state=seed, max_iter=1000)
    return make_pipeline(StandardScaler(), model)


def _trees(classes: bool, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    model = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    return model(random_state=seed)


# Name -> a function of whether there are classes, and of the seed, that makes an estimator.
MODELS: dict[str, Callable[[bool, int], Any]] = {
    "gradstep tabular": _tabular,
    "RealMLP": _realmlp,
    "scikit-learn MLP": _sklearn_mlp,
    "boosted trees": _trees,
}


def measure(table: Table, model: str, split: int) -> dict[str, Any]:
    """Fit a model to one split of a table; return its score and the seconds of the fit."""
    from sklearn.model_selection import train_test_split
    from threadpoolctl import threadpool_limits

    x, test_x, y, test_y = train_test_split(
        table.x,
        table.y,
        test_size=TEST_SHARE,
        random_state=split,
        stratify=table.y if table.classes else None,
    )
    estimator = MODELS[model](table.classes, split)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        start = perf_counter()
        estimator.fit(x, y)
        seconds = perf_counter() - start
        prediction = np.asarray(estimator.predict(test_x)).reshape(len(test_y))
    if table.classes:
        score = float(np.mean(prediction == test_y))
    else:
        score = 1 - float(
            np.sum((prediction - test_y) ** 2) / np.sum((test_y - test_y.mean()) ** 2)
        )
    return {"set": table.name, "model": model, "split": split, "score": score, "seconds": seconds}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table of mean scores in per cent, standard deviations over the splits, and times."""
    models = [name for name in MODELS if any(row["model"] == name for row in rows)]
    names = [name for name in SETS if any(row["set"] == name for row in rows)]
    lines = [
        "| set | rows × columns | score | " + " | ".join(models) + " |",
        "|---|---|---|" + "---|" * len(models),
    ]
    for name in names:
        table = load(name)
        cells = [_cell([r["score"] for r in _chosen(rows, name, model)]) for model in models]
        shape = f"{table.x.shape[0]:,} × {table.x.shape[1]}"
        kind = "accuracy" if table.classes else "R²"
        lines.append(f"| {name} ({table.source}) | {shape} | {kind} | " + " | ".join(cells) + " |")
    for title, key, style in (
        ("**mean**", "score", "**{:.2f}**"),
        ("seconds a fit", "seconds", "{:.1f}"),
    ):
        means = [
            fmean(fmean(r[key] for r in _chosen(rows, name, model)) for name in names)
            for model in models
        ]
        scale = 100 if key == "score" else 1
        lines.append(
            f"| {title} | | | " + " | ".join(style.format(scale * m) for m in means) + " |"
        )
    return "\n".join(lines)


def _chosen(rows: Sequence[dict[str, Any]], name: str, model: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["set"] == name and row["model"] == model]


def _cell(scores: list[float]) -> str:
    if not scores:
        return "–"
    spread = f" ± {100 * stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{100 * fmean(scores):.2f}{spread}"


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r}, expected some of {', '.join(known)}")
        return names

    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing in the file, then print the table of all that it holds."""
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__)
    parser.add_argument("--sets", type=_names([*SETS]), default=[*SETS], help="comma separated")
    parser.add_argument("--models", type=_names([*MODELS]), default=[*MODELS])
    parser.add_argument("--splits", type=int, default=5, help="number of them (5)")
    parser.add_argument("--json", type=Path, default=None, help="file of results, read and written")
    options = parser.parse_args(arguments)
    path: Path | None = options.json
    rows = json.loads(path.read_text()) if path and path.exists() else []
    done = {(row["set"], row["model"], row["split"]) for row in rows}
    for name in options.sets:
        table = load(name)
        for model in options.models:
            for split in range(options.splits):
                if (name, model, split) in done:
                    continue
                rows.append(measure(table, model, split))
                print(
                    "{set} {model} {split}: {score:.4f} {seconds:.1f} s".format(**rows[-1]),
                    file=sys.stderr,
                )
                if path:
                    path.write_text(json.dumps(rows, indent=0) + "\n")
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
