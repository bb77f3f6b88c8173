"""Every study can be planned on a fresh clone, and every mistake ends in one clear message before any work."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import starts
from tests.tools import (
    AFTER_CELLS,
    ROOT,
    command,
    copy_tree,
    dry_run,
    edit,
    job_counts,
    planned,
    snakemake,
    write_model,
    write_own_run,
)


@pytest.fixture
def fresh(tmp_path):
    return copy_tree(tmp_path / "tree")


@pytest.mark.parametrize("target", ["all", "all_checkpoints", "all_quantized", "all_evaluated"])
def test_a_study_can_be_planned_part_by_part(fresh, target):
    jobs = planned(fresh, "smoke", target)
    assert jobs["corpus"] == 1
    assert ("report" in jobs) == (target == "all")
    assert ("evaluate_loss" in jobs) == (target in ("all", "all_evaluated"))
    assert ("quantize" in jobs) == (target != "all_checkpoints")


def test_draws_of_calibration_text_are_cells_of_their_own(fresh):
    before = planned(fresh, "smoke")
    edit(fresh / "config/studies/smoke.yaml", lambda study: study["study"]["cells"][0].update(draws=3))
    after = planned(fresh, "smoke")
    changed = {stage: after[stage] - before[stage] for stage in after if after[stage] != before[stage]}
    assert changed == {"quantize": 2 * 3, "evaluate_loss": 2 * 3}
    said = dry_run(fresh, "smoke", "results/quantized/smoke/step-40/gptq-w3-g16@2/manifest.json")
    assert "config/recipes/gptq-w3-g16.yaml" in said


def test_slices_are_jobs_of_quantized_cells(fresh):
    before = planned(fresh, "smoke")
    edit(fresh / "config/studies/smoke.yaml", lambda study: study["study"]["cells"][0].update(slices=["smoke"]))
    after = planned(fresh, "smoke")
    changed = {stage: count - before.get(stage, 0) for stage, count in after.items() if count != before.get(stage)}
    assert changed == {"slice": 6, "describe_layers": 3}


def test_a_scale_has_folders_and_steps_of_its_own(fresh):
    (fresh / "config/scales/longer.yaml").write_text("scale: {name: longer, times: {steps: 2}, run: {batch_size: 4}}\n")
    arguments = [*command("smoke", "--dry-run"), "config/scales/longer.yaml"]
    done = subprocess.run(arguments, cwd=fresh, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    assert job_counts(said) == planned(fresh, "smoke")
    assert "resources/longer/checkpoints/smoke-lawa/step-80/manifest.json" in said
    assert "results/longer/report/smoke.html" in said
    assert " results/report/smoke.html" not in said


def message(tree: Path, study: str = "smoke") -> str:
    """What a failing dry-run says, without Snakemake's frame."""
    return dry_run(tree, study, fails=True)


def test_no_study(fresh):
    (fresh / "config/studies/none.yaml").write_text("train: {save_every: 100}\n")
    assert "no study is named: add --configfile config/studies/NAME.yaml" in message(fresh, "none")
    assert "demo, methods, methods-real, model-size, none, olmo2-1b, optimizer, paper" in message(fresh, "none")


def test_two_studies(fresh):
    twice = dry_run(fresh, "smoke", "--configfile", "config/studies/demo.yaml", "--nolock", fails=True)
    assert "--configfile is given 2 times: only the last counts" in twice
    more = fresh / "config/studies/more.yaml"
    shutil.copy(fresh / "config/studies/demo.yaml", more)
    done = starts.dry_run(fresh, *command("smoke")[3:], str(more))
    assert "more than one study is given" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_linter_needs_no_study(fresh):
    """As the workflow catalog runs it."""
    lint = [sys.executable, "-m", "snakemake", "--lint"]
    done = subprocess.run(lint, cwd=fresh, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.split("\n")[-2] == "Congratulations, your workflow is in a good condition!"
    assert "unintended" not in done.stderr


@pytest.mark.parametrize("target", ["all", "all_prefetched", "all_checkpoints", "all_quantized", "all_evaluated"])
def test_no_target_without_a_study(fresh, target):
    done = starts.dry_run(fresh, "--profile", "workflow/profiles/local", target)
    assert done.returncode != 0
    assert done.stdout.count("no study is named: add --configfile") == 1


def test_unknown_config_key(fresh):
    edit(fresh / "config/studies/smoke.yaml", lambda study: study.update(evaluate_los={"window": 64}))
    assert "unknown key `evaluate_los`; did you mean `evaluate_loss`" in message(fresh)


def test_unknown_recipe(fresh):
    edit(fresh / "config/studies/smoke.yaml", lambda study: study["study"]["cells"][0].update(methods=["gptq-w3-g161"]))
    assert "there is no recipe `gptq-w3-g161`" in message(fresh)
    assert "did you mean `gptq-w3-g16" in message(fresh)


def test_a_local_folder_with_truncated_weights(fresh, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    checkpoint = {"path": str(folder), "step": 1, "tokens": 1, "learning_rate": 0.1, "phase": "stable"}
    run = {"source": "local", "checkpoints": [checkpoint]}
    (fresh / "config/trajectories/own.yaml").write_text(yaml.safe_dump(run))
    edit(fresh / "config/studies/smoke.yaml", lambda study: study["study"]["cells"][0].update(trajectories=["own"]))
    edit(fresh / "config/studies/smoke.yaml", lambda study: study["study"]["cells"][0].update(checkpoints="all"))
    assert f"{folder} has no weights (*.safetensors)" in message(fresh)
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0")
    assert "model.safetensors is truncated" in message(fresh)


@pytest.mark.parametrize("run", [snakemake, dry_run])
def test_a_file_where_a_folder_should_be(fresh, run):
    (fresh / "stored").write_text("")
    edit(fresh / "config/studies/smoke.yaml", lambda study: study.update(folders={"results": "stored/results"}))
    said = run(fresh, "smoke", fails=True)
    assert f"folders.results: stored/results: {fresh}/stored is a file" in said
    assert "Traceback" not in said
    assert not (fresh / "resources").exists()


def test_config_files_that_cannot_be_read(fresh, tmp_path, canary):
    """Snakemake's own reading of them ends in a traceback, names no file, or runs what is in them."""
    smoke = fresh / "config/studies/smoke.yaml"
    smoke.write_text(smoke.read_text() + "tabulate:\n\tseed: 2\n")
    line = len(smoke.read_text().splitlines())
    tab = f"smoke.yaml is not valid YAML: line {line}, column 1: a tab; indent with spaces"
    code = f"__use_yte__: true\n__definitions__:\n  - open({str(canary)!r}, 'w').write('study')\n"
    (fresh / "config/studies/code.yaml").write_text(code)
    mistakes = {
        "smok": "config/studies/smok.yaml does not exist; did you mean `smoke.yaml`",
        "smoke": tab,
        "code": "code.yaml: templates are not evaluated here: remove `__use_yte__`",
    }
    for place, profile in ((fresh, "workflow/profiles/local"), (tmp_path, f"{fresh}/workflow/profiles/local")):
        for study, says in mistakes.items():
            start = ["--profile", profile, "--snakefile", f"{fresh}/Snakefile"]
            done = starts.dry_run(place, *start, "--configfile", f"{fresh}/config/studies/{study}.yaml")
            assert done.returncode == 1
            assert says in done.stdout
            assert "Traceback" not in done.stdout


def test_from_another_directory(fresh, tmp_path):
    start = ["--snakefile", f"{fresh}/Snakefile", "--cores", "1"]
    study = ["--configfile", f"{fresh}/config/studies/smoke.yaml"]
    for place, status in (((), 1), (("--directory", str(fresh)), 0)):
        done = starts.dry_run(tmp_path, *start, *place, *study)
        said = done.stdout
        assert done.returncode == status, said
        assert "Traceback" not in said
        assert ("start in the clone's folder, or add --directory" in said) == (status != 0)


def test_an_error_is_one_line_not_a_traceback(fresh):
    shutil.rmtree(fresh / "config/recipes")
    output = message(fresh)
    assert "there is no recipe" in output
    assert "Traceback" not in output


SITE = """
account: 12345
partition: cpu
gpu_partition: gpu
gpu_request: gres
gpu_type: a100
qos: long
constraint: nvme
extra: "--mail-type=FAIL"
scratch: "/local/$NAME_OF_TEST"
"""


def on_slurm(tree: Path, *arguments: str, site: str = "", fails: bool = False) -> str:
    """What a dry-run under the Slurm profile prints."""
    (tree / "site-of-test.yaml").write_text(site)
    environment = {"TRAJQUANT_SITE": "site-of-test.yaml", "NAME_OF_TEST": "someone"}
    done = starts.dry_run(tree, "--profile", "slurm", *arguments, **environment)
    assert (done.returncode != 0) == fails, done.stdout[-5000:]
    return done.stdout


@pytest.mark.parametrize("study", sorted(path.stem for path in (ROOT / "config/studies").glob("*.yaml")))
def test_every_study_can_be_planned_on_one_machine_and_for_a_cluster(fresh, study):
    write_own_run(fresh)
    write_model(fresh / ".smollm2/model")  # which `make methods REAL=1` fetches
    jobs = planned(fresh, study)
    assert {"corpus", "quantize", "evaluate_loss"} | AFTER_CELLS.keys() <= jobs.keys()
    said = on_slurm(fresh, "--configfile", f"config/studies/{study}.yaml")
    assert job_counts(said) == jobs
    assert "slurm_" not in said, "nothing of a site is asked for"
    if study == "choose":
        assert (jobs["publish_local"], jobs["quantize"], jobs["evaluate_loss"]) == (4, 4 * 7, 4 * 8)
    if study == "paper":
        assert jobs["fetch"] == 325, "its 326, of which two are the same"
        assert jobs["quantize"] == 2 * 325
        assert jobs["evaluate_loss"] == jobs["evaluate_tasks"] == 3 * 325


def test_the_site_file_reaches_every_job(fresh):
    edit(fresh / "config/studies/smoke.yaml", lambda study: study.update(compute={"device": "cuda"}))
    said = on_slurm(fresh, "--configfile", "config/studies/smoke.yaml", site=SITE)
    asked = [line for line in said.splitlines() if line.startswith("    resources:")]
    everywhere = ("slurm_account=12345", "constraint=nvme", "slurm_extra=--mail-type=FAIL", "tmpdir=/local/someone")
    assert all(word in line for word in everywhere for line in asked), asked[0]
    on_gpus = [line for line in asked if "gres=gpu:a100:1" in line]
    assert len(on_gpus) == 3 + 8 + 12 + 2 + 1 + 1
    assert all("slurm_partition=gpu" in line for line in on_gpus)
    assert all("slurm_partition=cpu" in line for line in asked if line not in on_gpus)


def test_mistakes_in_the_site_file(fresh):
    said = on_slurm(fresh, "--configfile", "config/studies/smoke.yaml", site="acount: x\n", fails=True)
    assert "site-of-test.yaml: unknown key `acount`; did you mean `account`" in said
    assert "Traceback" not in said
