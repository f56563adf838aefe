# Set-up, run and checks. `make run` and `make test` need nothing but Python 3.11 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
# Tests run in so many processes, a file each at a time. One more than two cores: those of the
# cluster wait for its queue.
WORKERS ?= 3
READY := $(VENV)/.ready

.PHONY: run test soak lint docs lock clean help

help:  ## Show what can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

.DEFAULT_GOAL := help

run: $(READY)  ## Set up, then run the default study: results/default/report.html
	$(BIN)/snakemake --cores $(CORES)

test: $(READY)  ## Set up, then run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

soak: $(READY)  ## Set up, then run what takes too long for `make test`
	$(BIN)/python -m pytest -m soak

lint: $(READY)  ## Check style and workflow
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/snakemake --lint

docs: $(READY)  ## Write the pages that say what the code says
	$(BIN)/python docs/generate.py

# The packages that come as source are built with what build.lock pins, not with whatever is
# newest that day; that is why build isolation is off. Python compiles what is imported when it is
# imported; pip would take its time to compile all of it, of which little is used.
$(READY): envs/build.lock envs/requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed; this is " \
	  + sys.version.split()[0] + ". Try: make PYTHON=python3.12 run") \
	  if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes -r envs/build.lock
	$(BIN)/python -m pip install --quiet --no-compile --require-hashes --no-build-isolation -r envs/requirements.lock
	@touch $@

lock:  ## Write the lock files anew from envs/*.in (needs uv)
	for name in build requirements; do \
	  uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-header --no-annotate envs/$$name.in -o envs/$$name.lock || exit; \
	done

clean:  ## Delete all results and the environment
	rm -rf $(VENV) .snakemake results/*/ results/.shared
