"""Checks that concern a study's whole config."""

from pathlib import Path

from scripts.lib.runtime.config_files import ConfigError, read_yaml, require_name


def require_split(name: str, split: str, config: dict, where: str) -> None:
    """Raise ConfigError unless the config has a corpus of this name, with documents in this split."""
    require_name(name, config["corpus"], "corpus", where)
    shares = config["corpus"][name]["fractions"]
    if not (1 - sum(shares.values()) if split == "train" else shares[split]) > 0:
        raise ConfigError(f"{where}: corpus `{name}` has no {split} documents; its `fractions` leave none for them")


def require_study(config: dict, folder: Path | str) -> None:
    """Raise ConfigError with the list of studies if the config names none."""
    if "study" not in config:
        studies = ", ".join(sorted(p.stem for p in Path(folder).glob("*.yaml")))
        raise ConfigError(f"no study is named: add --configfile {folder}/NAME.yaml, where NAME is one of: {studies}")


def require_one_study(files, arguments=()) -> None:
    """Refuse more than one study, of which Snakemake would run the last or a mixture.

    Args:
        files: all config files that are merged.
        arguments: of Snakemake's command line.

    Raises:
        ConfigError: two files have a section `study`, or there are two options `--configfile`.
    """
    times = sum(argument.partition("=")[0] in ("--configfile", "--configfiles") for argument in arguments)
    if times > 1:
        raise ConfigError(f"--configfile is given {times} times: only the last counts; give it once")
    found = list(dict.fromkeys(Path(file).resolve() for file in files))
    found = [str(file) for file in found if "study" in read_yaml(file)]
    if len(found) > 1:
        raise ConfigError(f"more than one study is given: {', '.join(found)}; run them one after another")
