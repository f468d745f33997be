#!/usr/bin/env bash
# Everything that must hold, in under ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")"
[ -x .venv/bin/python ] || python3 -m venv .venv
if ! cat requirements.txt requirements-dev.txt | cmp -s - .venv/installed-dev.txt; then
    .venv/bin/python -m pip install --quiet -r requirements-dev.txt
    cat requirements.txt requirements-dev.txt > .venv/installed-dev.txt
    cp requirements.txt .venv/installed.txt
fi
.venv/bin/ruff check .
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
.venv/bin/python -m pytest -n 2 --dist loadfile "$@"
