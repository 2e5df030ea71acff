"""Time of the whole ``gradflow verify``: cold start, warm compilation cache, and first output.

python benchmarks/verify_time.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time


def run(cache: str) -> tuple[float, float, str]:
    """Seconds to the first line and to the end, and the line that counts the verdicts."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", "from gradflow.cli import main; main()", "verify"]
    start = time.perf_counter()
    first = None
    summary = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            first = first or time.perf_counter() - start
            summary = line.strip() if " SUPPORTED in " in line else summary
    return first or float("nan"), time.perf_counter() - start, summary


def main() -> None:
    """Run twice on one fresh cache."""
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            first, total, summary = run(cache)
            print(f"{name}: first line {first:.1f} s, whole {total:.1f} s ({summary})")


if __name__ == "__main__":
    main()
