"""Where models run."""

import os
from pathlib import Path

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"
GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # where Linux keeps limits of groups of processes


def hide_all_but_one() -> None:
    """Show this process one GPU: libraries take all that they see. Processes of one training have one each anyway.

    torch looks at the variable until it uses a GPU for the first time.
    """
    if torch.cuda.device_count() > 1 and "LOCAL_RANK" not in os.environ:
        os.environ[VISIBLE] = os.environ.get(VISIBLE, "0").split(",")[0].strip()


def pick_device(device: str) -> str:
    """ "cpu" or "cuda" for a config's device; "auto" means a GPU where there is one. Of several GPUs one stays visible.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if device != "cpu":
        hide_all_but_one()
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("compute.device is `cuda`, but torch sees no GPU here; set it to `auto` or `cpu`")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def has_room(size: int, device: str) -> bool:
    """Whether a GPU has so many bytes free; a CPU's memory counts as large enough."""
    return device == "cpu" or torch.cuda.mem_get_info()[0] >= size


def memory_of(device: str) -> int:
    """Bytes of a GPU's memory, used or not; for a CPU of the machine's, or what Slurm or the like gives a job of it."""
    if device != "cpu":
        return torch.cuda.mem_get_info()[1]
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limits()])


def _limits() -> list[int]:
    """Limits of memory of this process's group and of those around it, by cgroups of version 2; none elsewhere."""
    if not OWN_GROUP.is_file():
        return []
    own = [line.removeprefix("0::/") for line in OWN_GROUP.read_text().splitlines() if line.startswith("0::/")]
    folders = [folder for group in own for folder in ((GROUPS / group), *(GROUPS / group).parents)]
    texts = [file.read_text().strip() for folder in folders if (file := folder / "memory.max").is_file()]
    return [int(text) for text in texts if text != "max"]
