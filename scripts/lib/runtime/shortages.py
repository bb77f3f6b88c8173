"""Failures of the machine, which another attempt may not meet, apart from failures of a method on a model."""

import errno
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from scripts.lib.runtime.untrusted import one_line

# What others' names of files can cause; other errors of files are the machine's.
OF_NAMES = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EILSEQ}
DEVICE_FULL = {
    "torch.OutOfMemoryError": r"",
    "builtins.RuntimeError": r"CUDA out of memory|Triton Error \[CUDA\]: out of memory",
}  # a GPU's memory, as torch and Triton say it
OTHERS = 4 * 2**30  # bytes that a GPU's other processes hold at most where a lack of memory is no fault of theirs
# By kind of error, "module.name", how the message of its library begins; others' words stand behind that.
OF_LIBRARIES = {
    "torch.AcceleratorError": r"(?!.*device-side assert)",  # that is a token that the model has no row for, or the like
    "builtins.RuntimeError": r"\[enforce fail at alloc_cpu\.c|CUDA (driver )?error: (?!device-side assert)"
    r"|unable to mmap \d+ bytes ",
    "safetensors._safetensors_rust.SafetensorError": r"(Error while serializing: )?I/O error: .*\(os error \d+\)\Z",
    "builtins.Exception": r"(No space left on device|Disk quota exceeded|Cannot allocate memory) \(os error \d+\)\Z",
}  # the last one is of tokenizers
LONGEST_CAUSE = 300  # characters


class Refused(Exception):
    """This cell cannot be computed, for a reason that the report shows; the job itself has not failed."""


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that the machine failed: memory, disk or device; not that a model is unsuitable.

    A GPU whose memory is full counts only where other processes hold much of it: alone on it, the same job would fail
    again.

    That is told by its kind and number, and by a message only where a library wrote its beginning: names of tensors,
    values of a config and the like, which are others' words, may say anything.
    """
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in OF_NAMES
    if isinstance(error, MemoryError):
        return True
    if is_device_full(error):
        return held_by_others() > OTHERS
    return _begins(error, OF_LIBRARIES)


def is_device_full(error: BaseException) -> bool:
    """Whether an exception says that a GPU's memory is full."""
    return _begins(error, DEVICE_FULL)


def _begins(error: BaseException, messages: dict[str, str]) -> bool:
    begins = messages.get(f"{type(error).__module__}.{type(error).__name__}")
    return begins is not None and re.match(begins, str(error), re.DOTALL) is not None


def held_by_others() -> int:
    """Bytes of this process's GPU that other processes hold, the context of this one counted in; 0 without a GPU."""
    torch = sys.modules.get("torch")  # auto-gptq's environment has another one, and this may run without any
    if torch is None or not torch.cuda.is_initialized():
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


@contextmanager
def refusing(what: str, on: str = "this model") -> Iterator[None]:
    """Turn what is raised on a model, or on others' data, into a refused cell; the log has the whole of it.

    Args:
        what: the library that runs the model, or the task that the data are for.
        on: what it may fail on.

    Raises:
        Refused: it fails, or needs more memory than the GPU has; with kind and message, which says the GPU's size.
            Failures of the machine (memory, disk) pass through: they fail the job, which is tried again.
    """
    try:
        yield
    except (Refused, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of Rust, as of tokenizers, is no Exception
        if is_shortage(error):
            raise
        logging.getLogger(__name__).exception("%s fails on %s", what, on)
        fails = "needs more memory than the GPU has" if is_device_full(error) else "fails"
        raise Refused(f"{what} {fails} on {on}: {kind_and_message(error)}") from error


def kind_and_message(error: BaseException) -> str:
    """An error as one line."""
    return f"{type(error).__name__}: {one_line(' '.join(str(error).split()), LONGEST_CAUSE)}"
