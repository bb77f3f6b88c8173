"""Suite paper12: each of its tasks becomes requests with five examples, from rows in its data set's own columns."""

import re
from pathlib import Path

import pytest

from scripts.evaluate_tasks import OFFLINE, build_tasks
from scripts.lib.data import suites
from tests.unit import benchmark_rows

TASKS = Path("config/tasks")
SUITE = suites.load_suite(TASKS / "suite-paper12.yaml")
ANSWERS = {"piqa": 2, "winogrande": 2, "pubmedqa": 3, "social_iqa": 3, "mathqa": 5, "commonsense_qa": 5}
FIRST = {  # what comes right before the answer of the first document
    "openbookqa": "What is the sum of 0 and 1?",
    "hellaswag": "Counting: A man counts to 0. He",
    "social_iqa": "Q: Kim called 0 times. What will Kim do next?\nA:",
    "pubmedqa": "Abstract: We gave 0.\nIt helped.\nQuestion: Does drug 0 help?\nAnswer:",
    "mmlu": "What is the sum of 0 and 1?\nA. choice 0\nB. choice 1\nC. choice 2\nD. choice 3\nAnswer:",
}


def test_it_holds_the_twelve_tasks_of_the_paper_whole():
    first = ["arc_challenge", "arc_easy", "openbookqa", "piqa", "hellaswag", "winogrande"]
    last = ["mathqa", "pubmedqa", "sciq", "social_iqa", "commonsense_qa", "mmlu"]
    assert [entry["task"] for entry in SUITE["tasks"]] == first + last
    assert {entry["num_fewshot"] for entry in SUITE["tasks"]} == {5}
    assert SUITE["limit"] is None


@pytest.mark.parametrize("entry", SUITE["tasks"], ids=[entry["task"] for entry in SUITE["tasks"]])
def test_a_document_becomes_requests(entry, tmp_path, monkeypatch):
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    name, task = next(iter(suites.load_tasks(SUITE | {"tasks": [entry]}, TASKS).items()))
    benchmark_rows.write(tmp_path, {name: task})
    built = build_tasks({name: task}, tmp_path, tmp_path / "cache")[name]
    built.build_all_requests(limit=1)
    assert len(built.instances) == ANSWERS.get(entry["task"], 4)
    contexts = [instance.args[0] for instance in built.instances]
    *shown, last = contexts[0].split("\n\n")
    shown = shown[1:] if task.fields.get("description") else shown
    assert len(shown) == 5
    assert len(set(shown)) == 5
    assert all(re.search(r"10\d", example) for example in shown)  # rows of the split of examples
    assert "10" not in last
    assert last.endswith(FIRST.get(entry["task"], ""))
