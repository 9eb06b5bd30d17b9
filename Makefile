# `make demo` and `make test` work on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test coverage docs ablation clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	touch $@

# Calibrate the embedded model (an interrupted run resumes), then measure it.
outputs/w4a8/quantized/config.json: | .venv/installed
	$(BIN)/python train.py fit --config w4a8.yaml $(if $(wildcard outputs/w4a8/last.ckpt),--ckpt_path last)

demo: .venv/installed outputs/w4a8/quantized/config.json
	$(BIN)/python evaluate.py --ckpt outputs/w4a8

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

# The same tests, and which lines they reach: Python traces each one, so they take 1.4 times as long.
coverage: .venv/installed
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow" --cov --cov-report=term --cov-fail-under=90

# The documentation as a site in site/; broken links and docstrings are errors, here and in `make test`.
docs: .venv/installed
	$(BIN)/mkdocs build --strict

# Every recipe at every number of bits and the parts of DGQ, into docs/reference/results.md and README.md: all
# tables after an hour of processor time, further seeds in a second one; killed, it resumes.
# ARGUMENTS="--list" says what is left, "--minutes 60" stops, "--full" adds more.
ablation: .venv/installed
	$(BIN)/python benchmarks/ablation $(ARGUMENTS)

# Runs in outputs/ are yours: nothing here removes them.
clean:
	rm -rf .venv
