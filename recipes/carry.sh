#!/usr/bin/env bash
# What a machine without network lacks of Python's packages, for bench/gpu.sh and recipes/gpu.sh.
#
#   recipes/carry.sh pack [NAME...]     here: wheels for Python 3.12 under ./gpu/wheels; diffusers, if nothing is named
#   source recipes/carry.sh unpack      there: put them before everything else, if they are needed, and see that nothing else is missing
#
# Only what is named, without what it depends on: a package that takes the place of a newer or an older one there can break others.
python=${PYTHON:-python3}

case ${1:?pack or unpack} in
pack)
    shift
    mkdir -p gpu/wheels
    [ $# -gt 0 ] || set -- diffusers importlib_metadata
    "$python" -m pip download -q --dest gpu/wheels --python-version 3.12 --only-binary :all: --no-deps "$@"
    du -sh gpu/wheels
    ;;
unpack)
    export PYTHONPATH=$PWD/gpu/site:$PWD/src:${PYTHONPATH:-}
    if ! "$python" -c 'import diffusers' 2>/dev/null && compgen -G 'gpu/wheels/*.whl' >/dev/null; then
        "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target gpu/site gpu/wheels/*.whl
    fi
    "$python" - <<'PY'
import importlib, sys

missing = {}
for name in ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "tokenizers", "typer", "rich", "PIL", "psutil", "fewstep.cli"):
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing[name] = str(error)
if missing:
    said = "; ".join(f"{name} ({reason})" for name, reason in missing.items())
    sys.exit(f"this Python, {sys.executable}, cannot import {said}: name what is missing to recipes/carry.sh pack, or set PYTHON to another")
PY
    ;;
esac
