# make train and make test each do all of their own set-up; make env does that part alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORK_DIR := work_dirs/dblrgan_sample

# of make gpu; docs/gpu.md
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

.PHONY: env train test fuzz lint lock clean gpu gpu-dry gpu-pack

env: $(VENV)/.ready

# uv, brought by pip, installs the exact set of the lock in well under a minute
$(VENV)/.ready: requirements/lock.txt setup.py
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

test: env
	$(BIN)/python -m pytest --cov=dblrgan_mm --cov-report=term --cov-fail-under=90

# damaged videos and checkpoints by the ten thousand
fuzz: env
	$(BIN)/python -m pytest tests/test_inference/test_damaged_files.py --hypothesis-profile=fuzz

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# resolve requirements/lock.txt anew, for Linux, macOS 14 or later on Apple silicon, Python 3.10-3.13
lock: env
	$(BIN)/uv pip compile requirements/dev.txt --universal --python-version 3.10 --upgrade \
		--override requirements/overrides.txt --no-header --no-annotate --no-emit-index-url \
		--output-file requirements/lock.txt

# tests, a training and benchmarks on a machine with a GPU, by the Python and the torch there
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

# what make gpu needs there: packages and, with DATA, clips at 240 rows
gpu-pack: env
	$(BIN)/python tools/gpu/pack.py $(CARRY) $(if $(DATA),--data $(DATA))

clean:
	rm -rf $(VENV) $(WORK_DIR)
