#!/usr/bin/env bash
# Sets everything up and runs the tests. Arguments go to pytest: bash scripts/test.sh -k lstm
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
enter_environment
install_extra test
cd "$ROOT"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # small nets are faster so
exec "$PYTHON" -m pytest "$@"
