# Each target creates the virtual environment .venv and installs what it needs. `make PYTHON=/path/to/python3.12`
# selects the interpreter, `make test ARGS="-k signing"` passes arguments.

# Many containers set it. Each started command would then compile s3s3 first, which takes 0.3 s.
export PYTHONDONTWRITEBYTECODE =

VENV = .venv
IN_VENV = $(VENV)/bin/python

help:
	@echo "make demo      a demonstration with real servers on this machine"
	@echo "make test      the test suite, under five minutes; ARGS=--long for all tests"
	@echo "make check     linter, formatter, type checker, allowed imports, documentation"
	@echo "make docs      the documentation into docs/_build/html, man pages into docs/_build/man, completion"
	@echo "make faults    the tests in tests/faults for FAULT_MINUTES (default 10)"
	@echo "make bench     s3s3 beside rclone and others; ARGS=--quick takes a minute"
	@echo "make stores-table  update docs/stores.md from s3s3 check on real stores"
	@echo "make screenshots   update docs/images from the status page of a real fleet; needs Ceph and Chromium"
	@echo "make constraints   update the versions that CI and the image install; needs uv"
	@echo "make release   wheel, sdist, image, audit, SBOM; needs internet access and podman"
	@echo "make test-all  the tests that need no server, on each Python from 3.10 to 3.14 found"

demo:
	@GOAL="$(MAKECMDGOALS)" sh .ci/venv $(VENV) demo
	@$(IN_VENV) -m s3s3.scripts.main demo $(ARGS)

test: environment
	@$(IN_VENV) -m pytest -n 4 --dist worksteal $(ARGS)

faults: environment
	@FAULT_MINUTES=$${FAULT_MINUTES:-10} $(IN_VENV) -m pytest -s --long tests/faults $(ARGS)

check: environment-docs
	@$(IN_VENV) -m ruff check .
	@$(IN_VENV) -m ruff format --check .
	@$(IN_VENV) -m mypy
	@$(IN_VENV) -m pytest tests/test_layers.py
	@$(MAKE) --no-print-directory docs

docs: environment-docs
	@$(IN_VENV) -m sphinx -W --keep-going --quiet docs docs/_build/html
	@$(IN_VENV) -m sphinx -W --keep-going --quiet -b man docs docs/_build/man
	@sh .ci/completion $(IN_VENV) docs/_build/completion

bench: environment-bench
	@$(IN_VENV) -m bench $(ARGS)

stores-table: environment
	@$(IN_VENV) -m tests.real.stores_table

screenshots: environment
	@$(IN_VENV) -m tests.browser.screenshots

constraints:
	@sh .ci/constraints

release: docs
	@sh .ci/release $(VENV)

test-all:
	@sh .ci/test-all $(ARGS)

environment:
	@GOAL="$(MAKECMDGOALS)" sh .ci/venv $(VENV) demo,test

environment-docs:
	@GOAL="$(MAKECMDGOALS)" sh .ci/venv $(VENV) demo,test,docs

environment-bench:
	@GOAL="$(MAKECMDGOALS)" sh .ci/venv $(VENV) demo,bench

.PHONY: help demo test faults check docs bench stores-table screenshots constraints release test-all environment environment-docs environment-bench
