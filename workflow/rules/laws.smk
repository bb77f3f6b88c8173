# laws: laws of loss and penalty, fitted to a study's tables and scored on what they did not see.


localrules:
    laws,


rule laws:
    input:
        measurements=f"{PATHS.tables()}/measurements.parquet",
        methods=f"{PATHS.tables()}/methods.parquet",
        checkpoints=f"{PATHS.tables()}/checkpoints.parquet",
        schedules=f"{PATHS.tables()}/schedules.parquet",
        runs=f"{PATHS.tables()}/runs.parquet",
        noise=f"{PATHS.tables()}/noise.parquet",
    output:
        **table_files(["laws"]),
    log:
        f"{PATHS.logs('laws')}/{{study}}.log",
    conda:
        ENV
    params:
        confidence=config["tabulate"]["confidence"],
        code=fingerprint("laws"),
    script:
        "../../scripts/laws.py"
