"""Where each checkpoint of a study stands, and what its run holds fixed: all that says what it can be compared with."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

ENDED = 0.002  # the last checkpoint of a decay may lie before its end by this share of its step
STABLE, DECAY = "stable", "decay"
TRUNK, BRANCH, STAGE, AVERAGE, SOUP = "trunk", "branch", "stage", "average", "soup"  # as of study/lineage.py
TOKENS, DECAY_LENGTH = "tokens", "decay_length"  # axes that are no key of a trajectory file


@dataclass(frozen=True)
class Place:
    """A checkpoint with all that says what it can be compared with; fields as of `circumstances` and `lineage`."""

    trajectory: str
    checkpoint: str
    step: int
    tokens: int
    learning_rate: float | None
    phase: str | None
    root: str
    kind: str
    parent: str | None
    parent_step: int | None
    seed: int | None
    stage: str | None
    soup_of: tuple[str, ...]
    weight_decay: float | None
    decay_start: int | None
    decay_end: int | None
    decay_rate: float | None
    batch_changes: tuple[int, ...]
    settings: dict = field(hash=False, compare=False)

    @property
    def point(self) -> tuple[str, str]:
        return self.trajectory, self.checkpoint

    @property
    def replicate(self) -> str:
        """What counts as one repetition of the study: a seed of the runs trained here, or one published run."""
        return self.root if self.seed is None else f"seed {self.seed}"

    @property
    def trained(self) -> bool:
        """Whether it is of a run that was trained here, so that all of its settings are known."""
        return self.seed is not None and self.kind in (TRUNK, BRANCH)

    @property
    def ends_decay(self) -> bool:
        """Whether the rate has fallen as far as it will."""
        return self.phase == DECAY and self.decay_end is not None and self.step >= self.decay_end * (1 - ENDED)

    @property
    def settling(self) -> float | None:
        """Rate x weight decay x steps of the stable phase that this checkpoint is in, or in which its decay began."""
        falls = self.phase == DECAY
        rate, step = (self.decay_rate, self.decay_start) if falls else (self.learning_rate, self.step)
        return None if None in (rate, step, self.weight_decay) else rate * self.weight_decay * step

    def coordinate(self, axis: str) -> float | None:
        """Its value on an axis; None if it has none that is a number."""
        if axis == TOKENS:
            return self.tokens
        if axis == DECAY_LENGTH:
            return None if self.decay_end is None else self.decay_end - self.decay_start
        value = self.settings.get(axis)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def places(circumstances: Iterable[dict], lineage: Iterable[dict]) -> list[Place]:
    """The checkpoints of a study, by trajectory and step.

    Args:
        circumstances: trajectory, checkpoint, step, tokens, learning_rate, phase of each, more is left aside.
        lineage: of each trajectory (`Plan.lineage`).
    """
    lists = ("soup_of", "batch_changes")
    runs = {row["trajectory"]: row | {key: tuple(row[key]) for key in lists} for row in lineage}
    own = ("checkpoint", "step", "tokens", "learning_rate", "phase")
    found = [Place(**runs[point["trajectory"]], **{key: point[key] for key in own}) for point in circumstances]
    return sorted(found, key=lambda place: (place.trajectory, place.step, place.checkpoint))


def by_trajectory(found: list[Place]) -> dict[str, list[Place]]:
    """The checkpoints of each trajectory, in their order."""
    runs = defaultdict(list)
    for place in found:
        runs[place.trajectory].append(place)
    return dict(runs)
