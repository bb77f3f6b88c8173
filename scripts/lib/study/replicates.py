"""What a study replicates besides draws and seeds, which its cells tell: neighbouring checkpoints, and all of it."""

from collections import defaultdict
from pathlib import Path

from scripts.lib.runtime.config_files import ConfigError, require_name
from scripts.lib.study.paths import Paths

STABLE = "stable"


def neighbours(plan) -> list[list[tuple[str, str]]]:
    """Groups of (trajectory, checkpoint), each of neighbours in the stable phase of one trajectory.

    Raises:
        ConfigError: a trajectory or a checkpoint is not measured in this study, or lies in no stable phase.
    """
    found, measured = [], set(plan.checkpoints)
    for number, group in enumerate(_replicates(plan).get("neighbours", [])):
        where = f"study `{plan.config['study']['name']}`, replicates.neighbours.{number}"
        steps = sorted(group["checkpoints"])
        for name in _members(plan, group["trajectories"], f"{where}.trajectories"):
            missing = [step for step in steps if (name, step) not in measured]
            if missing:
                raise ConfigError(f"{where}.checkpoints: `{name}` has no cell at steps {missing}: add them to `cells`")
            phases = {step: plan.trajectories[name].describe(step)["phase"] for step in steps}
            moving = [f"{step} ({phase})" for step, phase in phases.items() if phase != STABLE]
            if moving:
                raise ConfigError(f"{where}.checkpoints: `{name}` is in no stable phase at step {', '.join(moving)}")
            found.append([(name, f"step-{step}") for step in steps])
    return found


def repeat(plan) -> tuple[str | None, str | None]:
    """The measurements of the same study computed once more, if they are there, else why not."""
    folder = _replicates(plan).get("numerics")
    if folder is None:
        return None, None
    folders, study = plan.config["folders"], plan.config["study"]["name"]
    path = f"{Paths(folders['resources'], folder).tables(study)}/measurements.parquet"
    if Path(folder).resolve() == Path(folders["results"]).resolve():
        return None, "this is the repeat itself"
    return (path, None) if Path(path).is_file() else (None, f"{path} is not there yet")


def _members(plan, names: list[str], where: str) -> list[str]:
    """Trajectories of the study's cells by their names, or by those of their families."""
    members = defaultdict(list)
    for trajectory in sorted({trajectory for trajectory, _ in plan.checkpoints}):
        for name in {trajectory, plan.families[trajectory].name}:
            members[name].append(trajectory)
    for name in names:
        require_name(name, members, "trajectory", where)
    return [trajectory for name in names for trajectory in members[name]]


def _replicates(plan) -> dict:
    return plan.config["study"].get("replicates", {})
