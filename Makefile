# Two commands do everything: `make demo` runs the challenge once, `make test` checks the kit.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SUBMISSION ?= starting_kit
# what the kit itself consists of; what participants add is theirs
OWN = acdc benchmarks docs tests problem.py download_data.py \
  $(addprefix submissions/,starting_kit atprk bicubic bilinear local_ridge tsharp)

.PHONY: demo test test-slow lint bench clean

demo: $(VENV)/installed
	$(BIN)/python download_data.py --reuse
	TERM=dumb $(BIN)/ramp-test --submission $(SUBMISSION) --save-output
	@echo
	@echo "Scores on the test set are in the rows 'test' above; the bagged ones rank on a server."
	@echo "Next: copy submissions/starting_kit to submissions/mine, change it, and run"
	@echo "  $(BIN)/ramp-test --submission mine"

test: $(VENV)/installed-test lint
	$(BIN)/python -m pytest -q -m "not slow"

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/installed-test
	$(BIN)/ruff check $(OWN)
	$(BIN)/ruff format --check $(OWN)
	$(BIN)/mypy

bench: $(VENV)/installed-test
	$(BIN)/python benchmarks/detection.py
	$(BIN)/python benchmarks/tiles.py
	$(BIN)/python benchmarks/preparation.py
	$(BIN)/python benchmarks/ramp_scoring.py
	$(BIN)/python benchmarks/label_audit.py
	$(BIN)/python benchmarks/lst.py
	$(BIN)/python benchmarks/superresolution.py
	$(BIN)/python benchmarks/image_scores.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/installed: $(VENV)/created requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet -r requirements.txt -e .[data]
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e .[test,landscapes]
	touch $@
