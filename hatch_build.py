"""Builds the compiled modules into the wheel, or in place for an editable install; without a compiler nothing."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULES = ("_transcode", "_changes", "_documents")
"""Of `instep_schemas`."""


class CompilingHook(BuildHookInterface[Any]):
    """Hatchling's hook; Instep without the modules does the same in pure Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and take what was made into the wheel."""
        if os.environ.get("INSTEP_PURE", "0") not in ("", "0"):
            return
        try:
            with chdir(self.root), warnings.catch_warnings(action="ignore"):  # of old ways in others' code
                built = compiled()
        except (Exception, SystemExit) as exc:  # whatever is missing: an optional part ends no installation
            reason = " ".join(str(exc).split()) or type(exc).__name__
            self.app.display_warning(f"instep: everything stays pure Python, which does the same: {reason}")
            return
        build_data["artifacts"] += [f"/{each.as_posix()}" for each in built]
        if version != "editable":
            build_data["pure_python"], build_data["infer_tag"] = False, True


def compiled() -> list[Path]:
    """Make the modules beside their sources, and give their paths.

    Raises:
        Exception: Cython, setuptools or a C compiler is missing, or fails.
    """
    import setuptools.command.build_ext  # before Cython: it brings the distutils that Cython asks for
    from Cython.Build import cythonize

    options = [] if sys.platform == "win32" else ["-O2", "-g0"]
    names = {f"instep_schemas.{each}": Path("schemas", "instep_schemas", f"{each}.pyx") for each in MODULES}
    with TemporaryDirectory() as folder:
        extensions = [
            setuptools.Extension(name, [str(source)], extra_compile_args=options) for name, source in names.items()
        ]
        build: Any = cythonize  # it has no types
        modules = build(extensions, build_dir=folder, include_path=["schemas"], quiet=True)
        command = setuptools.command.build_ext.build_ext(
            setuptools.Distribution({"name": "instep", "ext_modules": modules})
        )
        command.build_temp, command.build_lib = folder, "schemas"
        command.ensure_finalized()
        command.run()
        return [Path(command.get_ext_fullpath(each)) for each in names]
