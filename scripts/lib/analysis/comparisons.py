"""Which pairs of checkpoints a claim compares, and which it refuses because more than the claim's factor differs.

All is known from the plan alone: steps, tokens, rates, phases and what each run holds fixed. Only pairs at equal
baseline loss need losses. The kinds of comparison are those of workflow/schemas/claim.schema.yaml.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from scripts.lib.analysis.identifiability import MIN_RUNS, OF_THE_DECAY, differences, rest, settled, told
from scripts.lib.analysis.places import (
    AVERAGE,
    BRANCH,
    DECAY,
    DECAY_LENGTH,
    SOUP,
    STABLE,
    STAGE,
    TOKENS,
    TRUNK,
    Place,
    by_trajectory,
)

UNQUANTIZED = "unquantized"
Losses = dict[tuple[str, str], float]  # loss without quantization by trajectory and checkpoint


@dataclass(frozen=True)
class Pair:
    """Two checkpoints that differ in what the claim is about.

    x, reference_x: their values on its axis, if any. group: the pairs along one axis, of which the highest x counts.
    """

    row: Place
    reference: Place
    x: float | None = None
    reference_x: float | None = None
    group: tuple[str, ...] = ()


@dataclass
class Selection:
    """What a claim compares, and what it does not.

    refused: (trajectory, reason) of what would be compared if something else did not move along: not identifiable.
    absent: (trajectory, reason) of what lacks its reference, which one more checkpoint could mend.
    """

    pairs: list[Pair] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    absent: list[tuple[str, str]] = field(default_factory=list)


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
            return _averages(found, compare)
        case "soup":
            return _soups(found)
        case "stage":
            return _stages(found, compare["stage"])
        case "method":
            return Selection([Pair(place, place) for place in found])
        case "setting":
            return _settings(found, compare)
    return _tokens(found, compare["at"]) if compare["axis"] == TOKENS else _axis(found, compare, losses)


# --- decays, averages, soups, stages ---------------------------------------------------------------------------------


def _decays(found: list[Place], distance: float) -> Selection:
    """The end of each branch's decay against its trunk, stable, at the same step."""
    selection, runs = Selection(), by_trajectory(found)
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
            selection.refused.append((name, f"against `{last.parent}` {told(moved)} differs too"))
        elif not last.ends_decay:
            selection.absent.append((name, f"its last checkpoint, step {last.step}, is not at the end of its decay"))
        elif near := _near(trunk, last.step, distance):
            selection.pairs.append(Pair(last, near))
        else:
            selection.absent.append((name, f"`{last.parent}` has no stable checkpoint {_within(last, distance)}"))
    return selection


def _averages(found: list[Place], compare: dict) -> Selection:
    """Each average against its own run or the ends of that run's cooldowns, at the same step, or itself unquantized."""
    selection, runs = Selection(), by_trajectory(found)
    against, distance, scheme = compare["against"], compare["distance"], compare.get("scheme")
    averages = [place for place in found if place.kind == AVERAGE]
    if scheme:
        averages = [place for place in averages if place.settings.get("average.scheme") == scheme]
        selection.absent += [] if averages else [("the study", f"it has no average `{scheme}`")]
    for place in averages:
        if against == UNQUANTIZED:
            selection.pairs.append(Pair(place, place))
            continue
        if against == "run":
            candidates = [runs.get(place.parent, [])]
            what = f"`{place.parent}` has no checkpoint"
        else:
            ends = [points[-1] for points in runs.values() if points[-1].kind == BRANCH and points[-1].ends_decay]
            alike = [end for end in ends if not differences(end, place, but=(*OF_THE_DECAY, "average."))]
            candidates = [[end] for end in alike if end.parent == place.parent]
            what = f"no cooldown of `{place.parent}` ends"
        near = [match for points in candidates if (match := _near(points, place.step, distance))]
        selection.pairs += [Pair(place, other) for other in near]
        if not near:
            selection.absent.append((place.trajectory, f"{what} {_within(place, distance)}"))
    return selection


def _soups(found: list[Place]) -> Selection:
    """Each soup against the checkpoint of every ingredient: one made here at its own step, a published one the last."""
    selection, runs = Selection(), by_trajectory(found)
    for place in (place for place in found if place.soup_of):
        for name in place.soup_of:
            points = [point for point in runs.get(name, []) if place.phase != AVERAGE or point.step == place.step]
            if points:
                selection.pairs.append(Pair(place, points[-1]))
            else:
                lacks = f"has no checkpoint at step {place.step}" if name in runs else "is not"
                selection.absent.append((place.trajectory, f"its ingredient `{name}` {lacks} in the study"))
    return selection


def _stages(found: list[Place], stage: str) -> Selection:
    """The end of each run of a stage against the checkpoint that it went on from."""
    selection, runs = Selection(), by_trajectory(found)
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


# --- along a setting or an axis --------------------------------------------------------------------------------------


def _settings(found: list[Place], compare: dict) -> Selection:
    """Runs whose setting has one value against those where it has another, after the same tokens, all else equal.

    What only one of the two has in the same section goes with the value, such as the momentum of an optimizer.
    """
    selection, key, distance = Selection(), compare["setting"], compare["distance"]
    section = f"{key.rpartition('.')[0]}."
    fitting = [place for place in found if place.trained and place.ends_decay]
    ours, others = (
        [place for place in fitting if place.settings.get(key) == compare[which]] for which in ("value", "than")
    )
    for place in ours:
        candidates = [
            other
            for other in others
            if all(
                moved.startswith(section) and (moved not in place.settings or moved not in other.settings)
                for moved in differences(place, other, but=(key,))
            )
        ]
        near = list(_equal([place], candidates, TOKENS, distance, None))
        selection.pairs += [Pair(row, other) for row, other in near]
        if not near:
            what = f"no decay with {compare['than']} for {key}, all else equal, ends {_within(place, distance)}"
            selection.absent.append((place.trajectory, what))
    if not ours:
        selection.absent.append(("the study", f"it has no decay that ends with {compare['value']} for {key}"))
    return selection


def _tokens(found: list[Place], at: str) -> Selection:
    """Later against the earliest: of one run at one rate, or ends of equally long decays from one trunk."""
    selection, groups = Selection(), defaultdict(list)
    for place in found:
        if place.kind in (TRUNK, BRANCH) and at == STABLE and place.phase == STABLE:
            batches = sum(place.step > step for step in place.batch_changes)
            groups[place.trajectory, place.learning_rate, batches].append(place)
        elif place.kind == BRANCH and at == "decay_end" and place.ends_decay:
            fixed = frozenset(rest(place, OF_THE_DECAY).items())
            groups[place.root, place.coordinate(DECAY_LENGTH), fixed].append(place)
    for (name, *_), points in groups.items():
        kept, reasons = settled(points)
        selection.refused += reasons
        kept.sort(key=lambda place: (place.tokens, place.trajectory))
        later = [place for place in kept[1:] if place.tokens > kept[0].tokens]
        first = kept[:1]
        selection.pairs += [Pair(place, one, place.tokens, one.tokens, one.point) for one in first for place in later]
        if kept and not later:
            selection.absent.append((name, "only one count of tokens is left to compare"))
    compared = {place.root for points in groups.values() for place in points}
    for name, points in by_trajectory(found).items():
        if points[0].kind == TRUNK and name not in compared:
            selection.refused.append((name, _why_not_tokens(points, at)))
    return selection


def _why_not_tokens(points: list[Place], at: str) -> str:
    if at == STABLE:
        return "no stable phase with checkpoints: along it tokens and rate move together"
    return "no cooldowns of equal length branch off at several counts of tokens: a single run has one end"


def _axis(found: list[Place], compare: dict, losses: Losses | None) -> Selection:
    """Higher values of a coordinate against the lowest one, all else equal."""
    axis, distance = compare["axis"], compare.get("distance", 0)
    moves = OF_THE_DECAY if axis == DECAY_LENGTH else (axis,)
    selection, groups = Selection(), defaultdict(lambda: defaultdict(list))
    trained = [place for place in found if place.trained]
    fitting = [p for p in trained if (p.ends_decay if compare["at"] == "decay_end" else p.phase == STABLE)]
    kept, selection.refused = (fitting, []) if compare["at"] == "decay_end" else settled(fitting)
    for place in kept:
        if place.coordinate(axis) is not None:
            groups[frozenset(rest(place, moves).items())][place.coordinate(axis)].append(place)
    for values in groups.values():
        lowest = min(values)
        if compare.get("per") == "doubling" and lowest <= 0:
            selection.absent.append(("the study", f"{lowest:g} of {axis} cannot be doubled"))
            continue
        for value in sorted(set(values) - {lowest}):
            pairs = list(_equal(values[value], values[lowest], compare["equal"], distance, losses))
            selection.pairs += [Pair(row, one, value, lowest, (one.trajectory,)) for row, one in pairs]
            if not pairs:
                reason = f"nothing at {axis} {lowest} has {compare['equal']} within {100 * distance:g} %"
                selection.absent.append((values[value][0].trajectory, reason))
    if not any(len(values) > 1 for values in groups.values()) and (kept or not fitting):
        runs = [place for place in found if place.kind not in (AVERAGE, SOUP)]
        several = len({place.coordinate(axis) for place in kept} - {None}) > 1
        _say_what_moves(kept if several else runs, axis, moves, selection)
    return selection


def _equal(rows: list[Place], others: list[Place], equal: str, distance: float, losses: Losses | None) -> Iterator:
    """Each row with its nearest reference in tokens or loss, if near enough.

    All with all where nothing has to be equal, or while no loss is known.
    """
    if equal == "nothing" or (equal == "baseline" and losses is None):
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
        fewer = f"no two of its runs differ in {axis}" if len(runs) > 1 else "fewer than two runs have what it compares"
        selection.absent.append(("the study", fewer))
        return
    _, one, other, moved = min(pairs)
    if not moved:
        selection.absent.append(
            ("the study", f"{one} and {other} differ in {axis}, but not both have such a checkpoint")
        )
        return
    reason = f"{axis} never differs alone: {one} and {other}, the nearest, differ in {told(moved)} too"
    selection.refused.append(("the study", reason))


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
    made += ", too few runs for a verdict" if 0 < len(runs) < MIN_RUNS else ""
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
    for word, which in (("refuses", selection.refused), ("lacks", selection.absent)):
        reasons = defaultdict(list)
        for run, reason in which:
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
