"""The report as pictures; needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .runner import LIMIT, Result
from .steps import Step

__all__ = ["draw"]

# Curves keep their colour from plot to plot.
NAMES = (
    "gradstep step(grads)",
    "gradstep bound step()",
    "torch fused",
    "torch foreach",
    "torch default",
    "NumPy in place",
    "NumPy reference",
    "gradstep",
    "torch",
    "torch aten",
    "NumPy",
    "oneDNN plain",
    "oneDNN blocked",
)
SIDE = 4  # subplots in a row


def _colour(name: str) -> str:
    return f"C{NAMES.index(name) % 7 if name in NAMES else sum(map(ord, name)) % 10}"


def draw(results: Sequence[Result], folder: Path) -> dict[str, str]:
    """Writes PNG files into the folder; title -> name of the file."""
    plots: dict[str, str] = {}
    curves = _curves(results)
    if curves:
        _draw_curves(curves, folder / "bandwidth.png")
        plots["GB/s of the ideal bytes over the size"] = "bandwidth.png"
    for suite in ("models", "pipeline", "small", "dropout", "norms", "activations"):
        models = [r for r in results if r.suite == suite]
        if models:
            _draw_bars(models, folder / f"{suite}.png")
            plots[f"Time by model: {suite}"] = f"{suite}.png"
    return plots


def _curves(results: Sequence[Result]) -> dict[str, list[Result]]:
    """By title, the results of the suite of single tensors."""
    curves: dict[str, list[Result]] = {}
    for result in results:
        if result.suite == "optimizers" and isinstance(result.work, Step):
            curves.setdefault(result.work.title, []).append(result)
    return curves


def _figure(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(count, SIDE)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, list(axes[:count])


def _points(results: Sequence[Result], name: str) -> tuple[list[int], list[float]]:
    sizes: list[int] = []
    speeds: list[float] = []
    for result in sorted(results, key=lambda result: result.work.elements):
        timing = result.timing(name)
        if timing is not None:
            sizes.append(result.work.elements)
            speeds.append(result.bandwidth(timing))
    return sizes, speeds


def _draw_curves(curves: dict[str, list[Result]], file: Path) -> None:
    figure, axes = _figure(len(curves), 4.2, 3.4)
    shown: dict[str, Any] = {}
    for axis, (title, results) in zip(axes, curves.items(), strict=True):
        for name in _names(results):
            style: dict[str, Any] = {"color": _colour(name), "marker": "o", "markersize": 3}
            if name == LIMIT:
                style = {"color": "black", "linestyle": "--", "marker": "_"}
            shown.setdefault(name, axis.plot(*_points(results, name), label=name, **style)[0])
        axis.set(title=title, xscale="log", xlabel="parameters", ylabel="GB/s", ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=4)
    figure.savefig(file, dpi=110)


def _names(results: Sequence[Result]) -> list[str]:
    """Of the contenders that were timed, in the order of NAMES."""
    found = {row.name for result in results for row in result.rows if row.timing}
    return sorted(found, key=lambda name: (NAMES.index(name) if name in NAMES else 99, name))


def _draw_bars(results: Sequence[Result], file: Path) -> None:
    figure, axes = _figure(len(results), 4.6, 3.0)
    for axis, result in zip(axes, results, strict=True):
        rows = [row for row in reversed(result.rows) if row.timing]
        names = [row.name for row in rows]
        medians = [row.timing.median * 1e3 for row in rows if row.timing]
        colours = ["black" if name == LIMIT else _colour(name) for name in names]
        bars = axis.barh(names, medians, color=colours, height=0.7)
        axis.bar_label(bars, labels=[f" {value:.3g}" for value in medians], fontsize=8)
        axis.set(xlabel="ms")
        axis.set_title(result.work.name, fontsize=9)
        axis.margins(x=0.2)
        axis.tick_params(axis="y", labelsize=8)
    figure.savefig(file, dpi=110)
