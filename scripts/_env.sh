# Sourced by demo.sh and test.sh: sets ROOT to the checkout and PYTHON to an interpreter that has
# wnrl installed with one of its extras, from an active environment or from .venv.
#
# WNRL_CONSTRAINTS=/dev/null installs the newest versions, or keeps those of an active environment,
# instead of the pinned ones.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
constraints=${WNRL_CONSTRAINTS:-$ROOT/constraints.txt}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if new_enough "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  echo "error: no Python 3.11 or newer on the PATH" >&2
  return 1
}

# Sets PREFIX and PYTHON. A conda base environment is everybody's and does not count as active.
enter_environment() {
  if [[ -n ${VIRTUAL_ENV:-} ]]; then
    PREFIX=$VIRTUAL_ENV
  elif [[ -n ${CONDA_PREFIX:-} && ${CONDA_DEFAULT_ENV:-base} != base ]]; then
    PREFIX=$CONDA_PREFIX
  else
    PREFIX=$ROOT/.venv
    if ! "$PREFIX/bin/python" -m pip --version >/dev/null 2>&1; then
      local base
      base=$(find_python) || return 1
      echo "making $PREFIX with $base" >&2
      "$base" -m venv --clear "$PREFIX" || return 1
    fi
  fi
  PYTHON=$PREFIX/bin/python
  if [[ ! -x $PYTHON ]]; then
    echo "error: the active environment $PREFIX has no Python; deactivate it" >&2
    return 1
  fi
  if ! new_enough "$PYTHON"; then
    echo "error: $PYTHON is older than Python 3.11" >&2
    return 1
  fi
}

# install_extra NAME: once for each state of pyproject.toml and the constraints.
install_extra() {
  local state torch stamp=$PREFIX/.wnrl-$1
  state=$(cat "$ROOT/pyproject.toml" "$constraints" | cksum; echo "$ROOT")
  if [[ -f $stamp && $(<"$stamp") == "$state" ]]; then
    return
  fi
  echo "installing wnrl[$1] into $PREFIX: PyTorch, stable-baselines3 and what belongs to them" >&2
  torch=$(grep -m1 '^torch==' "$constraints" || echo torch)
  if [[ $(uname -s) == Linux ]] && ! "$PYTHON" -c 'import torch' 2>/dev/null; then
    echo "to download: 2 to 3 GB, for PyTorch has CUDA with it on Linux; without a GPU stop here (Ctrl-C)," >&2
    echo "put its build for CPUs ($torch) into $PREFIX as pytorch.org says, and call this again: 0.5 GB in all" >&2
  else
    echo "to download: about 0.5 GB" >&2
  fi
  if ! "$PYTHON" -m pip --version >/dev/null 2>&1 && ! "$PYTHON" -m ensurepip >/dev/null 2>&1; then
    echo "error: $PREFIX has no pip; install it there, or deactivate the environment" >&2
    return 1
  fi
  # Not quietly: it takes minutes, and says of each package what it is and how large.
  "$PYTHON" -m pip install --disable-pip-version-check \
    --constraint "$constraints" --editable "$ROOT[$1]" >&2 || return 1
  printf '%s\n' "$state" >"$stamp"
}
