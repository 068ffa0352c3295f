# Every target has one line of help: `make` prints them.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format bench tables report sync clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## make the virtual environment (.venv) with the exact versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
		f"nfbench needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is {v[0]}.{v[1]}: name another one, such as make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,parity,slurm,tune,dashboard]'
	@touch $@

demo: $(STAMP)  ## fit a zoo of digits and train an NFT on it (about 6 minutes on 2 cores, no download)
	$(PY) run.py task=inr_cls model=nft

test: lint  ## lint, types and the fast tests, on as many cores as there are (at most 8)
	$(PY) -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)  ## the tests that take minutes
	$(PY) -m pytest -m slow

lint: $(STAMP)  ## ruff, ruff format and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP)  ## let ruff rewrite what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(STAMP)  ## speed of layers, zoo builders and reading, beside other code
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	for name in layers inr2array siren_fit cnn_zoo tickets render zoo_cost reading collect; do $(PY) benchmarks/$$name.py || exit 1; done

tables: $(STAMP)  ## results beside the published numbers: tables/tables.{md,csv,tex}
	$(PY) scripts/tables.py

report: $(STAMP)  ## all results on one page, with plots: report/index.html
	$(PY) scripts/report.py

sync: $(STAMP)  ## upload the offline W&B runs under outputs/ (ARGS=--dry-run lists them)
	$(PY) scripts/sync.py $(ARGS)

clean:  ## remove the virtual environment and caches; runs and zoos stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find nfbench hydra_plugins tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
