"""Where polo_ros is installed: its share folder, its executables, and what ROS needs to find it.

The prefix is a virtual environment (`pip install`) or colcon's install folder; both have the same layout.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

PACKAGE = "polo_ros"

# In the order of their dependencies.
_LIBRARIES = (
    "rosidl_generator_c",
    "rosidl_typesupport_c",
    "rosidl_typesupport_introspection_c",
    "rosidl_typesupport_fastrtps_cpp",
    "rosidl_typesupport_fastrtps_c",
    "rosidl_generator_py",
)


def prefix() -> Path:
    """The prefix that this package is installed in.

    Raises:
        FileNotFoundError: not installed, with what was searched.
    """
    searched = _candidates()
    for candidate in searched:
        if (candidate / "share" / PACKAGE / "package.xml").is_file():
            return candidate
    raise FileNotFoundError(
        f"{PACKAGE} is not installed: no share/{PACKAGE}/package.xml in {', '.join(map(str, searched))}; "
        "run `make install`, or source the workspace's install/setup.bash"
    )


def path(*parts: str) -> Path:
    """A file or folder of the installed share folder, e.g. `path("models", "cartpole.xml")`.

    The environment variable POLO_ROS_SHARE names another share folder, e.g. a source tree.

    Raises:
        FileNotFoundError: there is none of that name, with what was searched.
    """
    override = os.environ.get("POLO_ROS_SHARE")
    found = (Path(override) if override else prefix() / "share" / PACKAGE).joinpath(*parts)
    if not found.exists():
        siblings = sorted(entry.name for entry in found.parent.iterdir()) if found.parent.is_dir() else []
        there = f"; in that folder: {', '.join(siblings)}" if siblings else ""
        origin = " (POLO_ROS_SHARE)" if override else ""
        raise FileNotFoundError(
            f"no '{'/'.join(parts)}' in {PACKAGE}'s share folder: {found}{origin} is missing{there}"
        )
    return found


def executable(name: str) -> Path:
    """An executable of lib/polo_ros, e.g. "bridge".

    Raises:
        FileNotFoundError: there is none of that name, with those that there are.
    """
    folder = prefix() / "lib" / PACKAGE
    found = folder / name
    if not found.is_file():
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        raise FileNotFoundError(f"no executable '{name}' in {folder}; executables: {', '.join(names) or 'none'}")
    return found


def activate() -> None:
    """Make this process and its children find polo_ros as a ROS package, without a sourced setup.bash.

    Call it before rclpy is imported. Does nothing in a sourced workspace.
    """
    root = prefix()
    _prepend("AMENT_PREFIX_PATH", str(root))
    if Path(sys.prefix, "share", "ament_index").is_dir():  # ROS itself, installed from wheels
        _append("AMENT_PREFIX_PATH", sys.prefix)
    lib = root / "lib"
    if _prepend("LD_LIBRARY_PATH", str(lib)):
        # The loader read the variable when the process started; a library that is loaded is found by name.
        for name in _LIBRARIES:
            library = lib / f"lib{PACKAGE}__{name}.so"
            if library.is_file():
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _candidates() -> list[Path]:
    """Prefixes to search: this module's own first, so that code and data are of one installation."""
    own = [parent.parent for parent in Path(__file__).resolve().parents if parent.name in ("lib", "lib64", "local")]
    ament = [Path(entry) for entry in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if entry]
    return list(dict.fromkeys([*own, *ament, Path(sys.prefix)]))


def _prepend(variable: str, entry: str) -> bool:
    """Put `entry` first in a path variable unless it is in it; whether that was done."""
    entries = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
    if entry in entries:
        return False
    os.environ[variable] = os.pathsep.join([entry, *entries])
    return True


def _append(variable: str, entry: str) -> None:
    entries = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
    if entry not in entries:
        os.environ[variable] = os.pathsep.join([*entries, entry])
