"""The values that quantized weights may have, and how they lie in groups."""

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Grid:
    """The grid of a quantized model.

    bits: each group of weights has at most 2^bits values; a mixed model's are in `layer_bits` and this is their mean.
    group_size: weights that share a scale: along a row, or counted on across rows where `across_rows`; -1 is a row.
    symmetric: whether the grid is symmetric about zero.
    nominal: bits a weight of each layer, with scales and zero points, where the files hold dense weights; where they
        are packed they are counted.
    """

    bits: float
    group_size: int
    symmetric: bool
    across_rows: bool = False
    nominal: dict[str, float] = field(default_factory=dict)
    layer_bits: dict[str, int] = field(default_factory=dict)

    def bits_of(self, layer: str) -> float:
        return self.layer_bits.get(layer, self.bits)

    def groups(self, weight: torch.Tensor, columns: torch.Tensor | None = None) -> torch.Tensor:
        """A layer's weight [out, in] with a row for each group: [groups, size].

        Args:
            columns: index of the group of each input column [in], if columns are not grouped in their order.

        Raises:
            ValueError: the group size does not divide the layer.
        """
        size = weight.shape[1] if self.group_size == -1 else self.group_size
        if (weight.numel() if self.across_rows else weight.shape[1]) % size:
            raise ValueError(f"group_size {size} does not divide {list(weight.shape)}")
        if columns is not None:
            weight = weight[:, columns.argsort(stable=True)]
        return weight.reshape(-1, size)
