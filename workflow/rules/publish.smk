# publish: kept steps of controlled runs, and users' own folders, become checkpoints by hard link.


rule publish:
    input:
        lineage=own_lineage,
        run=own_link,
    output:
        model=directory(f"{CHECKPOINT}/model"),
        manifest=f"{CHECKPOINT}/manifest.json",
    log:
        f"{PATHS.logs('publish')}/{{trajectory}}/{{checkpoint}}.log",
    wildcard_constraints:
        trajectory=any_of(PLAN.by_source("train")),
    conda:
        ENV
    resources:
        **asks("publish"),
    params:
        identity=identity,
        code=fingerprint("publish"),
    script:
        "../../scripts/publish.py"


rule publish_local:
    input:
        weights=local_weights,
    output:
        model=directory(f"{CHECKPOINT}/model"),
        manifest=f"{CHECKPOINT}/manifest.json",
    log:
        f"{PATHS.logs('publish_local')}/{{trajectory}}/{{checkpoint}}.log",
    wildcard_constraints:
        trajectory=any_of(PLAN.by_source("local")),
    conda:
        ENV
    resources:
        **asks("publish"),
    params:
        path=local_folder,
        identity=identity,
        code=fingerprint("publish"),
    script:
        "../../scripts/publish.py"
