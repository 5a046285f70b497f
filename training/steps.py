"""What each model's one command has in common: steps that are skipped where their output exists."""

import os
import subprocess
import sys

# On a CPU, keep freed memory instead of asking the system for it again at every step.
MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_TOP_PAD_": "536870912"}


def run(folder, steps):
    """Runs each (output, script, arguments) whose output is missing; None always runs."""
    for output, script, *arguments in steps:
        if output and os.path.exists(output):
            print(f"{script}: {output} is there", flush=True)
            continue
        print(f"{script} {' '.join(map(str, arguments))}", flush=True)
        command = [sys.executable, "-u", os.path.join(folder, script), *map(str, arguments)]
        subprocess.run(command, check=True, env={**MEMORY, **os.environ})
