"""One safetensors file: replaced as a whole or not at all, and read with its checksum.

Written here, because the library can neither sync nor stream; read by the library, which checks
the header before a byte of data is used.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from gradstep.arguments import kind
from gradstep.arrays import Array, bfloat16
from gradstep.checkpoint.plain import BFLOAT16, DTYPES, name_of

fcntl: Any
try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

__all__ = ["read", "write"]

Path = str | os.PathLike[str]

VERSION = "1"
WRITTEN = "expected a file that gradstep.save wrote"


def write(path: Path, tree: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
    """Puts the file in place of what is there. Raises OSError, and then that is as it was."""
    _library()
    # Large elements first, so that each tensor is aligned.
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))
    header = _header(ordered, json.dumps(tree, separators=(",", ":")))
    with _replacing(path) as file:
        _write_all(file, len(header).to_bytes(8, "little") + header)
        for array in ordered.values():
            _write_all(file, _bytes(array))


def read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """The tree and the tensors of a file. Raises OSError, or ValueError for a damaged one."""
    safetensors = _library()
    name = _checked(path)
    with open(name, "rb"):  # its errors are Python's
        pass
    try:
        with safetensors.safe_open(name, framework="numpy") as file:
            about = file.metadata() or {}
            text = _description(name, about)
            tensors = {key: _tensor(name, key, file) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name}: no whole safetensors file ({error}), {WRITTEN}") from None
    if _digest(tensors, text) != about["sha256"]:
        raise ValueError(f"{name}: damaged, its content does not have its checksum")
    tree: dict[str, Any] = json.loads(text)
    return tree, tensors


def _library() -> Any:
    try:
        import safetensors
    except ImportError:
        needs = "checkpoints need safetensors, which is not installed"
        raise ImportError(f"{needs}: pip install 'gradstep[checkpoint]'") from None
    return safetensors


def _checked(path: Path) -> str:
    """The path, without links. Raises TypeError, or ValueError for what is there and no file."""
    try:
        name = os.path.realpath(os.fsdecode(path))
    except TypeError:
        raise TypeError(f"path: {kind(path)}, expected a path") from None
    if os.path.exists(name) and not os.path.isfile(name):
        raise ValueError(f"path: {name} is a folder or a device, expected a file")
    return name


def _description(name: str, about: Mapping[str, str]) -> str:
    """The text of the tree in the metadata."""
    if not {"gradstep", "tree", "sha256"} <= about.keys():
        raise ValueError(f"{name}: a safetensors file of other origin, {WRITTEN}")
    if about["gradstep"] != VERSION:
        found = f"{name}: format {about['gradstep']!r} of checkpoints"
        raise ValueError(f"{found}, expected {VERSION!r}, which this version of gradstep reads")
    return about["tree"]


def _tensor(name: str, key: str, file: Any) -> Array:
    dtype = file.get_slice(key).get_dtype()
    if dtype not in (*DTYPES, BFLOAT16):
        expected = f"expected one of {', '.join(DTYPES)}, {BFLOAT16}"
        raise ValueError(f"{name}: {key!r} is {dtype}, {expected}")
    if dtype == BFLOAT16:
        bfloat16(f"{name}: {key!r} is bfloat16, which")  # the library's error would not say what
    array: Array = file.get_tensor(key)
    return array


def _header(tensors: Mapping[str, Array], tree: str) -> bytes:
    """The header, padded so that what follows is aligned to 8 bytes."""
    digest = _digest(tensors, tree)
    header: dict[str, Any] = {"__metadata__": {"gradstep": VERSION, "sha256": digest, "tree": tree}}
    start = 0
    for name, array in tensors.items():
        offsets = [start, start + array.nbytes]
        shape = list(array.shape)
        header[name] = {"dtype": name_of(array.dtype), "shape": shape, "data_offsets": offsets}
        start += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _digest(tensors: Mapping[str, Array], tree: str) -> str:
    """SHA-256 of the tree and of names, dtypes, shapes and bytes of the tensors, in hexadecimal."""
    digest = hashlib.sha256(tree.encode())
    for name, array in sorted(tensors.items()):
        digest.update(json.dumps([name, name_of(array.dtype), array.shape]).encode())
        digest.update(_bytes(array))
    return digest.hexdigest()


def _bytes(array: Array) -> memoryview:
    """The memory of an array in C order."""
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


def _write_all(file: int, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


@contextmanager
def _replacing(path: Path) -> Iterator[int]:
    """A descriptor of a new file, which takes the place of `path` once all of it is on the disk."""
    target = _checked(path)
    start = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.")
    temporary = f"{start}{secrets.token_hex(8)}.tmp"
    try:
        with _open_folder(os.path.dirname(target)) as folder:
            _share(folder, start)
            with _new_file(folder, temporary) as file:
                if hasattr(os, "fchmod"):
                    with suppress(FileNotFoundError):
                        os.fchmod(file, stat.S_IMODE(os.stat(target).st_mode))
                yield file
                os.fsync(file)
                if not os.path.lexists(temporary):
                    # Only with the descriptor of a folder does os.link follow a link, as this is.
                    os.link(f"/proc/self/fd/{file}", temporary, src_dir_fd=folder)
            os.replace(temporary, target)  # Windows renames no file that is open
            _sync_folder(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, target) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


@contextmanager
def _open_folder(folder: str) -> Iterator[int | None]:
    """A descriptor of a folder; none on Windows, which opens no folders."""
    place = os.open(folder, os.O_RDONLY) if hasattr(os, "O_DIRECTORY") else None
    try:
        yield place
    finally:
        if place is not None:
            os.close(place)


def _share(folder: int | None, start: str) -> None:
    """Locks a folder as all do that write into it; who is alone removes what the killed left.

    That is a file for which the kill came between its getting a name and taking its place, or,
    where a file cannot be without a name, at any time before.
    """
    if folder is None or fcntl is None:
        return
    with suppress(OSError):  # it is in use, or its file system has no locks
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in glob.glob(f"{glob.escape(start)}{'[0-9a-f]' * 16}.tmp"):
            os.unlink(left)
    for _ in range(100):
        try:
            fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:  # somebody removes; a program that keeps the lock is not waited for
            time.sleep(0.01)
        except OSError:
            return


@contextmanager
def _new_file(folder: int | None, name: str) -> Iterator[int]:
    """A new file: where it can be one without a name, which a kill leaves nothing of, or `name`."""
    file = -1
    with suppress(AttributeError, OSError):
        file = os.open(f"/proc/self/fd/{folder}", os.O_TMPFILE | os.O_WRONLY, 0o666)
    if file < 0:
        binary = getattr(os, "O_BINARY", 0)  # Windows changes the ends of lines without it
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | binary, 0o666)
    try:
        yield file
    finally:
        os.close(file)


def _sync_folder(folder: int | None) -> None:
    if folder is None:
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have no such call
            raise
