"""Places that results are written to: what is wrong there is found before the work starts."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["check_files", "check_replaceable", "check_space", "check_writable", "write_text"]

LEAST_SPACE = 2**16  # bytes


def check_writable(path: Path) -> None:
    """Raise ValueError unless a file can be written there; one that is there stays as it is."""
    try:
        if path.is_dir() or not path.parent.is_dir():
            raise ValueError(f"{path}, expected a file in a folder that exists")
        check_space(path.parent)
        new = not os.path.lexists(path)
        if new or path.is_file():
            with open(path, "ab"):
                pass
        if new:
            path.unlink()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected a file that can be written") from None


def check_space(folder: Path) -> None:
    """Raise OSError where a disk is so full that hardly anything can be written."""
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < LEAST_SPACE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_files(files: Mapping[str, Path | None], inputs: Mapping[str, str]) -> None:
    """Raise ValueError unless all files can be written, and none is another one or an input.

    files: option -> where to write, None for nowhere. inputs: what it is -> where it is read.
    """
    taken = {os.path.realpath(path): f"{what}, {path}" for what, path in inputs.items()}
    for option, path in files.items():
        if path is None:
            continue
        place = os.path.realpath(path)
        if place in taken:
            raise ValueError(f"{option}: {path} is {taken[place]}, expected another file")
        taken[place] = f"that of {option}"
        try:
            check_writable(path)
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from None


def check_replaceable(option: str, path: Path) -> None:
    """Raise ValueError unless a new file can take the place of what is there."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{option}: {path} is no file, expected one, which is replaced as a whole")
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))):
            pass
    except OSError as error:
        what = f"{option}: {path}: {error.strerror} beside it"
        raise ValueError(f"{what}, expected a folder to write to") from None


def write_text(option: str, path: Path, text: str) -> None:
    """Write the text. Raises OSError that names the option and the path."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OSError(f"{option}: {path}: {error.strerror}, nothing written there") from None
