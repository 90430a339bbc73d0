"""`gradstep certify`: whether this machine gives the bits that all others give."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

import numpy as np

from gradstep.certificate import EXPECTED, NATIVE, SPECIFICATION, Training, first_difference
from gradstep.runtime import build_info
from gradstep.train.console import Console, complain

__all__ = ["certify"]


def certify(arguments: argparse.Namespace) -> int:
    """Run `gradstep certify`; return 1 where a hash is another one. Raises ValueError or OSError.

    What a report is written for is printed in any case.
    """
    console = Console()
    last = arguments.steps or (100 if arguments.spec else max(EXPECTED))
    found: dict[int, str] = {}
    training = Training(SPECIFICATION if arguments.spec else NATIVE)
    console.say(f"{_computed_by(arguments.spec)}\nSHA-256 of the weights after")
    for steps, expected in EXPECTED.items():
        if steps > last:
            break
        while training.steps < steps:
            training.step()
        found[steps] = training.digest()
        verdict = "as expected" if found[steps] == expected else f"expected {expected}"
        console.say(f"{steps:>6,} steps  {found[steps]}  {verdict}")
    wrong = [steps for steps, digest in found.items() if digest != EXPECTED[steps]]
    if wrong:
        complain(f"gradstep: other bits by step {wrong[0]}; looking for the kernel")
        arguments.report.write_text(_report(arguments.spec, found, wrong[0]), encoding="utf-8")
        complain(f"gradstep: what is known of it is in {arguments.report}")
    if console.error:
        raise console.error
    return int(bool(wrong))


def _computed_by(spec: bool) -> str:
    build = build_info()
    if spec:
        return f"computed by the specification in NumPy {np.__version__}"
    threads = f"{build['threads']} thread{'s' if build['threads'] > 1 else ''}"
    return f"computed by kernels for {build['simd_level']} from {build['compiler']}, {threads}"


def _report(spec: bool, found: dict[int, str], wrong: int) -> str:
    build = build_info()
    difference = first_difference(wrong)
    kernel = (
        difference or "none: kernels and specification agree here, and differ from what shipped"
    )
    lines = {
        "gradstep": build["version"],
        "computed by": "specification" if spec else "kernels",
        "first kernel with other bits than its specification": kernel,
        **{
            f"after {steps:,} steps": f"{digest}, expected {EXPECTED[steps]}"
            for steps, digest in found.items()
        },
        "SIMD": f"{build['simd_level']} of {', '.join(build['simd_levels'])}",
        "SIMD levels that do not run here, and why": build["simd_missing"] or "none",
        "threads": build["threads"],
        "compiler": build["compiler"],
        "CPU": _processor(),
        "system": platform.platform(),
        "Python": sys.version,
        "NumPy": np.__version__,
    }
    return "".join(f"{name}: {' '.join(str(value).split())}\n" for name, value in lines.items())


def _processor() -> str:
    """The CPU's name and flags where Linux tells them, else what Python knows."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    first = text.split("\n\n")[0].splitlines()
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    kept = [" ".join(line.split()) for line in first if line.startswith(wanted)]
    return f"{platform.machine()}; {'; '.join(kept)}"
