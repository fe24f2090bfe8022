#!/usr/bin/env bash
# Sets everything up and compares normalisations on small tasks, into runs/quick of the checkout.
# A second call goes on where the first one was stopped, or shows its table again.
# Arguments go to scripts/compare.py: bash scripts/demo.sh --seeds 5
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
enter_environment
install_extra lab
exec "$PYTHON" "$ROOT/scripts/compare.py" quick --run-dir "$ROOT/runs/quick" "$@"
