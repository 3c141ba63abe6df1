# Targets that need the environment set it up first; make env does only that.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORK_DIR := work_dirs/dblrgan_sample

# two processes with one thread each: most tests use one core
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := -n 2 --dist loadscope
COVERAGE := --cov --cov-report=term --cov-fail-under=90

# options of make gpu; see docs/gpu.md
CONFIG ?= configs/gpu/dblrnet_ms.py
MINUTES ?= 20
DRY_MINUTES ?= 10
DRY_SKIP ?=
CALL_MINUTES ?= 9.5
WORK ?= work_dirs/gpu
OUT ?= $(WORK)/out
CARRY ?= carry
DATA ?=
WHEELS ?=

.PHONY: env train test test-ci test-all fuzz lint lock clean gpu gpu-dry gpu-pack

env: $(VENV)/.ready

# pip installs uv, which installs the exact versions of the lock in well under a minute
$(VENV)/.ready: requirements/lock.txt pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements/lock.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

train: env
	$(BIN)/python tools/train.py configs/dblrgan_sample.py --work-dir $(WORK_DIR)
	$(BIN)/python tools/test.py configs/dblrgan_sample.py "$$(cat $(WORK_DIR)/last_checkpoint)" \
		--work-dir $(WORK_DIR)
	@echo "Training curves: $(WORK_DIR)/curves.png"

# the fast tests
test: env
	$(PYTEST) $(PARALLEL) -m "not slow and not speed and not soak"

# all tests that do not need an idle machine, with coverage
test-ci: env
	$(PYTEST) $(PARALLEL) -m "not speed and not soak" $(COVERAGE)

# all tests; those that compare speeds run alone
test-all: env
	$(PYTEST) $(PARALLEL) -m "not speed" $(COVERAGE) --cov-config=tests/children.coveragerc
	$(PYTEST) -m speed

# read tens of thousands of damaged videos and checkpoints
fuzz: env
	$(BIN)/python -m pytest tests/test_inference/test_damaged_files.py --hypothesis-profile=fuzz

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# resolve requirements/lock.txt again, for Linux and macOS 14 or later on Apple silicon, Python 3.10-3.13
lock: env
	$(BIN)/uv pip compile requirements/dev.txt --universal --python-version 3.10 --upgrade \
		--override requirements/overrides.txt --no-header --no-annotate --no-emit-index-url \
		--output-file requirements/lock.txt

# tests, training and benchmarks on a machine with a GPU, with its own Python and torch
gpu:
	$(PYTHON) tools/gpu/run.py --config $(CONFIG) --minutes $(MINUTES) \
		--call-minutes $(CALL_MINUTES) --work $(WORK) --out $(OUT) \
		$(if $(DATA),--data $(DATA)) $(if $(WHEELS),--wheels $(WHEELS))

# the same on the CPU with a tiny network
gpu-dry: env
	rm -rf $(WORK)-dry
	$(BIN)/python tools/gpu/run.py --device cpu --config $(CONFIG) --minutes $(DRY_MINUTES) \
		--call-minutes $(DRY_MINUTES) --work $(WORK)-dry \
		$(if $(DRY_SKIP),--skip $(DRY_SKIP))

# pack what make gpu needs on its machine: packages and, with DATA, clips at 240 rows
gpu-pack: env
	$(BIN)/python tools/gpu/pack.py $(CARRY) $(if $(DATA),--data $(DATA))

clean:
	rm -rf $(VENV) $(WORK_DIR)
