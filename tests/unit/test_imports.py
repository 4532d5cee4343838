"""Imports run one way through the rooms, and what must start fast loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src" / "fewstep"
# cli → bench → serve, batch, export → distill, evals → data, engine → zoo → models → sampler → stamp, schedule → (torch)
TIERS = (
    ("schedule", "stamp"),
    ("sampler",),
    ("models",),
    ("zoo",),
    ("data", "engine"),
    ("distill", "evals"),
    ("serve", "batch", "export"),
    ("bench",),
    ("cli",),
    ("__main__",),
)
TIER = {room: number for number, rooms in enumerate(TIERS) for room in rooms}
SIDEWAYS = {("distill", "evals"), ("data", "engine"), ("stamp", "schedule")}  # the only imports within a tier
HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "tokenizers",
    "numpy",
    "PIL",
    "fastapi",
    "uvicorn",
    "prometheus_client",
    "ray",
}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    names = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def imports(tree: ast.AST) -> set[str]:
    """The dotted names that a piece of code imports, wherever in it; ``from a import b`` counts as a.b where that is a module."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
    return found


def at_start(tree: ast.Module) -> set[str]:
    """What importing a module imports: all but the bodies of functions and of ``if TYPE_CHECKING``."""

    def lives(node: ast.AST) -> bool:
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        return not typing_only and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)

    found: set[str] = set()
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= imports(node)
        stack += [child for child in ast.iter_child_nodes(node) if lives(child)]
    return found


def room(module: str) -> str:
    """The room a module stands in; the package itself is public face and may use any below the command line."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_back(module: str) -> None:
    here = room(module)
    assert not here or here in TIER, f"{module}: the room '{here}' is not in the design; name its tier in this test"
    for target in imports(ast.parse(MODULES[module].read_text(encoding="utf8"))):
        there = room(target)
        if not target.startswith("fewstep") or not here or not there or here == there:
            continue
        downwards = TIER[there] < TIER[here] or (here, there) in SIDEWAYS
        assert downwards, f"{module} imports {target}: '{here}' stands below or beside '{there}'"


def test_tiers_are_what_they_say() -> None:
    """The walk above would notice: each of these is an import that must not be."""
    assert TIER["sampler"] < TIER["models"] < TIER["zoo"] < TIER["engine"] == TIER["data"] < TIER["distill"] == TIER["evals"] < TIER["cli"]
    assert "fewstep.sampler" in imports(ast.parse("def f():\n    from fewstep import sampler"))
    assert at_start(ast.parse("import os\ndef f():\n    import torch\nif TYPE_CHECKING:\n    import numpy")) == {"os"}


@pytest.mark.parametrize("module", [name for name in MODULES if name == "fewstep" or room(name) == "cli"])
def test_the_face_and_the_command_line_import_nothing_heavy(module: str) -> None:
    found = {name.split(".")[0] for name in at_start(ast.parse(MODULES[module].read_text(encoding="utf8")))}
    assert not found & HEAVY, f"{module} imports {', '.join(sorted(found & HEAVY))} when it is loaded"


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) in ("schedule", "sampler", "stamp")])
def test_schedule_and_sampler_need_no_torch(module: str) -> None:
    found = {name.split(".")[0] for name in imports(ast.parse(MODULES[module].read_text(encoding="utf8")))}
    assert not found & (HEAVY - {"numpy"})


def loaded_by(code: str) -> set[str]:
    """The top-level modules in a fresh interpreter after ``code``."""
    program = f"{code}\nimport sys\nprint('\\n'.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, cwd=ROOT.parent, check=True)
    return set(done.stdout.split())


def test_import_fewstep_loads_nothing_heavy() -> None:
    loaded = loaded_by("import fewstep; fewstep.__version__")
    assert not loaded & HEAVY, sorted(loaded & HEAVY)


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_by("import sys\nsys.argv = ['fewstep', '--help']\ntry:\n    from fewstep.cli import main\n    main()\nexcept SystemExit: pass")
    assert not loaded & HEAVY, sorted(loaded & HEAVY)


@pytest.mark.parametrize("module", MODULES)
def test_no_pickle_no_eval_no_bare_except(module: str) -> None:
    """Weights are safetensors, recipes are TOML, and a data set that fails says so."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf8"))
    assert not imports(tree) & {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in {"eval", "exec", "torch.load", "torch.save", "pickle.loads", "pickle.load"}, f"line {node.lineno}: {name}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"
            silent = all(isinstance(line, ast.Continue | ast.Pass) for line in node.body)
            broad = ast.unparse(node.type) in {"Exception", "BaseException"}
            assert not (silent and broad), f"line {node.lineno}: any error is passed over"


def test_version_is_the_packages() -> None:
    import tomllib

    import fewstep

    project = tomllib.loads((ROOT.parents[1] / "pyproject.toml").read_text())["project"]
    assert fewstep.__version__ == project["version"]
