#!/usr/bin/env bash
# Checks, benchmarks and short studies on a GPU, in minutes, into one Markdown file:
#   bash scripts/gpu.sh [--minutes 8] [--out gpu] [--device cuda] [STEP ...]
# It installs nothing: it runs $PYTHON, else the active environment's, else .venv's, else python3.
# Each step has a share of the time and is stopped at its end; the next one begins in any case.
# STEPs are the names of those to do, all unless given: bash scripts/gpu.sh runs layers
# OUT/results.md is written after every step, the most telling first; OUT/NAME.log has all of one.
# The exit status is 1 if a step failed; one that was stopped has not.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

minutes=8 out=gpu device=cuda
while (($#)); do
  case ${1-} in
    --minutes | --out | --device)
      [[ -n ${2-} ]] || { echo "$1 needs a value" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2
      ;;
    -* | "") echo "usage: bash scripts/gpu.sh [--minutes 8] [--out gpu] [--device cuda] [STEP ...]" >&2; exit 2 ;;
    *) break ;;
  esac
done
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || { echo "--minutes must be a number, got $minutes" >&2; exit 2; }
if [[ -z ${PYTHON-} ]]; then
  PYTHON=python3
  [[ -x .venv/bin/python ]] && PYTHON=.venv/bin/python
  [[ -n ${VIRTUAL_ENV-} ]] && PYTHON=$VIRTUAL_ENV/bin/python
fi
steps=$(sed -nE 's/^ *step ([a-z-]+) [0-9].*/\1/p' "${BASH_SOURCE[0]}")
for name; do
  [[ $steps =~ (^|[[:space:]])$name($|[[:space:]]) ]] || { echo "no step $name; there are: ${steps//$'\n'/ }" >&2; exit 2; }
done
chosen=" ${*:-$steps} "
mkdir -p "$out" || exit 2
results=$out/results.md failed=0 stopped=0
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1

{
  echo "# On ${device}"
  echo
  timeout 100 "$PYTHON" -c 'from wnrl.runs import versions
for name, value in versions().items(): print(f"- {name}: {value}")'
  echo "- command: \`bash scripts/gpu.sh --minutes $minutes --device $device${*:+ $*}\`"
} >"$results" 2>"$out/versions.log"

# step NAME SHARE COMMAND…: a step with SHARE percent of the time
step() {
  local name=$1 limit began=$SECONDS status
  [[ $chosen =~ [[:space:]]$name[[:space:]] ]] || return 0
  limit=$(awk "BEGIN { print $minutes * 60 * $2 / 100 }")
  shift 2
  echo "$name: at most $limit s" >&2
  timeout -s INT -k 5 "$limit" "$PYTHON" "$@" >"$out/$name.log" 2>"$out/$name.err"
  status=$?
  {
    printf '\n## %s\n\n```bash\npython %s\n```\n\n' "$name" "$*"
    case $status in
      0) echo "done in $((SECONDS - began)) s" ;;
      124 | 137) echo "stopped after $limit s" && stopped=$((stopped + 1)) ;;
      *) echo "**failed** (exit status $status) after $((SECONDS - began)) s" && failed=$((failed + 1)) ;;
    esac
    echo
    grep -E '^(\||torch |FAILED|ERROR)|[0-9] (passed|failed|error)' "$out/$name.log" | cut -c1-300
    ((status == 0)) || { echo '```'; tail -n 8 "$out/$name.err" | cut -c1-300; echo '```'; }
  } >>"$results"
}

bench=scripts/bench many=240 workers=()
[[ $device == cpu ]] && many=8
"$PYTHON" -c 'import xdist' 2>/dev/null && workers=(-n 8)
export TORCHINDUCTOR_COMPILE_THREADS=1 # eight tests that compile at once have no cores to spare
step checks 22 -m pytest -m gpu -q -p no:cacheprovider -p no:benchmark --maxfail 30 --durations 5 "${workers[@]}" \
  -W ignore::DeprecationWarning $(grep -rlE "mark\.gpu" tests --include=test_*.py)
unset TORCHINDUCTOR_COMPILE_THREADS
step runs 8 -c "
import time
from scripts.studies._tasks import FEED_FORWARD, PPO
from wnrl import population
print('| norm | runs | seconds | steps/s | mean final return |')
print('|---|---|---|---|---|')
for norm in FEED_FORWARD:  # the first pays for what a process loads and records once
    began = time.monotonic()
    runs = population.train('ppo', 'CartPole-v1', norms=[norm], learning_rates=[1e-3, 3e-3, 1e-2],
                            seeds=range($((many / 12 + (many < 12)))), device='$device',
                            **{**PPO, 'total_timesteps': 100_000}).members
    took, final = time.monotonic() - began, sum(run.final_return for run in runs) / len(runs)
    print(f'| {norm} | {len(runs)} | {took:.1f} | {len(runs) * 1e5 / took:,.0f} | {final:.1f} |')"
step populations 7 $bench/population.py --device "$device" --members "$many" \
  --norms none weight --ways auto eager --seconds 4
step recurrent-populations 6 $bench/population.py --device "$device" --members "$many" \
  --norms none weight --algo recurrent_ppo --seconds 4
step dqn-populations 6 $bench/population.py --device "$device" --members "$many" \
  --norms none weight --algo dqn --seconds 2
step dqn-on-pictures 6 $bench/population.py --device "$device" --members "$many" \
  --norms none weight --algo dqn --env-id MinAtarBreakout-v1 --seconds 2
step vae-populations 6 $bench/population.py --device "$device" --members "$many" \
  --norms none weight --algo vae --seconds 2
step vae-mlp 7 $bench/vae.py --device "$device" --compile --steps 100 --rounds 3
step vae-conv 5 $bench/vae.py --device "$device" --model conv --steps 30 --rounds 3
step layers 5 $bench/layers.py --device "$device" --threads 1 --seconds 1 --only 3x256
step agents 7 $bench/agents.py --device "$device" --compile --seconds 3 --algos sac --norms weight
if [[ $device != cpu ]]; then
  step layers-on-the-cpu 3 $bench/layers.py --threads 1 --seconds 1 --only 3x256
  step vae-mlp-on-the-cpu 3 $bench/vae.py --steps 30 --rounds 2
fi
step study-of-a-vae 4 scripts/train_vae.py --dataset mnist --model conv --norm weight \
  --device "$device" --epochs 2 --run-dir "$out/vae"
step study-of-populations 5 scripts/compare.py noise --engine population --workers 4 --budget 0.1 \
  --device "$device" --run-dir "$out/noise"

echo >>"$results"
echo "$failed steps failed, $stopped were stopped" | tee -a "$results" >&2
echo "$results"
exit $((failed > 0))
