# The only way in, for people and for CI. Each target first makes .venv match requirements.lock.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3 2>/dev/null))
BIN := .venv/bin
# The digest of the lock file names the environment: a file time would be wrong after a checkout.
STAMP := .venv/.locked-$(shell sha256sum requirements.lock pyproject.toml 2>/dev/null | sha256sum | cut -c1-16)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.PHONY: run
run: $(STAMP) ## Close the loop on a year of New York flights, on this machine
	@$(BIN)/millrace demo flight_delays

.PHONY: test
test: $(STAMP) ## Run the tests, but for the drills
	@$(BIN)/pytest tests/unit -q -n 2
	@$(BIN)/pytest tests/chaos -q -n 2
	@$(BIN)/pytest tests/integration tests/e2e -m "not drill" --durations 12

.PHONY: drills
drills: $(STAMP) ## Run the tests that take minutes each: rollouts, guards, scaling, the loop without a network
	@$(BIN)/pytest tests/integration tests/e2e -m drill --durations 12

.PHONY: test-unit
test-unit: $(STAMP) ## Run the tests that need no server
	@$(BIN)/pytest tests/unit -q -n 2

.PHONY: fuzz
fuzz: $(STAMP) ## Look for bad input that is not refused, with many random examples
	@HYPOTHESIS_PROFILE=thorough $(BIN)/pytest tests/unit/fuzz -q -n 2 --timeout 3600

.PHONY: lint
lint: $(STAMP) ## Check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: audit
audit: $(STAMP) ## Check licences and known vulnerabilities of the lock, without asking anybody
	@$(BIN)/python -m infra.supply.audit

.PHONY: audit-online
audit-online: audit ## The same, and ask a vulnerability database (needs pip-audit and the network)
	@$(BIN)/python -c 'import pip_audit' 2>/dev/null || { echo "pip-audit is not installed. Next: $(BIN)/python -m pip install pip-audit" >&2; exit 2; }
	@$(BIN)/python -m pip_audit --requirement requirements.lock --no-deps --disable-pip

.PHONY: sbom
sbom: $(STAMP) ## Write what the environment consists of to build/sbom.cdx.json (CycloneDX)
	@mkdir -p build
	@$(BIN)/python -m cyclonedx_py environment --pyproject pyproject.toml --output-reproducible --spec-version 1.6 \
		--validate --output-file build/sbom.cdx.json $(BIN)/python
	@echo "written to build/sbom.cdx.json"

.PHONY: format
format: $(STAMP) ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: bench-loop
bench-loop: $(STAMP) ## Time each step of the loop and print where the time goes
	@$(BIN)/python -m benchmarks.loop

.PHONY: bench-canary
bench-canary: $(STAMP) ## Simulate canary rollouts; print how often good ones are sent back and bad ones found
	@$(BIN)/python -m benchmarks.canary

.PHONY: bench-autoscaling
bench-autoscaling: $(STAMP) ## Simulate deployments that scale; print latency and cost beside Ray's own policy
	@$(BIN)/python -m benchmarks.autoscaling

.PHONY: bench-reliability
bench-reliability: $(STAMP) ## Kill, forge and flood everything; print what was lost (ONLY="part part" for some parts)
	@$(BIN)/python -m benchmarks.reliability $(foreach part,$(ONLY),--only $(part))

.PHONY: bench-serving
bench-serving: $(STAMP) ## Compare serving with other servers, and kill it under load (ONLY="part part" for some parts)
	@command -v wrk >/dev/null || echo "wrk is not installed; a slower client stands in. On Debian: apt-get install wrk" >&2
	@$(BIN)/python -m benchmarks.serving $(foreach part,$(ONLY),--only $(part))

.PHONY: bench-training
bench-training: $(STAMP) ## Compare loading, training and checkpoints with others, and kill them (ONLY="part part" for some parts)
	@$(BIN)/python -m benchmarks.training $(foreach part,$(ONLY),--only $(part))

.PHONY: bench-gpu
bench-gpu: $(STAMP) ## Time training steps on this machine's GPU; where there is none, say so (ONLY="part part" for some parts)
	@$(BIN)/python -m benchmarks.gpu $(foreach part,$(ONLY),--only $(part))

.PHONY: chaos
chaos: $(STAMP) ## Kill and fail every point of the loop and compare the worlds (SEED=1 COUNT=1000 REAL=100)
	@$(BIN)/python -m tests.chaos --seed $(or $(SEED),1) --count $(or $(COUNT),1000) --real $(or $(REAL),100)

.PHONY: lock
lock: $(STAMP) ## Resolve all packages anew into requirements.lock
	@$(BIN)/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--extra dev --allow-unsafe --output-file requirements.lock pyproject.toml
	@sed -i 's/==\([0-9.]*\)+cpu$$/==\1/' requirements.lock

.PHONY: up down status
up down status: $(STAMP) ## The embedded stack, by hand
	@$(BIN)/millrace $@

.PHONY: clean
clean: ## Stop the stack, delete its state and the environment
	@if [ -x $(BIN)/millrace ]; then $(BIN)/millrace down; fi
	@rm -rf .venv .millrace .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info

.PHONY: setup
setup: $(STAMP) ## Make the environment, and nothing else

$(STAMP):
	@if [ -z "$(PYTHON)" ]; then echo "millrace needs Python 3.11 or 3.12; none was found. On Debian: apt-get install python3 python3-venv" >&2; exit 2; fi
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 12) else f"millrace needs Python 3.11 or 3.12, got {v[0]}.{v[1]} ($(PYTHON)). Next: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing. On Debian: apt-get install python3-venv" >&2; exit 2; }
	@echo "Setting up .venv from requirements.lock with $$($(PYTHON) --version) (once; a few minutes, about 3 GB) ..."
	@rm -f .venv/.locked-*
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -r requirements.lock 2>&1 | $(SHOW_PROGRESS)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e . \
		> .venv/install.log 2>&1 || { cat .venv/install.log >&2; exit 1; }
	@touch $@

# pip is silent for long stretches; one line a package shows that it goes on.
SHOW_PROGRESS := awk '/^(Collecting|Downloading|Installing|Building|ERROR|error)/ { n++; if (/^(Installing|Building|ERROR|error)/ || n % 25 == 0) { print "  " substr($$0, 1, 100); fflush() } }'
