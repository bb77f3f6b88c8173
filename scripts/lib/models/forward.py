"""Forward passes over token windows, in batches whose logits fit in memory."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

ROWS = 8  # windows a pass at most
LOGITS = 2**28  # values a pass at most: 1 GiB in float32


def batches(windows: np.ndarray, model: nn.Module) -> Iterator[torch.Tensor]:
    """Token windows [n, window], a few at a time, on the device of a model: [rows, window], int64."""
    device = next(model.parameters()).device
    rows = max(1, LOGITS // (windows.shape[1] * model.config.vocab_size))
    for batch in torch.from_numpy(windows.astype(np.int64)).split(min(rows, ROWS)):
        yield batch.to(device)


def logits(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Logits of a batch of windows [rows, window] in float32: [rows, window, vocabulary]."""
    return model(input_ids=batch, use_cache=False).logits.float()


@torch.inference_mode()
def window_losses(model: nn.Module, windows: np.ndarray) -> np.ndarray:
    """Mean loss of each token window [n, window] under a model, nats a token: [n], float64."""
    losses = []
    for batch in batches(windows, model):
        for scores, ids in zip(logits(model, batch), batch, strict=True):  # all at once takes a CPU six times as long
            losses.append(nn.functional.cross_entropy(scores[:-1], ids[1:], reduction="none").double().mean())
    return torch.stack(losses).cpu().numpy()
