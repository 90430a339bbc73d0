"""scikit-learn's own tests of its MLP, the installed version's, driven through our classes.

Once with `dtype="auto"`, where parameters have the type of the rows as there, and once with ours.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradstep.sklearn as ours
import pytest

# What cannot apply, and why.
PRIVATE = (
    "calls scikit-learn's private method for the loss of packed parameters; see test_losses.py"
)
IN_DOUBLE = {
    "test_mlp_param_dtypes": "wants parameters of the rows' type, which dtype='auto' gives",
    "test_nonfinite_params": "rows beyond float32 are refused before a step is taken",
    "test_predict_proba_multilabel": "takes the logarithm of a probability that float32 has as 0",
}
NOT_APPLICABLE: dict[str, dict[str, str]] = {
    "auto": {"test_gradient": PRIVATE},
    "float32": {"test_gradient": PRIVATE, **IN_DOUBLE},
}


def load(dtype: str) -> types.ModuleType:
    """A copy of the module in which MLPClassifier and MLPRegressor are ours."""
    found = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    assert found is not None and found.origin is not None
    source = Path(found.origin).read_text("utf-8")
    named = "from sklearn.neural_network import MLPClassifier, MLPRegressor\n"
    assert named in source
    module = types.ModuleType(f"driven_{dtype}")
    module.__dict__.update(
        MLPClassifier=partial(ours.MLPClassifier, dtype=dtype),
        MLPRegressor=partial(ours.MLPRegressor, dtype=dtype),
    )
    exec(compile(source.replace(named, ""), found.origin, "exec"), module.__dict__)
    return module


slow = pytest.mark.slow


def cases(dtype: str, *marks: pytest.MarkDecorator) -> Iterator[Any]:
    """Every test of the module with every one of its parameters."""
    module = load(dtype)
    tests = {name: f for name, f in vars(module).items() if name.startswith("test_")}
    assert len(tests) >= 30
    assert NOT_APPLICABLE[dtype].keys() <= tests.keys()
    for name, function in tests.items():
        if name in NOT_APPLICABLE[dtype]:
            continue
        for number, given in enumerate(combinations(getattr(function, "pytestmark", []))):
            yield pytest.param(function, given, id=f"{dtype}-{name}-{number}", marks=marks)


def combinations(marks: list[Any]) -> Iterator[dict[str, Any]]:
    """The keywords of each call that the `parametrize` marks of a test ask for."""
    given: list[dict[str, Any]] = [{}]
    for mark in marks:
        if mark.name == "parametrize":
            names, values = mark.args
            names = [name.strip() for name in names.split(",")]
            pairs = [dict(zip(names, v if len(names) > 1 else (v,), strict=True)) for v in values]
            given = [{**one, **pair} for one in given for pair in pairs]
    yield from given


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:batch_size:UserWarning")
@pytest.mark.parametrize(("function", "given"), [*cases("auto"), *cases("float32", slow)])
def test_driven(
    function: Any, given: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wanted = [name for name in inspect.signature(function).parameters if name not in given]
    fixtures: dict[str, Any] = {"global_random_seed": 42}
    for name in wanted:
        if name not in fixtures:
            fixtures[name] = request.getfixturevalue(name)
    with contextlib.chdir(tmp_path):
        function(**given, **{name: fixtures[name] for name in wanted})
