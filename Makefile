# Everything runs in .venv, made on first use. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= results
DEMO ?= demo

EXAMPLES ?= 20000

.PHONY: demo fit test test-all fuzz lint docs bench wheel clean

demo: $(STAMP)
	$(BIN)/autofit-ml demo --out $(DEMO)
	@echo "report: $(abspath $(DEMO))/results/report.html"

fit: $(STAMP)
ifndef IMAGES
	$(error usage: make fit IMAGES=folder [OUT=results])
endif
	$(BIN)/autofit-ml fit "$(IMAGES)" --out "$(OUT)"

# One process for each processor, one thread in each; a folder's fixtures stay in one process.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# A fresh environment, an import and a fit with each supported Python that is here.
test-all: wheel
	.ci/each-python

wheel: $(STAMP)
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

# Property tests with many examples, other ones in every run (the suite draws few, always the same).
fuzz: $(STAMP)
	OMP_NUM_THREADS=1 FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -n auto -m hypothesis tests

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)
	PYTHONWARNINGS=ignore $(BIN)/typer autofit_ml.cli utils docs --name autofit-ml \
		--title "Command line" --output docs/reference/cli.md
	$(BIN)/python docs/tables.py
	$(BIN)/mkdocs build --strict --quiet
	@echo "site: build/site/index.html"

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/run_all.py

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt \
		-e ".[simulate,train,posterior,deconvolve,difference,morphology,survey,test,lint,docs]"
	touch $@

clean:
	rm -rf $(VENV)
