"""Bounds on what others' files make libraries do: memory in this process, and memory and time in a child of it."""

import faulthandler
import math
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.lib.runtime.untrusted import LARGEST_JSON, one_line

STATM = Path("/proc/self/statm")
WAITED = 10  # seconds of waiting for each of work, on a machine that does other work too


class TooLongError(Exception):
    """What others' texts make a library do takes more than its time."""


class TimeOnCore:
    """So many seconds of a core for what is done within it, all times together; only of a process's main thread.

    Python's regular expressions and all that is written in Python end then, though not what other libraries' code does
    in one call.
    """

    def __init__(self, seconds: float):
        self.seconds = self.left = seconds

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Spend of it.

        Raises:
            TooLongError: nothing is left; raised again each second, for libraries may pass over the first.
        """

        def end(*_) -> None:
            raise TooLongError(f"it takes more than {self.seconds:g} s of a core")

        before = signal.signal(signal.SIGPROF, end)
        signal.setitimer(signal.ITIMER_PROF, max(self.left, 1e-3), 1)
        try:
            yield
        finally:
            self.left = signal.setitimer(signal.ITIMER_PROF, 0)[0] if self.left > 0 else 0
            signal.signal(signal.SIGPROF, before)


@contextmanager
def more_memory(most: int) -> Iterator[None]:
    """Let this process take so many bytes more than it has now: a MemoryError beyond, or an end of the process.

    Where Linux does not tell what it has, nothing is bounded.
    """
    if not STATM.exists():
        yield
        return
    has = int(STATM.read_text().split()[5]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bounds = [bound for bound in (has + most, soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def confined(call: Callable[[], object], memory: int, seconds: int) -> None:
    """Make a call in a child of this process, for its failures; what it gives is lost.

    Args, Raises: as of `streamed`; the bounds are those of the call.
    """

    def nothing() -> Iterator:
        call()
        yield from ()

    list(streamed(nothing, memory, seconds))


def streamed(make: Callable[[], Iterable], memory: int, seconds: int) -> Iterator:
    """What an iterable gives, which is made and gone through in a child of this process; it writes no large files.

    Args:
        make: gives the iterable, in the child; its items are pickled.
        memory: bytes that the child may take beyond what this process has.
        seconds: time on a core that each item may take.

    Raises:
        ValueError: it takes more, or fails; a line.
        MemoryError: Linux killed the child, as it does where the machine has too little memory.
    """
    context = multiprocessing.get_context("fork")  # what is imported need not be imported again
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(make, there, memory, seconds), daemon=True)
    child.start()
    there.close()
    said = None
    try:
        while said is None:
            if here.poll(seconds * WAITED):
                goes_on, content = here.recv()
                if goes_on:
                    yield content
                else:
                    said = content
            else:
                said = f"it takes more than {seconds * WAITED} s"
    except (EOFError, OSError):  # it has ended, between two items or within one
        pass
    finally:
        child.kill()
        child.join()
        here.close()
    if said is None and child.exitcode == -signal.SIGXCPU:
        said = f"it takes more than {seconds} s"
    elif said is None and child.exitcode == -signal.SIGKILL:
        raise MemoryError("a process of this job was killed, as Linux does where the machine has too little memory")
    elif said is None:
        said = f"it takes more than {memory / 1e9:.1f} GB, or its process fell (status {child.exitcode})"
    if said:
        raise ValueError(said)


def _child(make: Callable[[], Iterable], there, memory: int, seconds: int) -> None:
    """Send (True, item) for each item, then (False, how it failed), a line that is empty if it did not."""
    faulthandler.disable()
    nowhere = os.open(os.devnull, os.O_WRONLY)  # for libraries print what they are refused for
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads would not have outlived the fork
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _bound(resource.RLIMIT_FSIZE, LARGEST_JSON)
    said = ""
    try:
        with more_memory(memory):
            _bound(resource.RLIMIT_CPU, seconds)
            for item in make():
                there.send((True, item))
                used = resource.getrusage(resource.RUSAGE_SELF)
                _bound(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + seconds)
    except BaseException as error:  # of any library, those of Rust among them
        known = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        short = isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)
        said = f"it takes more than {memory / 1e9:.1f} GB" if short else known
    there.send((False, one_line(said)))


def _bound(what: int, most: int) -> None:
    """Set a limit of this process, which may be set again; one that it has by whoever started it stays."""
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
