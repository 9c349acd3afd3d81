"""A worker that does what its job folder says, to try how processes are started, heard and ended.

`request.json` of the folder holds a list of steps: an object is printed as an event; "sleep", a number of seconds;
"ignore-cancel" until killed; "child", starts a process that sleeps; "exit", with a code; "crash".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path


def watch_input() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would be held when the interpreter ends
        pass
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(130)


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "arguments.json").write_text(json.dumps(sys.argv[1:]))
    if "--end-with-stdin" in sys.argv:
        threading.Thread(target=watch_input, daemon=True).start()
    stubborn = False
    for step in json.loads((folder / "request.json").read_text()):
        if isinstance(step, dict):
            print(json.dumps(step), flush=True)
        elif step == "ignore-cancel":
            stubborn = True
        elif step == "child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            (folder / "child.txt").write_text(str(child.pid))
        elif step == "noise":
            print("a library says something", flush=True)
            print("and complains", file=sys.stderr, flush=True)
        elif step == "crash":
            os.abort()
        elif isinstance(step, str) and step.startswith("exit "):
            sys.exit(int(step.removeprefix("exit ")))
        else:
            until = time.monotonic() + float(step)
            while time.monotonic() < until:
                if (folder / "cancel").exists() and not stubborn:
                    print(json.dumps({"event": "error", "kind": "cancelled", "message": "Cancelled"}), flush=True)
                    sys.exit(130)
                time.sleep(0.02)


if __name__ == "__main__":
    main()
