"""Draw docs/schedules.png, one panel per schedule: python docs/plot_schedules.py [output.png]."""

import sys
from pathlib import Path
from typing import Any

from gradstep.optim.schedules import SCHEDULES, Schedule
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STEPS = range(1, 1_001)
COLUMNS = 3
COLORS = ("tab:blue", "tab:orange")

# What each panel shows, as one would type it: every schedule of the registry, then compositions.
EXAMPLES: dict[str, list[str]] = {
    "constant": ["constant(0.05)"],
    "piecewise": ["piecewise([200, 600], [0.1, 0.03, 0.06])"],
    "step_decay": ["step_decay(0.1, every=200)", "step_decay(0.1, every=400, factor=0.1)"],
    "exponential": ["exponential(0.1, 0.995)", "exponential(0.1, 0.5, period=500)"],
    "inverse_time": [
        "inverse_time(0.1, decay=1, period=100)",
        "inverse_time(0.1, decay=0.1, period=100)",
    ],
    "power": ["power(0.1, alpha=0.5)", "power(0.1, alpha=0.2)"],
    "polynomial": ["polynomial(0.1, 800)", "polynomial(0.1, 800, power=2, floor=0.02)"],
    "cosine": ["cosine(0.1, 800)", "cosine(0.1, 500, floor=0.02)"],
    "cosine_restarts": ["cosine_restarts(0.1, 143, growth=2)"],
    "one_cycle": ["one_cycle(0.1, 900)"],
    "warmup": ["warmup(200, cosine(0.1, 700))", "warmup(200, 0.05, start_factor=0.5)"],
    "join": ["join([0.02, cosine(0.1, 600)], [300])"],
    "per_epoch": ["per_epoch(100, cosine(0.1, 10))"],
    "scaled": ["cosine(0.1, 800)", "0.5 * cosine(0.1, 800)"],
    "warm-up, then restarts": ["warmup(100, cosine_restarts(0.1, 300))"],
    "one cycle, then fine-tuning": ["join([one_cycle(0.1, 500), 0.01], [500])"],
}


def schedule_of(expression: str) -> Schedule:
    """Evaluate one of the expressions above."""
    schedule: Schedule = eval(expression, dict(SCHEDULES))
    return schedule


def draw_panel(axes: Axes, title: str, expressions: list[str]) -> None:
    """Draw the rates of `expressions`, each named in the color of its line."""
    for row, (expression, color) in enumerate(zip(expressions, COLORS, strict=False)):
        schedule = schedule_of(expression)
        axes.plot(STEPS, [schedule(t) for t in STEPS], color=color, linewidth=1.8)
        place: dict[str, Any] = {"transform": axes.transAxes, "color": color, "family": "monospace"}
        axes.text(0.0, 1.12 - 0.085 * row, expression, fontsize=7.6, **place)
    axes.set_title(title, loc="left", fontsize=11, weight="bold", pad=26)
    axes.tick_params(labelbottom=True, labelsize=8)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw(path: Path) -> None:
    """Write the picture to `path`."""
    missing = set(SCHEDULES) - set(EXAMPLES)
    if missing:
        raise SystemExit(f"no example of {', '.join(sorted(missing))}")
    rows = -(-len(EXAMPLES) // COLUMNS)
    figure = Figure(figsize=(10, 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True)
    for axes, (title, expressions) in zip(panels.flat, EXAMPLES.items(), strict=False):
        draw_panel(axes, title, expressions)
    for axes in panels.flat[len(EXAMPLES) :]:
        axes.set_visible(False)
    panels[0, 0].set(xlim=(1, 1_000), xticks=(1, 250, 500, 750, 1_000), ylim=(0, 0.105))
    figure.supxlabel("step", fontsize=10)
    figure.supylabel("rate", fontsize=10)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("schedules.png"))
