"""Which numbers of control periods are used up: a file in the folder of the run."""

from __future__ import annotations

import json
import os
from pathlib import Path


class StepFile:
    """Keeps the last step and episode that may have been used, so that none is used twice whoever is killed.

    Written to survive the death of processes, not of the machine: nothing waits for the disk.

    Args:
        path: Of the file; its folder is made where there is none.
        started: Names the start of the session; what another one has written counts for nothing. Empty: any.
    """

    def __init__(self, path: Path, started: str = "") -> None:
        self.path = path
        self._started = started
        self._used = (-1, -1)
        self._file = -1

    def read(self) -> tuple[int, int] | None:
        """Last step and episode that may have been used; None: the session has just begun.

        Raises:
            OSError: The file cannot be read.
            ValueError: It holds something else.
        """
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            started, step, episode = str(kept["started"]), int(kept["step"]), int(kept["episode"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self.path} holds no steps: {type(error).__name__}: {error}") from None
        if self._started and started != self._started:
            return None
        if step < 0 or episode < 0:
            raise ValueError(f"{self.path}: step {step} and episode {episode}, expected numbers of 0 or more")
        self._used = step, episode
        return self._used

    def write(self, step: int, episode: int) -> None:
        """Keep that all up to `step` and `episode` may be used; what is kept never falls.

        Raises:
            OSError: It cannot be written.
        """
        used = max(step, self._used[0]), max(episode, self._used[1])
        if used == self._used and self._file >= 0:
            return
        text = json.dumps({"step": used[0], "episode": used[1], "started": self._started}).encode()
        if self._file < 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            draft.write_bytes(text)
            draft.replace(self.path)
            self._file = os.open(self.path, os.O_WRONLY)
        else:
            # In place, which takes microseconds: numbers that do not fall make no text shorter than the one before.
            os.pwrite(self._file, text, 0)
        self._used = used

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
