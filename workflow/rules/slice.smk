# slice: losses of one cell along the way from its checkpoint's weights to the quantized ones, on part of the windows.


rule slice:
    input:
        manifest=cell_file("manifest.json"),
        weights=cell_file("model"),
        baseline_manifest=baseline_file("manifest.json"),
        baseline=baseline_file("model"),
        validation=validation_tokens,
    output:
        PATHS.slice(),
    log:
        f"{PATHS.logs('slice')}/{{trajectory}}/{{checkpoint}}/{{method}}/{{corpus}}.log",
    benchmark:
        f"{PATHS.benchmarks('slice')}/{{trajectory}}/{{checkpoint}}/{{method}}/{{corpus}}.tsv"
    wildcard_constraints:
        method=any_of(PLAN.recipes),
    conda:
        ENV
    threads: THREADS
    resources:
        **asks("slice", gpus=1),
    params:
        **MACHINE,
        **config["slice"],
        window=config["evaluate_loss"]["window"],
        evaluated=config["evaluate_loss"]["windows"],
        batch_size=config["evaluate_loss"]["batch_size"],
        code=fingerprint("slice"),
    script:
        "../../scripts/slice.py"
