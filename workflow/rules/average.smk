# average: checkpoints made from others; members are streamed. Some schemes weigh them by calibration text.


rule average:
    input:
        manifests=members("manifest.json"),
        models=members("model"),
        calibration=weighing_text,
    output:
        model=directory(f"{CHECKPOINT}/model"),
        manifest=f"{CHECKPOINT}/manifest.json",
    log:
        f"{PATHS.logs('average')}/{{trajectory}}/{{checkpoint}}.log",
    benchmark:
        f"{PATHS.benchmarks('average')}/{{trajectory}}/{{checkpoint}}.tsv"
    wildcard_constraints:
        trajectory=any_of(PLAN.by_source("average")),
    conda:
        ENV
    threads: THREADS
    resources:
        **asks("average"),
    params:
        **MACHINE,
        identity=identity,
        weighing=weighing,
        calibration=weighed_by,
        run_seed=own_seed,
        code=fingerprint("average"),
    script:
        "../../scripts/average.py"
