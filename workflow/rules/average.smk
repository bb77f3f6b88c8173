# average: checkpoints made from others; members are streamed. Some schemes weigh them by calibration text.


def weighing(wildcards):
    return trajectory_of(wildcards).weighing(step_of(wildcards))


def weighing_text(wildcards):
    """Manifest and tokens of the text that decides the weights of an average's members; none if no text does."""
    settings = trajectory_of(wildcards).calibration
    return token_files(wildcards, settings["corpus"], "calibration", "manifest", "tokens") if settings else []


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
        calibration=lambda wildcards: trajectory_of(wildcards).calibration,
        run_seed=lambda wildcards: trajectory_of(wildcards).run_seed,
        code=fingerprint("average"),
    script:
        "../../scripts/average.py"
