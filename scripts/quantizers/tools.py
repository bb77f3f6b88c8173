"""Programs that some libraries are, apart from the environment: run so that their failures say why."""

import errno
import subprocess
import sys
from collections import deque
from pathlib import Path

from scripts.lib.runtime.shortages import Refused
from scripts.lib.study.libraries import libraries

ROOT = Path(__file__).parents[2]
FULL = "OSError: [Errno 28] No space left on device"  # the last line of a program in Python that cannot write
LAST = 3  # lines of what a program said, for its error


def require(library: str) -> Path:
    """What is built for a library, below the root of the clone.

    Raises:
        Refused: it is not built.
    """
    about = libraries()[library].built
    built = ROOT / about["file"]
    if not built.is_file():
        raise Refused(f"{built.relative_to(ROOT)} is not built: run `make {about['target']}`")
    return built


def run_program(command: list, name: str) -> None:
    """Run a program of a library from the root of the clone; what it prints goes to this process's log.

    Raises:
        RuntimeError: it failed; the message has the last lines of what it said.
        ChildProcessError: it was killed, as for too much memory.
        OSError: the disk is full.
    """
    last: deque[str] = deque(maxlen=LAST)
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stderr:
            sys.stderr.write(line)
            last.append(line.strip())
    if process.returncode < 0:
        raise ChildProcessError(-process.returncode, f"{name} was killed")
    if process.returncode and FULL in list(last)[-1:]:
        raise OSError(errno.ENOSPC, f"{name} found the disk full")
    if process.returncode:
        raise RuntimeError(f"{name} ended with status {process.returncode}: {' '.join(last)}")
