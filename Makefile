# Each target may be the first one on a bare machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet

.PHONY: pretrain test lint format clean

pretrain: $(VENV)/.installed
	$(BIN)/python tools/pretrain.py --modality=vision --workdir=runs/digits

test: lint .venv-audio-io/.installed
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-audio-io runs

# A stamp is made last, so that an interrupted install is done again.
$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: setup.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[test]"
	touch $(VENV)/.installed $@

# The TensorFlow that tensorflow-io is built for, older than the one that the package asks for:
# tests/data/test_tfio_audio.py compares there. What the package imports comes along; keras-hub
# without what it requires, a newer tensorflow-text among it.
.venv-audio-io/.installed: Makefile
	$(PYTHON) -m venv .venv-audio-io
	.venv-audio-io/bin/python -m pip install --disable-pip-version-check --quiet \
		"tensorflow-cpu==2.16.*" "tensorflow-io==0.37.1" "keras>=3.15,<4" \
		packaging pytest regex rich safetensors scipy soundfile soxr tokenizers
	.venv-audio-io/bin/python -m pip install --disable-pip-version-check --quiet \
		--no-deps "keras-hub>=0.32"
	touch $@
