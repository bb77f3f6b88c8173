"""What quantization did to each layer: one row a layer, for later analysis.

These errors show where and how far a method moved weights. What it adds to the loss they do not tell: see
config/recipes/README.md, "On a real pretrained model".
"""

import polars
import torch
from torch import nn

from scripts.lib.models.grids import Grid

OUTLIER = 6  # standard deviations
LAYERS = {  # the columns of a cell's layers.parquet
    "layer": polars.String,
    **dict.fromkeys(("weights", "rows", "columns"), polars.Int64),
    "bits": polars.Float64,
    "group_size": polars.Int64,
    **dict.fromkeys(("bits_per_weight", "bits_per_weight_zstd", "weight_error", "output_error"), polars.Float64),
    **dict.fromkeys(("outlier_share", "kurtosis", "absmax_mean", "absmax_max", "seconds"), polars.Float64),
}


class LayerErrors:
    """Errors of quantized layers on real inputs, gathered while the unquantized model runs.

    `output_error` is |X (W_q - W)^T| / |X W^T| in the Frobenius norm, for the inputs X of the unquantized model: the
    Hessian-weighted error tr(D H D^T) / tr(W H W^T) of D = W_q - W with H = X^T X, and its square root.

    Models are looked at only inside the `with` block: nothing keeps them alive after it.
    """

    def __init__(self):
        self.sums, self.handles = {}, []

    def watch(self, name: str, source: nn.Linear, quantized: nn.Linear) -> None:
        """Gather the errors of a layer from now on: source and quantized layer, both dense."""
        self.handles.append(source.register_forward_hook(self._hook(name, quantized)))

    def __enter__(self) -> "LayerErrors":
        return self

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, name: str, quantized: nn.Linear):
        self.sums[name] = [0.0, 0.0]

        def add(layer: nn.Linear, inputs: tuple, output: torch.Tensor) -> None:
            difference = quantized.weight.to(layer.weight) - layer.weight
            output = output if layer.bias is None else output - layer.bias
            self.sums[name][0] += float((inputs[0] @ difference.T).square().sum())
            self.sums[name][1] += float(output.square().sum())

        return add

    def of(self, name: str) -> dict[str, float]:
        """The errors of one layer."""
        error, total = self.sums[name]
        return {"output_error": (error / total) ** 0.5 if total else 0.0}


def describe_layer(
    name: str,
    weight: torch.Tensor,
    rounded: torch.Tensor,
    grid: Grid,
    bits_per_weight: float,
    columns: torch.Tensor | None,
) -> dict:
    """One row: what a layer's weights looked like before quantization, and how far they moved.

    Args:
        name: the layer.
        weight, rounded: its unquantized and its quantized weight [out, in], dense, in float32.
        grid: on which it lies.
        bits_per_weight: of this layer, with scales and zero points.
        columns: group of each input column [in], if columns are not grouped in their order.

    Returns:
        layer, weights (their number), rows, columns, bits, group_size, bits_per_weight; weight_error = |W_q - W| / |W|
        (Frobenius); outlier_share, of weights beyond six standard deviations; kurtosis (3 for a normal distribution);
        absmax_mean, absmax_max: of the groups' largest quantized magnitudes, which formats make their scales from.
    """
    centered = weight - weight.mean()
    squares = centered.div_(centered.square().mean().sqrt()).square_()  # in variances
    outliers = int((squares > OUTLIER**2).sum())
    largest = grid.groups(rounded, columns).abs().amax(dim=1)
    return {
        "layer": name,
        "weights": weight.numel(),
        "rows": weight.shape[0],
        "columns": weight.shape[1],
        "bits": float(grid.bits_of(name)),
        "group_size": grid.group_size,
        "bits_per_weight": float(bits_per_weight),
        "weight_error": float(torch.linalg.norm(rounded - weight) / torch.linalg.norm(weight)),
        "outlier_share": outliers / weight.numel(),
        "kurtosis": float(squares.square_().mean()),
        "absmax_mean": float(largest.mean()),
        "absmax_max": float(largest.max()),
    }
