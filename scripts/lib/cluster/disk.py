"""Disk that published checkpoints take while they are measured, and the order of fetches that keeps it below a budget.

Snakemake frees a resource when a job ends, not when its output is deleted. So the budget is in the graph: checkpoints
stand in lanes that fit into it side by side, and each fetch waits until the one before it in its lane is measured.
"""

from itertools import pairwise

from scripts.lib.cluster import requests
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study.sizes import DTYPES, quantized_bytes

GB = 10**9


def footprints(plan) -> dict[tuple[str, int], int]:
    """Bytes that each published checkpoint of a study takes at most: its weights, all that is quantized from them, and
    the hidden states that their losses share.

    Pickled weights are held twice while they are converted; all are taken for pickled of which no lock says otherwise.
    Sizes are those of locks, else estimated.
    """
    found, hidden = {}, hidden_states(plan)
    for cell in plan.cells:
        name, step = cell.trajectory, cell.step
        trajectory = plan.trajectories[name]
        if trajectory.source != "hub":
            continue
        if (name, step) not in found:
            size, _ = trajectory.checkpoint_bytes(step)
            locked = trajectory.published(step)["locked"]
            safe = bool(locked) and not any(file.endswith(".bin") for file in locked["files"])
            found[name, step] = [size, 0 if safe else size, 0]
        if cell.method in plan.recipes:
            found[name, step][2] += quantized_bytes(trajectory.model, plan.recipes[cell.method])
    return {
        point: size + max(pickled, quantized + hidden.get(point, 0))
        for point, (size, pickled, quantized) in found.items()
    }


def hidden_states(plan) -> dict[tuple[str, int], int]:
    """Bytes of the hidden states that each checkpoint with methods takes for its losses while it is measured."""
    settings, size = plan.config["evaluate_loss"], DTYPES[plan.config["compute"]["dtype"]]
    corpora = {}
    for cell in plan.cells:
        if cell.method in plan.recipes:
            corpora.setdefault((cell.trajectory, cell.step), set()).update(plan.losses[cell])
    tokens = requests.loss_tokens(settings)
    return {
        point: len(names) * tokens * plan.trajectories[point[0]].model.likely_width * size
        for point, names in corpora.items()
    }


def lanes(sizes: dict[tuple[str, int], int], budget: float) -> list[list[tuple[str, int]]]:
    """Share checkpoints out among lanes, each of which holds one at a time, within a budget in GB; lists largest first.

    The largest are placed first (longest processing time first, Graham 1969): each opens a lane if there is room for
    it, and else goes to the lane that has the fewest bytes to handle. A lane is as wide as its largest checkpoint.
    """
    found, loads, free = [], [], budget * GB
    for point, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        if size <= free:
            found.append([])
            loads.append(0)
            free -= size
            place = len(found) - 1
        else:
            place = loads.index(min(loads))
        found[place].append(point)
        loads[place] += size
    return found


def waits_for(plan) -> dict[tuple[str, int], tuple[str, int]]:
    """Which checkpoint has to be measured before another one is fetched, under `fetch.disk_budget`: see `lanes`.

    The smallest of a lane come first: what fails, fails for want of memory, at the largest, and stops none then.

    Returns:
        {(trajectory, step): (trajectory, step)} without those that wait for none.

    Raises:
        ConfigError: weights would be kept, the largest checkpoint alone does not fit, or one belongs to an average.
    """
    budget = plan.config["fetch"]["disk_budget"]
    sizes = {} if budget is None else footprints(plan)
    if not sizes:
        return {}
    _check(plan, {name for name, _ in sizes})
    (name, step), size = max(sizes.items(), key=lambda item: item[1])
    if size > budget * GB:
        raise ConfigError(
            f"config: fetch.disk_budget: {budget} GB is less than {name}/step-{step} takes with what is quantized from "
            f"it, {size / GB:.3g} GB; raise it"
        )
    return {later: before for lane in lanes(sizes, budget) for before, later in pairwise(sorted(lane, key=sizes.get))}


def _check(plan, published: set[str]) -> None:
    for section in ("fetch", "quantize"):
        if plan.config[section]["keep_weights"]:
            raise ConfigError(f"config: fetch.disk_budget needs {section}.keep_weights: false; else nothing is deleted")
    for name, trajectory in plan.trajectories.items():
        ingredients = trajectory.ingredients if trajectory.source == "average" else []
        if found := [run.name for run in ingredients if run.name in published]:
            raise ConfigError(
                f"config: fetch.disk_budget: `{name}` averages checkpoints of `{found[0]}`, which it needs "
                "all at once; measure averages in a study without a budget"
            )
