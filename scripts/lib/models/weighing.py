"""How much each member of an average counts, by what calibration text says of it."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from scripts.lib.models import own_code
from scripts.lib.models.averaging import ADVICE, average, shapes_of
from scripts.lib.models.forward import logits, window_losses
from scripts.lib.models.loading import load_dense, require_fit
from scripts.lib.runtime.logs import Progress
from scripts.lib.runtime.shortages import Refused, refusing


def by_loss(losses: list[float], penalty: float) -> list[float]:
    """Weights (least loss / loss)^penalty, which are equal at 0; one number says how much worse members count less, as
    in Metrics-Weighted Averaging (arXiv:2504.18580)."""
    return [(min(losses) / loss) ** penalty for loss in losses]


def greedy(losses: list[float], loss_of_chosen: Callable[[list[int]], float]) -> list[float]:
    """Greedy soup (arXiv:2203.05482, recipe 1): 1 for members in the mean, 0 for others.

    Candidates come by rising loss of their own, and one stays if the loss of the mean does not rise.

    Args:
        losses: of each member.
        loss_of_chosen: the loss of the plain mean of members, by their numbers, ascending.
    """
    first, *others = np.argsort(losses, kind="stable").tolist()
    chosen, least = [first], losses[first]
    for candidate in others:
        tried = sorted([*chosen, candidate])
        loss = loss_of_chosen(tried)
        if loss <= least:
            chosen, least = tried, loss
    return [float(number in chosen) for number in range(len(losses))]


def loss_of(folder: Path, windows: np.ndarray, device: str) -> float:
    """Mean loss of a model on token windows, nats a token.

    Raises:
        Refused: it is not finite or not above 0, or the model does not run.
    """
    own_code.is_trusted(folder)
    with refusing("transformers", str(folder)):
        require_fit(folder, windows.shape[1])
        loss = float(window_losses(load_dense(folder).to(device), windows).mean())
    if not (math.isfinite(loss) and loss > 0):
        raise Refused(f"the loss of {folder} on calibration text is {loss:g}: leave that member out")
    return loss


def loss_of_mean(members: list[Path], windows: np.ndarray, scratch: Path, device: str) -> float:
    """As `loss_of`, of the plain mean of models."""
    mean = scratch / "mean"
    shutil.rmtree(mean, ignore_errors=True)
    average(members, mean)
    return loss_of(mean, windows, device)


def fisher(folder: Path, windows: np.ndarray, out: Path, device: str) -> Path:
    """Write a model's diagonal Fisher information, in the names and shapes of its weights; returns its folder.

    The empirical one, for Fisher-weighted averaging (arXiv:2111.09832): the mean over windows of the squared gradient
    of a window's mean loss. In memory are the model, that mean and the gradient of one tensor.

    Raises:
        Refused: the model does not run, or its weights have other names than when it is saved.
    """
    own_code.is_trusted(folder)
    with refusing("transformers", str(folder)):
        require_fit(folder, windows.shape[1])
        model = load_dense(folder).to(device).requires_grad_(True)
        squares = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
        for name, weight in model.named_parameters():
            weight.register_post_accumulate_grad_hook(lambda weight, square=squares[name]: take_square(weight, square))
        progress = Progress(len(windows), f"windows of {folder.parent.name}")
        for number, window in enumerate(windows):
            ids = torch.from_numpy(window[None].astype(np.int64)).to(device)
            nn.functional.cross_entropy(logits(model, ids)[0, :-1], ids[0, 1:]).backward()
            progress.update(number + 1)
        for name, weight in model.named_parameters():
            weight.data = squares.pop(name).div_(len(windows))
        model.save_pretrained(out)
    if others := sorted(shapes_of(out).keys() - shapes_of(folder).keys()):
        raise Refused(f"{folder} has no tensor {others[0]}, as its weights are called when it is saved; {ADVICE}")
    return out


def take_square(weight: torch.Tensor, square: torch.Tensor) -> None:
    """Add a weight's squared gradient to a sum, and forget the gradient."""
    square.addcmul_(weight.grad, weight.grad)
    weight.grad = None
