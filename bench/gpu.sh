#!/usr/bin/env bash
# What only an accelerator can answer, in one go and without network: SDXL at full size with random weights, then the embedded model.
# NOT YET RUN: no accelerator was at hand when it was written. It is meant to end within eight minutes on one H100-class card.
#
#   bench/gpu.sh pack        here: put wheels of what torch does not bring under ./gpu/ (Python 3.12)
#   bench/gpu.sh run OUT     there: leave sdxl-1024.json, sdxl-smaller.json, emoji.json and log.txt in OUT
#
# The machine needs Python 3.12 with torch 2.11, 9 GB of disk under $TMPDIR and 48 GB on the card. Whatever is stopped by its limit leaves
# the tables that were finished, and says in its file that it is not complete. Put the files into bench/results and run bench/report.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
what=${1:?pack or run}

pack() {
    mkdir -p gpu/wheels
    # without dependencies: torch is there, and what it brings (numpy, jinja2, networkx ...) is there with it
    python -m pip download -q --dest gpu/wheels --python-version 3.12 --only-binary :all: --no-deps \
        diffusers transformers tokenizers huggingface_hub safetensors peft accelerate pillow regex typer rich \
        packaging requests filelock importlib_metadata zipp pyyaml tqdm httpx httpcore h11 anyio idna certifi psutil \
        click shellingham markdown_it_py mdurl pygments
    du -sh gpu
}

measure() { # measure SECONDS NAME OPTION...: one benchmark, interrupted when its time is up
    local limit=$1 name=$2 began=$SECONDS
    shift 2
    timeout --signal=INT --kill-after=20 "$limit" python -m fewstep bench --json "$out/$name.json" "$@" 2>&1 | tee -a "$out/log.txt" || true
    printf '%s  %d s\n' "$name" $((SECONDS - began)) | tee -a "$out/log.txt"
}

case $what in
pack)
    pack
    ;;
run)
    out=$(mkdir -p "${2:?OUT}" && cd "$2" && pwd)
    export HF_HUB_OFFLINE=1 PYTHONPATH=$PWD/src:${PYTHONPATH:-}
    python -c 'import diffusers, transformers, typer, safetensors' 2>/dev/null || python -m pip install -q --no-index --no-deps gpu/wheels/*.whl
    # what matters most comes first: every size and batch is compiled anew, which takes most of the time
    measure 290 sdxl-1024 --architecture sdxl --only compare,stages --steps 1,4 --batch 1,8 --size 1024 --rounds 5
    measure 110 sdxl-smaller --architecture sdxl --only compare --steps 1,4 --batch 1 --size 512,768 --rounds 5
    measure 50 emoji --quick --only compare --steps 1,4 --batch 1,8
    ;;
*)
    echo "bench/gpu.sh: $what is neither pack nor run"
    exit 2
    ;;
esac
