"""Which packages are installed, read from the names of their ``.dist-info`` folders.

``importlib.metadata`` would open a file for each of them; a folder's name has name and version.
"""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.doctor.machine import Machine

_FOLDER = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(-[^-]+)?\.(dist|egg)-info")
_REQUIREMENT = re.compile(r"^Requires-Dist: (?P<name>[\w.-]+)[^;\n]*;(?P<marker>.*)$", re.MULTILINE)
_CONDITION = re.compile(r"(\w+) *(==|!=|>=|<=|>|<) *['\"]([^'\"]*)['\"]")
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Package:
    """An installed package; ``folder`` is its ``.dist-info``."""

    name: str
    version: str
    folder: Path

    @property
    def major(self) -> int:
        """The first number of the version, 0 if it has none."""
        found = re.match(r"\d+", self.version)
        return int(found[0]) if found else 0

    @property
    def tags(self) -> list[str]:
        """What the wheel was built for, as ``cp310-cp310-linux_aarch64``; empty if unknown."""
        return re.findall(r"^Tag: (\S+)$", _text(self.folder / "WHEEL"), re.MULTILINE)


def installed_packages(search: Iterable[Path]) -> dict[str, Package]:
    """Return packages by normalised name; where one is there twice, the one that is imported."""
    found: dict[str, Package] = {}
    for folder in search:
        for path in sorted(folder.glob("*-info")):
            if parts := _FOLDER.fullmatch(path.name):
                name = normalised(parts["name"])
                found.setdefault(name, Package(name, parts["version"], path))
    return found


def normalised(name: str) -> str:
    """Return a package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def extras(packages: dict[str, Package], machine: Machine) -> dict[str, list[str]]:
    """Return what each extra of edgeseg lacks here; empty if edgeseg itself is not installed."""
    own = packages.get("edgeseg")
    metadata = _text(own.folder / "METADATA") if own else ""
    lacking: dict[str, list[str]] = {}
    for needed in _REQUIREMENT.finditer(metadata):
        conditions = _CONDITION.findall(needed["marker"])
        extra = next((value for name, _, value in conditions if name == "extra"), None)
        # An extra made of other extras, as "all", says nothing that they do not say.
        if extra is None or normalised(needed["name"]) == "edgeseg":
            continue
        missing = lacking.setdefault(extra, [])
        name = normalised(needed["name"])
        if _holds(conditions, machine) and name not in packages and name not in missing:
            missing.append(name)
    return lacking


def _holds(conditions: list[tuple[str, str, str]], machine: Machine) -> bool:
    """Tell whether all conditions of a requirement hold; edgeseg's markers have no ``or``."""
    here = {
        "python_version": machine.python,
        "platform_machine": machine.architecture,
        "sys_platform": sys.platform,
    }
    return all(
        _SIGNS[sign](here[name], _numbers(value) if name == "python_version" else value)
        for name, sign, value in conditions
        if name in here
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
