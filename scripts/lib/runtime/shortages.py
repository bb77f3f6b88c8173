"""Failures of the machine, which another attempt may not meet, apart from failures of a method on a model."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.lib.runtime.untrusted import one_line

WORDS = ("can't allocate memory", "out of memory", "no space left", "cuda error")
OF_THE_MODEL = "device-side assert"  # on a GPU: a token that the model has no row for, or the like
LONGEST_CAUSE = 300  # characters


class Refused(Exception):
    """This cell cannot be computed, for a reason that the report shows; the job itself has not failed."""


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that the machine failed: memory, disk or device; not that a model is unsuitable.

    Errors of files are failures of the machine too, except that a file is not there.
    """
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError) and error.errno is not None
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    message = str(error).lower()
    return OF_THE_MODEL not in message and any(word in message for word in WORDS)


@contextmanager
def refusing(what: str, on: str = "this model") -> Iterator[None]:
    """Turn what is raised on a model, or on others' data, into a refused cell; the log has the whole of it.

    Args:
        what: the library that runs the model, or the task that the data are for.
        on: what it may fail on.

    Raises:
        Refused: it fails; with kind and message. Failures of the machine (memory, disk) pass through: they fail the
            job, which is tried again.
    """
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        if is_shortage(error):
            raise
        logging.getLogger(__name__).exception("%s fails on %s", what, on)
        raise Refused(f"{what} fails on {on}: {kind_and_message(error)}") from error


def kind_and_message(error: Exception) -> str:
    """An error as one line."""
    return f"{type(error).__name__}: {one_line(' '.join(str(error).split()), LONGEST_CAUSE)}"
