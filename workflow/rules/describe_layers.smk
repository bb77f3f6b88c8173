# describe_layers: what the weights and inputs of a checkpoint's layers look like, where its cells are sliced.


rule describe_layers:
    input:
        manifest=f"{CHECKPOINT}/manifest.json",
        weights=ancient(f"{CHECKPOINT}/model"),
        validation=validation_tokens,
    output:
        PATHS.layers(),
    log:
        f"{PATHS.logs('describe_layers')}/{{trajectory}}/{{checkpoint}}/none/{{corpus}}.log",
    benchmark:
        f"{PATHS.benchmarks('describe_layers')}/{{trajectory}}/{{checkpoint}}/{{corpus}}.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **asks("describe_layers", gpus=1),
    params:
        **MACHINE,
        windows=config["slice"]["windows"],
        window=config["evaluate_loss"]["window"],
        evaluated=config["evaluate_loss"]["windows"],
        batch_size=config["evaluate_loss"]["batch_size"],
        code=fingerprint("describe_layers"),
    script:
        "../../scripts/describe_layers.py"
