#!/usr/bin/env bash
# The whole chain on one accelerator, without network: autoencoder, text encoders, teacher, judge, students, evaluation.
#
#   recipes/gpu.sh pack SOURCE [NAME...]
#                                     here: put the 120 subjects' drawings, and wheels of what that machine lacks (diffusers), under ./gpu/
#   recipes/gpu.sh train OUT          there: carry it all out and leave at most eight files in OUT; goes on where it was stopped
#   recipes/gpu.sh tiny OUT           the same chain on the smoke plan, for a dry run on a processor
#
# Wheels and drawings are 12 MB. The embedded weights and docs/runs are not needed there: leave them out where what travels is limited.
# The machine needs Python 3.12 with torch 2.11 and transformers 5.17. Started with setsid, it runs on after the command that started it has ended;
# where a command's OUT does not outlive it, train into a folder that does, and copy from there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
what=${1:?pack, train or tiny}
python=${PYTHON:-python3}

pack() {
    "$python" - "$1" gpu/noto <<'PY'
import csv, sys, tarfile
from pathlib import Path

from fewstep.data.subjects import ICONIC

source, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
with (source / "noto-emoji.tsv").open(encoding="utf8", newline="") as table:
    head, *rows = csv.reader(table, delimiter="\t", quoting=csv.QUOTE_NONE)
rows = [row for row in rows if row[head.index("name")] in ICONIC]
(out / "noto-emoji.tsv").write_text("".join("\t".join(row) + "\n" for row in [head, *rows]), encoding="utf8")
with tarfile.open(source / "noto-emoji-png512.tar") as tar:
    for row in rows:
        member = tar.extractfile(row[head.index("file")])
        assert member is not None
        (out / row[head.index("file")]).write_bytes(member.read())
print(f"{out}: {len(rows)} drawings")
PY
    bash recipes/carry.sh pack "${@:2}"
}

run() { # run NAME VERB...: one step of the chain, with its time
    local name=$1 began=$SECONDS
    shift
    "$python" -m fewstep "$@" >>"$out/log.txt" 2>&1 || { tail -n 30 "$out/log.txt"; exit 1; }
    printf '%s  %d s\n' "$name" $((SECONDS - began)) | tee -a "$out/times.txt"
}

collect() { # collect RUN: its model, in at most eight files of 16 MiB with the others: a model's two UNets are 11 MB each
    local model=$runs/$1/model
    cp "$model/unet/diffusion_pytorch_model.safetensors" "$out/unet.safetensors"
    cp "$model/vae/diffusion_pytorch_model.safetensors" "$out/vae.safetensors"
    [ ! -e "$model/students/1-step-unet.safetensors" ] || cp "$model/students/1-step-unet.safetensors" "$out/"
    tar cf "$out/model.tar" -C "$model" --exclude=diffusion_pytorch_model.safetensors --exclude=1-step-unet.safetensors .
    (cd "$runs" && tar czf "$out/metrics.tar.gz" -- */metrics.jsonl)
    ls -l "$out"
}

case $what in
pack)
    pack "${2:?SOURCE: a folder with noto-emoji.tsv and noto-emoji-png512.tar}" "${@:3}"
    ;;
train | tiny)
    out=$(mkdir -p "${2:?OUT}" && cd "$2" && pwd)
    runs=${FEWSTEP_RUNS:-$PWD/runs}/gpu-$what
    mkdir -p "$runs"
    export HF_HUB_OFFLINE=1 PYTHONPATH=$PWD/src:${PYTHONPATH:-}
    if [ "$what" = train ]; then
        # shellcheck source=recipes/carry.sh
        source recipes/carry.sh unpack
        teacher=recipes/gpu-teacher.toml students=recipes/gpu-students.toml
        judge=() prompts=500 source=gpu/noto
    else
        teacher=recipes/smoke-teacher.toml students=recipes/smoke.toml
        judge=(--set updates=4 --set batch_size=8 --set data.subjects=6) prompts=4 source=shapes
    fi
    run teacher train "$teacher" --run "$runs/teacher" --set data.source="$source"
    collect teacher # if the machine is taken away before the rest is done
    run judge train recipes/emoji-judge.toml --run "$runs/judge" --set data.source="$source" "${judge[@]}"
    if [ ! -e "$runs/students/latents" ]; then # the same scenes, encoded by the same autoencoder: if not, they are made anew
        mkdir -p "$runs/students"
        rm -rf "$runs/students/copied" # half of it, by a run that was stopped
        cp -r "$runs/teacher/latents" "$runs/students/copied"
        mv "$runs/students/copied" "$runs/students/latents"
    fi
    run students distill "$students" --run "$runs/students" --set data.source="$source" --set teacher="$runs/teacher/model"
    cp "$runs/judge/judge.safetensors" "$runs/students/model/"
    collect students
    run evaluate evaluate "$runs/students/model" --source "$source" --count "$prompts" --json "$out/evaluation.json"
    ;;
*)
    echo "recipes/gpu.sh: $what is none of pack, train and tiny"
    exit 2
    ;;
esac
