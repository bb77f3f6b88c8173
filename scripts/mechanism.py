"""mechanism: what each penalty is made of, as tables, from the cells that were sliced."""

from scripts.lib.analysis.mechanism import mechanism_tables

if __name__ == "__main__":
    import polars as pl

    from scripts.lib.analysis.tables import write_csv
    from scripts.lib.runtime.logs import open_log

    open_log(snakemake.log[0], "mechanism")
    given = [pl.read_parquet(snakemake.input[name]) for name in ("checkpoints", "methods")]
    for name, rows in mechanism_tables(snakemake.wildcards.study, snakemake.input.get("slices", []), *given).items():
        rows.write_parquet(snakemake.output[f"{name}_parquet"])
        write_csv(rows, snakemake.output[f"{name}_csv"])
