"""Suites and task files: the shipped ones are right, and each kind of mistake has its own clear message."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts.lib.data import suites

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
    for task in tasks.values():
        place = "resources/tasks/" if task.own else "resources/datasets/"
        assert all(path.startswith(place) for paths in task.data("resources").values() for path in paths)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": "auto"}, r"batch_size: 'auto' is refused, because scores change with the batch size"),
        ({"batch_size": "auto:4"}, "batch_size: 'auto:4' is refused"),
        ({"batch_size": 0}, "`batch_size`: 0 is less than"),
        ({"batch_size": 1.5}, "`batch_size`: 1.5 is not of type 'integer'"),
        ({"limit": "all"}, "`limit`: 'all' is not of type"),
        ({"batchsize": 4}, "unknown key `batchsize`; did you mean `batch_size`"),
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
    message = r"names task 'toi', but .*toi\.yaml does not exist, and the installed lm-eval .*; did you mean 'toy'"
    with pytest.raises(ValueError, match=message):
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
    assert tasks["toy"].fields["output_type"] == "loglikelihood"
    assert [path.name for path in tasks["toy"].files] == ["toy.yaml", "base.yaml", "code.py"]
    (tmp_path / "base.yaml").write_text("include: toy.yaml\n")
    with pytest.raises(ValueError, match="leads back to the file itself"):
        suites.load_tasks(SUITE, tmp_path)


def test_data_files_are_below_the_root_unless_absolute():
    fields = TASK | {"dataset_kwargs": {"data_files": {"test": ["a.jsonl", "/elsewhere/b.jsonl"], "train": "c.jsonl"}}}
    task = suites.Task(fields, "toy", 0, (), own=True)
    assert suites.document_files({"toy": task}, "/nowhere") == [
        "/nowhere/a.jsonl",
        "/elsewhere/b.jsonl",
        "/nowhere/c.jsonl",
    ]


def test_a_task_without_a_file_here_is_the_harness_s_own(tmp_path):
    write(tmp_path)
    asked = [{"task": name, "num_fewshot": 5} for name in ("hellaswag", "mmlu", "arc_easy")]
    tasks = suites.load_tasks(SUITE | {"tasks": [*SUITE["tasks"], *asked]}, tmp_path)
    assert list(tasks)[:3] == ["toy", "hellaswag", "mmlu_abstract_algebra"]
    assert list(tasks)[-1] == "arc_easy"
    assert {task.score for task in tasks.values()} == {"toy", "hellaswag", "mmlu", "arc_easy"}
    assert {name: task.shots for name, task in tasks.items() if task.shots != 5} == {"toy": 0}
    assert tasks["hellaswag"].data("r") == {
        split: [f"r/datasets/Rowan--hellaswag/default/{split}/0000.parquet"] for split in ("validation", "train")
    }
    assert tasks["mmlu_anatomy"].data("r") == {
        split: [f"r/datasets/cais--mmlu/anatomy/{split}/0000.parquet"] for split in ("test", "dev")
    }
    assert tasks["hellaswag"].fields["dataset_path"] == "parquet"


def test_what_the_rules_know_of_a_suite(tmp_path):
    write(tmp_path, suite=SUITE | {"tasks": [*SUITE["tasks"], {"task": "sciq", "num_fewshot": 1}], "limit": 7})
    known = suites.describe(tmp_path / "suite-toy.yaml")
    assert known["tasks"] == [str(tmp_path / "toy.yaml")]
    assert known["documents"] == ["tasks/toy.jsonl"]
    assert known["datasets"] == [f"datasets/allenai--sciq/default/{split}/0000.parquet" for split in ("test", "train")]
    assert (known["limit"], known["asked"]) == (7, 7)
    assert len(known["prompts"]) == 12
    assert suites.describe("config/tasks/suite-smoke.yaml")["prompts"] is None
    assert suites.describe("config/tasks/suite-paper12.yaml")["asked"] == 38_880


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gsm8k", "field 'generation_kwargs' cannot be used: .*; choose another task"),
        ("wikitext", "a rolling log-likelihood has no examples; set num_fewshot: 0 in the suite"),
        ("race", "the suite asks for 5 examples, but field 'fewshot_split' does not say from where"),
        ("blimp", "the score of this group is not the mean over all documents; name its tasks instead"),
        ("arithmetic_1dc", "say more than a data set of the hub, its configuration and whole splits"),
    ],
)
def test_a_harness_s_task_that_does_not_fit_is_refused(tmp_path, name, message):
    suite = SUITE | {"tasks": [{"task": name, "num_fewshot": 5}]}
    with pytest.raises(ValueError, match=message) as error:
        suites.load_tasks(suite, tmp_path)
    assert "lm_eval/tasks" in str(error.value)


def test_a_task_in_a_group_is_named_once(tmp_path):
    asked = [{"task": name, "num_fewshot": 0} for name in ("mmlu", "mmlu_anatomy")]
    with pytest.raises(ValueError, match="names task 'mmlu_anatomy' by itself and in a group"):
        suites.load_tasks(SUITE | {"tasks": asked}, tmp_path)


def test_checking_imports_no_heavy_library():
    code = (
        "import sys; from scripts.lib.data import suites; suites.describe('config/tasks/suite-smoke.yaml'); "
        "suites.describe('config/tasks/suite-paper12.yaml'); "
        "print([m for m in ('torch', 'transformers', 'lm_eval', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
