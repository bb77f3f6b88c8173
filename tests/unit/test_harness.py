"""harness: what is read from the files of the installed lm-eval is what the harness itself finds there."""

import time

import pytest
import yaml

from scripts.lib.data import harness, suites
from scripts.lib.data.harness import members

MMLU = harness.package() / "tasks/mmlu/default"
GROUP = {"group": "g", "task": ["one", "marked"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}


def test_the_twelve_are_found_soon():
    suite = suites.load_suite("config/tasks/suite-paper12.yaml")
    harness.find.cache_clear()
    start = time.process_time()
    found = [harness.find(entry["task"]) for entry in suite["tasks"]]
    assert time.process_time() - start < 0.5
    assert len(set(found) - {None}) == 12
    assert harness.find("social_iqa") == harness.package() / "tasks/siqa/siqa.yaml"
    assert harness.find("no_such_task") is None


def test_a_group_has_the_tasks_that_the_harness_gives_it():
    from lm_eval.tasks import TaskManager

    index = TaskManager(include_defaults=False, include_path=str(MMLU)).task_index
    subgroups = harness.read_yaml(harness.find("mmlu"), "task file")["task"]
    tags = [tag for name in subgroups for tag in harness.read_yaml(harness.find(name), "task file")["task"]]
    expected = [index[name].yaml_path for tag in tags for name in sorted(index[tag].tags)]
    assert members(harness.find("mmlu")) == expected
    assert len(expected) == 57


def test_fields_are_those_of_the_harness():
    from lm_eval.tasks._yaml_loader import load_yaml

    for name in ("arc_challenge", "pubmedqa", "hellaswag", "mmlu_anatomy"):
        path = harness.find(name)
        fields, files = harness.read_task(path)
        expected = load_yaml(path, resolve_func=False)
        assert fields.keys() == expected.keys()
        assert {key for key in fields if fields[key] != expected[key]} <= {"doc_to_text", "process_docs"}  # functions
        assert files[0] == path
    assert [file.name for file in harness.read_task(harness.find("hellaswag"))[1]] == ["hellaswag.yaml", "utils.py"]


def write_group(folder, content):
    for name, tag in (("one", []), ("two", "marked"), ("three", ["marked", "other"])):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, "tag": tag}))
    (folder / "g.yaml").write_text(yaml.safe_dump(content))
    return folder / "g.yaml"


def test_tags_are_expanded_by_name(tmp_path):
    assert [path.stem for path in members(write_group(tmp_path, GROUP))] == ["one", "three", "two"]
    assert members(tmp_path / "one.yaml") == [tmp_path / "one.yaml"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}]}, "not the mean over all documents"),
        ({"aggregate_metric_list": None}, "not the mean over all documents"),
        ({"task": ["four"]}, "member 'four' is no task, group or tag of its folder"),
        (
            {"task": [{"task": "one", "num_fewshot": 3}]},
            "member {.* is no task, group or tag of its folder; name the tasks",
        ),
    ],
)
def test_a_group_that_is_no_plain_mean_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        members(write_group(tmp_path, GROUP | change))


def test_known_names_are_those_of_the_installed_harness():
    from dataclasses import fields

    import lm_eval.api.metrics  # noqa: F401 - registers
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY
    from lm_eval.config.task import TaskConfig

    assert set(harness.dataclass_fields("TaskConfig")) == {field.name for field in fields(TaskConfig)}
    assert set(harness.registered("register_metric")) == set(METRIC_REGISTRY)
    assert set(harness.registered("register_aggregation")) == set(AGGREGATION_REGISTRY)
