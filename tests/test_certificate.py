"""The certificate: its hashes, that every kernel is in it, and what it says of other bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep.certificate import (
    EXPECTED,
    NATIVE,
    SPECIFICATION,
    Kernels,
    Training,
    first_difference,
)
from gradstep.certificate.kernels import NATIVE_FUNCTIONS
from gradstep.certificate.network import product
from gradstep.spec.exact import FUNCTIONS
from gradstep.train.cli import main

# Functions whose results do not train, and those that are the kernels of others.
NOT_IN_IT = {"batch_norm_stats", "merge_stats", "dropout_mask"}
ELEMENTWISE = ("relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "selu", "mish")


def digest(kernels: Kernels, steps: int = 10) -> str:
    training = Training(kernels)
    for _ in range(steps):
        training.step()
    assert np.isfinite(training.loss)
    return training.digest()


def test_kernels_give_the_expected_bits_on_every_level(level: str) -> None:
    for threads in (1, 3):
        with gs.threads(threads):
            assert digest(NATIVE) == EXPECTED[10]


def test_the_specification_alone_gives_the_same_bits() -> None:
    assert digest(SPECIFICATION) == EXPECTED[10]


def test_it_needs_numpy_alone(python: Callable[..., str]) -> None:
    code = """
import sys
for name in ("ml_dtypes", "safetensors", "sklearn", "matplotlib", "tqdm", "scipy", "threadpoolctl"):
    sys.modules[name] = None  # an import of it fails
from gradstep.train.cli import main
print(main(["certify", "--steps", "10"]))
"""
    assert python(code).endswith("as expected\n0")


def test_every_kernel_is_in_it() -> None:
    called: set[str] = set()

    def call(name: str, *args: Any, **given: Any) -> Any:
        called.add(name)
        return NATIVE.call(name, *args, **given)

    training = Training(Kernels(call, NATIVE.update))
    training.step()
    assert {*NATIVE_FUNCTIONS} - called == NOT_IN_IT
    kernels = {kernel for cls in gs.OPTIMIZERS.values() for kernel in cls.KERNELS}
    taken = {kernel for optimizer in training.optimizers for kernel in optimizer._kernels}
    assert kernels == taken


def test_a_full_step_is_shared_out_among_threads() -> None:
    sizes = [own["table"].size for own in Training(NATIVE).params[:-1]]
    assert min(sizes) > 2 * 8192


def test_products_are_right_and_in_one_order() -> None:
    a, b = np.arange(14, dtype=np.float32).reshape(2, 7), np.ones((7, 3), np.float32)
    assert (product(a, b) == a @ b).all()
    ordered = np.array([[1e8, 1, -1e8, 1]], np.float32)
    assert product(ordered, np.ones((4, 1), np.float32))[0, 0] == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_of_the_specification_give_the_bits_of_kernels(dtype: type) -> None:
    rng = np.random.default_rng(0)
    scales = np.array([1e-40, 1e-3, 1, 8, 40, 1e4])[:, None, None]
    x = (rng.standard_normal((len(scales), 8, 131)) * scales).astype(dtype).reshape(-1, 131)
    x[0, :6] = [0, -0.0, np.inf, -np.inf, np.nan, 5.625]
    dy = rng.standard_normal(x.shape).astype(dtype)

    def same(name: str, *args: Any) -> Any:
        found = NATIVE_FUNCTIONS[name](*args)
        with np.errstate(all="ignore"):
            expected = FUNCTIONS[name](*args)
        assert found.dtype == expected.dtype
        assert ((found == expected) | (np.isnan(found) & np.isnan(expected))).all(), name
        return found

    for name in ELEMENTWISE:
        y = same(name, x)
        same(f"{name}_backward", dy, x if name in ("silu", "gelu", "mish") else y)
    same("gelu", x, "tanh")
    same("gelu_backward", dy, x, "tanh")
    for name in ("softmax", "log_softmax"):
        same(f"{name}_backward", dy[1:], same(name, x[1:]))


@pytest.mark.parametrize("smoothing", [0.0, 0.125])
def test_cross_entropy_of_the_specification_gives_the_bits_of_kernels(smoothing: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((77, 33)).astype(np.float32) * 9
    targets, weight = rng.integers(0, 33, 77), rng.random(33).astype(np.float32)
    found, expected = (
        of["cross_entropy"](logits, targets, weight=weight, label_smoothing=smoothing)
        for of in (NATIVE_FUNCTIONS, FUNCTIONS)
    )
    assert found[0] == expected[0]
    assert (found[1] == expected[1]).all()


def test_the_command_prints_the_hashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.txt"
    assert main(["certify", "--steps", "10", "--report", str(path)]) == 0
    assert not path.exists()
    out = capsys.readouterr().out
    assert f"    10 steps  {EXPECTED[10]}  as expected" in out
    assert "100" not in out.split("after")[1].replace(EXPECTED[10], "")


def test_a_kernel_with_other_bits_is_named_in_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(NATIVE_FUNCTIONS, "mish", lambda x: gs.mish(x) * np.float32(1 + 2.0**-23))
    path = tmp_path / "report.txt"
    assert main(["certify", "--steps", "10", "--report", str(path)]) == 1
    out, err = capsys.readouterr()
    assert f"expected {EXPECTED[10]}" in out
    assert "other bits by step 10" in err
    report = path.read_text("utf-8")
    assert "first kernel with other bits than its specification: mish, in step 1\n" in report
    for word in ("gradstep", "SIMD", "threads", "compiler", "CPU", "NumPy"):
        assert f"\n{word}: " in f"\n{report}"


def test_an_optimizer_with_other_bits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    formula = gs.Lion.formula

    def twice_as_fast(f: Any, h: Any, *rest: Any) -> Any:
        return formula(f, {**h, "lr": 2 * h["lr"]}, *rest)

    monkeypatch.setattr(gs.Lion, "formula", staticmethod(twice_as_fast))
    assert first_difference(1) == "a step of Lion, in step 1"


def test_a_wrong_number_of_steps_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", "--steps", "7"]) == 2
    assert "choose from 10, 100, 1000" in capsys.readouterr().err


def test_the_page_shows_the_expected_hashes() -> None:
    page = Path(__file__).parents[1].joinpath("docs/exactness.md").read_text("utf-8")
    for digest_ in EXPECTED.values():
        assert f"  {digest_}  as expected\n" in page
