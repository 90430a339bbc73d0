"""Peers in a process of their own, where their threads and settings cannot meet those of others.

`there(library, environment, make, work, inputs)` calls `make` in another Python process and returns
a `Ready` that feeds, runs and times it there. One process serves all contenders of a library. It
starts with its environment and on as many CPUs as gradstep has threads, before it imports anything.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count, repeat
from multiprocessing.connection import Connection, Pipe
from typing import Any

import gradstep as gs
import numpy as np

from .steps import copied
from .work import Arrays, Inputs, Ready, Work

__all__ = ["serve", "there"]

Make = Callable[[Any, Inputs], Ready]

# The CPUs are set first: thread pools are as large as what they find.
START = """\
import os, sys
from importlib import import_module
module, descriptor, threads, cpus = sys.argv[1:]
if cpus:
    os.sched_setaffinity(0, map(int, cpus.split(",")))
import_module(module).serve(int(descriptor), int(threads))
"""


def there(
    library: str, environment: Mapping[str, str], make: Make, work: Work, inputs: Inputs
) -> Ready:
    """What `make` prepares in the process of the library.

    environment: variables which that process starts with. make: a function of a module, or a
    partial of one. Raises RuntimeError with what went wrong there, then or in a later call.
    """
    handle = Handle(_process(library, environment), make, work, inputs)
    return Ready(partial(handle.timed, 1), handle.feed, handle.outputs, handle.timed)


class Process:
    """A Python process that does works. Ends with the last reference to it."""

    def __init__(self, environment: Mapping[str, str], threads: int) -> None:
        self.pipe, theirs = Pipe()
        arguments = [__name__, str(theirs.fileno()), str(threads), _cpus(threads)]
        paths = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *arguments],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads), **environment},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what libraries print must not get into the report
        )
        theirs.close()
        self.numbers = count()
        self.dropped: list[int] = []
        self.end = weakref.finalize(self, _end, self.pipe, self.process)

    def ask(self, command: str, number: int, *arguments: Any, arrays: Arrays | None = None) -> Any:
        """The answer to a command about a work; arrays follow it."""
        dropped = [*self.dropped]
        del self.dropped[: len(dropped)]
        try:
            self.pipe.send((dropped, command, number, arguments))
            for array in arrays or ():
                self.pipe.send_bytes(np.ascontiguousarray(array).data.cast("B"))
            problem, answer = self.pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError(f"its process ended with status {self.process.wait()}") from None
        if problem:
            raise RuntimeError(problem)
        return answer


class Handle:
    """A work in another process, which forgets it when this is gone."""

    def __init__(self, process: Process, make: Make, work: Work, inputs: Inputs) -> None:
        self.process, self.number = process, next(process.numbers)
        like = [(array.shape, array.dtype.str) for array in inputs.arrays]
        task = pickle.dumps((make, work))  # unpickled where an error is reported
        weakref.finalize(self, process.dropped.append, self.number)
        process.ask("make", self.number, task, like, arrays=inputs.arrays)

    def feed(self, values: Arrays) -> None:
        self.process.ask("feed", self.number, arrays=values)

    def timed(self, calls: int) -> float:
        """The seconds of that many calls."""
        seconds: float = self.process.ask("timed", self.number, calls)
        return seconds

    def outputs(self) -> Arrays:
        found: Arrays = self.process.ask("outputs", self.number)
        return found


_processes: dict[tuple[str, int], Process] = {}


def _process(library: str, environment: Mapping[str, str]) -> Process:
    """That of the library, with today's number of threads; a new one if it has ended."""
    threads = gs.get_num_threads()
    found = _processes.get((library, threads))
    if found is None or found.process.poll() is not None:
        found = _processes[library, threads] = Process(environment, threads)
    return found


def _cpus(threads: int) -> str:
    """The first that this process may use, or "" where the system has no such thing."""
    if not hasattr(os, "sched_getaffinity"):
        return ""
    return ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))


def _end(pipe: Connection, process: subprocess.Popen[bytes]) -> None:
    pipe.close()
    process.wait()


class Served:
    """A work in this process, for another one."""

    def __init__(self, make: Make, work: Work, arrays: Arrays) -> None:
        self.work = work
        self.values = copied(arrays) if work.consumes_inputs else []
        self.ready = make(work, Inputs(arrays))

    def feed(self, values: Arrays) -> None:
        if self.work.consumes_inputs:
            self.values = values
        self.ready.feed(values)

    def timed(self, calls: int) -> float:
        if self.ready.timed is not None:
            return self.ready.timed(calls)
        run, total = self.ready.run, 0.0
        if not self.work.consumes_inputs:
            start = time.perf_counter()
            for _ in repeat(None, calls):
                run()
            return time.perf_counter() - start
        for _ in repeat(None, calls):
            self.ready.feed(self.values)
            start = time.perf_counter()
            run()
            total += time.perf_counter() - start
        return total

    def outputs(self) -> Arrays:
        return [np.asarray(array) for array in self.ready.outputs()]


class Server:
    """Answers what `Process.ask` asks."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.served: dict[int, Served] = {}
        self.likes: dict[int, Sequence[tuple[tuple[int, ...], str]]] = {}

    def answer(self) -> None:
        """Takes one command and answers it. Raises EOFError when there will be no more."""
        dropped, command, number, arguments = self.pipe.recv()
        for gone in dropped:
            self.served.pop(gone, None)
            self.likes.pop(gone, None)
        if command == "make":
            self.likes[number] = arguments[1]
        arrays = self.arrays(number) if command in ("make", "feed") else []
        try:
            answer = self.do(command, number, arguments, arrays)
        except Exception as problem:  # a peer may raise anything
            self.pipe.send((f"{type(problem).__name__}: {problem}", None))
        else:
            self.pipe.send((None, answer))

    def arrays(self, number: int) -> Arrays:
        """Those that follow a command, in new memory."""
        found = [np.empty(shape, dtype) for shape, dtype in self.likes[number]]
        for array in found:
            self.pipe.recv_bytes_into(array.data.cast("B"))
        return [*found]

    def do(self, command: str, number: int, arguments: Any, arrays: Arrays) -> Any:
        if command == "make":
            make, work = pickle.loads(arguments[0])
            self.served[number] = Served(make, work, arrays)
            return None
        served = self.served[number]
        if command == "feed":
            return served.feed(arrays)
        return served.timed(*arguments) if command == "timed" else served.outputs()


def serve(descriptor: int, threads: int) -> None:
    """Does the works of the process at the other end of the pipe until that ends."""
    gs.set_num_threads(threads)
    server = Server(Connection(descriptor))
    while True:
        try:
            server.answer()
        except EOFError:
            return
