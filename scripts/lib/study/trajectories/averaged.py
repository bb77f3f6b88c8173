"""Averaged trajectories: means of the weights of other trajectories' checkpoints."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study.config import add_corpus
from scripts.lib.study.sizes import Model
from scripts.lib.study.trajectories.base import Trajectory, scalars

OWN = ("average", "window", "stride", "half_life", "penalty", "calibration")  # keys of its file that make the scheme


@dataclass(frozen=True, eq=False)
class Averaged(Trajectory):
    """Means of checkpoints of other trajectories.

    ingredients: those trajectories: one, whose latest checkpoints are averaged, or several that grew out of one run.
    scheme: the keys OWN of its file that it has: how members are chosen and weighted.
    keep: steps of the newest members.
    """

    source: ClassVar[str] = "average"
    origin_key: ClassVar[str] = "of"
    ingredients: list[Trajectory]
    scheme: dict
    keep: list[int]

    @classmethod
    def coordinate(cls, key: str) -> str:
        """Its `window` is another one than that of a training run."""
        return "average.scheme" if key == "average" else f"average.{key}"

    @classmethod
    def read(cls, name: str, content: dict, path: Path, plan, origin: Trajectory | list[Trajectory]) -> "Averaged":
        ingredients = origin if isinstance(origin, list) else [origin]
        average = cls(name, ingredients, {key: content[key] for key in OWN if key in content}, content["keep"])
        _check(average, path)
        if average.calibration:
            add_corpus(plan, average.calibration["corpus"], "calibration", f"{path}, calibration.corpus")
        return average

    @property
    def window(self) -> int:
        """Checkpoints of each ingredient."""
        return self.scheme.get("window", 1)

    @property
    def size(self) -> int:
        """Members of each average."""
        return self.window * len(self.ingredients)

    @property
    def calibration(self) -> dict | None:
        """Text that decides the weights, as recipes have it; None where none does."""
        return self.scheme.get("calibration")

    @property
    def of(self) -> Trajectory:
        """The ingredient of the newest member, whose sizes and tokenizer it has."""
        return self.ingredients[-1]

    @property
    def soup_of(self) -> tuple[str, ...]:
        """Names of the ingredients, if there are several."""
        return tuple(run.name for run in self.ingredients) if len(self.ingredients) > 1 else ()

    @property
    def steps(self) -> list[int]:
        return sorted(self.keep)

    @property
    def run_seed(self) -> int | None:
        return self.of.run_seed

    @property
    def model(self) -> Model:
        return self.of.model

    @property
    def widths(self) -> dict[str, int]:
        return self.of.widths

    @property
    def tokenizer(self) -> str:
        return self.of.tokenizer

    @property
    def tokenizer_definition(self) -> dict:
        return self.of.tokenizer_definition

    def checkpoint_bytes(self, step: int) -> tuple[int, str]:
        """An average is as large as its newest member."""
        return self.of.checkpoint_bytes(step)

    def circumstances(self, step: int) -> dict:
        """Those of the newest member, but for the phase."""
        return {"parent": self.parent.name, "phase": "average"}

    @cached_property
    def parent(self) -> Trajectory | None:
        """The ingredient; of several, the nearest run that all of them grew out of, if there is one."""
        lines = [list(_line(run)) for run in self.ingredients]
        return next((run for run in lines[0] if all(run in line for line in lines)), None)

    @property
    def came_from(self) -> tuple[Trajectory, None]:
        return self.parent, None

    @property
    def settings(self) -> dict[str, str | int | float | bool]:
        """What all ingredients have alike, with its own; what an average of averages has of those is `average.of.`"""
        first, *others = [run.settings for run in self.ingredients]
        alike = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
        below = {re.sub(r"^average\.", "average.of.", key): value for key, value in alike.items()}
        return below | {self.coordinate(key): value for key, value in scalars(self.scheme).items()}

    def describe(self, step: int) -> dict:
        return self.of.describe(step) | super().describe(step)

    def members(self, step: int) -> list[int]:
        """Steps of the checkpoints of each ingredient that one average is made of, ascending."""
        return [step - back * self.scheme.get("stride", 0) for back in reversed(range(self.window))]

    def made_from(self, step: int) -> list[tuple[str, int]]:
        return [(run.name, member) for member in self.members(step) for run in self.ingredients]

    def weighing(self, step: int) -> dict:
        """What decides the weights of the members of one average: `average` with its penalty, or with `weights`.

        An exponential moving average of checkpoints has 2^(-age / half_life), age in steps before the newest member.
        """
        average = self.scheme["average"]
        told = {key: self.scheme[key] for key in ("average", "penalty") if key in self.scheme}
        if self.calibration:
            return told
        ages = [step - member for _, member in self.made_from(step)]
        return told | {"weights": [2 ** (-age / self.scheme["half_life"]) if average == "ema" else 1.0 for age in ages]}


def _line(run: Trajectory) -> Iterator[Trajectory]:
    """A trajectory, what it came from, and so on."""
    while run is not None:
        yield run
        run = run.came_from[0]


def _check(average: Averaged, path: Path) -> None:
    if average.size < 2:
        raise ConfigError(
            f"{path}: an average needs two members at least: give `window` and `stride`, or several trajectories in "
            "`of`, or a family and `over`"
        )
    if average.parent is None:
        names = " and ".join(f"`{name}`" for name in average.soup_of)
        raise ConfigError(
            f"{path}: of: {names} did not grow out of one run, and the mean of weights from different starts is no "
            "model: name branches of one run"
        )
    for run in average.ingredients:
        for step in average.keep:
            missing = [member for member in average.members(step) if member not in run.steps]
            if missing:
                raise ConfigError(
                    f"{path}: the average at step {step} needs `{run.name}` at steps {missing}, which that "
                    f"trajectory does not keep; it keeps {', '.join(map(str, run.steps))}"
                )
