"""average: checkpoints become their weighted mean; members are streamed, so memory does not grow with them."""

import shutil
from pathlib import Path

import numpy as np
import torch

from scripts.lib.data.windows import TooFew, draw_windows, text_seed
from scripts.lib.models.averaging import Unlike, Weight, average, require_alike
from scripts.lib.runtime import manifests
from scripts.lib.runtime.devices import pick_device
from scripts.lib.runtime.logs import Progress, open_log
from scripts.lib.runtime.shortages import Refused
from scripts.lib.runtime.untrusted import one_line
from scripts.publish import describe, refuse


def averaged(
    members: list[Path],
    manifests_of: list[dict],
    out: Path,
    identity: dict,
    weighing: dict,
    windows: np.ndarray | None = None,
    device: str = "cpu",
) -> dict:
    """Average checkpoints and return the manifest; refused where one was, or where they are unlike each other.

    Args:
        members, out: as of `average`.
        manifests_of: the members' manifests.
        identity: what the manifest says of the average besides.
        weighing: `average`, the scheme, and its `weights` or what it finds them with, as of `Averaged.weighing`.
        windows: the calibration text of schemes that weigh by it, [n, window].
        device: that models run on.
    """
    refused = [member for member in manifests_of if member["status"] != "ok"]
    if refused:
        return refuse(out, identity, "a member was refused: {checkpoint}, {reason}".format(**refused[0]))
    scratch = out.with_name("weighing")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        require_alike(members)
        weights, told = weigh(members, weighing, windows, scratch, device)
        chosen = [number for number, weight in enumerate(weights) if weight != 0]
        average([members[number] for number in chosen], out, [weights[number] for number in chosen])
    except (Unlike, Refused) as error:
        reason = str(error)
        for folder, member in zip(members, manifests_of, strict=True):
            reason = reason.replace(str(folder), member["checkpoint"])
        return refuse(out, identity, one_line(reason))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return describe(out, identity | {"members": [member["revision"] for member in manifests_of]} | told)


def weigh(
    members: list[Path], weighing: dict, windows: np.ndarray | None, scratch: Path, device: str
) -> tuple[list[Weight], dict]:
    """Weights of the members, and what the manifest says of them: nothing where all are equal, or tensors.

    Args:
        scratch: folder for models and weights that are not kept.

    Raises:
        Refused: the loss of a member, on calibration text, is not finite; or it does not run.
    """
    if windows is None:
        weights = weighing["weights"]
        return weights, {"weights": weights} if len(set(weights)) > 1 else {}
    from scripts.lib.models.weighing import by_loss, fisher, greedy, loss_of, loss_of_mean  # with transformers

    if weighing["average"] == "fisher":
        return [fisher(member, windows, scratch / str(number), device) for number, member in enumerate(members)], {}
    progress = Progress(len(members), "members")
    losses = []
    for member in members:
        losses.append(loss_of(member, windows, device))
        progress.update(len(losses))
    if weighing["average"] == "metric":
        weights = by_loss(losses, weighing["penalty"])
    else:
        weights = greedy(losses, lambda chosen: loss_of_mean([members[i] for i in chosen], windows, scratch, device))
    return weights, {"weights": weights, "losses": losses}


def text_of(snakemake) -> np.ndarray | None:
    """The calibration text of an average, [samples, window]; None where its scheme uses none."""
    settings = snakemake.params.calibration
    if settings is None:
        return None
    seed = text_seed(settings["seed"], 1, snakemake.params.run_seed)
    return draw_windows(Path(snakemake.input.calibration[1]), settings | {"seed": seed})


if __name__ == "__main__":
    open_log(snakemake.log[0], f"average {snakemake.wildcards.trajectory} {snakemake.wildcards.checkpoint}")
    torch.set_num_threads(snakemake.params.threads)
    out, identity = Path(snakemake.output.model), snakemake.params.identity
    members = [manifests.read(path) for path in snakemake.input.manifests]
    folders = [Path(folder) for folder in snakemake.input.models]
    device = pick_device(snakemake.params.device)
    weighing = snakemake.params.weighing
    try:
        manifest = averaged(folders, members, out, identity, weighing, text_of(snakemake), device)
    except TooFew as error:
        manifest = refuse(out, identity, str(error))
    manifests.write(snakemake.output.manifest, manifest)
