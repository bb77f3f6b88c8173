# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %%
import polars as pl

from scripts.lib.report import findings, pages
from scripts.lib.runtime.manifests import read

# %% tags=["parameters"]
study = ""
title = ""
tables = {}  # path by name
figures = {}  # path of the SVG by name
captions = {}  # text by name of figure or table
manifests = []  # manifests of checkpoints and quantized cells
citation = ""  # path of CITATION.cff

# %%
table = {name: pl.read_parquet(path) for name, path in tables.items()}
checkpoints, measurements, contrasts = table["checkpoints"], table["measurements"], table["contrasts"]
described = [read(path) for path in manifests]
pages.show(pages.heading(title, study, checkpoints, measurements, table["missing"]))

# %% [markdown]
# ## Finding

# %%
for corpus in findings.corpora(measurements):
    pages.show(pages.boxed(findings.finding(measurements, checkpoints, contrasts, corpus)))
pages.show(pages.contrasts_html(contrasts))

# %% [markdown]
# ## Figures

# %%
for name, path in figures.items():
    pages.show(pages.figure(name, path, captions[name]))

# %% [markdown]
# ## Methods
#
# Only linear layers of the decoder blocks are quantized. Weight error is the mean over layers of the relative error of
# the dequantized weights, averaged over the cells of a method; its range over cells is in brackets.

# %%
pages.show(pages.methods(described))

# %% [markdown]
# ## Measurements

# %%
pages.show(pages.losses(measurements, captions["measurements"]))

# %%
pages.show(pages.task_scores(measurements))

# %% [markdown]
# ## Missing cells

# %%
pages.show(pages.missing(table["missing"]))

# %% [markdown]
# ## Costs

# %%
pages.show(pages.costs(table["costs"]))

# %% [markdown]
# ## Versions

# %%
pages.show(pages.versions(described))

# %% [markdown]
# ## How to cite

# %%
pages.show(pages.citation(citation))
