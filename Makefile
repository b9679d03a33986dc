# make demo   speech by the model that ships, when one does; then the whole chain at smoke size on the speech in
#             examples/speech (DATA=FOLDER for your own)
# make test   environment and tests
# make bench  speed and memory: the codec beside the encodec package, the language models beside others (long)
# make torture KILLS=20   kills, failing disks, damage, bad files: one table (docs/torture.md); goes on where it stopped
# make soak MINUTES=30    a training interrupted for so long ends as one that was not
# They need nothing but Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= examples/speech
KILLS ?= 20
MINUTES ?= 30
STAMP := $(VENV)/.installed

.PHONY: env demo test bench torture soak lint clean

env: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "halle needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(MAKE) --no-print-directory -C examples/mini demo HALLE="$(abspath $(BIN))/halle" DATA="$(abspath $(DATA))"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/lint-imports

test: $(STAMP)
	PYTHONWARNDEFAULTENCODING=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/speed.py
	$(BIN)/python tests/benchmarks/generation.py
	$(BIN)/python tests/benchmarks/speaking_memory.py
	$(BIN)/python tests/benchmarks/training.py
	$(BIN)/python tests/benchmarks/manifest.py

torture: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture/run.py --kills $(KILLS) --out runs/torture $(if $(ONLY),--only $(ONLY))

soak: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture/soak.py --minutes $(MINUTES)

clean:
	rm -rf $(VENV) runs
