"""torch's own sample inputs of its optimizers, through our classes and torch's for-loop."""

from __future__ import annotations

import re
import warnings
from copy import deepcopy
from typing import Any

import pytest
from optimizer_cases import DRIVEN, INFOS, NAMES, assert_same, give, ours, theirs, twins

torch = pytest.importorskip("torch")

DTYPES = [torch.float32, torch.float64]
PATTERNS = {
    "all": lambda t: (),
    "one frozen at first": lambda t: (1,) if t < 3 else (),
    "frozen in turn": lambda t: (t % 6, (t + 1) % 6),
    "steps without gradients": lambda t: range(6) if t % 3 == 0 else (),
}
INPUTS = [
    pytest.param(name, i, id=f"{name}-{sample.desc.replace(' ', '_')}")
    for name in NAMES
    for i, sample in enumerate(INFOS[name].optim_inputs_func(device="cpu"))
]
ERRORS = [
    pytest.param(name, i, id=f"{name}-{i}")
    for name in NAMES
    for i in range(len(INFOS[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)))
]


def test_torch_has_samples_of_every_optimizer() -> None:
    assert INFOS.keys() == set(NAMES)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "number"), INPUTS)
def test_sample_inputs_train_as_in_torch(name: str, number: int, dtype: Any, pattern: str) -> None:
    torch.set_default_dtype(dtype)  # of NAdam's mu_product
    kwargs = INFOS[name].optim_inputs_func(device="cpu")[number].kwargs
    mine, other = twins(dtype)
    x, y = ours(name, mine, **deepcopy(kwargs)), theirs(name, other, **deepcopy(kwargs))
    for t in range(8):
        give((mine, other), t, PATTERNS[pattern](t))
        x.step()
        y.step()
        assert_same(mine, other, x, y)
    DRIVEN["inputs"] += 1


@pytest.mark.parametrize(("name", "number"), INPUTS)
def test_sample_inputs_of_one_group_beside_an_empty_and_a_plain_one(name: str, number: int) -> None:
    kwargs = INFOS[name].optim_inputs_func(device="cpu")[number].kwargs
    mine, other = twins()

    def groups(p: list[Any]) -> list[dict[str, Any]]:
        return [{"params": p[:2], **deepcopy(kwargs)}, {"params": []}, {"params": p[2:]}]

    x, y = ours(name, groups(mine), lr=0.02), theirs(name, groups(other), lr=0.02)
    for t in range(5):
        give((mine, other), t)
        x.step()
        y.step()
        assert_same(mine, other, x, y)
    DRIVEN["inputs"] += 1


@pytest.mark.parametrize(("name", "number"), ERRORS)
def test_error_inputs_are_refused_with_torchs_words(name: str, number: int) -> None:
    sample = INFOS[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)[number]
    given = sample.optimizer_error_input
    params = twins()[0] if given.params is None else given.params
    if issubclass(sample.error_type, Warning):
        with pytest.warns(sample.error_type, match=sample.error_regex):
            ours(name, params, **given.kwargs)
    else:
        with warnings.catch_warnings(), pytest.raises(sample.error_type) as caught:
            warnings.simplefilter("ignore")
            ours(name, params, **given.kwargs)
        assert re.search(sample.error_regex, str(caught.value))
    DRIVEN["error inputs"] += 1
