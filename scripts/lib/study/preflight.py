"""What can be known to fail before any work: cells that are refused while a study is planned, and why."""

import json
from collections import Counter
from pathlib import Path

from scripts.lib.models.group_sizes import width_refusal


def set_aside_refused(plan) -> None:
    """Move the cells whose method cannot be applied to their model from a plan's work to `plan.refused`.

    Only what is known before anything is fetched or trained counts; the stage `quantize` refuses the rest.
    """
    reasons = {}
    for cell in plan.cells:
        pair = cell.trajectory, cell.method
        if cell.method in plan.recipes and pair not in reasons:
            reasons[pair] = width_refusal(plan.recipes[cell.method], known_widths(plan, cell.trajectory))
        if reasons.get(pair):
            plan.refused[cell] = reasons[pair]
            del plan.losses[cell], plan.tasks[cell]


def known_widths(plan, name: str) -> dict[str, int]:
    """Input widths of linear layers of a trajectory's model that are known before it exists on this machine.

    hidden_size is the width of attention's inputs; intermediate_size, that of the MLP's second layer, is certain only
    of the architectures that the workflow trains.
    """
    trajectory = plan.trajectories[name]
    if trajectory["source"] == "average":
        return known_widths(plan, trajectory["of"])
    if trajectory["source"] == "local":
        model = json.loads((Path(trajectory["checkpoints"][0]["path"]) / "config.json").read_text())
    else:
        model = trajectory["model"]
    keys = ("hidden_size", "intermediate_size") if trajectory["source"] == "train" else ("hidden_size",)
    return {key: model[key] for key in keys if model.get(key)}


def describe_refused(plan) -> list[str]:
    """A line for each trajectory and reason, with the number of its cells that are refused; none if none are."""
    counts = Counter((cell.trajectory, reason) for cell, reason in plan.refused.items())
    return [f"{number} cells of `{name}` are not run: {reason}" for (name, reason), number in sorted(counts.items())]
