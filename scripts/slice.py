"""slice: loss and divergence of one cell along the way from its checkpoint's weights to the quantized ones, and beyond.

What a penalty is made of is read from it: how far quantization moved the weights, how the loss bends in that direction,
and what that does not explain; and in which blocks and layers it arises.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars
import torch

from scripts.evaluate_loss import by_segment, measure
from scripts.lib.data.windows import load_windows, segments
from scripts.lib.models import own_code
from scripts.lib.models.between import Between, line, only, random_line
from scripts.lib.models.blockwise import FULL, Blockwise, NotByBlocks
from scripts.lib.models.forward import halving
from scripts.lib.models.loading import require_fit
from scripts.lib.runtime import manifests
from scripts.lib.runtime.devices import pick_device
from scripts.lib.runtime.logs import Progress, open_log
from scripts.lib.runtime.shortages import Refused, refusing

ALONG, RANDOM, BLOCK, LAYER = "along", "random", "block", "layer"
POINTS = {  # t, by what is moved
    ALONG: (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 1.5),
    RANDOM: (-0.5, -0.25, 0.25, 0.5, 1.0),
}
MOST_BLOCKS = 300  # of a model: each is quantized by itself, and run with all after it; the deepest known have 130
OUTER = "outside of blocks"  # the part of embeddings and heads, where a method rounds them
SCHEMA = {
    "moved": polars.String,
    "part": polars.String,
    "t": polars.Float64,
    "document": polars.String,
    "tokens": polars.Int32,
    "nll": polars.Float64,
    "kl": polars.Float64,
}


class Point(NamedTuple):
    """What was measured with some weights.

    moved: `ALONG` all quantized weights along W_q - W, `RANDOM` all along a random direction of the same norms, `BLOCK`
        and `LAYER` the quantized weights of one block, or of one kind of layer in all blocks.
    part: which block or kind; None if all are moved.
    t: how far.
    nll, kl: as `evaluate_loss.evaluate_loss` has them, [n, window - 1].
    """

    moved: str
    part: str | None
    t: float
    nll: np.ndarray
    kl: np.ndarray


class Sliced:
    """A checkpoint and its quantized model, of which losses are measured on the same windows.

    size: |W_q - W| / |W| over the weights that quantization changed.

    Args:
        folder, quantized: their model folders.
        windows: token ids [n, window].
        batch_size: windows a forward pass.
        seed: of the random direction.
        device, dtype: where and in which type the models run; a lower one than float32 would round the way.

    Raises:
        Refused: as `Between`, and where one of the two cannot be run block by block, or has too many of them.
    """

    def __init__(
        self, folder: Path, quantized: Path, windows: np.ndarray, batch_size: int, seed: int, device: str, dtype=FULL
    ):
        self.windows, self.batch_size, self.seed, self.device = windows, batch_size, seed, device
        try:
            self.source = Blockwise(folder, dtype, device, exact_head=False)
            if (blocks := len(self.source.names)) > MOST_BLOCKS:
                raise Refused(f"this model has {blocks} blocks, and {MOST_BLOCKS} at most are sliced")
            self.model = Between(folder, quantized, device, dtype)
            self.states = self.source.states(windows, batch_size)
        except NotByBlocks as whole:
            raise Refused(f"this model cannot be run block by block: {whole}") from None
        if not self.model.moved:
            raise Refused("the quantized model has the checkpoint's weights")
        self.size = self.model.size()

    def points(self) -> Iterator[Point]:
        """All that is measured: along the way, along a random one, block by block, and by kind of layer.

        Raises:
            Refused: a loss is not finite.
        """
        passes = sum(map(len, POINTS.values())) + len(self.model.names) + len(self.model.kinds())
        progress = Progress(passes, "models")
        ways = (self.along(), self.at_random(), self.by_block(), self.by_layer())
        for number, point in enumerate(point for way in ways for point in way):
            progress.update(number + 1)
            if not np.isfinite(point.nll).all():
                raise Refused(f"the loss is not finite where {point.part or 'all of it'} is moved by {point.t:g}")
            yield point

    def along(self) -> Iterator[Point]:
        for t in POINTS[ALONG]:
            self.model.to(line(t))
            yield Point(ALONG, None, t, *self._measured(None if t else self.states))

    def at_random(self) -> Iterator[Point]:
        for t in POINTS[RANDOM]:
            self.model.to(random_line(t, self.seed))
            yield Point(RANDOM, None, t, *self._measured())

    def by_block(self) -> Iterator[Point]:
        """One block's quantized weights in the unquantized model, whose states before that block are there already."""
        model = self.model
        if outer := model.outer():
            model.to(only(outer))
            yield Point(BLOCK, OUTER, 1.0, *self._measured())
        model.to(line(0))
        before = model.begin(self.windows, self.batch_size)
        for number, name in enumerate(model.names):
            passing = before._replace(states=before.states.clone())
            model.to(only(model.of_block(number)))
            for later in range(number, len(model.names)):
                model.run(later, passing)
            yield Point(BLOCK, name, 1.0, *self._measured(passing.states))
            model.to(line(0))
            model.run(number, before)

    def by_layer(self) -> Iterator[Point]:
        for kind, names in self.model.kinds().items():
            self.model.to(only(names))
            yield Point(LAYER, kind, 1.0, *self._measured())

    @torch.inference_mode()
    def _measured(self, states: torch.Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
        """nll and kl of the model as it is now, [n, window - 1] each.

        Args:
            states: of its last block; None if they are still to be made.
        """
        states = self.model.states(self.windows, self.batch_size) if states is None else states
        found = []
        for first in range(0, len(self.windows), self.batch_size):
            rows = torch.arange(first, min(first + self.batch_size, len(self.windows)))
            found += halving(lambda part: self._compared(states, part), rows)
        nll, kl, _ = map(np.concatenate, zip(*found, strict=True))
        return nll, kl

    def _compared(self, states: torch.Tensor, rows: torch.Tensor) -> list[np.ndarray]:
        return measure(
            lambda batch, ids: self.model.logits(ids, states[batch]),
            lambda batch, ids: self.source.logits(ids, self.states[batch]),
            *(self.windows, rows, self.device),
        )


def chosen_windows(tokens: Path | str, params) -> tuple[np.ndarray, np.ndarray]:
    """All windows that `evaluate_loss` has of a token stream, and the numbers of those that are looked at here.

    Raises:
        TooFew: as `load_windows`.
    """
    windows = load_windows(tokens, params.window, None if params.evaluated == "all" else params.evaluated)
    return windows, spread(len(windows), params.windows)


def spread(count: int, most: int) -> np.ndarray:
    """Numbers of at most so many of `count` windows, equally far from each other, from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def by_document(parts: polars.DataFrame, point: Point) -> polars.DataFrame:
    """Rows of a point, as SCHEMA, with sums over each document.

    Args:
        parts: as `windows.segments` has them, of the windows that were measured and numbered as these are.
    """
    place = {"moved": point.moved, "part": point.part, "t": point.t}
    sums = by_segment(parts, point.nll, point.kl, np.zeros_like(point.nll, dtype=bool))
    rows = sums.group_by("document", maintain_order=True).agg(polars.sum("tokens", "nll", "kl"))
    rows = rows.with_columns(polars.lit(value).alias(name) for name, value in place.items())
    return rows.cast(SCHEMA).select(*SCHEMA)


def segments_of(documents: Path, window: int, count: int, chosen: np.ndarray) -> polars.DataFrame:
    """As `windows.segments` of `count` windows, only of the chosen ones, which are numbered from 0; with no bytes."""
    numbers = polars.DataFrame({"window": chosen, "number": np.arange(len(chosen))}).cast(polars.Int32)
    found = segments(documents, window, count).join(numbers, on="window", maintain_order="left")
    return found.with_columns(window="number", bytes=0.0).drop("number")


def main(snakemake) -> None:
    """Slice one cell as the rule asks and write its parquet; a cell that is or was refused has an empty one.

    Raises:
        ValueError: a model's own code is not as it was pinned.
    """
    params, cell = snakemake.params, manifests.read(snakemake.input.manifest)
    torch.set_num_threads(params.threads)
    device, reason = pick_device(params.device), cell.get("reason")
    table, size = polars.DataFrame(schema=SCHEMA), None
    if cell["status"] == "ok":
        folders = Path(snakemake.input.baseline), Path(snakemake.input.weights)
        for folder in folders:
            own_code.is_trusted(folder)
        _, tokens, documents = snakemake.input.validation
        try:
            all_windows, chosen = chosen_windows(tokens, params)
            parts = segments_of(documents, params.window, len(all_windows), chosen)
            with refusing("transformers"):
                require_fit(folders[0], params.window)
                sliced = Sliced(*folders, all_windows[chosen], params.batch_size, params.seed, device)
                table = polars.concat([by_document(parts, point) for point in sliced.points()])
            size = sliced.size
        except Refused as refused:
            reason = str(refused)
    names = ("trajectory", "checkpoint", "method", "corpus")
    metadata = {name: snakemake.wildcards[name] for name in names} | {
        "status": "refused" if reason else "ok",
        "reason": reason or "",
        "size": "" if size is None else repr(size),
        "windows": str(params.windows),
        "seed": str(params.seed),
        "device": device,
        "threads": str(params.threads),
        "revision": cell.get("revision", ""),
    }
    table.write_parquet(snakemake.output[0], metadata=metadata)


if __name__ == "__main__":
    open_log(snakemake.log[0], f"slice {Path(snakemake.output[0]).parent} {snakemake.wildcards.corpus}")
    main(snakemake)
