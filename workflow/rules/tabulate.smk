# tabulate: everything that was measured for a study, as tables.


rule tabulate:
    input:
        checkpoints=checkpoint_manifests(),
        quantized=quantized_manifests(PLAN.cells),
        losses=loss_tables(PLAN.cells),
        tasks=task_tables(PLAN.cells),
        slices=slice_tables(PLAN.cells),
        repeat=REPEAT or [],
    output:
        **table_files(tables.TABLES),
    log:
        f"{PATHS.logs('tabulate')}/{{study}}.log",
    conda:
        ENV
    resources:
        **asks("tabulate"),
    params:
        study="{study}",
        runs=coordinates.runs(PLAN),
        circumstances=PLAN.circumstances(),
        schedules=PLAN.schedules(),
        training=PLAN.training_logs(),
        refused=PLAN.refused_cells(),
        neighbours=PLAN.neighbours,
        no_repeat=NO_REPEAT,
        claims=PLAN.claims,
        lineage=PLAN.lineage() if PLAN.claims else [],
        record=PATHS.claims(STUDY),
        benchmarks=f"{RESULTS}/benchmarks",
        confidence=config["tabulate"]["confidence"],
        code=fingerprint("tabulate"),
    script:
        "../../scripts/tabulate.py"
