"""The questions that a study asks of any trajectory, wherever its checkpoints come from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import ClassVar

import numpy as np

from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study import schedules
from scripts.lib.study.sizes import Model


@dataclass(frozen=True, eq=False)
class Trajectory(ABC):
    """One training run seen at several steps. Each kind of source is a class of its own, with its checks.

    source: the kind, as trajectory files have it.
    tokenizer, tokenizer_definition: its name, and where it comes from, as in a tokenizer's file.
    """

    source: ClassVar[str]
    origin_key: ClassVar[str | None] = None  # of a file, dotted: what the trajectory derives from
    name: str

    @classmethod
    def origin(cls, content: dict) -> str | list[str] | None:
        """Name of the trajectory, or family, that one derives from, if it does, by the content of its file; a list of
        names where it derives from several."""
        if not cls.origin_key or not has(content, cls.origin_key):
            return None
        return reduce(getitem, cls.origin_key.split("."), content)

    @classmethod
    def inherits(cls, key: str) -> bool:
        """Whether what derives from a trajectory takes this setting (a dotted key) from it."""
        return False

    @classmethod
    def coordinate(cls, key: str) -> str:
        """What a setting (a dotted key of a file) is called beside those of other kinds of trajectories."""
        return key

    @classmethod
    def complete(cls, content: dict, origin: "Trajectory | None", path: Path) -> dict:
        """The content of a file with what its sections take from the trajectory that it derives from."""
        return content

    @classmethod
    @abstractmethod
    def read(
        cls, name: str, content: dict, path: Path, plan, origin: "Trajectory | list[Trajectory] | None"
    ) -> "Trajectory":
        """The trajectory of a file that fits its schema.

        Args:
            path: of the file, for messages.
            plan: the `Plan`, whose config it has to fit; the corpora and the tokenizer that it needs are added.
            origin: what it derives from, if it does; a list where `origin` is one.

        Raises:
            ConfigError: it does not fit the config, or what it derives from.
        """

    @property
    @abstractmethod
    def steps(self) -> list[int]:
        """All steps at which there is a checkpoint, ascending."""

    @property
    def run_seed(self) -> int | None:
        """Seed of the training that all of it descends from; None if it was not trained here."""
        return None

    @property
    @abstractmethod
    def model(self) -> Model:
        """Sizes of the model."""

    @property
    @abstractmethod
    def widths(self) -> dict[str, int]:
        """Input widths of linear layers of the decoder blocks that are known before there is a model.

        hidden_size is that of attention's inputs; intermediate_size, that of the MLP's second layer, is certain only of
        the architectures that the workflow trains.
        """

    @abstractmethod
    def checkpoint_bytes(self, step: int) -> tuple[int, str]:
        """Bytes of one checkpoint's files, and where the number comes from.

        Returns:
            bytes; "lock" (files as resolved), "folder" (files on this machine) or "estimate" (weights times dtype).
        """

    @abstractmethod
    def circumstances(self, step: int) -> dict:
        """Its place in training at a step: parent, tokens, learning_rate, peak_learning_rate, phase."""

    def describe(self, step: int) -> dict:
        """One row of the `checkpoints` table, as far as the config tells it."""
        row = {"trajectory": self.name, "checkpoint": f"step-{step}", "source": self.source, "step": step}
        return row | self.circumstances(step)

    @property
    @abstractmethod
    def came_from(self) -> "tuple[Trajectory | None, int | None]":
        """The trajectory that it derives from, and the step of that one's checkpoint; None where there is none."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, str | int | float | bool]:
        """What its training was set to, as far as it is known, by coordinate."""

    def made_from(self, step: int) -> list[tuple[str, int]]:
        """(trajectory, step) of the checkpoints that one is made from; none if it is no average."""
        return []

    def curve(self, points: int) -> dict | None:
        """Steps, tokens and learning rates at so many points, to be drawn; None where no schedule gives all of them."""
        return None


def has(content: dict, key: str) -> bool:
    """Whether nested mappings have a dotted key."""
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


def scalars(content: dict, key: str = "") -> dict:
    """All values in nested mappings that are neither lists nor null, by dotted key."""
    found = {}
    for name, value in content.items():
        if isinstance(value, dict):
            found |= scalars(value, f"{key}{name}.")
        elif value is not None and not isinstance(value, list):
            found[f"{key}{name}"] = value
    return found


def draw(run, first: int, last: int, before: dict, points: int) -> dict:
    """The curve of a run with a schedule.

    Args:
        run: with name, schedule, tokens_per_step.
        first: the run's own first step. last: its own last step.
        before: step and tokens of what came before the run's own step 0.
        points: at most.
    """
    steps = np.unique(np.linspace(first, last, points).astype(int))
    return {
        "trajectory": run.name,
        "steps": (before["step"] + steps).tolist(),
        "tokens": (before["tokens"] + schedules.tokens(steps, run.tokens_per_step)).tolist(),
        "learning_rate": schedules.learning_rate(run.schedule, steps).tolist(),
    }


def require_context(context: int | None, config: dict, where: str) -> None:
    """Raise ConfigError if a model reads less than the windows that it is evaluated on."""
    window = config["evaluate_loss"]["window"]
    if context and context < window:
        raise ConfigError(f"{where} has a context of {context}; evaluate_loss.window is {window}")
