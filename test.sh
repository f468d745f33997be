#!/usr/bin/env bash
# Everything that must hold, in seven minutes on two idle cores. Arguments go to pytest:
#
#     bash test.sh -m "not slow"             the quick round
#     bash test.sh tests/core/test_data.py   one file
set -euo pipefail
cd "$(dirname "$0")"
if ! cat requirements.txt requirements-dev.txt | cmp -s - .venv/installed-dev.txt; then
    echo "Installing torch, transformers and what else the tests need into .venv: up to 4 GB, a few minutes, once."
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet -r requirements-dev.txt
    cat requirements.txt requirements-dev.txt > .venv/installed-dev.txt
    cp requirements.txt .venv/installed.txt
fi
.venv/bin/ruff check .
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [ $# -gt 0 ]; then
    exec .venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder "$@"
fi
# Users' mistakes and damaged files without asserts: no file and no setting of a user's is checked by one.
unchecked="tests/doors/test_mistakes.py tests/core/test_data.py"
.venv/bin/python -O -m pytest -n 2 -W ignore::pytest.PytestConfigWarning $unchecked
.venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(printf -- '--ignore=%s ' $unchecked)
