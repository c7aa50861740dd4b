# make demo: export the shipped model, verify it, draw two prompts.   make test: everything CI checks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test check format test-slow gpu-check reference train clean help

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(VENV)/.export  ## export the shipped model, verify it, draw both prompts
	@mkdir -p $(OUT)
	$(BIN)/tv-export build emoji --output $(OUT)/emoji.tv --precision fp32 --force
	$(BIN)/tv-generate $(OUT)/emoji.tv --verify
	$(BIN)/tv-generate $(OUT)/emoji.tv "dog wearing sunglasses" "green forest with river" --count 4 --grid -o $(OUT)/demo.png
	@echo "the pictures are in $(OUT)/demo.png, the report in $(OUT)/emoji.tv/report/index.html"

test: $(VENV)/.dev check  ## format, lint, types, tests
	$(PYTEST) --numprocesses auto --maxprocesses 4 --dist loadfile

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-slow: $(VENV)/.dev  ## tests that take minutes
	$(PYTEST) -m "slow and not gpu"

gpu-check: $(VENV)/.dev  ## on a machine with an NVIDIA GPU: build, run, compare, measure
	$(BIN)/tv-export gpu-check --output $(OUT)/gpu-check.json

reference: $(VENV)/.dev  ## write the reference pages of the commands and of the training config
	$(BIN)/python docs/reference/generate.py

train: $(VENV)/.dev  ## train the shipped model's recipe from an empty folder
	$(BIN)/tv-train data --output $(OUT)/corpus
	$(BIN)/tv-train run emoji-64 --corpus $(OUT)/corpus --output $(OUT)/run

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: Python 3.10 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1)"; \
	  echo "hint: make PYTHON=/path/to/python3.11 demo"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo "error: this Python cannot make virtual environments"; \
	  echo "hint: install its venv package (Debian: apt install python3-venv)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.export: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[export,cpu]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.export

clean:
	rm -rf $(VENV) $(OUT) build *.egg-info
