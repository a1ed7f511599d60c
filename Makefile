# On a fresh machine with Python 3.11 or newer, git and make:
#   make demo   train on embedded speech, convert a voice, write demo/report.html
#   make test   run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test lint format clean

help:
	@echo "make demo    train a small model on embedded speech and write demo/report.html (about ten minutes)"
	@echo "make test    run the tests, and say which lines none of them ran"
	@echo "make lint    ruff and mypy"
	@echo "make format  let ruff format the code"
	@echo "make clean   remove the virtual environment and the demonstration"

demo: $(READY)
	$(BIN)/wavevq demo --out demo

test: $(READY)
	$(BIN)/python -m pytest --durations=10 --cov

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "wavevq needs Python 3.11 or newer: make PYTHON=python3.11"; exit 2; }
	@echo "setting up $(VENV): PyTorch and the rest take about 5 GB and a minute or more"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $(READY)
