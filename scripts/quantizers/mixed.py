"""mixed: bits chosen layer by layer under a budget, by how much each layer's rounding alone moves the predictions."""

from pathlib import Path

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn

from scripts.lib.models.forward import batches, logits
from scripts.lib.models.grids import Grid
from scripts.lib.models.loading import block_linears, load_dense
from scripts.lib.runtime.logs import Progress
from scripts.quantizers import Quantized, save_dense
from scripts.quantizers.rtn import nominal_bits, round_to_nearest

ABOUT = {
    "stored": "dense",
    "algorithms": {
        "mixed": {
            "title": "mixed precision",
            "description": "Round-to-nearest, the bits of each layer chosen by its measured sensitivity.",
            "settings": {
                "choices": {
                    "type": "array",
                    "minItems": 2,
                    "uniqueItems": True,
                    "items": {"enum": [2, 3, 4, 5, 6, 7, 8]},
                    "description": "Numbers of bits to choose from, ascending.",
                },
                "average_bits": {
                    "type": "number",
                    "minimum": 2,
                    "maximum": 8,
                    "description": "Most bits a weight, on average over all layers, without scales.",
                },
                "group_size": "group_size",
                "symmetric": "symmetric",
                "calibration": "calibration",
            },
            "passes": 2,  # 1.4
            "each": "trial",
        },
    },
}


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray, device: str) -> Quantized:
    """Round each layer to the nearest point of a grid of its own number of bits. Saved dense.

    Args:
        calibration: token windows [samples, window], over which the sensitivity is measured.
    """
    model = load_dense(model_folder, "float32").to(device)
    layers = block_linears(model)
    group_size, symmetric = recipe["group_size"], recipe["symmetric"]
    costs = sensitivity(model, layers, calibration, recipe["choices"], group_size, symmetric)
    sizes = [layer.weight.numel() for layer in layers.values()]
    chosen = dict(zip(layers, choose_bits(costs, sizes, recipe["choices"], recipe["average_bits"]), strict=True))
    for name, layer in layers.items():
        layer.weight.data = round_to_nearest(layer.weight.data, chosen[name], group_size, symmetric)
    bits = float(np.average(list(chosen.values()), weights=sizes))
    grid = Grid(bits, group_size, symmetric, layer_bits=chosen)
    return save_dense(model.cpu(), layers, grid, nominal_bits(grid, layers))


@torch.inference_mode()
def sensitivity(
    model: nn.Module,
    layers: dict[str, nn.Linear],
    windows: np.ndarray,
    choices: list[int],
    group_size: int,
    symmetric: bool,
) -> np.ndarray:
    """Mean KL(model || model with one layer rounded), nats a token: [layers, choices].

    Args:
        windows: token windows [n, window].
        choices: numbers of bits, ascending.
    """
    costs = np.zeros((len(layers), len(choices)))
    done, progress = 0, Progress(len(windows), "windows")
    for part in batches(windows, model):
        expected = torch.log_softmax(logits(model, part), -1)
        probabilities = expected.exp()
        for row, layer in enumerate(layers.values()):
            weight = layer.weight.data
            for column, bits in enumerate(choices):
                layer.weight.data = round_to_nearest(weight, bits, group_size, symmetric)
                found = torch.log_softmax(logits(model, part), -1)
                costs[row, column] += float((probabilities * (expected - found)).sum()) / windows.size
            layer.weight.data = weight
        done += len(part)
        progress.update(done)
    return costs


def choose_bits(costs: np.ndarray, sizes: list[int], choices: list[int], average_bits: float) -> list[int]:
    """Bits of each layer that make the sum of costs smallest, with at most `average_bits` bits a weight.

    A multiple-choice knapsack, solved exactly by SciPy's HiGHS; layers are taken as independent, as in HAWQ-V3
    (arXiv:2011.10680).

    Args:
        costs: [layers, choices].
        sizes: weights of each layer.
        choices: numbers of bits, ascending; the first must be within the budget.
    """
    layers, count = costs.shape
    one_each = np.kron(np.eye(layers), np.ones(count))
    spent = np.concatenate([size * np.array(choices, dtype=float) for size in sizes])
    budget = average_bits * sum(sizes)
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(spent / budget, -np.inf, 1)]
    scale = costs.max() or 1.0
    solution = milp(
        costs.ravel() / scale, constraints=constraints, integrality=np.ones(costs.size), bounds=Bounds(0, 1)
    )
    return [choices[index] for index in solution.x.reshape(layers, count).argmax(axis=1)]
