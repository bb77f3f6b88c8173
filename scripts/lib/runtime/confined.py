"""Bounds on what others' files make libraries do: memory in this process, and memory and time in a child of it."""

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.lib.runtime.untrusted import one_line

STATM = Path("/proc/self/statm")
WAITED = 10  # seconds of waiting for each of work, on a machine that does other work too


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

    Args:
        memory: bytes that it may take beyond what this process has.
        seconds: time on a core that it may take.

    Raises:
        ValueError: it takes more, or fails; a line.
    """
    context = multiprocessing.get_context("fork")  # what is imported need not be imported again
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(call, there, memory, seconds), daemon=True)
    child.start()
    there.close()
    said = None
    try:
        with contextlib.suppress(EOFError):
            said = here.recv() if here.poll(seconds * WAITED) else f"it takes more than {seconds * WAITED} s"
    finally:
        child.kill()
        child.join()
        here.close()
    if said is None and child.exitcode == -signal.SIGXCPU:
        said = f"it takes more than {seconds} s"
    elif said is None:
        said = f"it takes more than {memory / 1e9:.1f} GB, or its process fell (status {child.exitcode})"
    if said:
        raise ValueError(one_line(said))


def _child(call: Callable[[], object], there, memory: int, seconds: int) -> None:
    """Make the call and tell how it failed: nothing if it did not."""
    faulthandler.disable()
    nowhere = os.open(os.devnull, os.O_WRONLY)  # for libraries print what they are refused for
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # threads would not have outlived the fork
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    said = ""
    try:
        with more_memory(memory):
            call()
    except BaseException as error:  # of any library, those of Rust among them
        known = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        short = isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)
        said = f"it takes more than {memory / 1e9:.1f} GB" if short else known
    there.send(said)
