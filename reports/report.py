# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
study = "demo"
title = ""
theme = {}  # of the figures: arguments of seaborn.set_theme, in a study those of its config's section `plot`
tables = "results/tables/demo"  # seen from the root of the clone
unfinished = False  # whether a run may still bring what is missing

# %%
import os
from pathlib import Path

clone = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "Snakefile").is_file())
os.chdir(clone)  # Jupyter starts in the notebook's own folder

# %%
import polars as pl
from IPython.display import display

from scripts import plot
from scripts.lib.analysis.choices import sentences
from scripts.lib.analysis.metrics import TASK, first_draws, rows_in
from scripts.lib.report import figures, findings
from scripts.lib.report import tables as show
from scripts.lib.report.captions import caption

checkpoints = pl.read_parquet(f"{tables}/checkpoints.parquet")
schedules = pl.read_parquet(f"{tables}/schedules.parquet")
measurements = first_draws(pl.read_parquet(f"{tables}/measurements.parquet"))
comparisons = pl.read_parquet(f"{tables}/comparisons.parquet")
verdicts = pl.read_parquet(f"{tables}/verdicts.parquet")
methods = first_draws(pl.read_parquet(f"{tables}/methods.parquet"))
noise = pl.read_parquet(f"{tables}/noise.parquet")
choices = pl.read_parquet(f"{tables}/choices.parquet")
missing = pl.read_parquet(f"{tables}/missing.parquet")
costs = pl.read_parquet(f"{tables}/costs.parquet")
versions = pl.read_parquet(f"{tables}/versions.parquet")

display(show.heading(title, study, checkpoints, measurements, missing))
if unfinished:
    display(
        show.note("This study is not finished. What follows rests on the results that are there; these are missing:")
    )
    display(show.lacking(missing, "unfinished"))

# %% [markdown]
# ## Finding

# %%
corpora = findings.corpora(measurements)
for row in verdicts.filter(pl.col("primary")).iter_rows(named=True):
    display(show.boxed(findings.sentence(row)))
if verdicts.is_empty():
    display(show.boxed("The study lists no claims to decide." if corpora else "Nothing is measured yet."))

# %%
show.folded(f"All {len(comparisons)} comparisons", show.compared(comparisons))

# %% [markdown]
# ## What to ship

# %%
for sentence in sentences(choices):
    display(show.note(sentence))
show.note(caption(study, "choices"))

# %% [markdown]
# ## Figures
#
# ### Loss vs tokens

# %%
figures.use_style(theme)
figure = plot.loss_vs_tokens(measurements, checkpoints, schedules)
figures.inline(figure, "loss_vs_tokens", caption(study, "figure", "loss_vs_tokens"))

# %% [markdown]
# ### Error vs tokens

# %%
figure = plot.error_vs_tokens(measurements, checkpoints, schedules)
figures.inline(figure, "error_vs_tokens", caption(study, "figure", "error_vs_tokens"))

# %% [markdown]
# ### Baseline vs quantized

# %%
figure = plot.baseline_vs_quantized(measurements, checkpoints, schedules)
figures.inline(figure, "baseline_vs_quantized", caption(study, "figure", "baseline_vs_quantized"))

# %% [markdown]
# ### Errors by method

# %%
figure = plot.errors_by_method(measurements, checkpoints, schedules)
figures.inline(figure, "errors_by_method", caption(study, "figure", "errors_by_method"))

# %% [markdown]
# ### Tasks

# %%
figure = plot.tasks(measurements, checkpoints, schedules)
figures.inline(figure, "tasks", caption(study, "figure", "tasks"))

# %% [markdown]
# ## Noise
#
# How far a number moves where nothing that the study asks about has changed: standard deviations of one cell, with
# their degrees of freedom in brackets. Seeds hold the draws of calibration text and the scatter of neighbours, too.

# %%
show.noisy(noise)

# %% [markdown]
# ## Methods
#
# Only linear layers of the decoder blocks are quantized. Weight error is the mean over layers of the relative error of
# the dequantized weights, averaged over the cells of a method; its range over cells is in brackets.

# %%
show.described(methods)

# %% [markdown]
# ## Measurements
#
# ### Loss at the end of every trajectory

# %%
measured = f"Loss on {', '.join(corpora)} in {show.units(measurements)}"
display(show.note(f"{measured}; relative errors of the methods with paired intervals."))
losses = show.errors(measurements)
ends = losses.group_by("metric", "dataset", "subset", "trajectory", maintain_order=True).last()
show.losses("ends", ends)

# %%
show.folded(f"All {len(losses)} checkpoints", show.losses("losses", losses))

# %%
show.note(caption(study, "measurements"))

# %% [markdown]
# ### Task scores

# %%
scores = rows_in(measurements, TASK)
show.folded(f"All {len(scores)} scores", show.task_scores(scores)) if len(scores) else show.task_scores(scores)

# %% [markdown]
# ## Missing cells

# %%
show.lacking(missing)

# %% [markdown]
# ## Costs

# %%
display(show.note(f"Sums over jobs; together {show.duration(costs['wall_seconds'].sum())} of job time."))
show.spent(costs)

# %% [markdown]
# ## Versions

# %%
show.used(versions)

# %% [markdown]
# ## How to cite

# %%
show.cited(Path("CITATION.cff"))
