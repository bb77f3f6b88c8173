"""Failures of the machine, which another attempt may not meet, apart from failures of a method on a model."""

import torch

WORDS = ("can't allocate memory", "out of memory", "no space left", "cuda error")


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that the machine failed: memory, disk or device; not that a model is unsuitable.

    Errors of files are failures of the machine too, except that a file is not there.
    """
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError) and error.errno is not None
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(word in str(error).lower() for word in WORDS)
