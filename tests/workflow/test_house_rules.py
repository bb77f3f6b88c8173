"""House rules: what every rule, script and file of this project has in common."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts.lib.analysis.metrics import METRICS
from scripts.lib.analysis.tables import TABLES
from tests.tools import ROOT

ORDER = (
    *("default_target", "input", "output", "log", "benchmark", "wildcard_constraints", "retries", "priority"),
    *("conda", "threads", "resources", "params", "script"),
)
STAGES = sorted(path.stem for path in (ROOT / "scripts").glob("[!_]*.py"))
SMK = [ROOT / "Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk"))]
RULES = {
    name: body
    for path in SMK
    for name, body in re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", path.read_text(), re.MULTILINE | re.DOTALL)
}


def directives(rule: str) -> list[str]:
    return re.findall(r"^    (\w+):", RULES[rule], re.MULTILINE)


# --- scripts and rules -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_every_script_is_used_by_a_rule_and_has_a_test(stage):
    assert any(f'"../../scripts/{stage}.py"' in body for body in RULES.values()), f"no rule runs scripts/{stage}.py"
    assert (ROOT / f"tests/unit/test_{stage}.py").is_file()


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_in_order(rule):
    found = directives(rule)
    assert found == sorted(found, key=ORDER.index), f"rule {rule}: directives in the order {ORDER}"


@pytest.mark.parametrize("rule", [rule for rule in RULES if "script" in directives(rule)])
def test_a_rule_has_a_log_and_an_environment(rule):
    assert {"log", "conda", "output"} <= set(directives(rule))
    assert f"{{PATHS.logs('{rule}')}}/" in RULES[rule]
    assert "benchmark" not in directives(rule) or f"{{PATHS.benchmarks('{rule}')}}/" in RULES[rule]


def test_rules_only_declare():
    for rule in RULES:
        assert not {"run", "shell"} & set(directives(rule)), f"rule {rule} computes; give it a script"
    for path in SMK:
        assert not re.search(r"^[^#]*\blambda\b", path.read_text(), re.MULTILINE), f"{path.name}: name that function"


def test_every_rule_file_is_included():
    included = re.findall(r'^include: "workflow/rules/(\S+)"$', SMK[0].read_text(), re.MULTILINE)
    assert sorted(included) == [path.name for path in SMK[1:]]
    assert included[0] == "common.smk"


def test_every_figure_has_a_caption_and_a_function():
    from scripts.lib.report.contents import FIGURES
    from scripts.plot import FIGURES as DRAWN

    captions = (ROOT / "reports/captions/figure.rst").read_text()
    assert re.findall(r'figure == "(\w+)"', captions) == list(FIGURES) == list(DRAWN)


def test_every_table_has_a_caption():
    written = re.findall(r"table_files\(\[(.*?)\]\)", "".join(RULES.values()))
    for name in [*TABLES, *(name for names in written for name in re.findall(r'"(\w+)"', names))]:
        assert (ROOT / f"reports/captions/{name}.rst").read_text().strip(), name


def test_metrics_are_named_in_one_place():
    """But for the stage that translates the harness's names; the columns `kl` of two stages are no metrics."""
    allowed = {"scripts/lib/analysis/metrics.py": set(METRICS), "scripts/evaluate_tasks.py": set(METRICS)}
    allowed |= {f"scripts/{stage}.py": {"kl"} for stage in ("evaluate_loss", "slice")}
    for path in [*(ROOT / "scripts").rglob("*.py"), *SMK, ROOT / "reports/report.py"]:
        name = str(path.relative_to(ROOT))
        named = set(re.findall(rf"""["']({"|".join(METRICS)})["']""", path.read_text()))
        assert named <= allowed.get(name, set()), (
            f"{name} names metrics; read them from scripts/lib/analysis/metrics.py"
        )


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_scripts_say_what_they_do_and_read_no_config(stage):
    tree = ast.parse((ROOT / f"scripts/{stage}.py").read_text())
    assert ast.get_docstring(tree), f"scripts/{stage}.py has no docstring"
    nodes = list(ast.walk(tree))
    assigned = [node for node in nodes if isinstance(node, ast.Assign) and getattr(node.value, "id", "") == "snakemake"]
    names = {"snakemake"} | {target.id for node in assigned for target in node.targets}
    for node in nodes:
        if isinstance(node, ast.Attribute) and node.attr == "config":
            assert getattr(node.value, "id", "") not in names, f"line {node.lineno}: take it from params"


# --- environment and paths -------------------------------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    """Version by package of a requirements file in which every line pins one."""
    found = {}
    for line in (ROOT / "envs" / name).read_text().splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[\w,-]+\])?==([A-Za-z0-9.]+)", line)
            assert match, f"envs/{name}: `{line}` does not pin a version, or pins a local version, a hash or an address"
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


def test_the_lock_pins_all_that_is_asked_for():
    lock = pins("trajquant.lock")
    assert pins("trajquant.in").items() <= lock.items()
    assert len(lock) > 100


def test_conda_gets_the_pins_of_the_lock():
    environment = yaml.safe_load((ROOT / "envs/trajquant.yaml").read_text())
    python, _, pip = environment["dependencies"]
    locked = [line for line in (ROOT / "envs/trajquant.lock").read_text().splitlines() if not line.startswith("#")]
    assert pip == {"pip": locked}
    assert python == "python=" + re.search(r">=([\d.]+)", (ROOT / "pyproject.toml").read_text())[1]


def test_no_file_names_a_place_on_one_machine():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    offenders = []
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():
            text = Path(ROOT / name).read_bytes().decode(errors="ignore")
            found = re.search(r"(?<![\w.:/-])/(?:work|root|opt)\b", text)
            offenders += [f"{name}: {text[found.start() : found.start() + 40]!r}"] if found else []
    assert not offenders, offenders
