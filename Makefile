# `make demo` and `make test` set up what they need; everything stays in .venv, but for Debian's packages.

SHELL := /bin/bash
bin := .venv/bin
# Nodes of tests wait more than they compute. Each worker has directories, ports and a Consul of its own.
WORKERS := -n 2 --dist worksteal
# When nothing works, each test waits its minute; what the first ones print is all there is to know.
ENOUGH := --maxfail 20

.PHONY: help
help:
	@echo 'make demo [SECONDS=10]  three nodes at work on this machine; the primary is killed'
	@echo 'make test [T="-k log"]  everything CI runs'
	@echo 'make test-write-back    the tests again, with write-back'
	@echo 'make check              lint, format, types'
	@echo 'make bench              the mount against native SQLite, and failovers'
	@echo 'make torture            kills and long random runs, and make test-write-back'
	@echo 'make sqlite-suite       SQLite'\''s own tests, natively and in a mount [ARGS="--tenth wal"]; ARGS=--help'
	@echo 'make programs           real programs on real nodes: docs/programs.md [T="-k django"]'
	@echo 'make test-lowest        the tests with the oldest versions that pyproject.toml allows'
	@echo 'make docs               write the generated parts of docs/ anew'
	@echo 'make install, make clean'

# Cheap when nothing has changed: it compares a stamp.
.PHONY: install
install:
	@deploy/install.sh

.PHONY: test
test: install
	@deploy/check-fuse.sh
	-@deploy/sqlite-suite.sh
	$(bin)/pytest -m 'not torture' $(WORKERS) $(ENOUGH) $(T)

.PHONY: test-write-back
test-write-back: install
	@deploy/check-fuse.sh
	$(bin)/pytest -m 'not torture' --write-back $(WORKERS) $(ENOUGH) $(T)

# T chooses among them.
.PHONY: programs
programs: install
	@deploy/check-fuse.sh
	@deploy/programs.sh
	$(bin)/pytest tests/test_programs.py tests/test_program_tools.py --timeout 1800 $(T)

# T chooses among its own tests.
.PHONY: torture
torture: $(if $(T),install,test-write-back)
	@deploy/check-fuse.sh
	-@deploy/programs.sh
	$(bin)/pytest -m torture --timeout 1800 $(T)

.PHONY: test-lowest
test-lowest: install
	$(bin)/python deploy/lowest.py pyproject.toml >.venv/lowest.txt
	$(bin)/python -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --disable-pip-version-check --quiet --constraint .venv/lowest.txt --editable '.[dev]'
	@deploy/check-fuse.sh
	.venv-lowest/bin/pytest -m 'not torture' $(WORKERS) $(ENOUGH) $(T)

# Each file natively and in a mount with a replica, with and without write-back.
.PHONY: sqlite-suite
sqlite-suite: install
	@deploy/check-fuse.sh
	@deploy/sqlite-suite.sh
	PYTHONPATH=tests/support $(bin)/python tests/support/sqlite_suite.py $(ARGS)
	PYTHONPATH=tests/support $(bin)/python tests/support/sqlite_suite.py --write-back $(ARGS)

.PHONY: check
check: install
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

.PHONY: bench
bench: install
	@deploy/check-fuse.sh
	$(bin)/litemq bench

.PHONY: demo
demo: install
	@deploy/check-fuse.sh
	@$(bin)/litemq demo $(if $(SECONDS),--seconds $(SECONDS))

.PHONY: docs
docs: install
	$(bin)/python docs/generate.py

.PHONY: clean
clean:
	rm -rf .venv .venv-lowest build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
