# Every target does its own set-up; a second run installs nothing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-slow check bench notebooks clean

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --disable-pip-version-check --progress-bar off --quiet --editable '.[dev]'
	DANET_CACHE=.venv/cache $(BIN)/python -m danet.export.browser  # onnxruntime-web, for the tests of exported pages
	touch $@

demo: setup
	$(BIN)/danet demo

test: setup
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

test-slow: setup  # one at a time: some watch the clock, some take several processes themselves
	$(BIN)/python -m pytest -m slow

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/scenes.py --out results/scenes.csv
	$(BIN)/python benchmarks/network.py --out results/network.csv
	$(BIN)/python benchmarks/attention.py --out results/attention.csv --svg docs/attention.svg
	$(BIN)/python benchmarks/runtimes.py --out results/runtimes.csv
	$(BIN)/python benchmarks/results.py

notebooks: setup  # of the chapters of docs/learn, into build/notebooks
	mkdir -p build/notebooks
	for page in docs/learn/[1-8]-*.md; do $(BIN)/jupytext --quiet --to notebook -o build/notebooks/$$(basename $$page .md).ipynb $$page; done

clean:
	rm -rf .venv build dist
