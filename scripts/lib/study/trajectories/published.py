"""Published trajectories: which revision is which step, and what was seen and how fast it learned there."""

import itertools
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from scripts.lib.hub import locks
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study import schedules
from scripts.lib.study.sizes import DTYPES, Model, size_of_published
from scripts.lib.study.trajectories.base import Trajectory, draw, require_context, scalars


@dataclass(frozen=True, eq=False)
class Published(Trajectory):
    """A run whose checkpoints are on a model hub.

    repo: of the checkpoints; with `{revision}` in it where each is a repository of its own.
    tokenizer_repo: that all of them take their tokenizer from.
    shape: what is known of the model, its `parameters` at least.
    tokens_per_step: or, where it changes, a list of {from, tokens}, by the run's own steps.
    points: the checkpoints, see `points`.
    lock: commits and files by revision, as far as they were resolved.
    remote_code: SHA-256 of each file of the model's own code that may run; None if it needs none.
    parent: the run that it goes on from. before: step and tokens there, counted from the very beginning.
    optimizer: what is known of it.
    stage: what it is for, if it is no pretraining. soup_of: the trajectories whose ends it is the mean of, if any.
    """

    source: ClassVar[str] = "hub"
    origin_key: ClassVar[str] = "after.trajectory"
    repo: str
    tokenizer_repo: str
    shape: dict
    tokens_per_step: int | list[dict]
    schedule: dict
    points: list[dict]
    lock: dict
    remote_code: dict | None
    parent: "Published | None"
    before: dict
    optimizer: dict = field(default_factory=dict)
    stage: str | None = None
    soup_of: tuple[str, ...] = ()

    @classmethod
    def read(cls, name: str, content: dict, path: Path, plan, origin: Trajectory | None) -> "Published":
        """Where it was resolved, the lock lies below the folder of the trajectory's file."""
        before = {"step": 0, "tokens": 0}
        if origin:
            if not isinstance(origin, Published):
                raise ConfigError(f"{path}: after.trajectory: `{origin.name}` is not published; name a run that is")
            before = origin.seen(content["after"]["step"])
        try:
            found = points(content, before)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error
        repo = content["repo"]
        if "{" in content.get("tokenizer_repo", repo):
            raise ConfigError(
                f"{path}: `tokenizer_repo`: each checkpoint has a repository of its own; name one for all"
            )
        try:
            lock = locks.read(path.parent, name)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        run = cls(
            name,
            repo=repo,
            tokenizer_repo=content.get("tokenizer_repo", repo),
            shape=content["model"],
            tokens_per_step=content["tokens_per_step"],
            schedule=content["schedule"],
            points=found,
            lock=lock,
            remote_code=content.get("remote_code"),
            parent=origin,
            before=before,
            optimizer=content.get("optimizer", {}),
            stage=content.get("stage"),
            soup_of=tuple(content.get("soup_of", ())),
        )
        _check_lock(run, locks.path_of(path.parent, name))
        require_context(run.shape.get("context"), plan.config, str(path))
        return run

    @property
    def steps(self) -> list[int]:
        return [point["step"] for point in self.points]

    @cached_property
    def model(self) -> Model:
        return size_of_published(self.shape)

    @property
    def tokenizer(self) -> str:
        return self.tokenizer_repo.replace("/", "--")

    @property
    def tokenizer_definition(self) -> dict:
        return {"source": "hub", "repo": self.tokenizer_repo}

    @property
    def widths(self) -> dict[str, int]:
        return {"hidden_size": self.model.width} if self.model.width else {}

    def checkpoint_bytes(self, step: int) -> tuple[int, str]:
        locked = self.published(step)["locked"]
        if locked:
            return sum(file["bytes"] for file in locked["files"].values()), "lock"
        return self.model.parameters * DTYPES[self.shape.get("dtype", "float32")], "estimate"

    @property
    def came_from(self) -> "tuple[Published | None, int | None]":
        step = self.before["step"]
        return self.parent, step if self.parent and step in self.parent.steps else None

    @property
    def settings(self) -> dict[str, str | int | float | bool]:
        return scalars({key: getattr(self, key) for key in ("optimizer", "schedule", "tokens_per_step")}) | scalars(
            {"model": self.shape}
        )

    def circumstances(self, step: int) -> dict:
        point = self._point(step)
        parent = self.parent.name if self.parent else None
        known = {"parent": parent, "peak_learning_rate": schedules.peak(self.schedule)}
        return known | {key: point[key] for key in ("tokens", "learning_rate", "phase")}

    def curve(self, points: int) -> dict:
        return draw(self, 0, self.steps[-1] - self.before["step"], self.before, points)

    def seen(self, step: int) -> dict:
        """Step and tokens at the run's own step, counted from the very beginning."""
        tokens = int(schedules.tokens(step, self.tokens_per_step))
        return {"step": self.before["step"] + step, "tokens": self.before["tokens"] + tokens}

    def published(self, step: int) -> dict:
        """A checkpoint: where, its commit and files where a lock has them (by `name`), pins of its code."""
        found = self._point(step)["revision"]
        repo = repo_of(self.repo, found)
        return {
            "repo": repo,
            "name": found,
            "revision": found if repo == self.repo else "main",
            "locked": self.lock["revisions"].get(found),
            "remote_code": self.remote_code or {},
        }

    def _point(self, step: int) -> dict:
        return next(point for point in self.points if point["step"] == step)


def repo_of(repo: str, revision: str) -> str:
    """The repository of a revision, which has one of its own where `repo` says so."""
    return repo.replace("{revision}", revision)


def require_pins(trajectories: dict[str, Trajectory]) -> None:
    """Refuse to run a study, which may well be looked at, while code that a model of it needs is not pinned.

    Raises:
        ConfigError: names the trajectory and says how to pin.
    """
    for name, trajectory in trajectories.items():
        if isinstance(trajectory, Published) and trajectory.remote_code == {}:
            raise ConfigError(
                f"trajectory `{name}`: `remote_code`: {trajectory.repo} needs its own code to run, and none is "
                "pinned: read its Python files at the commit of a revision, and list those that it needs, each with "
                "its SHA-256 (`remote_code: {modeling.py: 0123...}`), or take the trajectory out of the study"
            )


def points(trajectory: dict, before: dict) -> list[dict]:
    """The checkpoints of a published trajectory, ascending by step.

    Args:
        trajectory: as in its file.
        before: step and tokens of the checkpoint that it goes on from; zeros for a run of its own.

    Returns:
        For each: revision; step and tokens, counted from the very beginning; learning_rate; phase.

    Raises:
        ValueError: a revision does not fit the pattern, or two have the same step; the message names them.
    """
    revisions, schedule = trajectory["revisions"], trajectory["schedule"]
    own = {}
    for revision in revisions.get("all", []):
        match = re.fullmatch(revisions["pattern"], revision)
        if not match:
            raise ValueError(f"revision `{revision}` does not fit `revisions.pattern`, {revisions['pattern']}")
        own[revision] = int(match["step"])
    own |= revisions.get("named", {})
    ordered = sorted(own, key=own.get)
    for one, other in itertools.pairwise(ordered):
        if own[one] == own[other]:
            raise ValueError(f"revisions `{one}` and `{other}` are both of step {own[one]}; name one of them")
    steps = np.array([own[revision] for revision in ordered], dtype=np.int64)
    columns = {
        "step": before["step"] + steps,
        "tokens": before["tokens"] + schedules.tokens(steps, trajectory["tokens_per_step"]),
        "learning_rate": schedules.learning_rate(schedule, steps),
        "phase": schedules.phase(schedule, steps),
    }
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [{"revision": name} | dict(zip(columns, row, strict=True)) for name, row in zip(ordered, rows, strict=True)]


def _check_lock(run: Published, path: Path) -> None:
    named = [(entry, repo_of(run.repo, found)) for found, entry in run.lock["revisions"].items()]
    named += [(run.lock["tokenizer"], run.tokenizer_repo)] if run.lock.get("tokenizer") else []
    for entry, repo in named:
        if entry["repo"] != repo:
            raise ConfigError(f"{path} is a lock of {entry['repo']}, and the trajectory names {repo}: delete the lock")
