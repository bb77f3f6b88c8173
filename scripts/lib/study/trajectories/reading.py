"""Reading trajectory files, and what they derive from, into a plan."""

from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study import schedules
from scripts.lib.study.trajectories.base import Trajectory
from scripts.lib.study.trajectories.families import SOURCES, Families


def add_trajectories(plan, name: str, families: Families, where: str) -> list[str]:
    """Read a trajectory, or all members of a family, into a plan, and all that they derive from.

    Args:
        plan: the `Plan`; its `trajectories` and `families` grow by what is read.
        name: of a file, or of a member of the family that a file describes.
        where: what names the trajectory, for error messages.

    Returns:
        Names of the trajectories that the name stands for.

    Raises:
        ConfigError: it does not exist or does not fit its schema, or what it derives from, or the config.
    """
    family = families.named(name, where)
    names = list(family.members) if name == family.name else [name]
    for member in names:
        _add(plan, families, member, where)
    return names


def _add(plan, families: Families, name: str, where: str) -> Trajectory:
    """Read one trajectory into a plan, unless it is there."""
    if name in plan.trajectories:
        return plan.trajectories[name]
    family = families.named(name, where)
    path, content = families.path(family.name), family.members[name].content
    kind = SOURCES[content["source"]]
    origin = kind.origin(content)
    if isinstance(origin, list):
        derived = [_add(plan, families, one, str(path)) for one in origin]
    else:
        derived = _add(plan, families, origin, str(path)) if origin else None
    try:
        content = kind.complete(content, derived, path)
        if "schedule" in content:
            schedules.validate(content["schedule"], str(path))
        plan.trajectories[name] = kind.read(name, content, path, plan, derived)
    except ValueError as error:
        raise ConfigError(f"{error}{'' if name == family.name else f' (member `{name}`)'}") from error
    plan.families[name] = family
    return plan.trajectories[name]
