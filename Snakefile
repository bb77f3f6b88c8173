# trajquant: at which point of its training does a language model become hard to quantize, and why?
#   snakemake --profile workflow/profiles/local --configfile config/studies/demo.yaml   (one machine)
#   snakemake --profile slurm --configfile config/studies/demo.yaml                     (a cluster)
# What each stage does stands in workflow/README.md; every config key in config/README.md.


configfile: "config/default.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/corpus.smk"
include: "workflow/rules/tokenize.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/fetch_dataset.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/publish.smk"
include: "workflow/rules/average.smk"
include: "workflow/rules/quantize.smk"
include: "workflow/rules/evaluate_loss.smk"
include: "workflow/rules/evaluate_tasks.smk"
include: "workflow/rules/slice.smk"
include: "workflow/rules/describe_layers.smk"
include: "workflow/rules/tabulate.smk"
include: "workflow/rules/mechanism.smk"
include: "workflow/rules/laws.smk"
include: "workflow/rules/plot.smk"
include: "workflow/rules/report.smk"


container: SITE.get("container")


localrules:
    all,
    all_prefetched,
    all_checkpoints,
    all_quantized,
    all_evaluated,


rule all:
    default_target: True
    input:
        of_study(report_and_figures),


rule all_prefetched:
    input:
        of_study(prefetched),


rule all_checkpoints:
    input:
        of_study(checkpoint_manifests),


rule all_quantized:
    input:
        of_study(quantized_cells),


rule all_evaluated:
    input:
        of_study(evaluated_cells),


onstart:
    refuse_what_cannot_run()
    fix_claims()
    runs.claim("slurm" in workflow.executor_plugin.name)
    scheduler_repair.mend()
    if workflow.executor_plugin.name == "local" and USES_LOCAL_GPU:
        local_gpus.mend(local_gpus.Pool(local_gpus.names()))
    elif workflow.executor_plugin.name == "local" and (DEVICE == "cpu" or not shared_start.has_gpu()):
        heavy = [job for job in workflow.dag.needrun_jobs() if job.benchmark]  # they load models, or tokenize
        shared_start.mend(len(heavy), str(workflow.basedir))


onsuccess:
    shutil.rmtree(f"{RESULTS}/hidden", ignore_errors=True)
    runs.release()


onerror:
    runs.release()
