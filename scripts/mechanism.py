"""mechanism: what each penalty is made of, as tables, from the cells that were sliced, and their layers' statistics."""

from scripts.lib.analysis.mechanism import layers_table, mechanism_tables

if __name__ == "__main__":
    import polars as pl

    from scripts.lib.analysis.tables import write_csv
    from scripts.lib.runtime.logs import open_log

    open_log(snakemake.log[0], "mechanism")
    study = snakemake.wildcards.study
    slices, layers = (snakemake.input.get(name, []) for name in ("slices", "layers"))
    checkpoints, methods = (pl.read_parquet(snakemake.input[name]) for name in ("checkpoints", "methods"))
    tables = mechanism_tables(study, slices, checkpoints, methods)
    for name, rows in (tables | {"layers": layers_table(study, layers, checkpoints)}).items():
        rows.write_parquet(snakemake.output[f"{name}_parquet"])
        write_csv(rows, snakemake.output[f"{name}_csv"])
