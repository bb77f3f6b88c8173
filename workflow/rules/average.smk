# average: checkpoints made from others; members are streamed.


rule average:
    input:
        manifests=members("manifest.json"),
        models=members("model"),
        code=closure("average"),
    output:
        model=directory(f"{CHECKPOINT}/model"),
        manifest=f"{CHECKPOINT}/manifest.json",
    log:
        f"{RESULTS}/logs/average/{{trajectory}}/{{checkpoint}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/average/{{trajectory}}/{{checkpoint}}.tsv"
    wildcard_constraints:
        trajectory=any_of(PLAN.by_source("average")),
    conda:
        ENV
    threads: THREADS
    params:
        circumstances=circumstances,
        threads=THREADS,
    script:
        "../../scripts/average.py"
