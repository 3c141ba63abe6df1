# make train and make test each do all of their own set-up; make env does that part alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORK_DIR := work_dirs/dblrgan_sample

.PHONY: env train test fuzz lint lock clean

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

clean:
	rm -rf $(VENV) $(WORK_DIR)
