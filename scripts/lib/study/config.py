"""Checks that concern a study's whole config, and the corpora and tokenizers that it names."""

import argparse
import sys
from pathlib import Path

from scripts.lib.runtime.config_files import ConfigError, load_named, read_yaml

MOVED = {"corpus": "corpora", "tokenize": "tokenizers"}  # sections of old, by the folder of the files in their place


def add_corpus(plan, name: str, split: str, where: str) -> None:
    """Read a corpus into a plan, unless it is there, because one of its splits is used.

    Args:
        plan: the `Plan`; its `corpora` grow.
        where: what names the corpus, for error messages.

    Raises:
        ConfigError: there is no such corpus, it does not fit its schema, or it has no documents in this split.
    """
    _add(plan.corpora, plan.folder / "corpora", "corpus", name, where)
    if not share(plan.corpora[name], split) > 0:
        raise ConfigError(f"{where}: corpus `{name}` has no {split} documents; its `fractions` leave none for them")


def share(corpus: dict, split: str) -> float:
    """Share of a corpus's documents that a split gets; what rounding leaves of 1 is none."""
    shares = corpus["fractions"]
    return round(1 - sum(shares.values()), 9) if split == "train" else shares[split]


def add_tokenizer(plan, name: str, where: str) -> None:
    """Read a tokenizer into a plan, unless it is there, and the corpus that it is trained on.

    Args:
        plan: the `Plan`; its `tokenizers` and `corpora` grow.
        where: what names the tokenizer, for error messages.

    Raises:
        ConfigError: there is no such tokenizer, it does not fit its schema, or its corpus has no text to train on.
    """
    folder = plan.folder / "tokenizers"
    _add(plan.tokenizers, folder, "tokenizer", name, where)
    if "corpus" in plan.tokenizers[name]:
        add_corpus(plan, plan.tokenizers[name]["corpus"], "train", f"{folder}/{name}.yaml, corpus")


def _add(known: dict[str, dict], folder: Path, kind: str, name: str, where: str) -> None:
    if name not in known:
        try:
            known[name] = load_named(folder, kind, name)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def refuse_moved_sections(config: dict, folder: Path | str) -> None:
    """Raise ConfigError that says where corpora and tokenizers belong if the config has a section of them."""
    lines = []
    for section, place in MOVED.items():
        names = config[section] if isinstance(config.get(section), dict) else ["NAME"]
        files = ", ".join(f"{folder}/{place}/{name}.yaml" for name in names)
        lines += [f"config: there is no section `{section}`: write it to {files}"] if section in config else []
    if lines:
        raise ConfigError("\n".join(lines))


def require_study(config: dict, folder: Path | str) -> None:
    """Raise ConfigError with the list of studies if the config names none."""
    if "study" not in config:
        studies = ", ".join(sorted(p.stem for p in Path(folder).glob("*.yaml")))
        raise ConfigError(f"no study is named: add --configfile {folder}/NAME.yaml, where NAME is one of: {studies}")


def require_readable(arguments: list[str]) -> None:
    """End the process with one message if a config file of Snakemake's command line cannot be read as data.

    The profiles call it: before Snakemake reads the Snakefile it reads these files, where it evaluates `__use_yte__`,
    ends in a traceback if one is missing, and does not say in which file a mistake is.

    Args:
        arguments: of Snakemake's command line.
    """
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--configfile", "--configfiles", nargs="+", action="extend", default=[])
    for file in known.parse_known_args(arguments)[0].configfile:
        try:
            read_yaml(file)
        except ConfigError as error:
            sys.exit(str(error))


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
