"""Python where SQL ends: a flow's pure function, between its topic and its target.

The topic holds what the SELECT gives; the target holds what the function makes of it. Live delivery, replay, retried
dead letters and verify all call the same function, so that the proof reaches through it.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from instep.errors import FlowError
from instep.flowfile import Flow
from instep.protocols import Document, Fields
from instep.settings import Settings

Transform = Callable[[dict[str, Any]], Fields]
"""Takes a document's columns (str, int, Decimal, datetime, …), gives the target's fields. No I/O, no clock."""

CODE = "TRANSFORM"
"""Of the dead letters of documents that a function fails for."""


class Untransformable(Exception):
    """The function fails for a document; its text is the reason."""


def transforms(settings: Settings, flows: Mapping[str, Flow]) -> dict[str, Transform]:
    """The functions of those flows that have one.

    Raises:
        FlowError: TRANSFORM; a module or function does not exist or cannot be loaded.
    """
    return {name: _load(settings.root, flow) for name, flow in flows.items() if flow.transform}


def _load(root: Path, flow: Flow) -> Transform:
    module, _, function = flow.transform.partition(":")
    subject = f"Flow {flow.name}: transform {flow.transform!r}"
    try:
        found = getattr(_module(root, module), function, None)
    except Exception as exc:
        words = (str(exc).splitlines() or [""])[0]
        raise FlowError(CODE, f"{subject} cannot be loaded: {type(exc).__name__}: {words}.") from exc
    if not callable(found):
        raise FlowError(CODE, f"{subject}: the module has no such function.", 'Write transform = "module:function".')
    transform: Transform = found
    return transform


def _module(root: Path, name: str) -> ModuleType:
    """A module of the project's folder, else an installed one."""
    file = (root / Path(*name.split("."))).with_suffix(".py").resolve()
    if not file.is_file():
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"instep_project_{abs(hash(file))}_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def transformed(document: Document, flow: Flow, transform: Transform | None) -> Document:
    """The document with the fields that the target gets; tombstones stay as they are.

    Raises:
        Untransformable: the function raises, or does not give the columns that the flow's header names.
    """
    if transform is None or document.fields is None:
        return document
    try:
        given = transform(copy.deepcopy(dict(document.fields)))
    except Exception as exc:
        words = (str(exc).splitlines() or [""])[0]
        raise Untransformable(f"{flow.transform} raises {type(exc).__name__}: {words}") from exc
    if not isinstance(given, Mapping):
        raise Untransformable(f"{flow.transform} gives {type(given).__name__}, not a dict")
    missing = [name for name in flow.delivered or () if name not in given]
    if missing:
        raise Untransformable(f"{flow.transform} does not give the column {missing[0]!r}")
    return replace(document, fields=dict(given))
