#!/usr/bin/env bash
# What only an accelerator can answer, in one go and without network: SDXL at full size with random weights, then the embedded model.
# NOT YET RUN: no accelerator was at hand when it was written. It ends within eight minutes; how much of it is finished then is to be seen.
#
#   bench/gpu.sh pack [NAME...]    here: put wheels of what that machine lacks under ./gpu/ (Python 3.12; diffusers, if nothing is named)
#   bench/gpu.sh run OUT           there: leave sdxl.json, emoji.json and log.txt in OUT
#
# The machine needs Python 3.12 with torch 2.11 and transformers 5.17, a compiler for C, 9 GB of disk under $TMPDIR and 48 GB on the card. What is
# stopped by its limit leaves the rows that were finished, and says in its file that it is not complete: compiling is most of it, what was
# compiled is found again, and so a second run gets further. Put the files into bench/results and run bench/report.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
what=${1:?pack or run}
python=${PYTHON:-python3}

measure() { # measure SECONDS NAME OPTION...: one benchmark, interrupted when its time is up
    local limit=$1 name=$2 began=$SECONDS
    shift 2
    timeout --signal=INT --kill-after=20 "$limit" "$python" -m fewstep bench --json "$out/$name.json" "$@" 2>&1 | tee -a "$out/log.txt" || true
    printf '%s  %d s\n' "$name" $((SECONDS - began)) | tee -a "$out/log.txt"
}

case $what in
pack)
    shift
    bash recipes/carry.sh pack "$@"
    ;;
run)
    out=$(mkdir -p "${2:?OUT}" && cd "$2" && pwd)
    export HF_HUB_OFFLINE=1 PYTHONPATH=$PWD/src:${PYTHONPATH:-}
    # shellcheck source=recipes/carry.sh
    source recipes/carry.sh unpack
    # one process for all of SDXL, whose weights take long to write and to load; what matters most comes first
    measure 370 sdxl --architecture sdxl --only compare,stages --steps 1,4 --batch 1,8 --size 1024,512,768 --rounds 5
    measure 70 emoji --quick --only compare --steps 1,4 --batch 1,8
    ;;
*)
    echo "bench/gpu.sh: $what is neither pack nor run"
    exit 2
    ;;
esac
