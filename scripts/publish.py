"""publish: a finished model folder becomes a checkpoint, by hard link, with a manifest that says what it is."""

from pathlib import Path

from scripts.lib.models import taking
from scripts.lib.models.folders import count_parameters, validate_model_folder, weight_files
from scripts.lib.runtime import manifests
from scripts.lib.runtime.logs import open_log
from scripts.lib.runtime.untrusted import one_line, read_json

LONGEST_WORD = 100  # characters of the name of a class


def publish(source: Path, out: Path, identity: dict) -> dict:
    """Link a model folder to its place among the checkpoints and return its manifest.

    Args:
        source: model folder: a step kept by a run, or a user's own.
        out: the checkpoint's model folder; whole or absent.
        identity: trajectory, checkpoint, source. Its place in the training is no part of the manifest, so that a rate
            that is corrected later makes tables again, and no weights.

    Raises:
        ValueError: the folder is no whole model folder, or files are links that lead out of it.
    """
    validate_model_folder(source)
    names = [*taking.BESIDE_WEIGHTS, *(path.name for path in weight_files(source))]
    with manifests.staged_folder(out) as scratch:
        taking.link(Path(source), names, scratch)
        taking.clean(scratch)
    return describe(out, identity)


def refuse(out: Path, identity: dict, reason: str) -> dict:
    """Make an empty model folder in place of a checkpoint that cannot be, and return its manifest."""
    with manifests.staged_folder(out):
        pass
    refused = {"kind": "checkpoint", "status": "refused", "reason": reason, **identity, "revision": ""}
    return refused | {"files": {}, "versions": manifests.versions()}


def publish_kept(run: Path, out: Path, identity: dict) -> dict:
    """Publish a step that a link of a controlled run kept; refuse it if the run had diverged before."""
    source, marker = run / identity["checkpoint"], run / "refused.json"
    if marker.is_file() and not source.is_dir():
        return refuse(out, identity, manifests.read(marker)["reason"])
    return publish(source, out, identity)


def publish_own(source: Path, out: Path, identity: dict) -> dict:
    """Publish a user's own folder; refuse it if it is no model that loads, or its tokenizer takes too much."""
    from scripts.lib.models.loadable import require_loadable  # with transformers, which runs of our own do not need
    from scripts.tokenizer import try_out

    try:
        manifest = publish(source, out, identity)
        try_out(out)
        require_loadable(out)
    except ValueError as error:
        reason = one_line(str(error).replace(str(out), str(source)))
        return refuse(out, identity, f"{reason} (mend the folder, or take it out of the trajectory)")
    return manifest


def describe(folder: Path, identity: dict) -> dict:
    """The manifest of a checkpoint: which it is, then what can be read off its folder."""
    config = read_json(folder / "config.json")
    classes = config.get("architectures")
    dtype = config.get("dtype") or config.get("torch_dtype")
    files = manifests.describe_files(folder)
    return {
        "kind": "checkpoint",
        "status": "ok",
        **identity,
        "architecture": word(classes[0]) if classes and isinstance(classes, list) else None,
        "parameters": count_parameters(folder),
        "bytes": sum(entry["bytes"] for entry in files.values()),
        "dtype": word(dtype),
        "revision": manifests.weights_hash(files),
        "files": files,
        "versions": manifests.versions(),
    }


def word(value: object) -> str | None:
    """A text of a config that anybody may have written, for a manifest; None where it is no text."""
    return one_line(value, LONGEST_WORD) if isinstance(value, str) else None


if __name__ == "__main__":
    open_log(snakemake.log[0], f"publish {snakemake.wildcards.trajectory} {snakemake.wildcards.checkpoint}")
    out, identity = Path(snakemake.output.model), snakemake.params.identity
    path = snakemake.params.get("path")
    manifest = (
        publish_own(Path(path), out, identity) if path else publish_kept(Path(snakemake.input.run), out, identity)
    )
    manifests.write(snakemake.output.manifest, manifest)
