# Helpers of the rules: paths, wildcards, and what each rule asks of the plan.
# The plan itself, with all checks of what the user wrote, is scripts/lib/study/plan.py.

import gc
import os
import re
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

sys.path.insert(0, str(workflow.basedir))

from scripts.lib.analysis import comparisons, places, tables
from scripts.lib.cluster import dag_repair, disk, local_gpus, runs, scheduler_repair, shared_start
from scripts.lib.hub import locks
from scripts.lib.runtime.config_files import ConfigError, ordered
from scripts.lib.models.folders import weight_files
from scripts.lib.report.contents import FIGURES
from scripts.lib.runtime.fingerprints import fingerprint
from scripts.lib.study import claims, coordinates
from scripts.lib.study.config import require_one_study, require_study
from scripts.lib.study.plan import BASELINE, Plan, make_plan
from scripts.lib.study.preflight import describe_refused, require_clone, require_folders, require_sources
from scripts.lib.study.recipes import tool_state
from scripts.lib.study.replicates import repeat
from scripts.lib.study.scales import scaled

dag_repair.mend()
gc.set_threshold(1_000_000, 50, 100)  # a plan of 12,000 jobs is millions of objects that stay: 13 % of the time
if workflow.remote_exec:  # a job on a cluster's node: all it needs is on disk
    os.environ.update(shared_start.OFFLINE)
elif workflow.is_main_process and (head := runs.holder()) and runs.is_alive(head) is not False:
    logger.warning(f"A run holds this folder: {runs.describe(head)}. While it goes on, only look (-n --nolock).")

try:
    config.update(ordered(scaled(config)))
    require_clone(workflow.basedir)
    if workflow.is_main_process:
        require_one_study(workflow.configfiles, sys.argv)
    PLAN = make_plan(config) if "study" in config else Plan(config)  # the linter reads the workflow without a study
    WAITS_FOR = disk.waits_for(PLAN)
    if workflow.is_main_process:
        require_sources(PLAN)
        require_folders(PLAN)
except ConfigError as error:
    raise WorkflowError(str(error)) from None
if workflow.is_main_process:
    for line in describe_refused(PLAN):
        logger.warning(line)
    if any(family.axes for family in PLAN.families.values()):
        logger.info("\n".join(coordinates.describe(PLAN)))
    FOUND = places.places(PLAN.circumstances(), PLAN.lineage()) if PLAN.claims else []
    for name, claim in PLAN.claims.items():
        logger.info(comparisons.in_short(name, comparisons.select(claim["compare"], FOUND)))

PATHS = PLAN.paths
RESOURCES = config["folders"]["resources"]
RESULTS = config["folders"]["results"]
STUDY, TITLE = (config.get("study", {}).get(key, "no-study") for key in ("name", "title"))
THREADS = config["compute"]["threads"]
DEVICE = config["compute"]["device"]
USES_LOCAL_GPU = DEVICE != "cpu" and bool(local_gpus.names())
MACHINE = {"threads": THREADS, "device": DEVICE}
QUANTIZING = MACHINE | {"dtype": config["compute"]["dtype"], "probe": config["quantize"]["probe"]}
ENV = "../../envs/trajquant.yaml"
REPEAT, NO_REPEAT = repeat(PLAN) if "study" in config else (None, None)
TABLES = []  # names; `table_files` adds those of each stage, and the report takes all

CHECKPOINT, QUANTIZED, EVALUATED = PATHS.checkpoint(), PATHS.quantized(), PATHS.evaluated()
LINK, TOKENS, DATASET = PATHS.link(), PATHS.tokens(), PATHS.dataset()


def any_of(names):
    """A wildcard constraint that matches just these names; nothing, if there are none."""
    return "|".join(map(re.escape, sorted(names))) or "(?!)"


def fetched_tokenizers():
    """Names of the tokenizers that come from a hub."""
    return {PLAN.trajectories[name].tokenizer for name in PLAN.by_source("hub")}


wildcard_constraints:
    trajectory=any_of(PLAN.trajectories),
    checkpoint=r"step-\d+",
    link=r"from-\d+",
    method=any_of([BASELINE, *PLAN.recipes]),
    corpus=any_of(PLAN.corpora),
    tokenizer=any_of([*PLAN.tokenizers, *PLAN.by_source("local"), *fetched_tokenizers()]),
    split="train|validation|calibration",
    suite=any_of(PLAN.suites),
    study=any_of([STUDY]),
    figure=any_of(FIGURES),


def step_of(wildcards):
    return int(wildcards.checkpoint.removeprefix("step-"))


def trajectory_of(wildcards):
    return PLAN.trajectories[wildcards.trajectory]


def weighing(wildcards):
    return trajectory_of(wildcards).weighing(step_of(wildcards))


def weighed_by(wildcards):
    """Settings of the text that decides the weights of an average's members; None if no text does."""
    return trajectory_of(wildcards).calibration


def weighing_text(wildcards):
    """Manifest and tokens of that text; none if there is none."""
    settings = weighed_by(wildcards)
    return token_files(wildcards, settings["corpus"], "calibration", "manifest", "tokens") if settings else []


def own_seed(wildcards):
    return trajectory_of(wildcards).run_seed


def of_checkpoint(name, trajectory, step):
    return f"{PATHS.checkpoint(trajectory, f'step-{step}')}/{name}"


def tokens_file(kind, tokenizer, corpus, split):
    """A file of a tokenized split: the manifest, which triggers, or what is heavy, which does not."""
    ending = {"manifest": ".json", "tokens": ".npy", "documents": "-documents.parquet"}[kind]
    path = f"{PATHS.tokens(tokenizer, corpus, split)}{ending}"
    return path if kind == "manifest" else ancient(path)


def identity(wildcards):
    """Which checkpoint a manifest is of."""
    source = trajectory_of(wildcards).source
    return {"trajectory": wildcards.trajectory, "checkpoint": wildcards.checkpoint, "source": source}


# --- what a study asks for ---------------------------------------------------------------------------------------------


def of_study(targets):
    """Input function: what a function says that the study asks for; an error that lists the studies if none is named."""

    def paths(wildcards):
        try:
            require_study(config, "config/studies")
        except ConfigError as error:
            raise WorkflowError(str(error)) from None
        return targets()

    return paths


def fix_claims():
    """Write down what the study's claims say before its first job; what changes later is written below it."""
    measured = sum(map(os.path.isfile, loss_tables(PLAN.cells)))
    claims.fix(PLAN.claims, Path(PATHS.claims(STUDY)), measured)


def checkpoint_manifests():
    return [of_checkpoint("manifest.json", *point) for point in PLAN.checkpoints]


def quantized_manifests(cells):
    return [f"{PATHS.quantized(*cell.names)}/manifest.json" for cell in cells if cell.method != BASELINE]


def quantized_cells():
    return quantized_manifests(PLAN.cells)


def evaluated_cells():
    cells = PLAN.cells
    return loss_tables(cells) + task_tables(cells) + slice_tables(cells) + layer_tables(cells)


def report_and_figures():
    return [PATHS.report(STUDY), *(f"{PATHS.figures(STUDY)}/{figure}.svg" for figure in FIGURES)]


def loss_tables(cells):
    return measured_by("evaluate_loss", cells)


def task_tables(cells):
    return measured_by("evaluate_tasks", cells)


def slice_tables(cells):
    return measured_by("slice", cells)


def layer_tables(cells):
    return measured_by("describe_layers", cells)


def measured_by(stage, cells):
    return [table for cell in cells for measuring, _, table in PLAN.evaluations(cell) if measuring == stage]


# --- controlled runs ---------------------------------------------------------------------------------------------------


def run_of(wildcards):
    """What shapes the weights of a controlled run, without what it keeps."""
    return trajectory_of(wildcards).shaping


def link_of(wildcards):
    return trajectory_of(wildcards).links[wildcards.link]


def link_start(wildcards):
    return link_of(wildcards)["start"]


def link_span(wildcards):
    """From where to where a link trains, and what it keeps."""
    return {key: value for key, value in link_of(wildcards).items() if key != "parent"}


def once_made(output, link):
    """A link's folder as an input of something made from it.

    Only the lineage triggers what is already made, so that keeping one more step of a finished link leaves all other
    checkpoints alone (the link is trained again, to the same weights). What is not made yet has to wait for the link,
    and so has everything if the user forces `train`.
    """
    made = os.path.exists(output) and "train" not in workflow.dag_settings.forcerun
    return ancient(link) if made else link


def parent_link(wildcards):
    parent = link_of(wildcards)["parent"]
    return once_made(LINK.format(**wildcards), PATHS.link(*parent)) if parent else []


def parent_lineage(wildcards):
    parent = link_of(wildcards)["parent"]
    return f"{PATHS.link(*parent)}.json" if parent else []


def own_link(wildcards):
    link = trajectory_of(wildcards).link_of(step_of(wildcards))
    return once_made(CHECKPOINT.format(**wildcards), PATHS.link(wildcards.trajectory, link))


def own_lineage(wildcards):
    link = trajectory_of(wildcards).link_of(step_of(wildcards))
    return f"{PATHS.link(wildcards.trajectory, link)}.json"


def training_tokens(kind):
    """Input function: a file of a run's training tokens."""

    def path(wildcards):
        run = trajectory_of(wildcards)
        return tokens_file(kind, run.tokenizer, run.corpus, "train")

    return path


def tokenizer_of(wildcards):
    """The tokenizer of a trajectory."""
    return ancient(f"{PATHS.tokenizer(trajectory_of(wildcards).tokenizer)}/tokenizer")


# --- cells -------------------------------------------------------------------------------------------------------------


def quantizer_code(wildcards):
    recipe = PLAN.recipes[wildcards.method]
    parts = [recipe["library"], *(["transforms"] if "transform" in recipe else [])]
    return fingerprint("quantize", *(f"quantizers/{part}" for part in parts)) | tool_state(recipe["library"])


def recipe_file(wildcards):
    return f"config/recipes/{PLAN.methods[wildcards.method].recipe}.yaml"


def drawn_text(wildcards):
    """Which recipe a method is, and what decides its calibration text besides: the draw, and the seed of the run."""
    method = PLAN.methods[wildcards.method]
    run_seed = None if method.draw is None else own_seed(wildcards)
    return {"recipe_name": method.recipe, "draw": method.draw, "run_seed": run_seed}


def calibration_tokens(wildcards):
    """Manifest and tokens that a method is calibrated on; none if it needs no data."""
    corpus = PLAN.recipes[wildcards.method].get("calibration", {}).get("corpus")
    return token_files(wildcards, corpus, "calibration", "manifest", "tokens") if corpus else []


def probe_tokens(wildcards):
    """Manifest and tokens on which a quantized model is checked, and its layers' errors are measured."""
    return token_files(wildcards, config["quantize"]["probe"]["corpus"], "calibration", "manifest", "tokens")


def validation_tokens(wildcards):
    """Manifest, tokens and document index that a loss is measured on."""
    return token_files(wildcards, wildcards.corpus, "validation", "manifest", "tokens", "documents")


def token_files(wildcards, corpus, split, *kinds):
    """Files of a split of a corpus in the tokens of a cell's model."""
    return [tokens_file(kind, trajectory_of(wildcards).tokenizer, corpus, split) for kind in kinds]


def cell_file(name):
    """Input function: a file of the model that a cell evaluates, which for the baseline is the checkpoint's own."""

    def path(wildcards):
        folder = (CHECKPOINT if wildcards.method == BASELINE else QUANTIZED).format(**wildcards)
        return f"{folder}/{name}" if name == "manifest.json" else ancient(f"{folder}/{name}")

    return path


def baseline_file(name):
    """Input function: a file of the unquantized model that a cell is compared with; none for the baseline itself."""

    def path(wildcards):
        if wildcards.method == BASELINE:
            return []
        folder = CHECKPOINT.format(**wildcards)
        return f"{folder}/{name}" if name == "manifest.json" else ancient(f"{folder}/{name}")

    return path


def hidden_folder(wildcards, input):
    """Where the cells of a checkpoint share what its unquantized model makes of text.

    No output, so that cells stay independent: who comes first makes it. `input` makes it a param that triggers nothing.
    """
    return PATHS.hidden(wildcards.trajectory, wildcards.checkpoint)


def hidden_states(wildcards, input):
    """The file of it that belongs to a corpus; "" where no two cells are measured on that."""
    cells = CELLS[wildcards.trajectory, step_of(wildcards)]
    sharing = [cell for cell in cells if wildcards.corpus in PLAN.losses[cell]]
    return f"{hidden_folder(wildcards, input)}/{wildcards.corpus}.safetensors" if len(sharing) > 1 else ""


def suite_tasks(wildcards):
    return PLAN.suites[wildcards.suite]["tasks"]


def suite_documents(wildcards):
    return [f"{RESOURCES}/{path}" for path in PLAN.suites[wildcards.suite]["documents"]]


def suite_data(name):
    """Input function: a file of each split that the harness's own tasks of a suite read; the data do not trigger."""

    def paths(wildcards):
        found = [f"{RESOURCES}/{os.path.dirname(path)}/{name}" for path in PLAN.suites[wildcards.suite]["datasets"]]
        return found if name == "manifest.json" else [ancient(path) for path in found]

    return paths


def suite_datasets(wildcards):
    """The file that stands for all of these data; none where a suite reads none."""
    return PATHS.suite_data(wildcards.suite) if PLAN.suites[wildcards.suite]["datasets"] else []


def suite_prompts(wildcards):
    """A hash of the harness's own task files of a suite; they lie in the environment, and are no input."""
    return PLAN.suites[wildcards.suite]["prompts"]


def quantized_weights(path):
    """A quantized model's folder; deleted after its last evaluation if the study does not keep weights."""
    return directory(path) if config["quantize"]["keep_weights"] else temp(directory(path))


# --- tables and figures ------------------------------------------------------------------------------------------------


def table_files(names):
    """Outputs of a stage that writes these tables: NAME_parquet and NAME_csv of each. The report takes them too."""
    TABLES.extend(names)
    files = {}
    for table in names:
        path = f"{PATHS.tables()}/{table}"
        caption = f"../../reports/captions/{table}.rst"
        files[f"{table}_parquet"] = f"{path}.parquet"
        files[f"{table}_csv"] = report(f"{path}.csv", caption=caption, category="Tables", labels={"table": table})
    return files
