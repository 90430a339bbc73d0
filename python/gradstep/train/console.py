"""Where the command speaks: results on stdout, mistakes on stderr, whether or not they are open."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

__all__ = ["Console", "complain", "finish", "hold_closed_descriptors"]


class Console:
    """Standard output, which may be closed, full, or have lost its reader.

    A line that cannot be written is no reason to lose the work: `error` keeps what happened, and
    nothing more is said. Raises ValueError if there is no standard output, unless quiet.
    """

    def __init__(self, quiet: bool = False) -> None:
        if sys.stdout is None and not quiet:
            raise ValueError(
                "standard output: closed, expected an open one, such as a file or /dev/null"
            )
        self.quiet = quiet
        self.error: OSError | None = None

    def say(self, text: str) -> None:
        """Print the text, at once, unless quiet."""
        if self.quiet or self.error:
            return
        try:
            _write(sys.stdout, text)
        except BrokenPipeError as error:
            self.error = error
        except OSError as error:
            self.error = OSError(f"standard output: {error.strerror}, expected one to write to")


def complain(text: str) -> None:
    """Print the text to standard error, if there is one."""
    if sys.stderr is None:
        return
    try:
        _write(sys.stderr, text)
    except OSError:
        _discard(sys.stderr)


def _write(stream: TextIO, text: str) -> None:
    # Names of files and classes need not fit the terminal's encoding.
    encoding = stream.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def finish() -> OSError | None:
    """Write out what standard output still holds; return why not, and let it be no more trouble."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        return error
    return None


def _discard(stream: TextIO) -> None:
    """Send what the stream still holds nowhere: the interpreter would try again when it exits."""
    with suppress(OSError), open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), stream.fileno())


def hold_closed_descriptors() -> None:
    """Open the null device for each of stdin, stdout and stderr that is closed.

    The next file would get its number, and whatever a library prints would go into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
