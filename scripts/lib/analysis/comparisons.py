"""Which pairs of checkpoints a claim compares, and which it refuses because more than the claim's factor differs.

All is known from the plan alone: steps, tokens, rates, phases and what each run holds fixed. Only pairs at equal
baseline loss need losses. The kinds of comparison are those of workflow/schemas/claim.schema.yaml.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

SETTLED = 3.0  # rate x weight decay x steps from which on a stable phase has forgotten its start (but for 5 %)
ENDED = 0.002  # the last checkpoint of a decay may lie before its end by this share of its step
STABLE, DECAY = "stable", "decay"
TRUNK, BRANCH, STAGE, AVERAGE, SOUP = "trunk", "branch", "stage", "average", "soup"  # as of study/lineage.py
TOKENS, DECAY_LENGTH = "tokens", "decay_length"  # axes that are no key of a trajectory file
# settings that say when and how the rate falls
OF_THE_DECAY = ("branch.step", *(f"schedule.{key}" for key in ("name", "decay.", "end", "floor", "clip")))
Losses = dict[tuple[str, str], float]  # loss without quantization by trajectory and checkpoint


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

    def coordinate(self, axis: str):
        """Its value on an axis; None if it has none."""
        if axis == TOKENS:
            return self.tokens
        if axis == DECAY_LENGTH:
            return None if self.decay_end is None else self.decay_end - self.decay_start
        return self.settings.get(axis)


@dataclass(frozen=True)
class Pair:
    """Two checkpoints that differ in what the claim is about. x, reference_x: their values on its axis, if any."""

    row: Place
    reference: Place
    x: float | None = None
    reference_x: float | None = None


@dataclass
class Selection:
    """What a claim compares, and what it does not.

    refused: (trajectory, reason) of what would be compared if something else did not move along: not identifiable.
    absent: (trajectory, reason) of what lacks its reference, which one more checkpoint could mend.
    """

    pairs: list[Pair] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    absent: list[tuple[str, str]] = field(default_factory=list)


def places(circumstances: Iterable[dict], lineage: Iterable[dict]) -> list[Place]:
    """The checkpoints of a study, by trajectory and step.

    Args:
        circumstances: trajectory, checkpoint, step, tokens, learning_rate, phase of each, more is left aside.
        lineage: of each trajectory (`Plan.lineage`).
    """
    runs = {row["trajectory"]: row | {"soup_of": tuple(row["soup_of"])} for row in lineage}
    own = ("checkpoint", "step", "tokens", "learning_rate", "phase")
    found = [Place(**runs[point["trajectory"]], **{key: point[key] for key in own}) for point in circumstances]
    return sorted(found, key=lambda place: (place.trajectory, place.step, place.checkpoint))


def select(compare: dict, found: list[Place], losses: Losses | None = None) -> Selection:
    """What a claim compares among these checkpoints.

    Args:
        compare: as in the claim's file.
        found: the checkpoints, sorted as by `places`.
        losses: without quantization; None while they are not known, when pairs at equal loss are all that may be.
    """
    match compare["what"]:
        case "decay":
            return _decays(found, compare["distance"])
        case "average":
            return _averages(found, compare["against"], compare["distance"])
        case "soup":
            return _soups(found)
        case "stage":
            return _stages(found, compare["stage"])
        case "method":
            return Selection([Pair(place, place) for place in found])
    return _tokens(found, compare["at"]) if compare["axis"] == TOKENS else _axis(found, compare, losses)


# --- decays, averages, soups, stages ---------------------------------------------------------------------------------


def _decays(found: list[Place], distance: float) -> Selection:
    """The end of each branch's decay against its trunk, stable, at the same step."""
    selection, runs = Selection(), _by_trajectory(found)
    for name, points in runs.items():
        last = points[-1]
        if last.kind in (AVERAGE, SOUP) or last.phase != DECAY:
            continue
        if last.kind == TRUNK:
            selection.refused.append((name, "in a single run the rate falls while tokens grow; it has no trunk beside"))
            continue
        others = runs.get(last.parent, [])
        trunk = [place for place in others if place.phase == STABLE]
        moved = differences(last, others[0], but=OF_THE_DECAY) if others and last.kind == BRANCH else []
        if last.kind == STAGE:
            falls = any(place.phase == DECAY for place in others)
            while_falling = ", which decays itself," if falls else ""
            selection.refused.append(
                (name, f"the stage after `{last.parent}`{while_falling} on other data: rate and data move together")
            )
        elif moved:
            selection.refused.append((name, f"against `{last.parent}` {_told(moved)} differs too"))
        elif not last.ends_decay:
            selection.absent.append((name, f"its last checkpoint, step {last.step}, is not at the end of its decay"))
        elif near := _near(trunk, last.step, distance):
            selection.pairs.append(Pair(last, near))
        else:
            selection.absent.append((name, f"`{last.parent}` has no stable checkpoint {_within(last, distance)}"))
    return selection


def _averages(found: list[Place], against: str, distance: float) -> Selection:
    """Each average against its own run, or the ends of that run's cooldowns, at the same step."""
    selection, runs = Selection(), _by_trajectory(found)
    for place in (place for place in found if place.kind == AVERAGE):
        if against == "run":
            candidates = [runs.get(place.parent, [])]
            what = f"`{place.parent}` has no checkpoint"
        else:
            ends = [points[-1] for points in runs.values() if points[-1].kind == BRANCH and points[-1].ends_decay]
            candidates = [[end] for end in ends if end.parent == place.parent]
            what = f"no cooldown of `{place.parent}` ends"
        near = [match for points in candidates if (match := _near(points, place.step, distance))]
        selection.pairs += [Pair(place, other) for other in near]
        if not near:
            selection.absent.append((place.trajectory, f"{what} {_within(place, distance)}"))
    return selection


def _soups(found: list[Place]) -> Selection:
    """Each soup against the last checkpoint of every ingredient."""
    selection, runs = Selection(), _by_trajectory(found)
    for place in (place for place in found if place.soup_of):
        for name in place.soup_of:
            if name in runs:
                selection.pairs.append(Pair(place, runs[name][-1]))
            else:
                selection.absent.append((place.trajectory, f"its ingredient `{name}` is not in the study"))
    return selection


def _stages(found: list[Place], stage: str) -> Selection:
    """The end of each run of a stage against the checkpoint that it went on from."""
    selection, runs = Selection(), _by_trajectory(found)
    for name, points in runs.items():
        last = points[-1]
        if last.kind not in (STAGE, BRANCH) or last.stage != stage:
            continue
        before = [place for place in runs.get(last.parent, []) if place.step == last.parent_step]
        if before:
            selection.pairs.append(Pair(last, before[-1]))
        else:
            selection.absent.append((name, f"the checkpoint of `{last.parent}` that it began with is not in the study"))
    return selection


# --- along an axis ---------------------------------------------------------------------------------------------------


def _tokens(found: list[Place], at: str) -> Selection:
    """Later against the earliest: of one run at one rate, or ends of equally long decays from one trunk."""
    selection, groups = Selection(), defaultdict(list)
    for place in found:
        if place.kind in (TRUNK, BRANCH) and at == STABLE and place.phase == STABLE:
            groups[place.trajectory, place.learning_rate].append(place)
        elif place.kind == BRANCH and at == "decay_end" and place.ends_decay:
            rest = frozenset(_rest(place, OF_THE_DECAY).items())
            groups[place.root, place.coordinate(DECAY_LENGTH), rest].append(place)
    for (name, *_), points in groups.items():
        settled = _settled(points, selection)
        settled.sort(key=lambda place: (place.tokens, place.trajectory))
        later = [place for place in settled[1:] if place.tokens > settled[0].tokens]
        selection.pairs += [Pair(place, settled[0], place.tokens, settled[0].tokens) for place in later]
        if settled and not later:
            selection.absent.append((name, "only one count of tokens is left to compare"))
    compared = {place.root for points in groups.values() for place in points}
    for name, points in _by_trajectory(found).items():
        if points[0].kind == TRUNK and name not in compared:
            selection.refused.append((name, _why_not_tokens(points, at)))
    return selection


def _why_not_tokens(points: list[Place], at: str) -> str:
    if at == STABLE:
        return "no stable phase with checkpoints: along it tokens and rate move together"
    return "no cooldowns of equal length branch off at several counts of tokens: a single run has one end"


def _settled(points: list[Place], selection: Selection) -> list[Place]:
    """The checkpoints whose stable phase has settled; of each run's others `selection` says why not."""
    settled = [place for place in points if (place.settling or 0.0) >= SETTLED]
    for name, left in _by_trajectory([place for place in points if place not in settled]).items():
        most = max((place.settling for place in left if place.settling is not None), default=None)
        known = "not known, for the weight decay is not" if most is None else f"{most:.2g} at most, below {SETTLED:g}"
        number = f"{len(left)} checkpoint{'s' * (len(left) > 1)}"
        selection.refused.append((name, f"{number} not settled: rate x weight decay x steps is {known}"))
    return settled


def _axis(found: list[Place], compare: dict, losses: Losses | None) -> Selection:
    """Higher values of a coordinate against the lowest one, all else equal."""
    axis, distance = compare["axis"], compare["distance"]
    moves = OF_THE_DECAY if axis == DECAY_LENGTH else (axis,)
    selection, groups = Selection(), defaultdict(lambda: defaultdict(list))
    trained = [place for place in found if place.trained]
    fitting = [p for p in trained if (p.ends_decay if compare["at"] == "decay_end" else p.phase == STABLE)]
    settled = fitting if compare["at"] == "decay_end" else _settled(fitting, selection)
    for place in settled:
        if place.coordinate(axis) is not None:
            groups[frozenset(_rest(place, moves).items())][place.coordinate(axis)].append(place)
    for values in groups.values():
        lowest = min(values)
        for value in sorted(set(values) - {lowest}):
            pairs = list(_equal(values[value], values[lowest], compare["equal"], distance, losses))
            selection.pairs += [Pair(row, reference, value, lowest) for row, reference in pairs]
            if not pairs:
                reason = f"nothing at {axis} {lowest} has {compare['equal']} within {100 * distance:g} %"
                selection.absent.append((values[value][0].trajectory, reason))
    if not any(len(values) > 1 for values in groups.values()) and (settled or not fitting):
        runs = [place for place in found if place.kind not in (AVERAGE, SOUP)]
        _say_what_moves(settled or runs, axis, moves, selection)
    return selection


def _equal(rows: list[Place], others: list[Place], equal: str, distance: float, losses: Losses | None) -> Iterator:
    """Each row with its nearest reference in tokens or loss, if near enough; all with all while no loss is known."""
    if equal == "baseline" and losses is None:
        yield from ((row, other) for row in rows for other in others)
        return

    def at(place: Place) -> float | None:
        return place.tokens if equal == TOKENS else losses.get(place.point)

    others = [other for other in others if at(other) is not None]
    for row in rows:
        if at(row) is not None and others:
            near = min(others, key=lambda other: abs(at(other) - at(row)))
            if abs(at(near) / at(row) - 1) <= distance:
                yield row, near


def _say_what_moves(fitting: list[Place], axis: str, moves: tuple, selection: Selection) -> None:
    """Why no two runs differ in an axis alone: nothing differs in it, or something else always moves along."""
    runs = {place.trajectory: place for place in fitting if place.coordinate(axis) is not None}
    pairs = [
        (len(moved := differences(one, other, moves)), one.trajectory, other.trajectory, moved)
        for one, other in itertools.combinations(runs.values(), 2)
        if one.coordinate(axis) != other.coordinate(axis)
    ]
    if not pairs:
        selection.absent.append(("the study", f"no two of its runs differ in {axis}"))
        return
    _, one, other, moved = min(pairs)
    reason = f"{axis} never differs alone: {one} and {other}, the nearest, differ in {_told(moved)} too"
    selection.refused.append(("the study", reason))


def differences(one: Place, other: Place, but: tuple[str, ...] = ()) -> list[str]:
    """Settings in which two runs differ, those that begin with one of `but` aside."""
    mine, others = _rest(one, but), _rest(other, but)
    return sorted(key for key in mine.keys() | others.keys() if mine.get(key) != others.get(key))


def _rest(place: Place, but: tuple[str, ...]) -> dict:
    return {key: value for key, value in place.settings.items() if not key.startswith(but)}


def _told(names: list[str]) -> str:
    return " and ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _by_trajectory(found: list[Place]) -> dict[str, list[Place]]:
    runs = defaultdict(list)
    for place in found:
        runs[place.trajectory].append(place)
    return dict(runs)


def _near(points: list[Place], step: int, distance: float) -> Place | None:
    near = min(points, key=lambda place: abs(place.step - step), default=None)
    return near if near and abs(near.step - step) <= distance * step else None


def _within(place: Place, distance: float) -> str:
    return f"within {100 * distance:g} % of step {place.step}"


# --- in words, before there is any result ----------------------------------------------------------------------------


def in_short(name: str, selection: Selection) -> str:
    """One line on what a claim will compare and what it refuses."""
    runs = list(dict.fromkeys(pair.row.replicate for pair in selection.pairs))
    made = f"{_number(len(selection.pairs), 'comparison')}" + (f" in {', '.join(runs)}" if runs else "")
    refused = [f"{len(selection.refused)} refused as not identifiable"] if selection.refused else []
    absent = [f"{len(selection.absent)} without a reference"] if selection.absent else []
    return f"claim `{name}`: {'; '.join([made, *refused, *absent])}"


def in_full(name: str, selection: Selection, only_if_equal: bool = False) -> list[str]:
    """The same with every comparison and every reason, a line for each pair of runs and each reason.

    Args:
        only_if_equal: whether only those of the pairs will be compared that turn out to have equal losses.
    """
    lines = [in_short(name, selection) + (", of those pairs that have equal losses" if only_if_equal else "")]
    groups = defaultdict(list)
    for pair in selection.pairs:
        groups[pair.row.trajectory, pair.reference.trajectory].append(pair)
    for (run, reference), pairs in groups.items():
        rows, others = ({place.point: place.step for place in side} for side in _sides(pairs))
        if pairs[0].row == pairs[0].reference:
            lines.append(f"  compares {run} {_steps(rows)}")
        else:
            lines.append(f"  compares {run} {_steps(rows)} with {reference} {_steps(others)}")
    for word, told in (("refuses", selection.refused), ("lacks", selection.absent)):
        reasons = defaultdict(list)
        for run, reason in told:
            reasons[reason].append(run)
        lines += [f"  {word} {', '.join(runs)}: {reason}" for reason, runs in reasons.items()]
    return lines


def _sides(pairs: list[Pair]) -> tuple[list[Place], list[Place]]:
    return [pair.row for pair in pairs], [pair.reference for pair in pairs]


def _steps(points: dict) -> str:
    steps = sorted(points.values())
    if len(steps) <= 3:
        return f"step{'s' * (len(steps) > 1)} {', '.join(map(str, steps))}"
    return f"{len(steps)} checkpoints from step {steps[0]} to {steps[-1]}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


# --- what a study varies independently -------------------------------------------------------------------------------


def varied(found: list[Place]) -> dict[str, float]:
    """What the checkpoints of the runs trained here vary, with the variance inflation of each: the logarithm of tokens,
    the rate, and every setting that is a number and differs. Settling is their product, and so no further one."""
    trained = [place for place in found if place.trained]
    columns = {
        "tokens": [math.log2(place.tokens) if place.tokens else None for place in trained],
        "learning rate": [place.learning_rate for place in trained],
    }
    names = sorted({name for place in trained for name in place.settings} - {"seed"})
    columns |= {name: [place.settings.get(name) for place in trained] for name in names}
    numbers = {
        name: np.array(values, dtype=float)
        for name, values in columns.items()
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    }
    return variance_inflation({name: values for name, values in numbers.items() if len(set(values)) > 1})


def variance_inflation(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Variance inflation factor of each coordinate: 1 / (1 - R^2) of its regression on all others and a constant.

    1: it varies independently of the others. Infinity: it always moves with them. Columns that do not vary, or repeat
    in all others, are the caller's to leave out; with one column the factor is 1. Belsley, Kuh and Welsch (1980), 3.2.
    """
    names, factors = list(columns), {}
    if not names:
        return {}
    matrix = np.column_stack([np.asarray(columns[name], dtype=float) for name in names])
    matrix = matrix - matrix.mean(axis=0)
    for number, name in enumerate(names):
        mine, others = matrix[:, number], np.delete(matrix, number, axis=1)
        left = mine - others @ np.linalg.lstsq(others, mine, rcond=None)[0] if others.size else mine
        share = (left @ left) / (mine @ mine)
        factors[name] = float("inf") if share < 1e-9 else float(1 / share)
    return factors
