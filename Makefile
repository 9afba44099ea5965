# `make demo` and `make test` work on a fresh machine: each makes .venv first if it is missing.
.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint
STAMP := .venv/.installed

help:
	@echo "make install   make .venv with pinned versions (about 6 GB, a few minutes)"
	@echo "make demo      generated data -> CLIP -> LSeg -> demo/report.html (DEMO=\"--seed 1\" for other options)"
	@echo "make test      the test suite (TESTS=\"tests/data -k world\" for a part of it)"
	@echo "make test-slow the tests that 'make test' leaves out: nodes, drivers and sweeps killed, a quarter of an hour more"
	@echo "make lint      ruff and mypy"

install: $(STAMP)

# What was installed is whole only once the stamp is there; it ages with the two files that say what to install.
$(STAMP): pyproject.toml constraints.txt
	@sh .ci/install

demo: $(STAMP)
	@.venv/bin/ovseg-ray demo --out demo $(DEMO)

test: $(STAMP)
	@echo "make test: the suite takes about a quarter of an hour on two cores"
	@.venv/bin/python -m pytest -m "not slow" $(TESTS)

test-slow: $(STAMP)
	@.venv/bin/python -m pytest -m slow $(TESTS)

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
