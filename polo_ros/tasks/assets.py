"""Models that come with other packages: extras, found at run time and never imported."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def package_file(package: str, *parts: str, distribution: str, extra: str, what: str) -> Path:
    """A file of an installed package, which is not imported: that would load all its environments.

    Args:
        package: Name that Python imports it by.
        parts: Folders below the package, and the file.
        distribution: Name that pip installs it by.
        extra: Extra of polo_ros that brings it.
        what: What the file is, for messages.

    Raises:
        ModuleNotFoundError: The package is not installed.
        FileNotFoundError: It has no such file.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{what} comes with {distribution}, which is not installed; "
            f"it is the extra '{extra}': pip install 'polo_ros[{extra}]'",
            name=package,
        )
    path = Path(found.submodule_search_locations[0]).joinpath(*parts)
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; pip install 'polo_ros[{extra}]' brings the version that has {what}")
    return path
