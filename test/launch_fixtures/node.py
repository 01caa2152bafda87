"""A node for launcher tests: says who it is, and behaves as its arguments say.

--stubborn: SIGINT and SIGTERM do not stop it.  --deaf: SIGINT does not.  --child: it starts a process of its own.
--end CODE: it ends at once with that exit code.  --crash: it raises SIGSEGV.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import yaml

arguments = sys.argv[1:]
own = arguments[: arguments.index("--ros-args")]
parameters = {}
for flag, value in itertools.pairwise(arguments):
    if flag == "--params-file":
        with open(value, encoding="utf-8") as stream:
            for node, tree in yaml.safe_load(stream).items():
                parameters.setdefault(node, {}).update(tree["ros__parameters"])


def stop(number, frame):
    print(f"got {signal.Signals(number).name}", flush=True)
    if "--stubborn" not in own and not ("--deaf" in own and number == signal.SIGINT):
        sys.exit(0)


signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
child = subprocess.Popen(["sleep", "600"]).pid if "--child" in own else None
state = {
    "pid": os.getpid(),
    "child": child,
    "parameters": parameters,
    "arguments": arguments,
    "mark": os.environ.get("MARK"),
}
print("ready " + json.dumps(state), flush=True)
if "--crash" in own:
    signal.raise_signal(signal.SIGSEGV)
if "--end" in own:
    sys.exit(int(own[own.index("--end") + 1]))
while True:
    time.sleep(0.05)
