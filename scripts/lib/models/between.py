"""Models between a checkpoint and what quantization made of it, read block by block: no more than a block is in memory.

`Between` is a `Blockwise` whose weights are, tensor by tensor, what a `Move` makes of the checkpoint's weight and of
the quantized one.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from scripts.lib.models.blockwise import FULL, Blockwise
from scripts.lib.runtime.shortages import Refused

Move = Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]  # name, weight, quantized weight -> weight


def line(t: float) -> Move:
    """(1 - t) W + t W_q; at 0 and 1 the weights themselves, bit for bit."""
    if t in (0, 1):
        return lambda name, weight, rounded: rounded if t else weight
    return lambda name, weight, rounded: torch.lerp(weight, rounded, t)


def random_line(t: float, seed: int) -> Move:
    """W + t R: R has normal entries, the same for every t, and in each tensor the Frobenius norm of W_q - W."""

    def move(name: str, weight: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        number = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7])
        draw = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number), dtype=weight.dtype)
        draw = draw.to(weight.device)
        length = torch.linalg.vector_norm(rounded - weight) / torch.linalg.vector_norm(draw)
        return weight + t * length * draw

    return move


def only(names: set[str]) -> Move:
    """W_q in the tensors of these names, W in all others."""
    return lambda name, weight, rounded: rounded if name in names else weight


class Between(Blockwise):
    """A checkpoint whose weights can be moved towards those of a quantized model; at first they are its own.

    moved: names of the tensors that quantization changed, with the squares of the norms of W and of W_q - W.

    Args:
        folder, quantized: model folders, in any format that `load_dense` reads.
        device, dtype: where and in which type it runs; its head is in this type too.

    Raises:
        NotByBlocks: one of the two cannot be run block by block.
        Refused: quantization changed more than matrices: its weights are not near the checkpoint's, as it rescaled or
            rotated them before rounding, so that what is between the two is no quantization error.
        ValueError: as `load_dense`.
    """

    def __init__(self, folder: Path, quantized: Path, device: str, dtype: str = FULL):
        super().__init__(folder, dtype, device, exact_head=False)
        self.rounded = Blockwise(quantized, dtype, device, exact_head=False)
        self.own = {name: item.detach() for name, item in self.model.named_parameters()}
        self.move = line(0)
        self.moved = {name: squares for name, *pair in self._pairs() if (squares := _squares(name, *pair))}

    def to(self, move: Move) -> None:
        """Have weights that are moved so, from now on."""
        self.move = move
        for place in self.places:  # one may be there from when the form of blocks was learned
            self._leave(place.block)
        rounded = dict(self.rounded.model.named_parameters())
        for name, item in self.model.named_parameters():
            item.data = self._weight(name, self.own[name], rounded[name].detach())

    @torch.inference_mode(False)
    def read(self, number: int) -> nn.Module:
        """A block with its weights as they are moved now, on the device.

        Raises:
            ValueError: as `load_dense`.
        """
        there = not any(tensor.is_meta for tensor in self.places[number].block.state_dict().values())
        block = super().read(number)
        if not there:
            inside = dict(block.named_parameters(prefix=self.names[number]))
            for name, weight, rounded in self._pairs_of(number, block):
                inside[name].data = self._weight(name, weight, rounded)
        return block

    def size(self) -> float:
        """|W_q - W| / |W|, in the Frobenius norm over all tensors that quantization changed."""
        own, difference = (sum(column) for column in zip(*self.moved.values(), strict=True))
        return (difference / own) ** 0.5

    def outer(self) -> set[str]:
        """Names of the changed tensors that are in no block, such as an embedding."""
        return set(self.moved) & set(self.own)

    def of_block(self, number: int) -> set[str]:
        """Names of the changed tensors of a block."""
        return {name for name in self.moved if name.startswith(f"{self.names[number]}.")}

    def kinds(self) -> dict[str, set[str]]:
        """What changed tensors are called in their block -> their names, of all blocks."""
        found = {}
        for number, block in enumerate(self.names):
            for name in sorted(self.of_block(number)):
                found.setdefault(name.removeprefix(f"{block}."), set()).add(name)
        return found

    def _weight(self, name: str, weight: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        """The weight as it is moved; one that quantization left alone stays, whatever the move."""
        return self.move(name, weight, rounded) if name in self.moved else weight

    def _pairs(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Name, weight and quantized weight of every tensor."""
        rounded = dict(self.rounded.model.named_parameters())
        yield from ((name, weight, rounded[name].detach()) for name, weight in self.own.items())
        for number in range(len(self.places)):
            block = super().read(number)
            yield from self._pairs_of(number, block)
            self._leave(block)

    def _pairs_of(self, number: int, block: nn.Module) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """The same of a block, which has the checkpoint's weights."""
        other = self.rounded.read(number)
        rounded = dict(other.named_parameters(prefix=self.names[number]))
        for name, item in block.named_parameters(prefix=self.names[number]):
            yield name, item.detach(), rounded[name].detach()
        self.rounded._leave(other)


def _squares(name: str, weight: torch.Tensor, rounded: torch.Tensor) -> tuple[float, float] | None:
    """Squares of the norms of W and W_q - W; None if both are the same.

    Raises:
        Refused: a vector differs.
    """
    if torch.equal(weight, rounded):
        return None
    if weight.ndim < 2:
        raise Refused(
            f"{name} of the quantized model is not the checkpoint's: its method rescales or rotates weights before it "
            "rounds them, and what is between the two is no quantization error"
        )
    return float(weight.double().square().sum()), float((rounded - weight).double().square().sum())
