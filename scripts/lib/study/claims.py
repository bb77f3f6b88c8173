"""Claims of a study: read from config/claims, and fixed before the data, by a record that is only appended to."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

from scripts.lib.runtime.config_files import ConfigError, load_named, ordered, require_name

DERIVED = ("tokens", "decay_length")  # axes that are no setting of a run
GRID = ("bits", "group_size", "symmetric")  # what both recipes of a comparison of methods share


def add_claims(plan) -> None:
    """Read the claims that a study lists into a plan, each with the recipe that decides it and that recipe's reference.

    Args:
        plan: the `Plan`, whose recipes and losses are known; its `claims` grow by name: the content of the file, its
            `method` a recipe's name, its `dataset` the corpus that decides, the first that the study measures loss on,
            and `references`: recipe -> the recipe that it is compared with, itself unless methods are compared.

    Raises:
        ConfigError: a claim does not exist or does not fit its schema, no run has the setting that is its axis, or the
            study has no such recipe, or several.
    """
    study = plan.config["study"]
    corpora = list(dict.fromkeys(corpus for block in study["cells"] for corpus in block.get("loss", [])))
    recipes = {method.recipe: plan.recipes[method.name] for method in plan.methods.values()}
    for number, entry in enumerate(study.get("claims", [])):
        where = f"study `{study['name']}`, claims.{number}"
        name, chosen = (entry["claim"], entry["method"]) if isinstance(entry, dict) else (entry, None)
        try:
            claim = load_named(plan.folder / "claims", "claim", name)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        _check_axis(claim["compare"], plan, f"{where}: {plan.folder}/claims/{name}.yaml, compare")
        if name in plan.claims:
            raise ConfigError(f"{where}: claim `{name}` is listed twice; list it once")
        if not corpora:
            raise ConfigError(f"{where}: a claim needs `loss` in one block of `cells` at least; add a corpus")
        method = _method(claim["method"], chosen, recipes, where)
        partners = references(claim, recipes)
        if method not in partners:
            raise ConfigError(
                f"{where}: the study has no method to compare `{method}` with; add one with "
                f"{_told(claim['compare']['than'])} and its bits, group size and symmetry"
            )
        decided = {"method": method, "dataset": corpora[0], "references": partners}
        plan.claims[name] = ordered(claim | decided)


def _check_axis(compare: dict, plan, where: str) -> None:
    """Raise ConfigError unless runs have such an axis or setting, and an axis but `tokens` says what else is equal."""
    if compare["what"] not in ("axis", "setting"):
        return
    known = {key for run in plan.trajectories.values() for key in run.settings}
    if compare["what"] == "setting":
        require_name(compare["setting"], known, "setting of a run", f"{where}.setting")
        return
    where, axis, given = f"{where}.axis", compare["axis"], [key for key in ("equal", "distance") if key in compare]
    require_name(axis, {*known, *DERIVED}, "setting of a run", where)
    if axis == "tokens" and given:
        raise ConfigError(f"{where}: nothing else is equal along `tokens`; remove `{given[0]}`")
    if axis != "tokens" and len(given) < 2 and compare.get("equal") != "nothing":
        raise ConfigError(f"{where}: `{axis}` needs `equal` and `distance` beside it; add them")


def _method(settings: dict, chosen: str | None, recipes: dict, where: str) -> str:
    """The one recipe that decides a claim."""
    fitting = [name for name, recipe in recipes.items() if _fits(recipe, settings)]
    told = _told(settings)
    if chosen:
        if chosen not in recipes:
            raise ConfigError(f"{where}.method: the study has no method `{chosen}`; it has {', '.join(recipes)}")
        return chosen
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ConfigError(
            f"{where}: {len(fitting)} methods of the study have {told}: {', '.join(fitting)}; say which decides: "
            "`{claim: NAME, method: METHOD}`"
        )
    raise ConfigError(
        f"{where}: no method of the study has {told}; add one, or say which decides: `{{claim: NAME, method: METHOD}}`"
    )


def references(claim: dict, recipes: dict) -> dict[str, str]:
    """Each recipe that a claim is about, with the one on the reference's side.

    Args:
        claim: as in its file. recipes: by name.
    """
    if claim["compare"]["what"] != "method":
        return {name: name for name in recipes}
    plain = {name: recipe for name, recipe in recipes.items() if "transform" not in recipe}
    kind = {key: value for key, value in claim["method"].items() if key not in GRID}
    than = claim["compare"]["than"]
    others = {_grid(recipe): name for name, recipe in plain.items() if _fits(recipe, than)}
    ours = {name: _grid(recipe) for name, recipe in plain.items() if _fits(recipe, kind)}
    return {name: others[grid] for name, grid in ours.items() if others.get(grid, name) != name}


def _told(settings: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _fits(recipe: dict, settings: dict) -> bool:
    return "transform" not in recipe and all(recipe.get(key) == value for key, value in settings.items())


def _grid(recipe: dict) -> tuple:
    return tuple(recipe.get(key) for key in GRID)


# --- fixed before the data -------------------------------------------------------------------------------------------


def hash_of(claim: dict) -> str:
    """SHA-256 of all that a claim says and of what decides it in its study; comments and the order of keys aside."""
    said = {key: value for key, value in claim.items() if key != "references"}
    return hashlib.sha256(json.dumps(ordered(said), ensure_ascii=False).encode()).hexdigest()


def fix(claims: dict[str, dict], record: Path, measured: int) -> None:
    """Append a line to the record for every claim that is new there, or says something else than its last line.

    Args:
        claims: by name, as of the `Plan`.
        record: the file, JSON lines.
        measured: how many losses of the study are measured already: a claim is before the data if none is.
    """
    known = {line["claim"]: line["hash"] for line in _lines(record)}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    new = [
        {"claim": name, "hash": hash_of(claim), "date": now, "measured": measured, "says": claim}
        for name, claim in claims.items()
        if known.get(name) != hash_of(claim)
    ]
    if new:
        record.parent.mkdir(parents=True, exist_ok=True)
        with record.open("a") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in new)


def fixed(claims: dict[str, dict], record: Path) -> dict[str, dict]:
    """What the record says of each claim: hash, date and measured of its first line, and whether it changed since.

    A claim that is not on record has None for all of these.
    """
    lines, found = _lines(record), {}
    for name, claim in claims.items():
        own = [line for line in lines if line["claim"] == name]
        first = own[0] if own else dict.fromkeys(("hash", "date", "measured"))
        others = {line["hash"] for line in own} | {hash_of(claim)}
        found[name] = {key: first[key] for key in ("hash", "date", "measured")}
        found[name]["changed"] = len(others) > 1 if own else None
    return found


def _lines(record: Path) -> list[dict]:
    return [json.loads(line) for line in record.read_text().splitlines()] if record.is_file() else []
