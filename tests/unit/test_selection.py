"""selection: each way to choose checkpoints, and what cannot be chosen."""

import pytest

from scripts.lib.study.selection import select

PHASES = ["warmup", "stable", "stable", "stable", "stable", "stable", "decay", "decay", "decay"]
ROWS = [{"step": 2**n, "tokens": 10 * 2**n, "phase": phase} for n, phase in enumerate(PHASES)]


@pytest.mark.parametrize(
    ("choice", "steps"),
    [
        ("all", [2**n for n in range(9)]),
        ("last", [256]),
        ([4, 16], [4, 16]),
        ({"every": 3}, [1, 8, 64, 256]),
        ({"phase": "decay"}, [64, 128, 256]),
        ({"around_changes": 1}, [1, 2, 32, 64]),
        ({"count": 3, "spacing": "log"}, [1, 16, 256]),
        ({"count": 3, "spacing": "tokens"}, [1, 128, 256]),
    ],
)
def test_each_way(choice, steps):
    assert select(ROWS, choice) == steps


def test_an_initial_model_does_not_stretch_logarithms():
    initial = {"step": 0, "tokens": 0, "phase": "warmup"}
    assert select([initial, *ROWS], {"count": 3, "spacing": "log"}) == [1, 16, 256]
    with pytest.raises(ValueError, match="no checkpoint fits"):
        select([initial], {"count": 3, "spacing": "log"})


@pytest.mark.parametrize(
    ("choice", "message"), [([3], "no step 3; there are 1, 2, 4"), ({"phase": "rewarm"}, "no checkpoint fits")]
)
def test_what_is_not_there_is_named(choice, message):
    with pytest.raises(ValueError, match=message):
        select(ROWS, choice)
