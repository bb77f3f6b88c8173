"""What reruns after which change: just what the change touches. All by dry-runs in a copy of a finished tree."""

import os
import shutil

import pytest

from scripts.lib.report.contents import FIGURES
from tests.tools import AFTER_CELLS, edit, planned

RECIPE = "config/recipes/rtn-w3-g32.yaml"
STUDY = "config/studies/smoke.yaml"
RUN = "config/trajectories/smoke.yaml"
SLICED = {"slice": 1, "describe_layers": 1}  # of the cell at step 20


def rewrite(path, old, new):
    """Change a passage of a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_editing_a_recipe_reruns_its_cells_only(tree):
    edit(tree / RECIPE, lambda recipe: recipe.update(symmetric=False))
    assert planned(tree, "smoke") == {"quantize": 3, "evaluate_loss": 3} | AFTER_CELLS


def test_adding_a_method_adds_its_cells_only(tree):
    edit(tree / STUDY, lambda study: study["study"]["cells"][0]["methods"].append("rtn-w4-g32"))
    assert planned(tree, "smoke") == {"quantize": 3, "evaluate_loss": 3} | AFTER_CELLS


def test_adding_a_kept_step_leaves_finished_cells_alone(tree):
    edit(tree / RUN, lambda run: run.update(keep=[20, 25, 30, 40]))
    edit(tree / STUDY, lambda study: study["study"]["cells"][1].update(checkpoints=[20, 25]))
    jobs = planned(tree, "smoke")
    assert jobs == {"train": 1, "publish": 1, "quantize": 1, "evaluate_loss": 2} | SLICED | AFTER_CELLS


def test_extending_a_run_leaves_finished_cells_alone(tree):
    edit(tree / RUN, lambda run: run.update(keep=[20, 30, 40, 60]))
    edit(tree / STUDY, lambda study: study["study"]["cells"][1].update(checkpoints=[20, 60]))
    jobs = planned(tree, "smoke")
    assert jobs == {"train": 1, "publish": 1, "quantize": 1, "evaluate_loss": 2} | SLICED | AFTER_CELLS


@pytest.mark.full
def test_forcing_tasks_reruns_them_and_what_follows(tree):
    assert planned(tree, "smoke", "--forcerun", "evaluate_tasks") == {"evaluate_tasks": 2} | AFTER_CELLS


def test_forcing_a_stage_reruns_its_consumers(tree):
    jobs = planned(tree, "smoke", "--forcerun", "quantize")
    assert jobs == {"quantize": 8, "evaluate_loss": 8, "evaluate_tasks": 1, "slice": 1} | AFTER_CELLS


@pytest.mark.full
def test_forcing_train_reruns_everything_after_it(tree):
    jobs = planned(tree, "smoke", "--forcerun", "train")
    assert jobs["train"] == 3
    assert jobs["publish"] == 4
    assert jobs["average"] == 1
    assert jobs["quantize"] == 8
    assert jobs["evaluate_loss"] == 12


def test_figure_style_reruns_figures_and_report_only(tree):
    rewrite(tree / "scripts/lib/report/figures.py", 'MARKERS = ("o"', 'MARKERS = ("*"')
    assert planned(tree, "smoke") == {"plot": len(FIGURES), "report": 1, "all": 1}


def test_a_shared_helper_reruns_what_uses_it(tree):
    rewrite(tree / "scripts/lib/models/loading.py", "if name in known", "if name in known and True")
    jobs = planned(tree, "smoke")
    assert jobs == {"average": 1, "quantize": 8, "evaluate_loss": 12, "evaluate_tasks": 2} | SLICED | AFTER_CELLS


def test_the_schedule_module_reruns_training(tree):
    rewrite(tree / "scripts/lib/study/schedules.py", "np.minimum(step / warmup, 1.0)", "np.minimum(step / warmup, 1)")
    jobs = planned(tree, "smoke")
    assert jobs["train"] == 3
    assert jobs["evaluate_loss"] == 12


def test_a_threshold_of_deduplication_reruns_the_corpus_and_what_follows(tree):
    rewrite(tree / "scripts/lib/data/duplicates.py", "DUPLICATE_WORDS = 5", "DUPLICATE_WORDS = 6")
    everything = {
        "corpus": 1,
        "task_documents": 1,
        "tokenizer": 1,
        "tokenize": 3,
        "lineage": 3,
        "train": 3,
        "publish": 4,
        "average": 1,
        "quantize": 8,
        "evaluate_loss": 12,
        "evaluate_tasks": 2,
    }
    assert planned(tree, "smoke") == everything | SLICED | AFTER_CELLS


def test_the_other_half_of_a_module_reruns_only_what_uses_it(tree):
    rewrite(tree / "scripts/lib/data/windows.py", "replace=False", "replace=True")
    cells = {"quantize": 8, "evaluate_loss": 9, "evaluate_tasks": 1}  # one loss is the average's own
    assert planned(tree, "smoke") == {"average": 1, "slice": 1} | cells | AFTER_CELLS


def test_another_peak_rate_reruns_the_run_and_its_descendants(tree):
    edit(tree / "config/trajectories/smoke-cooldown.yaml", lambda run: run["schedule"].update(peak=0.02))
    jobs = planned(tree, "smoke")
    assert (jobs["lineage"], jobs["train"], jobs["publish"]) == (1, 1, 1)
    assert (jobs["quantize"], jobs["evaluate_loss"], jobs["evaluate_tasks"]) == (3, 4, 2)


def reverse(content):
    """Turn the order of a mapping's keys round, and of all mappings in it."""
    for key in list(content)[::-1]:
        value = content[key] = content.pop(key)
        if isinstance(value, dict):
            reverse(value)


def test_what_changes_no_meaning_reruns_nothing(tree):
    """All at once, for each could only add jobs."""
    rewrite(tree / "scripts/lib/models/loading.py", "Load a model folder as a dense model", "Load a folder as a model")
    rewrite(tree / "scripts/lib/runtime/manifests.py", "import os\n", "import os  # for the test\n\n\n")
    rewrite(tree / "scripts/lib/study/schedules.py", "must ascend: {ends}", "must grow: {ends}")  # used by plans only
    shutil.copy(tree / "scripts/quantizers/rtn.py", tree / "scripts/quantizers/other.py")  # a new library
    shutil.copy(tree / RECIPE, tree / "config/recipes/other-w3-g32.yaml")
    rewrite(tree / "config/recipes/other-w3-g32.yaml", "library: rtn", "library: other")
    shutil.copy(tree / RUN, tree / "config/trajectories/unrelated.yaml")
    for name in ("README.md", "Snakefile"):
        with open(tree / name, "a") as file:
            file.write("\n# a new line\n")
    for name in ("default", "trajectories/smoke-cooldown", "corpora/smoke", "tokenizers/smoke"):
        edit(tree / f"config/{name}.yaml", reverse)
    for name in (STUDY, RUN):
        edit(tree / name, reverse)
    for path in [path for kind in ("py", "yaml", "smk", "rst") for path in tree.rglob(f"*.{kind}")]:
        os.utime(path)
    for path in [*tree.glob("resources/**/*"), *tree.glob("results/quantized/**/*")]:
        if path.name in ("manifest.json", "model.safetensors", ".snakemake_timestamp") or path.is_dir():
            os.utime(path)
    assert planned(tree, "smoke") == {}


def test_deleting_weights_after_evaluation_reruns_nothing(tree):
    for folder in tree.glob("results/quantized/*/*/*/model"):
        shutil.rmtree(folder)
    shutil.rmtree(tree / "resources/runs/smoke/from-20")
    assert planned(tree, "smoke") == {}


def test_hidden_states_that_losses_shared_go_with_the_run(tree):
    assert not (tree / "results/hidden").exists()


def test_a_changed_manifest_reruns_its_consumers(tree):
    path = tree / "results/quantized/smoke/step-40/rtn-w3-g32/manifest.json"
    path.write_text(path.read_text().replace('"bits": 3', '"bits":  3'))
    assert planned(tree, "smoke") == {"evaluate_loss": 1} | AFTER_CELLS


def keep_no_weights(tree):
    edit(tree / STUDY, lambda study: study["quantize"].update(keep_weights=False))


def test_temporary_weights_rerun_nothing_once_evaluated(tree):
    keep_no_weights(tree)
    for folder in tree.glob("results/quantized/*/*/*/model"):
        shutil.rmtree(folder)
    assert planned(tree, "smoke") == {}


@pytest.mark.parametrize("kept", [True, False])
def test_a_new_evaluation_needs_temporary_weights_again(tree, kept):
    edit(tree / STUDY, lambda study: study["study"]["cells"][0].update(tasks=["smoke"]))
    if not kept:
        keep_no_weights(tree)
        for folder in tree.glob("results/quantized/*/*/*/model"):
            shutil.rmtree(folder)
    jobs = planned(tree, "smoke")
    assert jobs["evaluate_tasks"] == 8
    assert jobs.get("quantize", 0) == (0 if kept else 6)
    assert jobs.get("evaluate_loss", 0) == (0 if kept else 6)


def test_two_studies_share_cells(tree):
    shutil.copy(tree / STUDY, tree / "config/studies/other.yaml")
    edit(tree / "config/studies/other.yaml", lambda study: study["study"].update(name="other"))
    assert planned(tree, "other") == AFTER_CELLS
