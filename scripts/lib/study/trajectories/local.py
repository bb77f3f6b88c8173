"""Local trajectories: folders of checkpoints on this machine."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from scripts.lib.models.folders import validate_model_folder
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study import schedules
from scripts.lib.study.sizes import Model, size_of_folder
from scripts.lib.study.trajectories.base import Trajectory, require_context, scalars


@dataclass(frozen=True, eq=False)
class Local(Trajectory):
    """A user's own folders; the tokenizer is named after the trajectory, and is that of the first.

    checkpoints: each with path and step, and tokens, learning_rate and phase where `tokens_per_step` and `schedule`
        do not give them.
    """

    source: ClassVar[str] = "local"
    checkpoints: list[dict]
    schedule: dict | None = None
    tokens_per_step: int | None = None

    @classmethod
    def read(cls, name: str, content: dict, path: Path, plan, origin: None) -> "Local":
        local = cls(name, content["checkpoints"], content.get("schedule"), content.get("tokens_per_step"))
        _check(local, path, plan)
        return local

    @property
    def steps(self) -> list[int]:
        return sorted(checkpoint["step"] for checkpoint in self.checkpoints)

    @cached_property
    def model(self) -> Model:
        return size_of_folder(self.checkpoints[0]["path"])

    @property
    def widths(self) -> dict[str, int]:
        return {"hidden_size": self.model.width} if self.model.width else {}

    @property
    def tokenizer(self) -> str:
        return self.name

    @property
    def tokenizer_definition(self) -> dict:
        return {"source": "model", "path": self.checkpoints[0]["path"]}

    def path(self, step: int) -> str:
        """Folder of one checkpoint, as the user wrote it."""
        return self._checkpoint(step)["path"]

    def checkpoint_bytes(self, step: int) -> tuple[int, str]:
        files = Path(self.path(step)).iterdir()
        return sum(path.stat().st_size for path in files if path.is_file()), "folder"

    @property
    def came_from(self) -> tuple[None, None]:
        return None, None

    @property
    def settings(self) -> dict[str, str | int | float | bool]:
        return scalars({"schedule": self.schedule or {}, "tokens_per_step": self.tokens_per_step})

    def circumstances(self, step: int) -> dict:
        given, schedule = self._checkpoint(step), self.schedule
        rates = [checkpoint["learning_rate"] for checkpoint in self.checkpoints if "learning_rate" in checkpoint]
        return {
            "parent": None,
            "tokens": given["tokens"] if "tokens" in given else step * self.tokens_per_step,
            "learning_rate": given.get(
                "learning_rate", float(schedules.learning_rate(schedule, step)) if schedule else None
            ),
            "peak_learning_rate": schedules.peak(schedule) if schedule else max(rates),
            "phase": given.get("phase", str(schedules.phase(schedule, step)) if schedule else None),
        }

    def _checkpoint(self, step: int) -> dict:
        return next(checkpoint for checkpoint in self.checkpoints if checkpoint["step"] == step)


def _check(local: Local, path: Path, plan) -> None:
    steps = [checkpoint["step"] for checkpoint in local.checkpoints]
    twice = sorted({step for step in steps if steps.count(step) > 1})
    if twice:
        raise ConfigError(f"{path}: checkpoints: steps {twice} are given twice")
    tokenizer = plan.folder / "tokenizers" / f"{local.name}.yaml"
    if tokenizer.is_file():
        raise ConfigError(f"{path}: its tokenizer has the same name, and {tokenizer} is another; rename one of them")
    for checkpoint in local.checkpoints:
        for key, needs in (("tokens", "tokens_per_step"), ("learning_rate", "schedule"), ("phase", "schedule")):
            if key not in checkpoint and getattr(local, needs) is None:
                raise ConfigError(
                    f"{path}: step {checkpoint['step']} has no `{key}` and the trajectory no `{needs}`; give one"
                )
        try:
            context = validate_model_folder(checkpoint["path"]).get("max_position_embeddings")
        except ValueError as error:
            raise ConfigError(f"{path}, step {checkpoint['step']}: {error}") from error
        require_context(context, plan.config, f"{path}: {checkpoint['path']}")
