"""Loads the compiled kernels, before anything else of the package."""

import os
import sys

if sys.version_info < (3, 12):
    # There pybind11 would wait for the lock that this thread holds.
    import _xxsubinterpreters as interpreters  # type: ignore[import-not-found]

    if interpreters.get_current() != interpreters.get_main():
        raise ImportError(
            "gradstep: in a subinterpreter, expected the main interpreter, or Python >= 3.12 "
            "(under mod_wsgi: WSGIApplicationGroup %{GLOBAL})"
        )

try:
    from gradstep._core import __version__
except ImportError as error:
    # The command ends like for any other mistake; it cannot catch what happens before its module.
    # The program is what stands before its arguments: a script, or what follows -m.
    program = (sys.orig_argv[-len(sys.argv) :] or [""])[0].removeprefix("-m")
    if os.path.basename(program) != "gradstep" or not str(error).startswith("GRADSTEP_"):
        raise
    if sys.stderr is not None:
        print("gradstep: error:", error, file=sys.stderr)
    raise SystemExit(2) from None

__all__ = ["__version__"]
