"""Schedules: known values, shapes, phases, and the mistakes that are refused."""

import numpy as np
import pytest

from scripts.lib.study import schedules

CONSTANT = {"name": "constant", "peak": 1.0, "warmup": 10}
WSD = {"name": "wsd", "peak": 2.0, "warmup": 10, "decay": {"start": 100, "end": 200, "shape": "linear"}}
COSINE = {"name": "cosine", "peak": 1.0, "warmup": 10, "end": 110}
LINEAR = {"name": "linear", "peak": 1.0, "warmup": 0, "end": 100, "floor": 0.1}


@pytest.mark.parametrize(
    ("schedule", "step", "rate"),
    [
        (CONSTANT, 0, 0.0),
        (CONSTANT, 5, 0.5),
        (CONSTANT, 10, 1.0),
        (CONSTANT, 10**9, 1.0),
        (WSD, 100, 2.0),
        (WSD, 150, 1.0),
        (WSD, 200, 0.0),
        (WSD, 300, 0.0),
        (WSD | {"decay": {"start": 100, "end": 200, "shape": "1-sqrt"}}, 125, 1.0),
        (WSD | {"decay": {"start": 100, "end": 200, "shape": "linear", "floor": 0.5}}, 200, 1.0),
        (COSINE, 60, 0.5),
        (COSINE, 110, 0.0),
        (COSINE | {"floor": 0.2}, 60, 0.6),
        (COSINE | {"floor": 0.2}, 110, 0.2),
        (COSINE | {"clip": 0.1}, 60, 0.5),
        (COSINE | {"clip": 0.1}, 109, 0.1),
        (LINEAR, 0, 1.0),
        (LINEAR, 50, 0.55),
        (LINEAR, 100, 0.1),
    ],
)
def test_rate_at_known_steps(schedule, step, rate):
    assert schedules.learning_rate(schedule, step) == pytest.approx(rate)


@pytest.mark.parametrize("schedule", [CONSTANT, WSD, COSINE, LINEAR])
def test_vectorised_equals_one_by_one(schedule):
    steps = np.arange(0, 250)
    together = schedules.learning_rate(schedule, steps)
    assert together.shape == steps.shape
    assert together.tolist() == [float(schedules.learning_rate(schedule, step)) for step in steps]
    assert schedules.phase(schedule, steps).tolist() == [str(schedules.phase(schedule, step)) for step in steps]


def test_a_branch_agrees_with_its_trunk_up_to_the_decay():
    steps = np.arange(0, 101)
    trunk = CONSTANT | {"peak": 2.0}
    assert np.array_equal(schedules.learning_rate(trunk, steps), schedules.learning_rate(WSD, steps))


def test_phases():
    assert schedules.phase(WSD, [0, 9, 10, 100, 101, 200]).tolist() == [
        "warmup",
        "warmup",
        "stable",
        "stable",
        "decay",
        "decay",
    ]
    assert str(schedules.phase(CONSTANT, 10**6)) == "stable"
    assert str(schedules.phase(COSINE, 11)) == "decay"


def test_tokens():
    assert schedules.tokens([0, 1000], 32 * 128).tolist() == [0, 4_096_000]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            WSD | {"decay": {"start": 300, "end": 200, "shape": "linear"}},
            "decay starts at step 300, after its end at step",
        ),
        (WSD | {"decay": {"start": 5, "end": 200, "shape": "linear"}}, "before the warm-up"),
        (COSINE | {"warmup": 110}, "after its end"),
        (COSINE | {"floor": 0.1, "clip": 0.1}, "not both"),
    ],
)
def test_mistakes_name_the_file(schedule, message):
    with pytest.raises(ValueError, match=message) as caught:
        schedules.validate(schedule, "run.yaml")
    assert "run.yaml" in str(caught.value)


REWARMED = {
    "name": "piecewise",
    "segments": [
        {"until": 10, "shape": "linear", "from": 0.0, "to": 1.0},
        {"until": 20, "shape": "constant", "from": 1.0},
        {"until": 40, "shape": "cosine", "from": 1.0, "to": 0.0, "end": 60},
        {"until": 50, "shape": "linear", "from": 0.5, "to": 2.0},
        {"until": 60, "shape": "1-sqrt", "from": 2.0, "to": 1.0, "start": 56},
    ],
}


@pytest.mark.parametrize(
    ("step", "rate", "phase"),
    [
        (0, 0.0, "warmup"),
        (5, 0.5, "warmup"),
        (10, 1.0, "warmup"),
        (15, 1.0, "stable"),
        (30, 0.5 + 0.5 * np.cos(np.pi / 4), "decay"),
        (40, 0.5, "decay"),
        (42, 0.8, "rewarm"),
        (53, 2.0, "decay"),
        (57, 1.5, "decay"),
        (99, 1.0, "decay"),
    ],
)
def test_segments_follow_each_other(step, rate, phase):
    assert schedules.learning_rate(REWARMED, step) == pytest.approx(rate)
    assert schedules.phase(REWARMED, step) == phase


def test_a_piecewise_schedule_has_a_peak_and_an_end():
    assert schedules.peak(REWARMED) == 2.0
    assert schedules.decay_end(REWARMED) == 60
    with pytest.raises(ValueError, match=r"must ascend: \[10, 5\]"):
        schedules.validate({"name": "piecewise", "segments": [{"until": 10}, {"until": 5}]}, "file")


def test_tokens_where_the_batch_grows():
    grown = [{"from": 0, "tokens": 4}, {"from": 100, "tokens": 8}]
    assert schedules.tokens([0, 50, 100, 101, 200], grown).tolist() == [0, 200, 400, 408, 1200]
