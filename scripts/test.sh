#!/usr/bin/env bash
# Sets everything up and runs the tests, in one process a core, four at most, of 1 GiB each.
# Arguments go to pytest: bash scripts/test.sh -k lstm, or -n 0 for a single process.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
enter_environment
install_extra test
cd "$ROOT"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # small nets are faster so
exec "$PYTHON" -m pytest \
  -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
