"""What a reader must know to judge figures: machine, versions, settings."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import gradstep as gs
import numpy as np

from .peers import Peer

__all__ = ["describe"]

SETTINGS = ("GRADSTEP_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "NUMBA_", "XLA_", "JAX_")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def describe(
    peers: Iterable[Peer], rounds: int, blas_limited: bool, command: str
) -> dict[str, str]:
    """The lines of the header, in order."""
    info = gs.build_info()
    versions = {"Python": platform.python_version(), "NumPy": np.__version__}
    absent: list[str] = []
    for peer in peers:
        versions.update(peer.versions)
        absent += [f"{peer.name} (no {name})" for name in peer.missing]
    blas = "" if blas_limited else "; BLAS of NumPy as it likes (no threadpoolctl)"
    return {
        "command": f"`{command}`",
        "CPU": f"{_cpu()}, {os.cpu_count()} logical; {_caches()}",
        "memory": f"{_memory()}; huge pages: {_huge_pages()}",
        "gradstep": f"{info['version']}, {info['compiler']}, SIMD {info['simd_level']}",
        "threads": f"{info['threads']} for gradstep and the peers{blas}; NumPy itself uses one",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "peers not measured": ", ".join(absent) or "none",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}, load {_load()}",
        "environment": _environment(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "rounds": str(rounds),
    }


def _field(file: Path, key: str) -> str | None:
    if not file.exists():
        return None
    for line in file.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _cpu() -> str:
    name = _field(Path("/proc/cpuinfo"), "model name")
    return name or platform.processor() or platform.machine()


def _caches() -> str:
    """Of the first CPU, as in "L1d 32K, L2 1024K"."""
    found: list[str] = []
    for cache in sorted(CACHES.glob("index*")):
        kind = (cache / "type").read_text().strip()
        level, size = (cache / "level").read_text().strip(), (cache / "size").read_text().strip()
        if kind != "Instruction":
            found.append(f"L{level}{'d' if kind == 'Data' else ''} {size}")
    return ", ".join(found) or "caches unknown"


def _memory() -> str:
    total = _field(Path("/proc/meminfo"), "MemTotal")
    return f"{int(total.split()[0]) / 2**20:.0f} GiB" if total else "size unknown"


def _huge_pages() -> str:
    setting = HUGE_PAGES.read_text().strip() if HUGE_PAGES.exists() else "unknown"
    torch = "on" if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1" else "not asked for by torch"
    return f"{setting}, {torch}"


def _environment() -> str:
    """The variables that change how fast libraries are."""
    chosen = {k: v for k, v in sorted(os.environ.items()) if k.startswith(SETTINGS)}
    return ", ".join(f"{key}={value}" for key, value in chosen.items()) or "nothing set"


def _load() -> str:
    if not hasattr(os, "getloadavg"):
        return "unknown"
    return " ".join(f"{value:.2f}" for value in os.getloadavg())
