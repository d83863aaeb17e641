"""Loading the workflows and activities of a module, as APP on the command line names it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import Struct

from jetflow.core.definitions import ActivityDefinition, WorkflowDefinition
from jetflow.core.location import is_user_file
from jetflow.errors import RegistrationError


class LoadedApp(Struct, frozen=True):
    """The workflows and activities of a module, in the order of definition."""

    name: str
    workflows: list[WorkflowDefinition[Any, Any]]
    activities: list[ActivityDefinition[Any, Any]]


def load_app(app: str, *, activities_only: bool = False) -> LoadedApp:
    """Import a module and find the workflows and activities that it defines or imports.

    Args:
        app: ``package.module`` or ``path/to/file.py``.
        activities_only: leave out its workflows.

    Raises:
        RegistrationError: there is no such module, its import fails, or it has nothing to serve.
    """
    _put_first(os.getcwd())
    module = _load_file(Path(app)) if app.endswith(".py") or os.sep in app else _load_module(app)
    found = {id(value): value for value in vars(module).values() if isinstance(value, (WorkflowDefinition, ActivityDefinition))}
    workflows = [value for value in found.values() if isinstance(value, WorkflowDefinition)]
    activities = [value for value in found.values() if isinstance(value, ActivityDefinition)]
    if activities_only:
        if not activities:
            raise RegistrationError(f"{app} has no activities: --activities-only serves the @activity functions that the module defines or imports")
        return LoadedApp(app, [], activities)
    if not workflows:
        raise RegistrationError(f"{app} has no workflows: a worker serves the @workflow functions that the module defines or imports")
    return LoadedApp(app, workflows, activities)


def _load_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise RegistrationError(f"{name!r} is neither a module's name, such as package.module, nor the path of a .py file")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            hint = f"; for the file, write {name}.py" if Path(f"{name}.py").exists() else ""
            raise RegistrationError(
                f"no module named {name!r} (missing: {error.name!r}); looked in the current folder and in what Python has installed{hint}"
            ) from error
        raise _import_failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(name, error) from error


def _load_file(path: Path) -> ModuleType:
    if path.is_dir():
        raise RegistrationError(f"{path} is a folder; give one of its .py files, or a module name with dots")
    if not path.is_file():
        raise RegistrationError(f"no file {path}")
    if path.suffix != ".py":
        raise RegistrationError(f"{path} is not a .py file")
    path = path.resolve()
    root, names = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        names.insert(0, root.name)
        root = root.parent
    _put_first(str(root))
    if len(names) > 1:  # part of a package: import it by its full name, so that relative imports work
        return _load_module(".".join(names))
    # not import_module: the file may have the name of an installed module, or a name that is no module name
    name = path.stem if path.stem not in sys.modules else f"jetflow_app_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failed(path.name, error) from error
    return module


def _put_first(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _import_failed(name: str, error: BaseException) -> RegistrationError:
    """Return the error with the place in the user's own code, without the frames of Python and jetflow."""
    what = "".join(traceback.format_exception_only(error)).rstrip()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_user_file(frame.filename)]
    where = "".join(traceback.format_list(frames)).rstrip()
    return RegistrationError(f"importing {name} failed: {what}" + (f"\n{where}" if where else ""))
