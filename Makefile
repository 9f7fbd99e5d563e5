# Every command of this repository. `make` lists them; each sets up what it needs by itself.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
# Packages are installed without bytecode: a Python that may not write it compiles them at every start, for half a minute in all.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
PACKAGES := gateway/penstock_gateway routers/penstock_routers cache/penstock_cache training/penstock_training
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

# ARGS goes to the command of demo, serve, train, test and bench.
ARGS ?=
# `make bench` compares gateways; BENCH=encoder runs another one, `make bench-all` the ones that take minutes.
BENCH ?= overhead
BENCHES := overhead encoder reading conversations router training usage_estimates
EXTRAS ?= cpu otel redis ship signing
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
comma := ,
space := $(subst x,,x x)

.PHONY: help setup demo serve test test-all check format bench bench-all train evaluate prices export-encoders pins wheel image-root sbom image chart build clean

help: ## List the commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with everything that demo, serve and test need.
	@scripts/bootstrap.sh test

demo: ## Route real prompts to four simulated model tiers, without a key; ONCE=1 exits after the table.
	@scripts/bootstrap.sh demo
	@$(BIN)/penstock demo $(if $(filter-out 0,$(ONCE)),--once) $(ARGS)

serve: ## Start the gateway on 127.0.0.1:4000; ARGS="--config penstock.yaml" names the settings.
	@scripts/bootstrap.sh demo
	@$(BIN)/penstock serve $(ARGS)

test: ## Run the tests; INSTALL_SYSTEM=1 allows the package manager to bring redis-server.
	@scripts/bootstrap.sh test
	@scripts/system_packages.sh
	@$(PYTEST) $(ARGS)

test-all: ## Run the slow tests too, with the extras training (torch) and ray installed.
	@scripts/bootstrap.sh training
	@scripts/system_packages.sh
	@$(PYTEST) -m "slow or not slow" $(ARGS)

check: ## Check format, lint, types, import directions and docs; fails if that changes a file.
	@scripts/bootstrap.sh test
	@BIN=$(BIN) scripts/check.sh

format: ## Format the sources and repair what the linter can.
	@scripts/bootstrap.sh test
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

bench-all: ## Measure speed in every respect that takes minutes, not hours.
	@$(MAKE) --no-print-directory bench BENCH="$(BENCHES)"

bench: ## Compare with other gateways, as ratios in one run; BENCH=encoder runs another bench, ARGS="--quick" shortens.
	@scripts/bootstrap.sh test
	@set -e; for name in $(BENCH); do echo "bench/$$name.py"; $(BIN)/python "bench/$$name.py" $(ARGS); done

train: ## Fit the default router from the outcome sets in PENSTOCK_DATA (default ../shared/data).
	@scripts/bootstrap.sh test
	@$(BIN)/penstock-train fit --default $(ARGS)

evaluate: ## Compare a router with its baselines; ARGS="ARTIFACT --outcomes FILE".
	@scripts/bootstrap.sh test
	@$(BIN)/penstock-train evaluate $(ARGS)

prices: ## Rebuild the bundled price snapshot from the public map inside the installed litellm.
	@scripts/bootstrap.sh test
	@$(BIN)/python -m penstock_gateway.money.rebuild_snapshot $(ARGS)

export-encoders: ## Build the two encoders of onnx_models anew (needs torch).
	@scripts/bootstrap.sh training
	@$(BIN)/penstock-train export-encoder onnx_models/static-minilm-256 --kind static $(ARGS)
	@$(BIN)/penstock-train export-encoder onnx_models/minilm-l6-v2 --kind transformer $(ARGS)

pins: ## Resolve constraints.txt anew; PYTHONS="python3.11 python3.13" names the interpreters, oldest first.
	@scripts/bootstrap.sh test
	@$(BIN)/python scripts/pin_constraints.py $(or $(PYTHONS),$(BIN)/python)

wheel: ## Build the wheel alone into dist/, as the image does.
	@scripts/bootstrap.sh test
	@$(BIN)/python -m hatchling build -t wheel -d dist

image-root: wheel ## Lay the image's /opt/penstock out in build/image-root, without Docker; EXTRAS="cpu redis" as in the Dockerfile.
	@rm -rf build/image-root && mkdir -p build/image-root/opt
	@$(BIN)/python -m venv build/image-root/opt/penstock
	@build/image-root/opt/penstock/bin/pip install -q -c constraints.txt "$$(ls dist/*.whl | tail -1)[$(subst $(space),$(comma),$(EXTRAS))]"
	@build/image-root/opt/penstock/bin/python scripts/make_sbom.py build/image-root/opt/penstock/sbom.cdx.json
	@build/image-root/opt/penstock/bin/pip uninstall -q -y pip setuptools
	@build/image-root/opt/penstock/bin/penstock --version

sbom: ## Write what is installed in .venv as CycloneDX to build/sbom.cdx.json.
	@scripts/bootstrap.sh test
	@mkdir -p build && $(BIN)/python scripts/make_sbom.py build/sbom.cdx.json && echo build/sbom.cdx.json

image: ## Build the images with Docker: cpu, cuda, trainer and ray.
	docker build -t penstock/penstock:$(VERSION) .
	docker build -t penstock/penstock:$(VERSION)-cuda --target cuda .
	docker build -t penstock/penstock:$(VERSION)-trainer --target trainer .
	docker build -t penstock/penstock:$(VERSION)-ray --target ray .

chart: ## Make the chart's schema and dashboards anew, and lint it.
	@scripts/bootstrap.sh test
	@$(BIN)/python scripts/chart_schema.py && $(BIN)/python scripts/make_dashboards.py
	@for values in helm/penstock/ci/*.yaml; do $(BIN)/helm lint --strict --quiet helm/penstock -f "$$values" || exit 1; done

build: ## Build the wheel and the source distribution into dist/.
	@scripts/bootstrap.sh test
	@$(BIN)/python -m hatchling build -d dist

clean: ## Remove .venv, builds and caches.
	@rm -rf .venv .bench build dist htmlcov .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find $(PACKAGES) tests bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +
