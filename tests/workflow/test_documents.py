"""The pages for readers are true: what they name exists, what they show is valid, what they command runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts.commands.methods import STUDIES
from scripts.lib.runtime.config_files import read_yaml, validate
from scripts.lib.study.libraries import libraries
from scripts.lib.study.recipes import check_recipe, recipe_schema
from tests.starts import dry_run
from tests.tools import ROOT, copy_tree, write_model

DOCUMENTS = (
    "README.md",
    *(f"{folder}/README.md" for folder in ("config", "workflow", "scripts", "tests", "reports")),
    "CONTRIBUTING.md",
    "SECURITY.md",
)
LONGEST = 200  # lines of README.md, which a newcomer reads whole
SECTIONS = {
    "config": "Settings",
    "study": "Studies",
    "scale": "Scales",
    "trajectory": "Trajectories",
    "recipe": "Recipes",
    "claim": "Claims",
    "corpus": "Corpora",
    "tokenizer": "Tokenizers",
    "suite": "Suites and tasks",
}
KINDS = {
    **{"trajectories": "trajectory", "recipes": "recipe", "tasks": "suite"},
    **{"corpora": "corpus", "tokenizers": "tokenizer", "claims": "claim"},
}


def read(document: str) -> str:
    return (ROOT / document).read_text()


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(document), re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """The text of config/README.md below the heading that begins so."""
    return next(part for part in read("config/README.md").split("\n## ") if part.startswith(title))


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows but the headings'."""
    tables = re.findall(r"^\|.*\|\n\|[-|]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for table in tables for line in table.splitlines()]


def quoted(text: str) -> set[str]:
    """What stands in backticks outside of fenced blocks, whole and cut into words."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return {word for span in spans for word in [span, *re.findall(r"[\w-]+", span)]}


def schema(kind: str) -> dict:
    if kind == "recipe":  # made of what the libraries say of themselves
        made = [
            recipe_schema(name, algorithm) for name, library in libraries().items() for algorithm in library.algorithms
        ]
        algorithms = sorted({algorithm for library in libraries().values() for algorithm in library.algorithms})
        return {
            "allOf": made,
            "properties": {"algorithm": {"enum": algorithms}, "library": {"enum": list(libraries())}},
        }
    return read_yaml(ROOT / f"workflow/schemas/{kind}.schema.yaml")


def properties(node) -> dict[str, list[dict]]:
    """Every key that a schema knows at any depth, with its descriptions."""
    found = {}
    if isinstance(node, dict):
        own = node.get("properties", {})
        for name, content in own.items():
            found.setdefault(name, []).append(content)
        for inner in [*own.values(), *(value for key, value in node.items() if key != "properties")]:
            for name, contents in properties(inner).items():
                found.setdefault(name, []).extend(contents)
    elif isinstance(node, list):
        for item in node:
            for name, contents in properties(item).items():
                found.setdefault(name, []).extend(contents)
    return found


def leaves(node: dict, path: tuple = ()) -> dict[str, object]:
    """Dotted keys of a nested mapping with their values."""
    found = {}
    for key, value in node.items():
        found |= leaves(value, (*path, key)) if isinstance(value, dict) else {".".join((*path, key)): value}
    return found


def test_the_first_page_is_short():
    assert len(read("README.md").splitlines()) <= LONGEST, "move what is not for newcomers to the folder it is about"


def test_the_first_page_leads_to_all_others():
    targets = set(re.findall(r"\]\(([^)#]+)\)", read("README.md")))
    assert set(DOCUMENTS[1:]) <= targets


def test_the_page_of_methods_has_a_row_for_every_method_of_its_studies():
    small, real = (read_yaml(ROOT / f"config/studies/{name}.yaml")["study"] for name in STUDIES)
    methods, others = (
        list(dict.fromkeys(name for block in study["cells"] for name in block["methods"])) for study in (small, real)
    )
    page = (ROOT / "config/recipes/README.md").read_text()
    found = re.findall(r"^\| `([\w-]+)` \|", page.split("\n## ")[0], re.MULTILINE)
    assert found[: len(methods)] == methods
    assert set(found[len(methods) :]) <= set(others), "what was not run on the real model has no row"
    assert "not measured" not in page


# --- config/README.md explains every key, and no other ---------------------------------------------------------------


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_key_of_a_schema_is_explained(kind):
    missing = properties(schema(kind)).keys() - quoted(section(SECTIONS[kind]))
    assert not missing, f"config/README.md, section {SECTIONS[kind]}: add {sorted(missing)}"


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_allowed_word_is_named(kind):
    contents = [content for known in properties(schema(kind)).values() for content in known]
    words = {value for content in contents for value in content.get("enum", []) if isinstance(value, str)}
    missing = words - quoted(section(SECTIONS[kind]))
    assert not missing, f"config/README.md, section {SECTIONS[kind]}: add {sorted(missing)}"


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_key_that_is_explained_exists(kind):
    values = {"constant", "wsd", "cosine", "linear", "piecewise"}  # the table of schedules begins with their names,
    values |= {"lawa", "ema", "soup", "metric", "fisher", "greedy"}  # and that of averages
    known = {*properties(schema(kind)), *values, "study", "scale"}
    for key in {span for row in rows(section(SECTIONS[kind])) for span in re.findall(r"`([^`]+)`", row[0])}:
        assert set(key.split(".")) <= known, f"config/README.md, section {SECTIONS[kind]}: there is no key `{key}`"


def test_the_defaults_are_those_of_the_default_config():
    settings = leaves(read_yaml(ROOT / "config/default.yaml"))
    table = [row for row in rows(section(SECTIONS["config"])) if "." in row[0]]
    assert {row[0].strip("`"): yaml.safe_load(row[1].strip("`")) for row in table} == settings


# --- what is shown is valid ------------------------------------------------------------------------------------------


def named_files(document: str) -> dict[str, dict]:
    """The YAML files that a document shows, by the path in their first line."""
    return {re.match(r"# (\S+)\n", text)[1]: yaml.safe_load(text) for text in blocks(document, "yaml")}


FILES = {path: content for document in DOCUMENTS for path, content in named_files(document).items()}


@pytest.mark.parametrize("path", FILES)
def test_a_file_that_is_shown_fits_its_schema(path):
    folder = Path(path).parent.name
    if folder in KINDS:
        if folder == "recipes":
            check_recipe(FILES[path], path)
        else:
            validate(FILES[path], KINDS[folder], path)
        return
    config = read_yaml(ROOT / "config/default.yaml")
    for key, value in FILES[path].items():
        config[key] = config.get(key, {}) | value
    validate({"study": {}} | config, "config", path)
    if folder == "studies":
        validate(config["study"], "study", path)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", read(document)):
        page = (ROOT / document).parent / target if target else ROOT / document
        assert target.startswith("https://") or page.exists(), target
        assert not anchor or anchor in headings(page), f"{target} has no heading #{anchor}"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document):
    tops = r"(?:config|envs|reports|scripts|tests|workflow)"
    for path in re.findall(rf"`({tops}/[\w./-]+)`", read(document)):
        variable = any(word in Path(path).name for word in ("NAME", "METHOD", "TASK", "suite-X"))
        assert variable or path in FILES or (ROOT / path).exists(), f"{document} names {path}, which does not exist"


# --- the stage table -------------------------------------------------------------------------------------------------


def rules() -> dict[str, str]:
    """Every rule with a script: its own text, by name, and the rule file's name before it."""
    found = {}
    for path in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for name, body in re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", path.read_text(), re.MULTILINE | re.DOTALL):
            if "    script:" in body:
                found[name] = f"{path.name}\n{body}"
    return found


def test_the_stage_table_is_complete_and_true():
    text = read("workflow/README.md").split("\n## Stages")[1].split("\n## ")[0]
    table = [[cell.strip("`") for cell in row] for row in rows(text)]
    assert {row[0] for row in table} == rules().keys()
    for name, file, script, output, _ in table:
        rule = rules()[name]
        assert rule.startswith(f"{file}\n"), f"rule {name} is not in {file}"
        assert f"scripts/{script}" in rule, f"rule {name} does not run {script}"
        place = f"}}/{output.split('/')[0]}/"
        assert place in (ROOT / "scripts/lib/study/paths.py").read_text(), f"rule {name} writes no {output}"


def test_every_stage_is_in_the_picture():
    picture = blocks("workflow/README.md", "mermaid")[0]
    assert rules().keys() - set(re.findall(r"\w+", picture)) == {"lineage", "task_documents", "measured"}


# --- the code --------------------------------------------------------------------------------------------------------


def test_every_room_is_in_the_picture_and_described():
    (picture,) = blocks("scripts/README.md", "mermaid")
    rooms = {path.parent.name for path in (ROOT / "scripts/lib").glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"\w+", picture))
    assert {row[0].strip("`") for row in rows(read("scripts/README.md"))} == rooms


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
def test_a_script_runs_alone_in_a_debugger(tmp_path, tiny_model):
    tree = copy_tree(tmp_path / "tree")
    (command,) = re.findall(r"^python -c '\n.*?^'$", read("scripts/README.md"), re.MULTILINE | re.DOTALL)
    model = tree / re.search(r"resources/[\w./-]+/model", command)[0]
    model.parent.mkdir(parents=True)
    model.symlink_to(tiny_model)
    program = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(program, cwd=tree, text=True, capture_output=True, input="args\ncontinue\n", check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rtn.py" in done.stdout
    assert "device = 'cpu'" in done.stdout


# --- commands --------------------------------------------------------------------------------------------------------


def commands(program: str) -> list[str]:
    """Commands of all documents that run a program, without their comments, each once."""
    lines = [line for document in DOCUMENTS for block in blocks(document, "bash") for line in block.splitlines()]
    return list(dict.fromkeys(re.sub(r"\s+# .*", "", line) for line in lines if line.startswith(f"{program} ")))


def test_every_make_target_exists():
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {command.split()[1] for command in commands("make")}
    named |= {target for document in DOCUMENTS for target in re.findall(r"`make ([\w-]+)", read(document))}
    assert named <= targets
    assert {"demo", "test"} <= named


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A fresh copy of the tree with the files that documents show, and the model folders and texts that these name."""
    tree = copy_tree(tmp_path_factory.mktemp("documents") / "tree")
    for path, content in FILES.items():
        assert not (tree / path).exists(), f"a document shows {path}, which the project has; choose another name"
        (tree / path).write_text(yaml.safe_dump(content, sort_keys=False))
        for checkpoint in content.get("checkpoints", []):
            write_model(tree / checkpoint["path"])
        for pattern in content.get("paths", []):
            file = tree / pattern.replace("**/", "").replace("*", "one")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("Some text, large enough for what is made of it.\n" * 1000)
    return tree


SNAKEMAKE = [command for command in commands("snakemake") if not {"--report", "-n"} & set(command.split())]
PLANNED = [command for command in SNAKEMAKE if " all_" not in command]  # test_dryruns.py plans the half-way targets


@pytest.mark.parametrize("command", PLANNED, ids=lambda command: command.replace("workflow/profiles/", ""))
def test_a_command_can_be_planned(shown, command):
    done = dry_run(shown, *shlex.split(command)[1:])
    assert done.returncode == 0, done.stdout[-3000:]
    assert "--unlock" in command or "Job stats" in done.stdout


def test_targets_and_options_stand_before_the_config_file():
    rules_of_all = re.findall(r"^rule (all_\w+):", (ROOT / "Snakefile").read_text(), re.MULTILINE)
    half_way = [re.search(r" (all_\w+) ", command) for command in SNAKEMAKE]
    assert [match[1] for match in half_way if match] == rules_of_all
    for command in SNAKEMAKE:
        assert re.search(r" --configfile( config/\S+)+$", command), command


def test_the_report_command_is_one_that_snakemake_knows(shown):
    (command,) = [command for command in commands("snakemake") if "--report" in command]
    done = dry_run(shown, *shlex.split(command)[1:], "--list-rules")
    assert done.returncode == 0, done.stdout[-3000:]
