"""Where models run."""

import os

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"


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
