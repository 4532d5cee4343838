"""Methods of distillation, by the names that a recipe calls them: what a stage does once its student has been converted and warmed.

Another method is one more file with one more class (:class:`fewstep.distill.methods.method.Method`) and one more line in METHODS; or a file
of one's own, outside the package, that the recipe names by its path. Loads no torch before a method is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from fewstep.distill.recipe import RecipeError

if TYPE_CHECKING:
    from fewstep.distill.methods.method import Method
    from fewstep.distill.plan import DistillPlan

METHODS = {  # name: the module that holds its class
    "paper": "fewstep.distill.methods.paper",
    "mse": "fewstep.distill.methods.mse",
    "lcm": "fewstep.distill.methods.lcm",
    "add": "fewstep.distill.methods.add",
    "distribution": "fewstep.distill.methods.distribution",
    "matching": "fewstep.distill.methods.matching",
}


def method_of(plan: DistillPlan, path: Path) -> type[Method]:
    """The method of the recipe at ``path``, once it has agreed to all stages. Raises RecipeError if there is none, or it cannot do one of them."""
    method = find_method(plan.method, path.parent)
    try:
        for stage in plan.stages:
            method.check(plan, stage)
    except ValueError as error:
        raise RecipeError(f"{path}: {error}") from None
    return method


def find_method(name: str, folder: Path) -> type[Method]:
    """The method called ``name``, or the one in the Python file of that path, seen from ``folder``. Whoever names a file has its code run.

    Raises RecipeError if there is no such method or file, or the file does not hold exactly one method.
    """
    from fewstep.distill.methods.method import Method

    if name in METHODS:
        module = importlib.import_module(METHODS[name])
    elif name.endswith(".py"):
        module = _from_file(folder / name)
    else:
        raise RecipeError(f"method = {name!r}: there is {', '.join(METHODS)}, or give the path of a .py file with a method of your own")
    found = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, Method) and kind.__module__ == module.__name__]
    if len(found) != 1:
        raise RecipeError(f"method = {name!r}: that file holds {len(found)} subclasses of fewstep.distill.methods.method.Method, and should hold one")
    return found[0]


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise RecipeError(f"method: {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"fewstep_method_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"method: {path}: not a file that Python can import")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass in it looks for its own names
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise RecipeError(f"method: {path}: {error}") from None
    return module
