"""Reading trajectory files, and what they derive from, into a plan."""

from pathlib import Path

from scripts.lib.runtime.config_files import ConfigError, load_named
from scripts.lib.study import schedules
from scripts.lib.study.trajectories.averaged import Averaged
from scripts.lib.study.trajectories.base import Trajectory
from scripts.lib.study.trajectories.local import Local
from scripts.lib.study.trajectories.published import Published
from scripts.lib.study.trajectories.trained import Trained

SOURCES = {kind.source: kind for kind in (Trained, Published, Local, Averaged)}


def add_trajectory(plan, name: str, folder: Path, where: str, above: tuple[str, ...] = ()) -> Trajectory:
    """Read a trajectory and all that it derives from into a plan.

    Args:
        plan: the `Plan`; its `trajectories` grow by what is read.
        folder: config/trajectories.
        where: what names the trajectory, for error messages.
        above: names of the trajectories that derive from it.

    Raises:
        ConfigError: it does not exist or does not fit its schema, or what it derives from, or the config.
    """
    if name in plan.trajectories:
        return plan.trajectories[name]
    path = folder / f"{name}.yaml"
    if name in above:
        raise ConfigError(f"{path}: the trajectory derives from itself, through {' and '.join(above)}")
    try:
        content = load_named(folder, "trajectory", name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if "schedule" in content:
        try:
            schedules.validate(content["schedule"], str(path))
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
    kind = SOURCES[content["source"]]
    origin = kind.origin(content)
    derived = add_trajectory(plan, origin, folder, str(path), (*above, name)) if origin else None
    plan.trajectories[name] = kind.read(name, content, path, plan, derived)
    return plan.trajectories[name]
