"""Each job of one machine that uses a GPU has one of its own, and sees no other: several jobs on one run out of memory.

Libraries take all the GPUs that they see (transformers' Trainer computes on all of them, with a larger batch; GPTQModel
spreads a model over them). Which ones CUDA shows is fixed before a job's Python starts. A cluster does this by itself.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snakemake.script import PythonScript

VISIBLE = "CUDA_VISIBLE_DEVICES"
FILES = Path("/dev")  # where a driver shows each GPU as a file nvidia0, nvidia1, ...
RESOURCE = "local_gpus"  # of rules whose jobs use a GPU; the local profile says how many there are


def names() -> list[str]:
    """The GPUs that jobs may use, as CUDA names them; without a driver's files or a list of the user's none."""
    given = os.environ.get(VISIBLE)
    if given is None:
        return [str(number) for number in range(len(list(FILES.glob("nvidia[0-9]*"))))]
    return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]


class Pool:
    """GPUs that are lent to jobs, each to one at a time."""

    def __init__(self, gpus: list[str]):
        self.size, self.free, self.change = len(gpus), list(gpus), threading.Condition()

    @contextmanager
    def lent(self, number: int) -> Iterator[list[str]]:
        """Wait for so many free GPUs, or for all if there are fewer, and hold them."""
        with self.change:
            number = min(number, self.size)
            self.change.wait_for(lambda: len(self.free) >= number)
            taken, self.free = self.free[:number], self.free[number:]
        try:
            yield taken
        finally:
            with self.change:
                self.free += taken
                self.change.notify_all()


def mend(pool: Pool) -> None:
    """Have the local executor of this process show each script only the GPUs that it asks for."""
    PythonScript._execute_cmd = _showing(PythonScript._execute_cmd, pool)


def _showing(execute_cmd, pool: Pool):
    def execute(self, cmd: str, is_python_script: bool = False, **kwargs):
        if not is_python_script:  # a question about the environment
            return execute_cmd(self, cmd, **kwargs)
        with pool.lent(self.resources.get(RESOURCE) or 0) as gpus:
            return execute_cmd(self, f"{VISIBLE}={','.join(gpus)} {cmd}", is_python_script=True, **kwargs)

    return execute
