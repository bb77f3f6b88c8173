# average: checkpoints made from others; members are streamed.


rule average:
    input:
        manifests=members("manifest.json"),
        models=members("model"),
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
        identity=identity,
        threads=THREADS,
        code=fingerprint("average"),
    script:
        "../../scripts/average.py"
