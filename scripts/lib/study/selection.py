"""Which checkpoints of a trajectory a study takes."""

import numpy as np


def select(rows: list[dict], choice) -> list[int]:
    """Steps of the checkpoints that a study takes.

    Args:
        rows: of the trajectory's checkpoints, ascending: step, tokens, phase.
        choice: "all"; "last"; a list of steps; or one of {every: n}, every n-th and the last; {count: n, spacing:
            tokens or log}, those nearest to n points of equal distance; {phase: name}; {around_changes: n}, the n
            before and the n after each change of phase.

    Raises:
        ValueError: a step is not among the rows, or none is left.
    """
    steps = [row["step"] for row in rows]
    if isinstance(choice, list):
        missing = [step for step in choice if step not in steps]
        if missing:
            raise ValueError(f"there is no step {missing[0]}; there are {', '.join(map(str, steps))}")
        return choice
    match choice:
        case "all":
            found = steps
        case "last":
            found = steps[-1:]
        case {"every": every}:
            found = sorted({*steps[::every], steps[-1]})
        case {"phase": phase}:
            found = [row["step"] for row in rows if row["phase"] == phase]
        case {"around_changes": count}:
            changes = [number for number in range(1, len(rows)) if rows[number]["phase"] != rows[number - 1]["phase"]]
            found = sorted({step for change in changes for step in steps[max(0, change - count) : change + count]})
        case {"count": count, "spacing": spacing}:
            found = _spaced(rows, count, spacing)
    if not found:
        raise ValueError(f"no checkpoint fits {choice}")
    return found


def _spaced(rows: list[dict], count: int, spacing: str) -> list[int]:
    """Steps of the rows nearest to `count` points from the first to the last, equally far in tokens or their logs.

    No tokens have no logarithm: the initial model is left out then.
    """
    if spacing == "log":
        rows = [row for row in rows if row["tokens"] > 0]
    if not rows:
        return []
    tokens = np.array([row["tokens"] for row in rows], dtype=np.float64)
    place = np.log(tokens) if spacing == "log" else tokens
    wanted = np.linspace(place[0], place[-1], count)
    return sorted({rows[index]["step"] for index in np.abs(place[:, None] - wanted).argmin(axis=0)})
