# publish: kept steps of controlled runs, and users' own folders, become checkpoints by hard link.


rule publish:
    input:
        lineage=own_lineage,
        run=own_link,
        code=closure("publish"),
    output:
        model=directory(f"{CHECKPOINT}/model"),
        manifest=f"{CHECKPOINT}/manifest.json",
    log:
        f"{RESULTS}/logs/publish/{{trajectory}}/{{checkpoint}}.log",
    wildcard_constraints:
        trajectory=any_of(PLAN.by_source("train")),
    conda:
        ENV
    params:
        circumstances=circumstances,
    script:
        "../../scripts/publish.py"


rule publish_local:
    input:
        weights=local_weights,
        code=closure("publish"),
    output:
        model=directory(f"{CHECKPOINT}/model"),
        manifest=f"{CHECKPOINT}/manifest.json",
    log:
        f"{RESULTS}/logs/publish_local/{{trajectory}}/{{checkpoint}}.log",
    wildcard_constraints:
        trajectory=any_of(PLAN.by_source("local")),
    conda:
        ENV
    params:
        path=local_folder,
        circumstances=circumstances,
    script:
        "../../scripts/publish.py"
