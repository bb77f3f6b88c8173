"""What can be known to fail before any work: cells that are refused, sources, texts and folders."""

import glob
import os
from collections import Counter
from pathlib import Path

from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study import needs
from scripts.lib.study.group_sizes import width_refusal
from scripts.lib.study.texts import made_texts, too_small


def set_aside_refused(plan) -> None:
    """Move the cells whose method cannot be applied to their model from a plan's work to `plan.refused`.

    Only what is known before anything is fetched or trained counts; the stage `quantize` refuses the rest.
    """
    reasons = {}
    for cell in plan.cells:
        pair = cell.trajectory, cell.method
        if cell.method in plan.recipes and pair not in reasons:
            reasons[pair] = width_refusal(plan.recipes[cell.method], plan.trajectories[cell.trajectory].widths)
        if reasons.get(pair):
            plan.refused[cell] = reasons[pair]
            del plan.losses[cell], plan.tasks[cell], plan.slices[cell]


def require_clone(folder: Path | str) -> None:
    """Raise ConfigError unless the working directory holds the project, as its `folder` does."""
    if not Path("config/default.yaml").is_file():
        raise ConfigError(f"{Path.cwd()} is not the clone: start in the clone's folder, or add --directory {folder}")


def require_sources(plan) -> None:
    """Refuse a study while files that its corpora are still to be made of are not there, or its texts are too small.

    Raises:
        ConfigError: lists all globs that match no file, and all texts that are certainly too small.
    """
    missing = []
    for name in needs.corpora_needed(plan, needs.tokens_needed(plan)):
        for pattern in [] if made_texts(plan, name) else plan.corpora[name].get("paths", []):
            if not any(os.path.isfile(path) for path in glob.iglob(pattern, recursive=True)):
                missing.append(f"corpus `{name}`: no file matches {pattern}")
    if missing:
        missing.append("mend `paths` (globs, absolute or from the root of the clone)")
    if problems := missing + too_small(plan):
        raise ConfigError("\n".join(problems))


def require_folders(plan) -> None:
    """Refuse a study whose folders cannot be written.

    Raises:
        ConfigError: lists them, with what is in the way.
    """
    problems = []
    for key, path in plan.config["folders"].items():
        place = Path(path).absolute()
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            problems.append(f"folders.{key}: {path}: {place} is a file")
        elif not os.access(place, os.W_OK | os.X_OK):
            problems.append(f"folders.{key}: {path}: {place} cannot be written")
    if problems:
        raise ConfigError("\n".join(problems))


def describe_refused(plan) -> list[str]:
    """A line for each trajectory and reason, with the number of its cells that are refused; none if none are."""
    counts = Counter((cell.trajectory, reason) for cell, reason in plan.refused.items())
    return [
        f"{number} {'cell' if number == 1 else 'cells'} of `{name}` {'is' if number == 1 else 'are'} not run: {reason}"
        for (name, reason), number in sorted(counts.items())
    ]
