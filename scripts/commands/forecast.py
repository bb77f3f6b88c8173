"""make forecast STUDY=X DECAY=N: what a planned cooldown of each trunk would end at, from a finished study's tables.

DECAY is the cooldown's length in steps, from each trunk's last measured checkpoint, or START:END.
"""

import re
import sys
from pathlib import Path

import polars as pl

from scripts.lib.analysis.laws.forecasting import Decay, Forecast, forecast
from scripts.lib.report.numbers import with_interval
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.runtime.text import aligned
from scripts.lib.study.plan import Plan, load_plan

TABLES = ("measurements", "methods", "checkpoints", "schedules", "runs", "noise")


def planned(text: str) -> Decay:
    """A cooldown as the user writes it: a length in steps, or START:END.

    Raises:
        ConfigError: it is neither, or does not end after it starts.
    """
    match = re.fullmatch(r"(?:(\d+):)?(\d+)", text)
    if match is None:
        raise ConfigError(f"DECAY={text}: give a length in steps (DECAY=200) or where it starts and ends (2200:2400)")
    start, number = match[1] and int(match[1]), int(match[2])
    length = number - (start or 0)
    if length <= 0:
        raise ConfigError(f"DECAY={text}: a cooldown must end after it starts")
    return Decay(start, length)


def tables_of(plan: Plan) -> dict[str, pl.DataFrame]:
    """The tables of a study that forecasts rest on.

    Raises:
        ConfigError: they are not made yet.
    """
    name = plan.config["study"]["name"]
    paths = {table: Path(plan.paths.tables(name), f"{table}.parquet") for table in TABLES}
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        raise ConfigError(f"study `{name}`: there is no {missing[0]}; run the study first, a forecast needs its tables")
    return {table: pl.read_parquet(path) for table, path in paths.items()}


def describe(found: list[Forecast], notes: list[str]) -> str:
    """Forecasts as aligned columns, for people, and what to know about them."""
    lines = []
    several = len({one.dataset for one in found}) > 1
    if found:
        rows = [("trunk", "end", "method", "quantity", "nats a token", "off by", "no change", "law")]
        rows += [_row(one, several) for one in found]
        runs, cooldowns = (max(getattr(one, name) for one in found) for name in ("runs", "cooldowns"))
        lines = [
            *aligned(rows, "<><<<>><"),
            "",
            f"off by: on the ends of {cooldowns} cooldowns of {runs} runs, each left out of the fit",
            "no change: what 'same as the last checkpoint' was off by on them",
        ]
        lines += [f"{quantity}: no better on them than {', '.join(ties)}" for quantity, ties in _ties(found).items()]
    return "\n".join([*lines, *(f"note: {note}" for note in dict.fromkeys(notes))])


def _row(one: Forecast, several: bool) -> tuple[str, ...]:
    value = with_interval(one.value, one.lower, one.upper).replace("\u00a0", " ")
    errors = (f"{100 * error:.2g} %" for error in (one.error, one.last_error))
    quantity = f"{one.quantity} on {one.dataset}" if several else one.quantity
    return (one.trunk, f"{one.end}", one.recipe or "none", quantity, value, *errors, one.laws)


def _ties(found: list[Forecast]) -> dict[str, tuple[str, ...]]:
    """What did as well on cooldowns left out, by quantity and law."""
    return {f"{one.quantity} by {one.laws}": one.ties for one in found if one.ties}


def main() -> None:
    """Print the forecasts of a study."""
    try:
        given = next(iter(sys.argv[1:]), "")
        decay, plan = planned(given), load_plan(*sys.argv[2:])
        found, notes = forecast(tables_of(plan), decay, plan.config["tabulate"]["confidence"])
    except ConfigError as error:
        sys.exit(f"forecast: {error}")
    told = describe(found, notes)
    if not found:
        sys.exit(f"forecast: this study cannot forecast a cooldown\n{told}")
    print(told)


if __name__ == "__main__":
    main()
