"""The peers, one file each.

A peer module has `REQUIRES`, the distributions that it needs besides gradstep and NumPy, and
`contenders(work)`, which lists the ways in which it can do a work (none for a kind of work that it
does not know). It imports its library inside functions, so that it can be listed without it. If it
needs what is no Python distribution, `found()` returns versions by name, None for what is missing.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

from ..work import Contender, Work

__all__ = ["ALWAYS", "Peer", "all_names", "load"]

# Everything is reported relative to these two.
ALWAYS = ("gradstep", "limit")


@dataclass(frozen=True)
class Peer:
    """A peer module. versions: of the distributions it needs; missing: those not installed."""

    name: str
    module: Any
    versions: dict[str, str]
    missing: tuple[str, ...]

    def contenders(self, work: Work) -> list[Contender]:
        """The ways in which this peer can do the work."""
        found: list[Contender] = self.module.contenders(work)
        return found


def all_names() -> list[str]:
    """The names of all peers, those of `ALWAYS` first."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(names, key=lambda name: (name not in ALWAYS, name))


def load(wanted: Collection[str] | None = None) -> list[Peer]:
    """The peers of these names (all if None) and those of `ALWAYS`."""
    names = [n for n in all_names() if wanted is None or n in wanted or n in ALWAYS]
    return [_load(name) for name in names]


def _load(name: str) -> Peer:
    module = import_module(f"{__name__}.{name}")
    versions: dict[str, str] = {}
    missing: list[str] = []
    for distribution in module.REQUIRES:
        try:
            versions[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            missing.append(distribution)
    for needed, version in getattr(module, "found", dict)().items():
        if version is None:
            missing.append(needed)
        else:
            versions[needed] = version
    return Peer(name, module, versions, tuple(missing))
