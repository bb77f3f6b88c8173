"""A published study: all that its tables are worked out from, small enough for a repository.

`pack` writes what `tabulate` reads of a study into a folder, and `unpack` makes `tabulate`'s arguments of it again, so
that tables, figures, verdicts and report follow from the folder alone, by the code that made them the first time.
Losses are summed by document, which is all that tables are made of; manifests are kept whole.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from scripts.lib.analysis.tables import CELL

FOLDER = Path("reports/published")
MOST_BYTES = 20_000_000  # of the whole folder
ABOUT, PLAN, CLAIMS = "about.json", "plan.json", "claims.jsonl"
MANIFESTS = "manifests.parquet"
MANIFEST_KINDS = ("checkpoints", "quantized")
MEASURED_KINDS = ("losses", "tasks", "slices")
MADE = (
    "benchmarks",
    "schedules",
    "training",
    "record",
    "repeat",
    *MANIFEST_KINDS,
    *MEASURED_KINDS,
)  # arguments with files here
COPIED = ("costs", "schedules", "training")  # tables that rest on nothing else in the folder
NO_SUMS = ("window",)  # numbers of a segment that say where it lies
ARROW = "ARROW:schema"  # metadata of the format, not of the measurement
ZSTD = {"compression": "zstd", "compression_level": 19}


def pack(folder: Path, arguments: dict, tables: dict[str, pl.DataFrame], lacking: list[dict]) -> None:
    """Write what the tables of a study are worked out from.

    Args:
        folder: an empty one.
        arguments: of `tabulate`, by name; of those that name files, all files are there.
        tables: that tabulate made of them.
        lacking: rows of the table `missing` that tabulate does not know: what was not measured yet.
    """
    plan = {name: value for name, value in arguments.items() if name not in MADE} | {"lacking": lacking}
    (folder / PLAN).write_text(json.dumps(plan, indent=1) + "\n")
    record = Path(arguments.get("record") or folder / "none")
    (folder / CLAIMS).write_text(record.read_text() if record.is_file() else "")
    rows = [{"kind": kind, "text": Path(path).read_text()} for kind in MANIFEST_KINDS for path in arguments[kind]]
    for kind in MEASURED_KINDS:
        paths = arguments.get(kind, [])
        rows += [{"kind": kind, "text": json.dumps(_metadata(path))} for path in paths]
        frames = [frame for path in paths if (frame := _measured(path)) is not None]
        if frames:
            pl.concat(frames).write_parquet(folder / f"{kind}.parquet", **ZSTD)
    pl.DataFrame(rows, {"kind": pl.String, "text": pl.String}).write_parquet(folder / MANIFESTS, **ZSTD)
    if arguments.get("repeat"):
        pl.read_parquet(arguments["repeat"]).write_parquet(folder / "repeat.parquet", **ZSTD)
    write_tables({name: tables[name] for name in COPIED}, folder / "tables")


def unpack(folder: Path, scratch: Path) -> dict:
    """The arguments of `tabulate` from a folder that `pack` wrote, by name, and `lacking`.

    Args:
        folder: the published study.
        scratch: where the files that tabulate reads are written.
    """
    arguments, texts = json.loads((folder / PLAN).read_text()), pl.read_parquet(folder / MANIFESTS)
    for kind in MANIFEST_KINDS:
        (scratch / kind).mkdir()
        found = texts.filter(kind=kind)["text"].to_list()
        arguments[kind] = [scratch / kind / f"{number}.json" for number in range(len(found))]
        for path, text in zip(arguments[kind], found, strict=True):
            path.write_text(text)
    for kind in MEASURED_KINDS:
        found = [json.loads(text) for text in texts.filter(kind=kind)["text"]]
        arguments[kind] = list(_write_measured(folder / f"{kind}.parquet", found, scratch / kind))
    repeat = folder / "repeat.parquet"
    return arguments | {
        "benchmarks": scratch / "benchmarks",  # none: costs are copied, and so are logs of training
        "training": [],
        "schedules": list(_curves(pl.read_parquet(folder / "tables/schedules.parquet"))),
        "record": folder / CLAIMS,
        "repeat": repeat if repeat.is_file() else None,
    }


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_tables(tables: dict[str, pl.DataFrame], folder: Path) -> None:
    """Write tables as parquet, as small as they get."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet", **ZSTD)


def changed_verdicts(before: pl.DataFrame, after: pl.DataFrame) -> list[str]:
    """What two tables `verdicts` of a study say differently, in words; numbers may differ by rounding."""
    keys, numbers = ("claim", "method", "measure", "dataset"), ("effect", "lower", "upper", "smallest")
    one, two = ({tuple(row[key] for key in keys): row for row in table.to_dicts()} for table in (before, after))
    told = [f"{' '.join(key)}: only {'before' if key in one else 'now'}" for key in sorted(one.keys() ^ two.keys())]
    for key in sorted(one.keys() & two.keys()):
        for name in ("verdict", "hash", "runs", *numbers):
            old, new = one[key][name], two[key][name]
            if not (_near(old, new) if name in numbers else old == new):
                told.append(f"{' '.join(key)}: {name} was {old}, is {new}")
    return told


def _near(one: float | None, two: float | None) -> bool:
    if one is None or two is None:
        return one is two
    return bool(np.isclose(one, two, rtol=1e-6, atol=1e-9))


def _metadata(path: Path | str) -> dict[str, str]:
    return {key: value for key, value in pl.read_parquet_metadata(path).items() if key != ARROW}


def _place(metadata: dict[str, str]) -> dict[str, str]:
    """What tells one result from another: its cell, and its corpus or suite."""
    dataset = metadata.get("corpus") or metadata["suite"]
    return {name: metadata[name] for name in CELL} | {"of": dataset}


def _measured(path: Path | str) -> pl.DataFrame | None:
    """The rows of one result with its place before them, segments summed by document; None if it has no rows."""
    frame, metadata = pl.read_parquet(path), _metadata(path)
    if frame.is_empty():
        return None
    frame = _by_document(frame) if set(NO_SUMS) <= set(frame.columns) else frame
    return frame.select(*(pl.lit(value).alias(name) for name, value in _place(metadata).items()), pl.all())


def _by_document(frame: pl.DataFrame) -> pl.DataFrame:
    """Sums of the segments of each document, added in the order of the file, as `measures.read_loss` adds them."""
    documents, codes = np.unique(frame["document"].to_numpy(), return_inverse=True)
    sums = {
        name: pl.Series(np.bincount(codes, frame[name].cast(pl.Float64), len(documents))).cast(kind)
        for name, kind in frame.schema.items()
        if kind.is_numeric() and name not in NO_SUMS
    }
    return pl.DataFrame({"document": documents} | sums)


def _write_measured(packed: Path, found: Iterable[dict[str, str]], folder: Path) -> Iterator[Path]:
    """Write the results of a kind as the stages write theirs, a file each; refused ones have no rows."""
    rows = pl.read_parquet(packed) if packed.is_file() else pl.DataFrame(schema=[*CELL, "of"])
    parts = rows.partition_by(*CELL, "of", as_dict=True, include_key=False)
    folder.mkdir(parents=True, exist_ok=True)
    for number, metadata in enumerate(found):
        path = folder / f"{number}.parquet"
        frame = parts.get(tuple(_place(metadata).values()), pl.DataFrame())
        frame.write_parquet(path, metadata=metadata)
        yield path


def _curves(schedules: pl.DataFrame) -> Iterator[dict]:
    """The learning rates of runs, as `tabulate` takes them."""
    for (name,), part in schedules.group_by("trajectory", maintain_order=True):
        columns = {"steps": "step", "tokens": "tokens", "learning_rate": "learning_rate"}
        yield {"trajectory": name} | {new: part[old].to_list() for new, old in columns.items()}
