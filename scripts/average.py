"""average: checkpoints of one trajectory become their mean; members are streamed, so memory does not grow with them."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from scripts.lib.models.folders import weight_files
from scripts.lib.runtime import manifests
from scripts.lib.runtime.logs import Progress, open_log
from scripts.lib.runtime.untrusted import one_line
from scripts.publish import describe, refuse

ADVICE = "only like models can be averaged: leave out the one that is another"


class Unlike(ValueError):
    """Models that cannot be averaged, for their tensors differ."""


def averaged(members: list[Path], manifests_of: list[dict], out: Path, identity: dict) -> dict:
    """Average checkpoints and return the manifest; refused where one was, or where they are unlike each other.

    Args:
        members, out: as of `average`.
        manifests_of: the members' manifests.
        identity: what the manifest says of the average besides.
    """
    refused = [member for member in manifests_of if member["status"] != "ok"]
    if refused:
        return refuse(out, identity, "a member was refused: {checkpoint}, {reason}".format(**refused[0]))
    try:
        average(members, out)
    except Unlike as error:
        reason = str(error)
        for folder, member in zip(members, manifests_of, strict=True):
            reason = reason.replace(str(folder), member["checkpoint"])
        return refuse(out, identity, one_line(reason))
    return describe(out, identity | {"members": [member["revision"] for member in manifests_of]})


def average(members: list[Path], out: Path) -> None:
    """Write the uniform mean of several model folders (LAWA, arXiv:2209.14981), one tensor in memory at a time.

    Sums are taken in float64 and in the order given; the result has the newest member's dtype and its config and
    tokenizer. Tensors that are not floating point are taken from the newest member.

    Args:
        members: model folders of one architecture, oldest first.
        out: the average's model folder; whole or absent.

    Raises:
        Unlike: a tensor is missing in a member or has another shape there; the message names both.
    """
    newest = members[-1]
    with manifests.staged_folder(out) as scratch:
        for path in sorted(newest.iterdir()):
            if path.is_file() and path.suffix != ".safetensors" and path.name != manifests.TIMESTAMP:
                manifests.link_file(path, scratch / path.name)
        where = [locate_tensors(member) for member in members]
        progress = Progress(len(where[-1]), "tensors")
        for shard in weight_files(newest):
            with safe_open(shard, framework="pt") as file:
                names = list(file.keys())
            tensors = {}
            for name in names:
                tensors[name] = mean_tensor(name, members, where)
                progress.update(len(tensors))
            save_file(tensors, scratch / shard.name, metadata={"format": "pt"})


def mean_tensor(name: str, members: list[Path], where: list[dict[str, Path]]) -> torch.Tensor:
    """Mean over members of one tensor, in the newest member's dtype.

    Raises:
        Unlike: a member has no such tensor, or one of another shape.
    """
    total = None
    for member, files in zip(members, where, strict=True):
        if name not in files:
            raise Unlike(f"{member} has no tensor {name}, but {members[-1]} has; {ADVICE}")
        with safe_open(files[name], framework="pt") as file:
            tensor = file.get_tensor(name)
        if total is not None and tensor.shape != total.shape:
            shapes = f"the shape {list(tensor.shape)} in {member}, and {list(total.shape)} in {members[0]}"
            raise Unlike(f"tensor {name} has {shapes}; {ADVICE}")
        total = tensor.to(torch.float64) if total is None else total.add_(tensor)
    return (total / len(members)).to(tensor.dtype) if tensor.is_floating_point() else tensor


def locate_tensors(folder: Path) -> dict[str, Path]:
    """Which safetensors file of a model folder holds each tensor."""
    where = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            where.update(dict.fromkeys(file.keys(), path))
    return where


if __name__ == "__main__":
    open_log(snakemake.log[0], f"average {snakemake.wildcards.trajectory} {snakemake.wildcards.checkpoint}")
    torch.set_num_threads(snakemake.params.threads)
    out, identity = Path(snakemake.output.model), snakemake.params.identity
    members = [manifests.read(path) for path in snakemake.input.manifests]
    folders = [Path(folder) for folder in snakemake.input.models]
    manifest = averaged(folders, members, out, identity)
    manifests.write(snakemake.output.manifest, manifest)
