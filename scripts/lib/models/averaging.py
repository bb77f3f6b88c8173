"""Weighted means of model folders, a piece of a tensor in memory at a time, whatever the number of members."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from scripts.lib.models.folders import read_header, weight_files
from scripts.lib.runtime import manifests
from scripts.lib.runtime.logs import Progress

ADVICE = "only like models can be averaged: leave out the one that is another"
PIECE = 2**18  # values of a tensor that are summed at a time; 2 MiB in float64
KEPT = 2**18  # bytes that are read of a file before it is closed
FLOOR = 1e-20  # added to a Fisher information, so that weights which it says nothing of get the plain mean

Weight = float | Path  # of a member: a number, or a folder with a number for each of its weights


class Unlike(ValueError):
    """Models that cannot be averaged, for their tensors differ."""


def average(members: list[Path], out: Path, weights: list[Weight] | None = None) -> None:
    """Write sum(w_i m_i) / sum(w_i) of several model folders m_i; the plain mean (LAWA, arXiv:2209.14981) without w.

    Sums are taken in float64 and in the order given; the result has the newest member's dtype and its config and
    tokenizer. Tensors that are not floating point are taken from the newest member.

    Args:
        members: model folders of one architecture, oldest first.
        out: the average's model folder; whole or absent.
        weights: of each member, from 0; folders hold tensors of the members' names and shapes, and tensors that they
            lack weigh the same in all members.

    Raises:
        Unlike: a tensor is missing in a member or has another shape there; the message names both.
    """
    newest, weights = members[-1], weights or [1.0] * len(members)
    require_alike(members)
    with manifests.staged_folder(out) as scratch:
        for path in sorted(newest.iterdir()):
            if path.is_file() and path.suffix != ".safetensors" and path.name != manifests.TIMESTAMP:
                manifests.link_file(path, scratch / path.name)
        stored = [Tensors(member) for member in members]
        weighted = [Tensors(weight) if isinstance(weight, Path) else weight for weight in weights]
        progress = Progress(len(stored[-1].where), "tensors")
        for shard in weight_files(newest):
            with safe_open(shard, framework="pt") as file:
                names = list(file.keys())
            tensors = {}
            for name in names:
                tensors[name] = mean_tensor(name, stored, weighted)
                progress.update(len(tensors))
            save_file(tensors, scratch / shard.name, metadata={"format": "pt"})


def require_alike(members: list[Path]) -> None:
    """Raise Unlike unless every member has all tensors of the newest one, in the same shapes; reads headers alone."""
    shapes = [shapes_of(member) for member in members]
    for name in shapes[-1]:
        for member, found in zip(members, shapes, strict=True):
            if name not in found:
                raise Unlike(f"{member} has no tensor {name}, but {members[-1]} has; {ADVICE}")
        for member, found in zip(members, shapes, strict=True):
            if found[name] != shapes[0][name]:
                both = f"the shape {found[name]} in {member}, and {shapes[0][name]} in {members[0]}"
                raise Unlike(f"tensor {name} has {both}; {ADVICE}")


def shapes_of(folder: Path) -> dict[str, list[int]]:
    """Shapes of a model folder's tensors."""
    return {name: list(entry["shape"]) for path in weight_files(folder) for name, entry in read_header(path).items()}


class Tensors:
    """The tensors of a model folder, read piece by piece.

    A file stays open for many small tensors, since opening one reads the names of all of them; and not for longer, as
    what was read of it counts as memory until it is closed.

    where: which file holds each tensor.
    """

    def __init__(self, folder: Path):
        self.where = {name: path for path in weight_files(folder) for name in read_header(path)}
        self.path, self.file, self.taken = None, None, 0

    def read(self, name: str, piece: slice | type(...)) -> torch.Tensor:
        """Some rows of a tensor, or all of it (...)."""
        file = self._open(name)
        found = file.get_tensor(name) if piece is ... else file.get_slice(name)[piece]
        self.taken += found.nbytes
        if self.taken > KEPT:
            self.path = self.file = None
        return found

    def form(self, name: str) -> tuple[list[int], torch.dtype]:
        """Shape and type of a tensor."""
        found = self._open(name).get_slice(name)
        shape = found.get_shape()
        return shape, (found[:0] if shape else self.read(name, ...)).dtype

    def _open(self, name: str) -> safe_open:
        if self.path != self.where[name]:
            self.path, self.file, self.taken = self.where[name], safe_open(self.where[name], "pt"), 0
        return self.file


def mean_tensor(name: str, stored: list[Tensors], weighted: list[Tensors | float]) -> torch.Tensor:
    """Weighted mean over members of one tensor, in the newest member's dtype.

    Args:
        stored: of each member. weighted: the same of its weights, or its weight.
    """
    shape, kind = stored[-1].form(name)
    if not kind.is_floating_point:
        return stored[-1].read(name, ...).clone()
    mean = torch.empty(shape, dtype=kind)
    rows = len(mean) if mean.ndim else 0
    step = max(1, PIECE * rows // max(1, mean.numel()))
    pieces = [slice(first, first + step) for first in range(0, rows, step)] if mean.numel() > PIECE else [...]
    for piece in pieces:
        total, weights = torch.zeros_like(mean[piece], dtype=torch.float64), 0.0
        for tensors, weight in zip(stored, weighted, strict=True):
            if isinstance(weight, Tensors):
                weight = weight.read(name, piece).double().add_(FLOOR) if name in weight.where else 1.0
            member = tensors.read(name, piece)
            if isinstance(weight, torch.Tensor):
                total += weight * member
            else:
                total.add_(member, alpha=weight)
            weights += weight
        mean[piece] = total.div_(weights)
    return mean
