# Each target may be the first one on a bare machine with Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet

# By file: what a file's tests share is made once. Files with slow tests come first (conftest.py).
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=40 --durations-min=5

.PHONY: install pretrain test test-tf220 lint format clean

install: $(VENV)/.installed

pretrain: $(VENV)/.installed
	$(BIN)/python tools/pretrain.py --modality=vision --workdir=runs/digits

test: lint test-tf220 .venv-audio-io/.installed
	$(BIN)/python $(PYTEST)

# What TPUs have: the step of every modality compiled, the rule, input, checkpoints and resume; and
# presets of a classifier of images, a tagger, a recognizer and a classifier of texts exported in
# bfloat16, loaded again and asked.
test-tf220: .venv-tf220/.installed
	.venv-tf220/bin/python $(PYTEST) tests/training/test_tpu_ready.py \
		tests/pretraining/test_targets.py tests/pretraining/test_ema.py tests/pretraining/test_data2vec.py \
		tests/data/test_vision.py::test_equal_seeds_give_equal_batches_and_a_later_start_continues \
		tests/data/test_vision.py::test_a_bad_file_is_named_counted_and_replaced \
		tests/training/test_checkpoints.py::test_a_restored_run_equals_an_unbroken_one_to_the_bit \
		tests/training/test_checkpoints.py::test_a_damaged_checkpoint_is_passed_over_with_a_line \
		tests/training/test_checkpoints.py::test_what_is_written_meanwhile_is_the_state_of_its_step \
		tests/training/test_checkpoints.py::test_a_second_run_in_one_process_resumes_the_first \
		tests/data/test_lanes.py \
		tests/end_to_end/test_other_modalities.py::test_text_runs_resumes_and_leaves_a_preset \
		tests/exporting/test_export.py::test_a_preset_in_bfloat16

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-audio-io .venv-tf220 runs

# A stamp is made last, so that an interrupted install is done again.
$(VENV)/.installed: setup.py
	@echo "installing TensorFlow, Keras and the rest into $(VENV): some minutes, in silence"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: setup.py
	@echo "installing all that the tests need into $(VENV): some minutes, in silence"
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
		jiwer packaging pytest regex rich safetensors scipy soundfile soxr tokenizers
	.venv-audio-io/bin/python -m pip install --disable-pip-version-check --quiet \
		--no-deps "keras-hub>=0.32"
	touch $@

# The newest TensorFlow that TPUs have, with all else as setup.py asks for it.
.venv-tf220/.installed: setup.py Makefile
	$(PYTHON) -m venv .venv-tf220
	.venv-tf220/bin/python -m pip install --disable-pip-version-check --quiet \
		--editable ".[serving]" "tensorflow==2.20.*" "tensorflow-text==2.20.*" pillow pytest pytest-xdist
	touch $@
