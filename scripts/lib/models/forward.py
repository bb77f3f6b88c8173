"""Forward passes over token windows, in batches whose logits fit in memory."""

import logging
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from scripts.lib.runtime.shortages import is_device_full

ROWS = 8  # windows a pass at most
LOGITS = 2**28  # values a pass at most: 1 GiB in float32


def batches(windows: np.ndarray, model: nn.Module) -> Iterator[torch.Tensor]:
    """Token windows [n, window], a few at a time, on the device of a model: [rows, window], int64."""
    device = next(model.parameters()).device
    rows = rows_at_once(windows, model.config.vocab_size)
    for batch in torch.from_numpy(windows.astype(np.int64)).split(rows):
        yield batch.to(device)


def rows_at_once(windows: np.ndarray, vocabulary: int) -> int:
    """How many token windows of [n, window] pass a model at once."""
    return min(max(1, LOGITS // (windows.shape[1] * vocabulary)), ROWS)


def halving(measure: Callable, batch: torch.Tensor) -> list:
    """What is measured of a batch of windows [rows, window]: in one part, or in halves of it where a GPU is too small.

    Args:
        measure: gives values of each window, [rows, ...] each.

    Returns:
        What `measure` gave of each part, in order.

    Raises:
        torch.OutOfMemoryError: one window is too large.
    """
    try:
        return [measure(batch)]
    except Exception as error:
        if not is_device_full(error) or len(batch) == 1:
            raise
    logging.getLogger(__name__).warning("%d windows at once are too many for the GPU: halved", len(batch))
    torch.cuda.empty_cache()  # outside of `except`, which holds on to what was computed
    return [found for half in batch.tensor_split(2) for found in halving(measure, half)]


def logits(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Logits of a batch of windows [rows, window] in float32: [rows, window, vocabulary]."""
    return model(input_ids=batch, use_cache=False).logits.float()


@torch.inference_mode()
def window_losses(model: nn.Module, windows: np.ndarray) -> np.ndarray:
    """Mean loss of each token window [n, window] under a model, nats a token: [n], float64."""

    def measure(batch: torch.Tensor) -> torch.Tensor:
        return batch_losses(logits(model, batch), batch)

    return torch.cat([loss for batch in batches(windows, model) for loss in halving(measure, batch)]).numpy()


def batch_losses(scores: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Mean loss of each window of a batch [rows, window] by its logits, nats a token: [rows], float64, on the CPU."""
    losses = [  # row by row: all at once takes a CPU six times as long
        nn.functional.cross_entropy(row[:-1], ids[1:], reduction="none").double().mean()
        for row, ids in zip(scores, batch, strict=True)
    ]
    return torch.stack(losses).cpu()
