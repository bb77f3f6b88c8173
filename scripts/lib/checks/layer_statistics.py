"""What a layer's weights and inputs look like before quantization: outliers, tails and how many directions count."""

import torch
from torch import nn

from scripts.lib.checks.layer_errors import OUTLIER

COLUMNS = (
    *("weight_norm", "weight_kurtosis", "weight_largest", "weight_stable_rank"),
    *("input_norm", "input_kurtosis", "input_largest", "input_stable_rank", "input_outlier_channels"),
)


class Inputs:
    """Sums over the inputs of one layer, gathered while a model runs.

    Attributes:
        count: of tokens.
        powers: sums of x, x^2, x^3 and x^4 over all entries, [4].
        gram: X^T X, [in, in].
        largest: |x| of the largest entry.
    """

    def __init__(self, width: int, device: torch.device):
        self.count = 0
        self.powers = torch.zeros(4, dtype=torch.float64, device=device)
        self.gram = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.largest = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, layer: nn.Linear, given: tuple, output: torch.Tensor) -> None:
        """A forward hook of the layer."""
        rows = given[0].detach().flatten(0, -2).double()
        self.count += len(rows)
        self.powers += torch.stack([(rows**power).sum() for power in range(1, 5)])
        self.gram += rows.T @ rows
        self.largest = torch.maximum(self.largest, rows.abs().max())

    def describe(self) -> dict[str, float]:
        """input_norm: root mean square of an entry; input_kurtosis: 3 for a normal distribution; input_largest: |x| of
        the largest entry in standard deviations; input_stable_rank: of X; input_outlier_channels: share of the channels
        whose root mean square is beyond OUTLIER times that of the median channel."""
        width = len(self.gram)
        mean, square, cube, fourth = (float(power) / (self.count * width) for power in self.powers)
        variance = square - mean**2
        central = fourth - 4 * mean * cube + 6 * mean**2 * square - 3 * mean**4
        channels = self.gram.diagonal().sqrt()
        return {
            "input_norm": square**0.5,
            "input_kurtosis": central / variance**2,
            "input_largest": float(self.largest) / variance**0.5,
            "input_stable_rank": float(self.gram.trace() / torch.linalg.matrix_norm(self.gram, 2)),
            "input_outlier_channels": float((channels > OUTLIER * channels.median()).double().mean()),
        }


def describe_weight(weight: torch.Tensor) -> dict[str, float]:
    """weight_norm: Frobenius; weight_kurtosis; weight_largest: |w| of the largest in standard deviations;
    weight_stable_rank: |W|_F^2 / |W|_2^2 (Rudelson and Vershynin, 2007)."""
    weight = weight.detach().double()
    centered = weight - weight.mean()
    deviation = centered.square().mean().sqrt()
    norm = torch.linalg.vector_norm(weight)
    return {
        "weight_norm": float(norm),
        "weight_kurtosis": float((centered / deviation).pow(4).mean()),
        "weight_largest": float(weight.abs().max() / deviation),
        "weight_stable_rank": float((norm / torch.linalg.matrix_norm(weight, 2)) ** 2),
    }
