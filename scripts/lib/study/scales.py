"""Scales: a study of runs trained here at another size, by one config file given after the study's.

Trajectory and study files stay as they are. A scale multiplies their steps, peak rates and weight decays, replaces what
a run is made of (model, text, batch), and puts other methods and corpora in the place of those that a study names.
"""

from pathlib import Path

from scripts.lib.runtime.config_files import ConfigError, validate

TIMES = {  # what each factor multiplies, as dotted keys of trajectory files
    "steps": (
        *("keep", "restart", "stride", "half_life", "branch.step", "schedule.warmup", "schedule.end"),
        *("schedule.decay.start", "schedule.decay.end"),
    ),
    "peak": ("schedule.peak",),
    "weight_decay": ("optimizer.weight_decay",),
}
DIGITS = 12  # of a number that was multiplied: 0.006 x 0.2 is 0.0012
NAMED = ("methods", "loss", "tasks")  # lists of a block of cells whose names a scale may replace


def scaled(config: dict) -> dict:
    """A config at its scale: its study's steps and names, and folders of its own; as it is if it names no scale.

    Args:
        config: merged from all files.

    Raises:
        ConfigError: the scale or the study does not fit its schema.
    """
    if "scale" not in config or "study" not in config:
        return config
    for section in ("scale", "study"):
        validate(config[section], section, section)
    scale = config["scale"]
    folders = {kind: f"{folder}/{scale['name']}" for kind, folder in config["folders"].items()}
    return config | {"folders": folders, "study": _study(config["study"], scale)}


def _study(study: dict, scale: dict) -> dict:
    """The study with its steps multiplied and its names replaced."""
    instead, cells = scale.get("instead", {}), []
    for block in study.get("cells", []):
        names = {
            key: list(dict.fromkeys(instead.get(name, name) for name in block[key])) for key in NAMED if key in block
        }
        cells.append(block | names | _steps(block, scale))
    claims = [
        claim | {"method": instead.get(claim["method"], claim["method"])} if isinstance(claim, dict) else claim
        for claim in study.get("claims", [])
    ]
    found = study | {"cells": cells} | ({"claims": claims} if claims else {})
    groups = [group | _steps(group, scale) for group in study.get("replicates", {}).get("neighbours", [])]
    return found | ({"replicates": study["replicates"] | {"neighbours": groups}} if groups else {})


def _steps(block: dict, scale: dict) -> dict:
    """`checkpoints` of a block if it lists steps."""
    listed = isinstance(block.get("checkpoints"), list)
    return {"checkpoints": _times("keep", block["checkpoints"], scale)} if listed else {}


def of_trajectory(content: dict, scale: dict | None, path: Path) -> dict:
    """The content of a trajectory file at a scale: of a run trained here, or of an average; others stay as they are.

    Args:
        content: fits its schema.
        scale: the config's section; None for none.
        path: of the file, for messages.

    Raises:
        ConfigError: its schedule is a list of segments, the scale replaces what its members differ in, or it does not
            fit its schema any more.
    """
    if scale is None or content["source"] not in ("train", "average"):
        return content
    if content.get("schedule", {}).get("name") == "piecewise":
        raise ConfigError(
            f"{path}: schedule: `piecewise` has no scales: write another schedule, or leave out the scale"
        )
    found = _times("", content, scale)
    if "axes" in content:
        found["axes"] = {axis: _axis(axis, values, scale) for axis, values in content["axes"].items()}
    if content["source"] == "train" and "branch" not in content:
        found |= _replacing(content, scale, path)
    validate(found, "trajectory", f"{path}, at scale `{scale['name']}`")
    return found


def _replacing(content: dict, scale: dict, path: Path) -> dict:
    """What replaces keys of a run; none of them may be what its family varies."""
    varied = {key.partition(".")[0] for axis in content.get("axes", {}).items() for key in _keys(*axis)}
    if both := sorted(varied & scale.get("run", {}).keys()):
        raise ConfigError(
            f"{path}: its members differ in `{both[0]}`, which the scale `{scale['name']}` replaces: run it without"
        )
    return scale.get("run", {})


def _keys(axis: str, values: list | dict) -> list[str]:
    """The dotted keys that an axis varies."""
    return [axis] if isinstance(values, list) else [key for part in values.values() for key in part]


def _axis(axis: str, values: list | dict, scale: dict) -> list | dict:
    if isinstance(values, list):
        return _times(axis, values, scale)
    return {name: {key: _times(key, value, scale) for key, value in part.items()} for name, part in values.items()}


def _times(key: str, value, scale: dict):
    """A value by its dotted key, its steps, rates and weight decays multiplied."""
    if isinstance(value, dict):
        return {name: _times(f"{key}.{name}" if key else name, part, scale) for name, part in value.items()}
    factors = [scale.get("times", {}).get(kind, 1) for kind, keys in TIMES.items() if key in keys]
    if not factors:
        return value
    if isinstance(value, list):
        return [_product(part, factors[0]) for part in value]
    return _product(value, factors[0])


def _product(value, factor):
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return float(f"{value * factor:.{DIGITS}g}") if isinstance(value * factor, float) else value * factor
