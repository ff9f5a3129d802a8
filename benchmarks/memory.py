"""Peak memory of this process and of programs it starts.

Linux counts in `ru_maxrss` what a process held before it became its program, which is as large as
the process that started it. A small program started from a large one would look as large.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in one of `ru_maxrss`."""

# A process of its own that is small when it starts the program, and says what the program held.
LAUNCHER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def peak_megabytes() -> float:
    """Peak resident set of this process so far, in MB of 1e6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 1e6


def run(command: list[str]) -> tuple[float, float]:
    """Wall seconds of a program and its peak resident set in MB of 1e6 bytes.

    The seconds hold the start of a small Python, about 0.02.

    Raises:
        RuntimeError: it failed.
    """
    started = time.perf_counter()
    launcher = [sys.executable, "-S", "-E", "-c", LAUNCHER]
    ran = subprocess.run([*launcher, *command], capture_output=True, check=False, text=True)
    seconds = time.perf_counter() - started
    if ran.returncode:
        raise RuntimeError(f"{command[0]} failed: {ran.stderr[-300:]}")
    return seconds, int(ran.stdout) * UNIT / 1e6
