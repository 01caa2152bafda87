"""A stop that outlives the process that was stopped: a file in the folder of the run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from polo_ros.safety.supervisor import Fault


class StopFile:
    """Keeps the fault for which a robot is stopped, for whoever controls it next.

    Written to survive the death of the process, not of the machine: nothing waits for the disk.

    Args:
        path: Of the file; its folder is made where there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Fault | None:
        """The fault that was kept; None: there is none. A file that cannot be read is a fault too."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            return Fault(str(kept["reason"]), int(kept["step"]), float(kept["time"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            return Fault(f"stop file: {self.path} cannot be read: {type(error).__name__}: {error}")

    def write(self, fault: Fault | None) -> None:
        """Keep `fault`; None: remove the file.

        Raises:
            OSError: It cannot be written or removed.
        """
        if fault is None:
            self.path.unlink(missing_ok=True)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        draft.write_text(json.dumps(asdict(fault)), encoding="utf-8")
        draft.replace(self.path)
