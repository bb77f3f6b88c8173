"""A small part of tests/simulation.py, whose long run is told in tests/simulation.md."""

import pytest

from tests import simulation

STUDIES = 250
WORLDS = {world.name: world for world in simulation.WORLDS}


@pytest.mark.parametrize(("name", "runs"), [("relative error, documents lead", 3), ("log KL, documents as runs", 5)])
def test_intervals_over_runs_cover_and_seldom_decide_what_lies_on_the_line(name, runs):
    found = simulation.on_the_line(WORLDS[name], runs, STUDIES)
    assert 91 <= found.pop("covers") <= 99  # 95 -+ 3 standard errors of a share of 250
    assert max(found.values()) <= 6.5


def test_the_runs_that_are_asked_for_have_the_power_that_is_promised():
    found = simulation.decided(WORLDS["log KL, 168 documents"], 5, STUDIES)
    assert found["promised"] == pytest.approx(80, abs=1)
    assert found["supported"] == pytest.approx(80, abs=9)


def test_documents_of_one_run_say_nothing_of_another():
    found = simulation.other_intervals(WORLDS["log KL, 168 documents"], 3, 60)
    assert found["one run"] < 50
    assert found["documents"] < 80
