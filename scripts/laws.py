"""laws: laws of loss and penalty fitted to a study's tables, and scored on what they did not see."""

from pathlib import Path

import polars as pl

from scripts.lib.analysis.laws.table import laws_table

if __name__ == "__main__":
    from scripts.lib.analysis.tables import write_csv
    from scripts.lib.runtime.logs import open_log

    open_log(snakemake.log[0], "laws")
    tables = {name: pl.read_parquet(path) for name, path in snakemake.input.items()}
    found = laws_table(snakemake.wildcards.study, tables, snakemake.params.confidence)
    found.write_parquet(Path(snakemake.output.laws_parquet))
    write_csv(found, snakemake.output.laws_csv)
