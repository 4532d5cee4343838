#!/usr/bin/env bash
# The whole chain on a tiny plan: data, teacher, stages, SIGKILL, resume, export, generate, a PNG. On a CPU, in under three minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export OMP_NUM_THREADS=1

kill_after=${SMOKE_KILL_AFTER:-40}  # lines of metrics.jsonl
work=$(mktemp -d)
run=$work/run
trainer=
trap '[ -z "$trainer" ] || kill -KILL "$trainer" 2>/dev/null || true; rm -rf "$work"' EXIT

lines() {
    if [ -f "$run/metrics.jsonl" ]; then wc -l <"$run/metrics.jsonl"; else echo 0; fi
}

echo "smoke: distil until $kill_after updates are logged, then SIGKILL"
fewstep distill recipes/smoke.toml --run "$run" >"$work/first.log" 2>&1 &
trainer=$!
until [ "$(lines)" -ge "$kill_after" ]; do
    if ! kill -0 "$trainer" 2>/dev/null; then
        cat "$work/first.log"
        echo "smoke: the run ended after $(lines) updates, before it could be killed"
        exit 1
    fi
    sleep 0.1
done
kill -KILL "$trainer"
wait "$trainer" 2>/dev/null || true
trainer=
killed_at=$(lines)
echo "smoke: killed after $killed_at updates, $SECONDS s"

echo "smoke: the same command again"
timeout 600 fewstep distill recipes/smoke.toml --run "$run" >"$work/second.log" 2>&1 || { tail -50 "$work/second.log"; exit 1; }
python tests/smoke/check.py run "$run" "$killed_at"
echo "smoke: distilled, $SECONDS s"

echo "smoke: a finished run is left alone"
cp "$run/metrics.jsonl" "$work/before.jsonl"
timeout 300 fewstep distill recipes/smoke.toml --run "$run" >"$work/third.log" 2>&1 || { tail -50 "$work/third.log"; exit 1; }
cmp "$run/metrics.jsonl" "$work/before.jsonl"

echo "smoke: export and generate"
fewstep export "$run/model" --steps 2 --to diffusers --out "$work/exported"
fewstep generate "a red apple" --model "$run/model" --steps 2 --seed 7 --out "$work/apple.png"
python tests/smoke/check.py picture "$work/apple.png"
python tests/smoke/check.py same "$work/exported" "a red apple" 2 7 "$work/apple.png"
echo "smoke: all of it in $SECONDS s"
