"""Reading trajectory files and checking them against each other and against the config, for the plan."""

from pathlib import Path

from scripts.lib.hub import locks
from scripts.lib.models.folders import validate_model_folder
from scripts.lib.runtime.config_files import ConfigError, load_named, require_name
from scripts.lib.study import published, schedules
from scripts.lib.study.config import require_split

SHAPE = ("model", "corpus", "tokenizer", "window", "batch_size", "micro_batch_size")
INHERITED = (*SHAPE, "optimizer", "seed", "precision")


def add_trajectory(plan, name: str, folder: Path, where: str, above: tuple[str, ...] = ()) -> None:
    """Read a trajectory and all that it derives from into a plan.

    Args:
        plan: the `Plan`; its `trajectories` grow by what is read, branches completed by what they inherit.
        folder: config/trajectories.
        where: what names the trajectory, for error messages.
        above: names of the trajectories that derive from it.

    Raises:
        ConfigError: it does not exist or does not fit its schema, or what it derives from, or the config.
    """
    if name in plan.trajectories:
        return
    path = folder / f"{name}.yaml"
    if name in above:
        raise ConfigError(f"{path}: the trajectory derives from itself, through {' and '.join(above)}")
    try:
        trajectory = load_named(folder, "trajectory", name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if "schedule" in trajectory:
        try:
            schedules.validate(trajectory["schedule"], str(path))
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
    if trajectory["source"] == "average":
        add_trajectory(plan, trajectory["of"], folder, str(path), (*above, name))
        plan.trajectories[name] = trajectory
        _check_average(plan, name, path)
    elif trajectory["source"] == "local":
        plan.trajectories[name] = trajectory
        _check_local(plan, name, path)
    elif trajectory["source"] == "hub":
        plan.trajectories[name] = _read_published(plan, trajectory, name, folder, above)
        _check_context(plan, trajectory["model"].get("context"), str(path))
    else:
        if "branch" in trajectory:
            add_trajectory(plan, trajectory["branch"]["from"], folder, str(path), (*above, name))
            trajectory = _check_branch(plan, trajectory, path)
        plan.trajectories[name] = {"restart": [], "micro_batch_size": None} | trajectory
        _check_run(plan, name, path)


def _read_published(plan, trajectory: dict, name: str, folder: Path, above: tuple[str, ...]) -> dict:
    """A published trajectory with its checkpoints worked out, and what is locked of it, by revision."""
    path, before = folder / f"{name}.yaml", {"step": 0, "tokens": 0}
    if "after" in trajectory:
        parent, step = trajectory["after"]["trajectory"], trajectory["after"]["step"]
        add_trajectory(plan, parent, folder, str(path), (*above, name))
        source = plan.trajectories[parent]
        seen = int(schedules.tokens(step, source["tokens_per_step"]))
        before = {"step": source["before"]["step"] + step, "tokens": source["before"]["tokens"] + seen}
    try:
        points = published.points(trajectory, before)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if "{" in trajectory.get("tokenizer_repo", trajectory["repo"]):
        raise ConfigError(f"{path}: `tokenizer_repo`: each checkpoint has a repository of its own; name one for all")
    try:
        locked = locks.read(folder, name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    trajectory = {"tokenizer_repo": trajectory["repo"]} | trajectory
    _check_lock(locked, trajectory, locks.path_of(folder, name))
    return trajectory | {"before": before, "points": points, "lock": locked}


def _check_lock(lock: dict, trajectory: dict, path: Path) -> None:
    named = [(entry, trajectory["repo"].replace("{revision}", found)) for found, entry in lock["revisions"].items()]
    named += [(lock["tokenizer"], trajectory["tokenizer_repo"])] if lock.get("tokenizer") else []
    for entry, repo in named:
        if entry["repo"] != repo:
            raise ConfigError(f"{path} is a lock of {entry['repo']}, and the trajectory names {repo}: delete the lock")


def require_pins(trajectories: dict[str, dict]) -> None:
    """Refuse to run a study, which may well be looked at, while code that a model of it needs is not pinned.

    Raises:
        ConfigError: names the trajectory and says how to pin.
    """
    for name, trajectory in trajectories.items():
        if trajectory.get("remote_code") == {}:
            raise ConfigError(
                f"trajectory `{name}`: `remote_code`: {trajectory['repo']} needs its own code to run, and none is "
                "pinned: read its Python files at the commit of a revision, and list those that it needs, each with "
                "its SHA-256 (`remote_code: {modeling.py: 0123...}`), or take the trajectory out of the study"
            )


def _check_context(plan, context: int | None, where: str) -> None:
    window = plan.config["evaluate_loss"]["window"]
    if context and context < window:
        raise ConfigError(f"{where} has a context of {context}; evaluate_loss.window is {window}")


def _check_run(plan, name: str, path: Path) -> None:
    run, config = plan.trajectories[name], plan.config
    require_split(run["corpus"], "train", config, f"{path}, corpus")
    require_name(run["tokenizer"], config["tokenize"], "tokenizer", f"{path}, tokenizer")
    if run["batch_size"] % (run["micro_batch_size"] or run["batch_size"]):
        raise ConfigError(
            f"{path}: micro_batch_size {run['micro_batch_size']} does not divide batch_size {run['batch_size']}"
        )
    if run["model"]["hidden_size"] % run["model"]["num_attention_heads"]:
        raise ConfigError(f"{path}: model.num_attention_heads does not divide model.hidden_size")
    if run["window"] < config["evaluate_loss"]["window"]:
        raise ConfigError(
            f"{path}: window {run['window']} is shorter than evaluate_loss.window {config['evaluate_loss']['window']}: "
            "the model never saw such long contexts; lower evaluate_loss.window"
        )
    end = schedules.decay_end(run["schedule"])
    last = max(run["keep"] + run["restart"])
    if last > end:
        raise ConfigError(
            f"{path}: step {last} lies after the schedule's end at step {end:g}; train less or move the end"
        )


def _check_branch(plan, branch: dict, path: Path) -> dict:
    """The branch with what it inherits."""
    parent_name, start = branch["branch"]["from"], branch["branch"]["step"]
    parent = plan.trajectories[parent_name]
    if parent["source"] != "train":
        raise ConfigError(
            f"{path}: branch.from: `{parent_name}` is not trained by the workflow, so nothing can go on from it"
        )
    if start not in parent["restart"]:
        kept = ", ".join(map(str, sorted(parent["restart"]))) or "none"
        raise ConfigError(
            f"{path}: branch.step: `{parent_name}` keeps no restart point at step {start} (it keeps: {kept}); "
            f"add {start} to `restart` of that trajectory"
        )
    early = [step for step in branch["keep"] + branch.get("restart", []) if step <= start]
    if early:
        raise ConfigError(f"{path}: steps {early} do not lie after the branch's start at step {start}")
    return {key: parent[key] for key in INHERITED} | branch


def _check_average(plan, name: str, path: Path) -> None:
    average = plan.trajectories[name]
    kept = plan.steps(average["of"])
    for step in average["keep"]:
        missing = [member for member in plan.members(name, step) if member not in kept]
        if missing:
            raise ConfigError(
                f"{path}: the average at step {step} needs `{average['of']}` at steps {missing}, which that trajectory "
                f"does not keep; it keeps {', '.join(map(str, kept))}"
            )


def _check_local(plan, name: str, path: Path) -> None:
    trajectory = plan.trajectories[name]
    steps = [checkpoint["step"] for checkpoint in trajectory["checkpoints"]]
    twice = sorted({step for step in steps if steps.count(step) > 1})
    if twice:
        raise ConfigError(f"{path}: checkpoints: steps {twice} are given twice")
    if name in plan.config["tokenize"]:
        raise ConfigError(f"{path}: the config's `tokenize` section also names `{name}`; rename one of them")
    for checkpoint in trajectory["checkpoints"]:
        for key, needs in (("tokens", "tokens_per_step"), ("learning_rate", "schedule"), ("phase", "schedule")):
            if key not in checkpoint and needs not in trajectory:
                raise ConfigError(
                    f"{path}: step {checkpoint['step']} has no `{key}` and the trajectory no `{needs}`; give one"
                )
        try:
            context = validate_model_folder(checkpoint["path"]).get("max_position_embeddings")
        except ValueError as error:
            raise ConfigError(f"{path}, step {checkpoint['step']}: {error}") from error
        _check_context(plan, context, f"{path}: {checkpoint['path']}")
