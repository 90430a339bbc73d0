"""Locks that a forked child finds open: it must not wait for a thread that only its parent has."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

__all__ = ["new_lock"]

_OWNERS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def new_lock(owner: Any) -> Any:
    """A lock to keep as `owner._lock`; a forked child gets a new one there."""
    _OWNERS[id(owner)] = owner
    return threading.RLock()


def _renew() -> None:
    for owner in list(_OWNERS.values()):
        owner.__dict__["_lock"] = threading.RLock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew)
