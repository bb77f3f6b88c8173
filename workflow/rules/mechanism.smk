# mechanism: what each penalty is made of, from the cells that were sliced; empty tables where none were.


localrules:
    mechanism,


rule mechanism:
    input:
        slices=slice_tables(PLAN.cells),
        layers=layer_tables(PLAN.cells),
        checkpoints=f"{PATHS.tables()}/checkpoints.parquet",
        methods=f"{PATHS.tables()}/methods.parquet",
    output:
        **table_files(["mechanism", "mechanism_parts", "layers"]),
    log:
        f"{PATHS.logs('mechanism')}/{{study}}.log",
    conda:
        ENV
    params:
        code=fingerprint("mechanism"),
    script:
        "../../scripts/mechanism.py"
