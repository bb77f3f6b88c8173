# The commands that people use; README.md says what each is for.
PYTHON ?= python3.11
BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake --profile workflow/profiles/local

.PHONY: setup demo smoke test test-full benchmark lint format lock

setup: .venv/done ## the environment, with pip

.venv/done: envs/trajquant.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement envs/trajquant.lock
	touch $@

demo: setup ## the demo study, to results/report/demo.html
	$(SNAKEMAKE) --configfile config/studies/demo.yaml

smoke: setup ## every stage once, very small
	$(SNAKEMAKE) --configfile config/studies/smoke.yaml

lint: setup ## format and lint of Python, Snakemake and the workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check --compact-diff Snakefile workflow
	$(BIN)/snakemake --lint --configfile config/studies/smoke.yaml

test: lint ## the checks of every change
	$(BIN)/python -m pytest -m "not full"

test-full: lint ## all checks, the long series too
	$(BIN)/python -m pytest

benchmark: setup ## speed, as ratios within one run
	$(BIN)/python -m tests.benchmarks

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

lock: setup ## resolve envs/trajquant.in anew
	$(BIN)/python -m pip install --quiet --upgrade --requirement envs/trajquant.in
	echo "# Every package of .venv, pinned. Made by \`make lock\` from trajquant.in; torch without its local version, so" > envs/trajquant.lock
	echo "# that a CPU wheel and a CUDA wheel both satisfy it." >> envs/trajquant.lock
	$(BIN)/python -m pip freeze | sed 's/^\(torch==[0-9.]*\)+.*/\1/' >> envs/trajquant.lock
	touch .venv/done
