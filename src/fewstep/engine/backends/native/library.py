"""The kernels beside this file, compiled once for the processor that they run on, where there is a compiler for C."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from fewstep.engine.backends import BackendError, log
from fewstep.engine.device import features
from fewstep.engine.measured import cache
from fewstep.engine.software import compiler

SOURCE = Path(__file__).with_name("kernels.c")
X86 = ("x86_64", "amd64")
LONGEST = 120  # seconds that a compiler may take


class Operation(ctypes.Structure):
    """What is in kernels.c under this name."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "cin", "cout", "height", "width", "in_height", "in_width", "stride", "activation", "factor")),
        *((name, ctypes.c_int32) for name in ("groups", "source", "layered", "heads", "tokens", "apart", "causal", "late", "around")),
        *((name, ctypes.c_float) for name in ("epsilon", "further")),
        *((name, ctypes.c_void_p) for name in ("input", "other", "residual", "out", "stats", "weight", "bias", "gamma", "beta")),
    )


def arguments() -> list[str]:
    """How the kernels are compiled."""
    own = "-march=native" if platform.machine().lower() in X86 else "-mcpu=native"
    return ["-O3", own, "-std=gnu11", "-fno-math-errno", "-shared", "-fPIC", "-pthread"]


def identity(command: list[str]) -> str:
    """Names what ``command`` makes of the kernels here: by all that the processor says of itself, for -march=native uses it."""
    about = (SOURCE.read_text(encoding="utf8"), *command, *arguments(), platform.machine(), *platform.libc_ver(), *features())
    return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


def possible() -> bool:
    """Whether there is a compiler, and a place for what it makes or what it made there."""
    command, folder = compiler(), cache("native")
    return command is not None and folder is not None and (os.access(folder, os.W_OK) or (folder / f"{identity(command)}.so").is_file())


@functools.cache
def load() -> ctypes.CDLL:
    """The kernels. Raises BackendError where there is no compiler or it fails."""
    command, folder = compiler(), cache("native")
    if command is None:
        raise BackendError(f"there is no compiler for C ({os.environ.get('CC') or 'cc'}): install gcc or clang, or leave --backend at auto")
    if folder is None:
        raise BackendError("there is no folder to keep what is compiled: set XDG_CACHE_HOME to one that can be written")
    path = folder / f"{identity(command)}.so"
    if not path.is_file():
        build(command, path)
    try:
        library = ctypes.CDLL(str(path))
    except OSError:  # half of a file that a machine lost its power over
        build(command, path)
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise BackendError(f"{path} cannot be loaded ({error}): set XDG_CACHE_HOME to a place that programs may lie in") from None
    library.stats_of.restype = library.scratch_of.restype = ctypes.c_size_t
    library.compute.restype = None
    return library


def build(command: list[str], path: Path) -> None:
    """Compile the kernels into ``path``, which is there as a whole or not at all. Raises BackendError if that cannot be done."""
    log.warning("fewstep: compiling the networks for this processor, once; takes some seconds")
    failed, way = f"{command[0]} cannot compile the networks", "repair it, have CC name another compiler, or set FEWSTEP_RUNTIMES=onnxruntime"
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            words, env = [*command, *arguments(), "-o", str(made), str(SOURCE), "-lm"], {**os.environ, "LC_ALL": "C"}
            subprocess.run(words, env=env, check=True, capture_output=True, encoding="utf8", errors="replace", timeout=LONGEST)
            made.replace(path)
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if "error" in line] or [f"exit status {error.returncode}"]
        raise BackendError(f"{failed} ({said[0].strip():.200}): {way}") from None
    except subprocess.TimeoutExpired:
        raise BackendError(f"{failed} within {LONGEST} s: {way}") from None
    except OSError as error:
        raise BackendError(f"{failed} into {path.parent} ({error.strerror}): make room, or set XDG_CACHE_HOME to a folder that can be written") from None
