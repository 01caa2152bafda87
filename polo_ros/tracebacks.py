"""Which errors need a traceback: those that did not come about in this package."""

from __future__ import annotations

import traceback
from pathlib import Path

_OURS = Path(__file__).parent


def needed(error: BaseException) -> str:
    """The traceback of `error` if it, or what caused it, was raised by code of others; else empty.

    What this package raises says in words what is wrong and where. An error that a task's reward or a driver raises
    says something only together with the line. Of files and ports that cannot be opened the error says enough.
    """
    cause = error.__cause__ or error
    frames = traceback.extract_tb(cause.__traceback__)
    if isinstance(cause, OSError) or not frames or Path(frames[-1].filename).is_relative_to(_OURS):
        return ""
    return "".join(traceback.format_exception(error))
