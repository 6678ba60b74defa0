# Two commands need nothing but Python 3.10 or later: make map, make test.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: map test test-slow lint bench results findings clean

map: .venv/installed  ## which layers of a network need training? ARGS="--data mnist" asks of another
	$(BIN)/letitgo map $(ARGS)

test: .venv/developing
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: .venv/developing
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m slow $(ARGS)

lint: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

results: .venv/installed  ## the page of a stored result, recomputed: make results STUDY=map-mnist
	eval "$(BIN)/$$(cat docs/results/$(STUDY)/command) --report letitgo-report/$(STUDY)"

findings: .venv/writing  ## docs/findings.md and .tex from committed rows; FROM_SCRATCH=1 computes the rows again
	$(BIN)/python -m findings.build $(if $(FROM_SCRATCH),recompute)

bench: .venv/installed
	for file in benchmarks/bench_*.py benchmarks/gpu.py; do $(BIN)/python $$file || exit 1; done

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/developing: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

.venv/writing: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[findings]"
	touch $@

clean:
	rm -rf .venv .letitgo letitgo-report
