# Two commands for a newcomer: make demo, make test. Each builds .venv by itself; no uv is needed beforehand.

PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
STAMP := .venv/.installed
# One thread per process: parallelism comes from processes, and sums depend on the number of threads.
export OMP_NUM_THREADS ?= 1

.PHONY: help install demo figures test check soak clean

help:  ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP)  ## Build .venv with exact versions and hashes

$(STAMP): requirements.lock pyproject.toml
	@echo "Building .venv: about 3 GB of wheels to download, 7 GB on disk (torch brings its CUDA libraries); 1 to 10 minutes"
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: install  ## What a teacher buys where labels are few: simulated videos, three seeds, through Ray
	@echo "The demo writes simulated H.264 videos and everything it makes to ./workspace (about 1 GB); about a quarter of an hour on two slow cores"
	said=$$($(BIN)/stagedkd fit-teacher jobs/recipes/demo_teacher.yaml) && \
	$(BIN)/stagedkd run jobs/recipes/demo.yaml --set "teacher.weights=$$(echo "$$said" | tail -n 1)"

figures: install  ## README's figures from the last demo
	$(BIN)/stagedkd bench figures workspace/runs/demo

test: install  ## All tests; prints what each part took
	$(BIN)/python -m tests.support.ledger

check: install  ## Style, types and layer contracts only
	$(BIN)/ruff check pipeline jobs tests
	$(BIN)/ruff format --check pipeline jobs tests
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: install  ## The longer runs: the demo from nothing and again, kills at more places (an hour)
	$(BIN)/python -m pytest -m soak tests
	$(BIN)/python -m pytest tests/integration/precompute/test_kills.py

clean:  ## Remove .venv and caches; ./workspace stays (delete it by hand)
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './workspace/*' -prune -exec rm -rf {} +
