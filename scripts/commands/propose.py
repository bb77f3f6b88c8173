"""make propose REPO=owner/name: a file for config/trajectories, of what a model hub itself says of a published run."""

import re
import statistics
import sys
import tempfile
from pathlib import Path

import yaml
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from scripts.lib.hub import client
from scripts.lib.runtime.untrusted import LARGEST_JSON, one_line, parse_json
from scripts.lib.study.sizes import DTYPES

FOLDER = Path("config/trajectories")
# Digits of other scripts are text.
STEP = re.compile(r"(?a)(?:step|iter|iteration|ckpt|checkpoint)s?[-_]?(\d{1,18})(?!\d|\.\d|[kKmM](?![a-z]))")
TOKENS = re.compile(r"(?a)tokens?[-_]?(\d{1,18})B(?![A-Za-z0-9])")
BILLION = 10**9
LARGEST = 2**63  # of the numbers that a proposal takes from a config
KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # what a model type can be called
SMALLEST_POWER = 14  # of two, that a batch is taken to be a multiple of; multiples of smaller ones lie everywhere
SIZES = {"hidden_size": "hidden_size", "num_hidden_layers": "num_hidden_layers", "vocab_size": "vocab_size"}
SIZES |= {"max_position_embeddings": "context"}  # key of config.json -> key of a trajectory's `model`
HEAD = """# Proposed by `make propose` from the branches and tags of {repo} and the files of
# {newest} ({commit}).
# What a hub cannot know is marked "fill in"; the keys are explained in config/README.md.
source: hub
"""
TOKENIZER = "# fill in: main has no tokenizer, so name the repository that has it\n# tokenizer_repo: owner/name\n"
CODE = """# fill in: transformers has no class `{kind}`, so code of the repository has to run. Read its Python files at
# commit {commit}, and list those that it needs, each with its SHA-256.
# It has: {files}
remote_code: {{}}
"""
NO_CLASS = (
    "# transformers has no class `{kind}`, and config.json names none of the repository's own: fetch will refuse it\n"
)
NO_TOKENS = "# fill in: tokens an optimizer step\n# tokens_per_step: 2097152\n"
SCHEDULE = """# fill in: the learning rate as a function of the step; `optimizer` is for readers and may be left out
# schedule: {name: cosine, peak: 3.0e-4, warmup: 2000, end: 100000, floor: 0.1}
# optimizer: {name: AdamW, weight_decay: 0.1, beta1: 0.9, beta2: 0.95}
"""
SOURCES = """  # fill in: where you read the schedule
  # - {figures: [schedule, optimizer], source: "...", verified: true}
"""


def propose(repo: str) -> str:
    """The text of a trajectory file for the largest series of checkpoints among a repository's branches and tags.

    Args:
        repo: `owner/name`.

    Raises:
        Unavailable: the hub does not give the repository, no name has a step, or the newest revision holds no model.
    """
    names = client.branches_and_tags(repo)
    series, others = group(names)
    if not series:
        raise client.Unavailable(
            f"{repo}: no branch or tag has a step in its name, such as step1000; it has: {names[:9]}"
        )
    pattern = max(series, key=lambda found: len(series[found]))
    rows = series.pop(pattern)
    steps = {step: name for name, (step, _) in reversed(rows.items())}  # of names of one step, the first
    newest = steps[max(steps)]
    found = client.describe_revision(repo, newest)
    model, parts = describe_model(repo, newest, found)
    tokenizer = "main" in names and client.TOKENIZER_FILES & client.describe_revision(repo, "main")["files"].keys()
    tokens, note = tokens_per_step(list(rows.values()))
    revisions = {"pattern": pattern, "verified": True, "all": [steps[step] for step in sorted(steps)]}
    sources = [{"figures": ["revisions", "model"], "source": f"the hub itself, {repo}", "verified": True}]
    if tokens:
        sources += [{"figures": ["tokens_per_step"], "source": "worked out from names of revisions", "verified": False}]
    twice = sorted(rows.keys() - steps.values())
    return "".join(
        [
            say(HEAD, repo=repo, newest=newest, commit=found["commit"][:12]),
            yaml.safe_dump({"repo": repo}),
            "" if tokenizer else TOKENIZER,
            dump({"model": model}),
            parts,
            f"{note}tokens_per_step: {tokens}\n" if tokens else NO_TOKENS,
            dump({"revisions": revisions}),
            SCHEDULE,
            dump({"sources": sources}),
            SOURCES,
            leftovers(series, others, twice),
        ]
    )


def group(names: list[str]) -> tuple[dict[str, dict], list[str]]:
    """Names of revisions by their text with numbers replaced.

    Returns:
        {pattern: {name: (step, tokens in billions or None)}}, and the names that have no step.
    """
    series, others = {}, []
    for name in names:
        steps = list(STEP.finditer(name))
        if not steps:
            others.append(name)
            continue
        tokens = TOKENS.search(name)
        entry = int(steps[-1][1]), int(tokens[1]) if tokens else None
        series.setdefault(pattern_of(name, steps[-1], tokens), {})[name] = entry
    return series, others


def pattern_of(name: str, step: re.Match, tokens: re.Match | None) -> str:
    """The regular expression of a name: any step, any number after it or of tokens; stages and the like stay."""
    numbers = {match.span(): r"\d+" for match in re.compile(r"[0-9]+").finditer(name, step.end())}
    numbers |= {tokens.span(1): r"\d+"} if tokens else {}
    numbers[step.span(1)] = r"(?P<step>\d+)"
    pattern, end = "", 0
    for (start, stop), number in sorted(numbers.items()):
        pattern += re.escape(name[end:start]) + number
        end = stop
    return (pattern + re.escape(name[end:])).replace(r"\-", "-")


def tokens_per_step(rows: list[tuple[int, int | None]]) -> tuple[int | None, str]:
    """Tokens an optimizer step, from steps and tokens [billions] in names, and a comment on them.

    Names round to a billion, up or down. The median, or what is as round in binary as the names allow: batches are.
    """
    seen = [(step, tokens) for step, tokens in rows if step and tokens]
    if not seen:
        return None, ""
    median = statistics.median(tokens * BILLION / step for step, tokens in seen)
    low = max((tokens - 1) * BILLION / step for step, tokens in seen)
    high = min((tokens + 1) * BILLION / step for step, tokens in seen)
    if low > high:
        return round(
            median
        ), "# fill in: the names fit no single number (this is their median); a list where it changes\n"
    middle = min(max(median, low), high)
    for power in range(40, SMALLEST_POWER - 1, -1):
        nearest = round(middle / 2**power) * 2**power
        if nearest and low <= nearest <= high:
            return nearest, f"# a multiple of 2^{power}; the names allow {low:.0f} to {high:.0f}\n"
    return round(middle), f"# fill in: the names allow {low:.0f} to {high:.0f}\n"


def describe_model(repo: str, revision: str, found: dict) -> tuple[dict, str]:
    """`model` of a trajectory, from the config and the weights of a revision, and what its code needs, as text.

    Args:
        found: the revision's commit and files, as `client.describe_revision` gives them.

    Raises:
        Unavailable: the revision holds no model.
    """
    files = client.model_files(found["files"], f"{repo} at {revision}")
    config = read(repo, found["commit"], files, "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str) or not KIND.fullmatch(kind):
        raise client.Unavailable(f"{repo} at {revision}: its config.json names no `model_type` of one word: {kind!r}")
    named = config.get("dtype") or config.get("torch_dtype")
    dtype = named if isinstance(named, str) and named in DTYPES else None
    index = next((read(repo, found["commit"], files, name) for name in client.INDEX.values() if name in files), {})
    told = index.get("metadata")
    size = number(told, "total_size") if isinstance(told, dict) else None
    size = size or sum(entry["bytes"] for name, entry in files.items() if name.endswith((".safetensors", ".bin")))
    model = {"architecture": kind, "parameters": size // DTYPES[dtype or "float32"]}
    model |= {own: number(config, name) for name, own in SIZES.items() if number(config, name)}
    model |= {"dtype": dtype} if dtype else {}
    if kind in CONFIG_MAPPING:
        return model, ""
    code = [name for name in found["files"] if name.endswith(".py")]
    text = CODE if "auto_map" in config else NO_CLASS
    return model, say(text, kind=kind, commit=found["commit"], files=listed(code) or "none")


def number(content: dict, name: str) -> int | None:
    """A number of a hub's JSON object that is a count; None where it has none such."""
    value = content.get(name)
    return value if type(value) is int and 0 < value < LARGEST else None


def read(repo: str, commit: str, files: dict[str, dict], name: str) -> dict:
    """The content of a JSON file of a commit.

    Raises:
        Unavailable: it holds no JSON object.
    """
    what = f"{client.at(repo, commit)}: {name}"
    if files[name]["bytes"] > LARGEST_JSON:
        raise client.Unavailable(f"{what} has {files[name]['bytes']} bytes, too many for what it should hold")
    with tempfile.TemporaryDirectory() as folder:
        content = client.fetch_file(repo, commit, name, files[name], Path(folder)).read_bytes()
    try:
        return parse_json(content, what)
    except ValueError as error:
        raise client.Unavailable(str(error)) from error


def leftovers(series: dict[str, dict], others: list[str], twice: list[str]) -> str:
    """Comments on the revisions that are not proposed."""
    lines = [
        say("# {rows} like {pattern}\n", rows=len(rows), pattern=pattern) for pattern, rows in sorted(series.items())
    ]
    lines += [say("# {count} of the same steps: {names}\n", count=len(twice), names=listed(twice))] if twice else []
    lines += [say("# {count} without a step: {names}\n", count=len(others), names=listed(others))] if others else []
    return "".join(["# Not proposed; names without a step can be `named` in `revisions`:\n", *lines]) if lines else ""


def listed(names: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:9])


def say(template: str, **found) -> str:
    """A comment of this program; what a hub says is put in without line ends, so that it is comment too."""
    return template.format(**{name: one_line(text) for name, text in found.items()})


def dump(content: dict) -> str:
    """YAML, innermost lists and mappings in a line."""
    return yaml.safe_dump(content, default_flow_style=None, sort_keys=False, width=90)


def main() -> None:
    """Print a proposal, or write it to config/trajectories/NAME.yaml, which must not be there."""
    repo, name, *_ = [*sys.argv[1:], "", ""]
    path = FOLDER / f"{name}.yaml"
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", repo) or not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)?", name):
        sys.exit("propose: say REPO=owner/name, and NAME=NAME if config/trajectories/NAME.yaml is to be written")
    if name and path.exists():
        sys.exit(f"propose: {path} exists and is not overwritten; give another NAME")
    try:
        text = propose(repo)
    except client.Unavailable as error:
        sys.exit(f"propose: {error}")
    if name:
        path.write_text(text)
    print(f"wrote {path}; now fill in what it asks for" if name else text)


if __name__ == "__main__":
    main()
