"""The runs of a study: where each comes from, and what differs between them, as columns."""

from scripts.lib.runtime.text import aligned
from scripts.lib.study.trajectories.base import Trajectory
from scripts.lib.study.trajectories.trained import Trained

ALWAYS = "seed"


def runs(plan) -> list[dict]:
    """One row for each trajectory of a plan, with all that they derive from, as `tabulate` takes them.

    Returns:
        For each: trajectory; family (its own name where it is none of a family); root, the trajectory of the trunk that
        it descends from; kind (trunk, branch, average); parent; parent_checkpoint; coordinates, by name, null where it
        is not known.
    """
    columns = coordinates(plan)
    rows = []
    for name, trajectory in sorted(plan.trajectories.items()):
        parent, step = trajectory.came_from
        rows.append(
            {
                "trajectory": name,
                "family": plan.families[name].name,
                "root": root(trajectory).name,
                "kind": "average" if trajectory.source == "average" else "branch" if parent else "trunk",
                "parent": parent.name if parent else None,
                "parent_checkpoint": f"step-{step}" if step is not None else None,
                "coordinates": {column: trajectory.settings.get(column) for column in columns},
            }
        )
    return rows


def describe(plan) -> list[str]:
    """The runs with coordinates as aligned columns, for people; no lines if none has any.

    Runs that a study does not measure stand there as well, where others derive from them.
    """
    known = [run for run in runs(plan) if any(value is not None for value in run["coordinates"].values())]
    columns = ("trajectory", "family", "kind", "parent")
    rows = [(*(run[name] or "-" for name in columns), *map(_shown, run["coordinates"].values())) for run in known]
    return aligned([(*columns, *coordinates(plan)), *rows], "<<<<" + ">" * len(coordinates(plan))) if rows else []


def _shown(value) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def root(trajectory: Trajectory) -> Trajectory:
    """The trunk that a trajectory descends from; itself, if it is one."""
    while (parent := trajectory.came_from[0]) is not None:
        trajectory = parent
    return trajectory


def coordinates(plan) -> list[str]:
    """Settings that are an axis of a family, or differ between trained runs or between averages; the seed always.

    The seed of the data's order counts only where a run has another one than its seed.
    """
    known = [trajectory.settings for trajectory in plan.trajectories.values() if _is_made_here(trajectory)]
    names = dict.fromkeys(name for settings in known for name in settings)
    axes = {path for family in plan.families.values() for path in family.paths}
    found = [name for name in names if name in axes or len({s[name] for s in known if name in s}) > 1]
    if all(settings["data_seed"] == settings["seed"] for settings in known):
        found = [name for name in found if name != "data_seed"]
    return sorted({ALWAYS, *found})


def _is_made_here(trajectory: Trajectory) -> bool:
    return isinstance(root(trajectory), Trained)
