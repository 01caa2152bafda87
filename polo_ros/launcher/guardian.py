"""Outlives a launcher that was killed, and ends the processes that it left.

Run as a script of its own, without the package. Standard input says which process groups there are, one a line:
`+ID SECONDS` for a started group and how long it may take to stop, `-ID` for one that is gone. When the launcher
dies, the kernel closes the pipe and sends SIGTERM to the launcher's children; what then does not stop in its time,
or was started by one of the children, gets SIGKILL.
"""

from __future__ import annotations

import os
import signal
import sys
import time


def alive(group: int) -> bool:
    """Whether a process group still has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Follow the launcher until its pipe closes, then wait for its process groups, then kill them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: dict[int, float] = {}
    for line in sys.stdin:
        group, _, seconds = line[1:].strip().partition(" ")
        if line.startswith("+"):
            groups[int(group)] = float(seconds)
        else:
            groups.pop(int(group), None)
    # A group is dropped once its last process is gone: its number may soon belong to someone else.
    if sys.platform != "linux":  # there the kernel has not told them
        for group in [group for group in groups if alive(group)]:
            os.killpg(group, signal.SIGTERM)
    start = time.monotonic()
    last = max(groups.values(), default=0.0) + 5.0  # a zombie that nobody reaps would keep us for ever
    while (passed := time.monotonic() - start) < last:
        groups = {group: seconds for group, seconds in groups.items() if alive(group)}
        if not groups:
            break
        for group, seconds in groups.items():
            if passed >= seconds and alive(group):
                os.killpg(group, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
