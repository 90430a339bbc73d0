"""Where data come from: files by the ending of their names, compressed or not, and stdin."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

__all__ = ["STDIN", "TEXT", "check_file", "kind_of", "open_text"]

STDIN = "-"
# Endings of text tables, and the separator that an ending promises.
TEXT: dict[str, str | None] = {".csv": None, ".tsv": "\t"}
GZIP = b"\x1f\x8b"


def kind_of(source: str) -> str:
    """Return the ending that tells what is inside: .csv of table.csv.gz and of stdin.

    >>> kind_of("a.TSV.gz"), kind_of("b.npz"), kind_of("-"), kind_of("digits")
    ('.tsv', '.npz', '.csv', '')
    """
    if source == STDIN:
        return ".csv"
    path = Path(source)
    packed = path.suffix.lower() == ".gz"
    inside = Path(path.stem).suffix.lower() if packed else path.suffix.lower()
    return "" if packed and inside not in TEXT else inside


def check_file(path: str | Path) -> None:
    """Raise FileNotFoundError, OSError or ValueError unless a file is there that can be read."""
    try:
        found, folder = Path(path).exists(), Path(path).is_dir()
    except OSError as error:
        raise OSError(f"data: {path}: {error.strerror}, expected a file") from None
    if not found:
        raise FileNotFoundError(f"data: {path}: no such file")
    if folder:
        raise ValueError(f"data: {path}: a folder, expected a file")
    if not Path(path).is_file():
        raise ValueError(f"data: {path}: a pipe or a device, expected a file, or - for stdin")
    if not os.access(path, os.R_OK):
        raise OSError(f"data: {path}: permission denied, expected a file that can be read")


@contextmanager
def open_text(source: str | Path) -> Iterator[IO[str]]:
    """Open a text table from its start; it can be read again after seek(0).

    source: a path, or "-" for standard input. What is compressed by gzip is unpacked, whatever its
    name. Raises ValueError if that is damaged or the text is not UTF-8.
    """
    with _raw(source) as raw:
        packed = raw.read(2) == GZIP
        raw.seek(0)
        content = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if packed else raw)
        file = io.TextIOWrapper(content, encoding="utf-8-sig", newline="")
        try:
            yield file
        except UnicodeDecodeError:
            raise ValueError(
                "not UTF-8 text, expected a table in UTF-8, as iconv makes it"
            ) from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"damaged file ({error})") from None
        finally:
            file.detach()


def _raw(source: str | Path) -> IO[bytes]:
    if str(source) != STDIN:
        return open(source, "rb")
    if sys.stdin is None:
        raise ValueError("standard input is closed, expected a table")
    return io.BytesIO(sys.stdin.buffer.read())
