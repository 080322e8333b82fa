"""Builds the native kernels when Ingle is installed: with the system's C compiler, or with zig's where there is none.

Without x86-64 Linux nothing is built, and Ingle computes with PyTorch's kernels alone.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCES = Path("models/text/native")
_LIBRARY = _SOURCES / "libingle.so"
_INSTRUCTIONS = ("f", "bw", "dq", "vl", "vnni")
_ZIG = "ziglang==0.17.0"


class NativeKernels(BuildHookInterface[Any]):
    """Compiles `models/text/native/*.c` into one shared library that lies beside them."""

    def dependencies(self) -> list[str]:
        """A compiler out of the package index where the system has none."""
        return [_ZIG] if _is_offered() and not _system_compiler() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile; `version` is `editable` for an installation that runs from the checkout."""
        if self.target_name != "wheel" or not _is_offered():
            return
        root = Path(self.root)
        compiler = _system_compiler() or [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-gnu.2.28"]
        flags = ["-O3", "-std=c11", "-fPIC", "-shared", "-Wall", "-Wextra", "-fno-sanitize=undefined", "-mfma"]
        flags += [f"-mavx512{name}" for name in _INSTRUCTIONS]
        sources = sorted(str(path) for path in (root / _SOURCES).glob("*.c"))
        # Beside the target and renamed: a server that runs from this checkout keeps the library that it has.
        fresh = root / _LIBRARY.with_suffix(".new")
        command = [*compiler, *flags, *sources, "-o", str(fresh), "-lm", "-pthread"]
        subprocess.run(command, check=True)  # noqa: S603 - a compiler and files of this folder
        fresh.replace(root / _LIBRARY)
        build_data["artifacts"].append(str(_LIBRARY))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform_tag()}"


def _is_offered() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"


def _system_compiler() -> list[str] | None:
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    found = next((path for name in names if (path := shutil.which(name))), None)
    return None if found is None else [found]


def _platform_tag() -> str:
    return f"linux_{platform.machine()}"
