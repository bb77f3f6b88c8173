"""Suites and task files: the shipped ones are right, and each kind of mistake has its own clear message."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts.lib import suites

TASKS = Path("config/tasks")
SUITE = {"tasks": [{"task": "toy", "num_fewshot": 0}], "batch_size": 4, "limit": None}
TASK = {
    "task": "toy",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "tasks/toy.jsonl"}},
    "output_type": "loglikelihood",
    "test_split": "test",
    "doc_to_text": "context",
    "doc_to_target": "target",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


def write(folder: Path, suite: dict = SUITE, task: dict = TASK) -> Path:
    (folder / "toy.yaml").write_text(yaml.safe_dump(task))
    (folder / "suite-toy.yaml").write_text(yaml.safe_dump(suite))
    return folder / "suite-toy.yaml"


@pytest.mark.parametrize("path", sorted(TASKS.glob("suite-*.yaml")), ids=lambda path: path.stem)
def test_shipped_suites_and_tasks_are_valid(path):
    tasks = suites.load_tasks(suites.load_suite(path), TASKS)
    assert tasks
    assert all(file.startswith("resources/tasks/") for file in suites.document_files(tasks, "resources"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": "auto"}, r"batch_size: 'auto' is refused, because scores change with the batch size"),
        ({"batch_size": "auto:4"}, "batch_size: 'auto:4' is refused"),
        ({"batch_size": 0}, "batch_size: 0 is less than"),
        ({"batch_size": 1.5}, "batch_size: 1.5 is not of type 'integer'"),
        ({"limit": "all"}, "limit: 'all' is not of type"),
        ({"batchsize": 4}, "unknown key 'batchsize'; did you mean 'batch_size'"),
        ({"tasks": []}, "tasks"),
        ({"tasks": [{"task": "toy", "num_fewshots": 0}]}, "num_fewshot"),
        ({"tasks": [{"task": "toy", "num_fewshot": 0}] * 2}, "'toy' is listed 2 times"),
    ],
)
def test_a_wrong_suite_is_refused(tmp_path, change, message):
    path = write(tmp_path, suite=SUITE | change)
    with pytest.raises(ValueError, match=message) as error:
        suites.load_suite(path)
    assert str(path) in str(error.value)


def test_missing_or_broken_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"suite-none\.yaml does not exist"):
        suites.load_suite(tmp_path / "suite-none.yaml")
    (tmp_path / "suite-broken.yaml").write_text("tasks: [")
    with pytest.raises(ValueError, match=r"suite-broken\.yaml is not valid YAML"):
        suites.load_suite(tmp_path / "suite-broken.yaml")


def test_a_suite_that_names_a_missing_task_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"names task 'toi', but .*toi\.yaml does not exist; did you mean 'toy'"):
        suites.load_tasks(SUITE | {"tasks": [{"task": "toi", "num_fewshot": 0}]}, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"doc_to_txt": "context"}, "unknown field 'doc_to_txt'; did you mean 'doc_to_text'"),
        ({"fewshot_config": {"smpler": "first_n"}}, "unknown field of fewshot_config 'smpler'; did you mean 'sampler'"),
        (
            {"metric_list": [{"metric": "acc_nrom"}]},
            "unknown metric in metric_list: 'acc_nrom'; did you mean 'acc_norm'",
        ),
        ({"metric_list": [{"metric": "acc", "aggregation": "meen"}]}, "unknown aggregation .* did you mean 'mean'"),
        ({"metric_list": []}, "field 'metric_list' must list"),
        ({"doc_to_text": None}, "field 'doc_to_text' is missing"),
        ({"output_type": "generate_until"}, "field 'output_type' is 'generate_until'"),
        ({"output_type": "multiple_choice"}, "field 'doc_to_choice' is missing"),
        ({"num_fewshot": 3}, "'num_fewshot' cannot be used: the suite sets it"),
        ({"dataset_path": "EleutherAI/lambada_openai"}, "tasks read local files"),
        ({"test_split": "train"}, "set test_split to one of .* test"),
        ({"task": "other"}, "field 'task' is 'other'; it must be the file's own name, 'toy'"),
    ],
)
def test_a_wrong_task_file_is_refused(tmp_path, change, message):
    write(tmp_path, task=TASK | change)
    with pytest.raises(ValueError, match=message) as error:
        suites.load_tasks(SUITE, tmp_path)
    assert str(tmp_path / "toy.yaml") in str(error.value)


def test_shots_need_a_split_to_come_from(tmp_path):
    write(tmp_path)
    suite = SUITE | {"tasks": [{"task": "toy", "num_fewshot": 2}]}
    with pytest.raises(ValueError, match="asks for 2 examples, but field 'fewshot_split'"):
        suites.load_tasks(suite, tmp_path)


def test_includes_are_merged_and_listed_with_function_code(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({key: TASK[key] for key in TASK if key != "doc_to_target"}))
    (tmp_path / "code.py").write_text("def target(doc):\n    return doc['target']\n")
    (tmp_path / "toy.yaml").write_text("include: base.yaml\ntask: toy\ndoc_to_target: !function code.target\n")
    tasks = suites.load_tasks(SUITE, tmp_path)
    assert tasks["toy"]["output_type"] == "loglikelihood"
    assert [Path(path).name for path in suites.task_files(SUITE, tmp_path)] == ["toy.yaml", "base.yaml", "code.py"]
    (tmp_path / "base.yaml").write_text("include: toy.yaml\n")
    with pytest.raises(ValueError, match="leads back to the file itself"):
        suites.load_tasks(SUITE, tmp_path)


def test_data_files_are_below_the_root_unless_absolute():
    fields = TASK | {"dataset_kwargs": {"data_files": {"test": ["a.jsonl", "/elsewhere/b.jsonl"], "train": "c.jsonl"}}}
    assert suites.document_files({"toy": fields}, "/nowhere") == [
        "/nowhere/a.jsonl",
        "/elsewhere/b.jsonl",
        "/nowhere/c.jsonl",
    ]


def test_known_names_are_those_of_the_installed_harness():
    from dataclasses import fields

    import lm_eval.api.metrics  # noqa: F401 - registers
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_REGISTRY
    from lm_eval.config.task import TaskConfig

    assert set(suites._dataclass_fields("TaskConfig")) == {field.name for field in fields(TaskConfig)}
    assert set(suites._registered("register_metric")) == set(METRIC_REGISTRY)
    assert set(suites._registered("register_aggregation")) == set(AGGREGATION_REGISTRY)


def test_checking_imports_no_heavy_library():
    code = (
        "import sys; from scripts.lib import suites; s = suites.load_suite('config/tasks/suite-smoke.yaml'); "
        "suites.load_tasks(s, 'config/tasks'); print([m for m in ('torch', 'transformers', 'lm_eval', 'datasets') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
