"""One training in several processes of this machine, a GPU each, by torch's own launcher (torchrun as a function)."""

import logging
import os
import sys
import uuid
from collections.abc import Callable

import torch
import torch.distributed as dist

SAVING = 600  # seconds that processes have after SIGTERM to save their state; a cluster may leave them less


def run_together(function: Callable, arguments: tuple, processes: int):
    """What a function returns; with several processes, what it returns in the first of them.

    Each of them has torchrun's variables (RANK, LOCAL_RANK, WORLD_SIZE, ...), by which transformers' Trainer knows that
    it is one of several. If one fails the others are ended, and so is this one.

    Args:
        function: of a module that new processes can import; what it takes and returns is pickled.
        arguments: for it.
        processes: 1: in this one.
    """
    if processes == 1:
        return function(*arguments)
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        start_method="spawn",
        monitor_interval=0.5,
        shutdown_timeout=SAVING,
    )
    return elastic_launch(config, _logged)(function, arguments)[0]


def _logged(function: Callable, arguments: tuple):
    """In a new process: the function, with what it says in the job's log, which is this process's output too."""
    torch.serialization.register_package(0, lambda _: None, _of_process)
    logging.basicConfig(level=logging.INFO if os.environ["RANK"] == "0" else logging.WARNING, stream=sys.stderr)
    return function(*arguments)


def _of_process(storage, location: str):
    """A loaded tensor's memory where a process names its CPU "cpu:1", as accelerate does and torch does not know."""
    return storage if location.startswith("cpu:") else None


def in_any(told: bool, device: torch.device) -> bool:
    """Whether any of the processes that train together says so; all of them must ask."""
    if not dist.is_initialized():
        return told
    said = torch.tensor(float(told), device=device)
    dist.all_reduce(said, op=dist.ReduceOp.MAX)
    return bool(said)
