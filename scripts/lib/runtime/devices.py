"""Where models run."""

import torch


def pick_device(device: str) -> str:
    """ "cpu" or "cuda" for a config's device; "auto" means a GPU where there is one.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("compute.device is `cuda`, but torch sees no GPU here; set it to `auto` or `cpu`")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def has_room(size: int, device: str) -> bool:
    """Whether a GPU has so many bytes free; a CPU's memory counts as large enough."""
    return device == "cpu" or torch.cuda.mem_get_info()[0] >= size
