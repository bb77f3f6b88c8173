# fetch_dataset: data of lm-eval's own tasks, from a hub; where Snakemake was started, for it has a network.
# gather_datasets: one file that stands for all of a suite's, and for the prompts that lm-eval makes of them.


localrules:
    fetch_dataset,
    gather_datasets,


rule fetch_dataset:
    output:
        data=f"{DATASET}/0000.parquet",
        manifest=f"{DATASET}/manifest.json",
    log:
        f"{PATHS.logs('fetch_dataset')}/{{dataset}}/{{configuration}}/{{part}}.log",
    wildcard_constraints:
        dataset="[^/]+",
        configuration="[^/]+",
        part="[^/]+",
    conda:
        ENV
    resources:
        downloads=1,
    params:
        locked=locked_dataset,
        state=f"{PATHS.state()}/fetch_dataset/{{dataset}}/{{configuration}}/{{part}}",
        code=fingerprint("fetch_dataset"),
    script:
        "../../scripts/fetch_dataset.py"


rule gather_datasets:
    input:
        manifests=suite_data("manifest.json"),
        data=suite_data("0000.parquet"),
    output:
        PATHS.suite_data(),
    log:
        f"{PATHS.logs('gather_datasets')}/{{suite}}.log",
    conda:
        ENV
    params:
        prompts=suite_prompts,
        code=fingerprint("gather_datasets"),
    script:
        "../../scripts/gather_datasets.py"
