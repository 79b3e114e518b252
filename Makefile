# Each target may be the first one on a bare machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet

.PHONY: pretrain test lint format clean

pretrain: $(VENV)/.installed
	$(BIN)/python tools/pretrain.py --modality=vision --workdir=runs/digits

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs

# A stamp is made last, so that an interrupted install is done again.
$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[test]"
	touch $(VENV)/.installed $@
