"""Averaged trajectories: means of the weights of another trajectory's checkpoints."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study.sizes import Model
from scripts.lib.study.trajectories.base import Trajectory


@dataclass(frozen=True, eq=False)
class Averaged(Trajectory):
    """Plain means of the latest checkpoints of another trajectory.

    of: that trajectory.
    window, stride: members of each average, and steps between them.
    keep: steps of the newest members.
    """

    source: ClassVar[str] = "average"
    origin_key: ClassVar[str] = "of"
    of: Trajectory
    window: int
    stride: int
    keep: list[int]

    @classmethod
    def coordinate(cls, key: str) -> str:
        """Its `window` is another one than that of a training run."""
        return f"average.{key}"

    @classmethod
    def read(cls, name: str, content: dict, path: Path, plan, origin: Trajectory) -> "Averaged":
        average = cls(name, origin, content["window"], content["stride"], content["keep"])
        for step in average.keep:
            missing = [member for member in average.members(step) if member not in origin.steps]
            if missing:
                raise ConfigError(
                    f"{path}: the average at step {step} needs `{origin.name}` at steps {missing}, which that "
                    f"trajectory does not keep; it keeps {', '.join(map(str, origin.steps))}"
                )
        return average

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
        return {"parent": self.of.name, "phase": "average"}

    @property
    def came_from(self) -> tuple[Trajectory, None]:
        return self.of, None

    @property
    def settings(self) -> dict[str, str | int | float | bool]:
        own = {"scheme": "lawa", "window": self.window, "stride": self.stride}
        return self.of.settings | {self.coordinate(key): value for key, value in own.items()}

    def describe(self, step: int) -> dict:
        return self.of.describe(step) | super().describe(step)

    def members(self, step: int) -> list[int]:
        """Steps of the checkpoints that one average is made of, ascending."""
        return [step - back * self.stride for back in reversed(range(self.window))]

    def made_from(self, step: int) -> list[tuple[str, int]]:
        return [(self.of.name, member) for member in self.members(step)]
