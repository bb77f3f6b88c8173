"""One log per job: everything a job or its libraries print goes to the rule's log file; people see progress lines."""

import logging
import os
import sys
import time
from pathlib import Path


def open_log(path: str, label: str) -> logging.Logger:
    """Send file descriptors 1 and 2 of this process to the log file and return the job's logger.

    The descriptors themselves are redirected, so that output of native libraries and child processes is kept too.
    Records of level INFO go to the log file; records of level WARNING and above, and those of `Progress`, are also
    shown on the terminal (or in the scheduler's log) with `label` before them. Uncaught exceptions are logged in full,
    and their last line is shown on the terminal.

    Args:
        path: the rule's log file; its folder is made if need be.
        label: what the job is, e.g. "quantize demo/step-1000/rtn-w3-g32".
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)

    to_file = logging.StreamHandler(sys.stderr)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    to_terminal = logging.StreamHandler(terminal)
    to_terminal.setFormatter(logging.Formatter(f"{label}: %(message)s"))
    to_terminal.addFilter(lambda record: record.name == "trajquant" and getattr(record, "show", record.levelno >= 30))
    logging.basicConfig(level=logging.INFO, handlers=[to_file, to_terminal], force=True)
    logger = logging.getLogger("trajquant")

    def report(kind, error, trace):
        logging.getLogger("uncaught").error("job failed", exc_info=(kind, error, trace))
        print(f"{label}: {kind.__name__}: {error}\n  full log: {path}", file=terminal)

    sys.excepthook = report
    return logger


class Progress:
    """Shows how far a long loop is, at most once every `every` seconds, with the time still to go.

    Args:
        total: number of units of work in the whole loop.
        unit: what is counted, in the plural ("steps", "windows").
        every: seconds between lines on the terminal.
    """

    def __init__(self, total: int, unit: str, every: float = 20.0):
        self.total, self.unit, self.every = total, unit, every
        self.start = self.last = time.monotonic()
        self.first = None

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` of `total` units are done; `note` is added to the line."""
        now = time.monotonic()
        if self.first is None:
            self.first = done
        if now - self.last < self.every or done >= self.total:
            return
        self.last = now
        rate = (done - self.first) / (now - self.start)
        left = f", {(self.total - done) / rate:.0f} s left" if rate > 0 else ""
        note = f", {note}" if note else ""
        logging.getLogger("trajquant").info(f"{done}/{self.total} {self.unit}{note}{left}", extra={"show": True})
