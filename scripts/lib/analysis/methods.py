"""What the manifests say of the methods of a study, and of the versions that made its models."""

import statistics
from collections import defaultdict
from collections.abc import Iterable

import polars as pl

from scripts.lib.analysis.tables import METHODS, VERSIONS, table


def methods_table(recipes: Iterable[dict]) -> pl.DataFrame:
    """One row a method: its recipe, and weight errors over its cells (mean, lowest, highest).

    Args:
        recipes: manifests of quantized cells; refused ones are left out.
    """
    groups = defaultdict(list)
    for recipe in recipes:
        if recipe["status"] == "ok":
            groups[recipe["method"]].append(recipe)
    return table([_row(cells) for cells in groups.values()], METHODS, ("method",))


def _row(cells: list[dict]) -> dict:
    first, errors = cells[0], [cell["weight_error"] for cell in cells]
    return {
        **{name: first[name] for name in ("method", "algorithm", "library", "bits", "group_size", "symmetric")},
        "recipe": first["recipe_name"],
        "draw": first["draw"],
        "transform": first.get("recipe", {}).get("transform", {}).get("algorithm"),
        "package_version": first["versions"].get(first.get("package")),  # None for this project's own code
        "bits_per_weight": statistics.fmean(cell["bits_per_weight"] for cell in cells),
        "weight_error": statistics.fmean(errors),
        "weight_error_lowest": min(errors),
        "weight_error_highest": max(errors),
        "calibration": _settings(first["calibration"]),
        "cells": len(cells),
    }


def _settings(values: dict | None) -> str | None:
    """Calibration in words, without hashes: "corpus docstrings, samples 128"; None without any."""
    shown = {
        key: value
        for key, value in (values or {}).items()
        if isinstance(value, (str, int, float)) and len(str(value)) < 30
    }
    return ", ".join(f"{key} {value}" for key, value in shown.items()) or None


def versions_table(manifests: Iterable[dict]) -> pl.DataFrame:
    """One row a package that made checkpoints or quantized models; several versions are joined by commas."""
    found = defaultdict(set)
    for manifest in manifests:
        for package, version in manifest["versions"].items():
            found[package].add(version)
    rows = [
        {"package": package, "version": ", ".join(sorted(versions)), "used_for": "models"}
        for package, versions in found.items()
    ]
    return table(rows, VERSIONS, ("package",))
