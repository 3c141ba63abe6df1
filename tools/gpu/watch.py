"""Run the attempts of a training one after another until one succeeds or the time is up.

``run.py`` starts it in a new session, so that it outlives the call. Reads ``plan.json`` in the work
folder and writes ``training.json`` there. Imports the standard library only.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE = 60  # seconds between SIGTERM, on which a training saves and ends, and SIGKILL


def main() -> None:
    work = Path(sys.argv[1])
    plan = json.loads((work / 'plan.json').read_text())
    ended: list[dict] = []
    for name, command in plan['attempts'].items():
        report(work, 'running', ended)
        log = work.parent / 'logs' / f'training_{name.replace(" ", "_")}.log'
        code = attempt(command, log, plan['deadline'])
        text = log.read_text(errors='replace').splitlines()
        line = next((line.strip() for line in reversed(text) if line.strip()), '')
        ended.append(dict(name=name, code=code, line=line[:300]))
        if code == 0 or time.time() > plan['deadline']:
            break
    report(work, 'ended', ended)


def attempt(command: list[str], log: Path, deadline: float) -> int:
    """Run a command, ask it to end at the deadline, and return its exit code."""
    with open(log, 'a') as out:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(timeout=max(1.0, deadline - time.time()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()


def report(work: Path, state: str, ended: list[dict]) -> None:
    part = work / 'training.json.part'
    part.write_text(json.dumps(dict(state=state, pid=os.getpid(), attempts=ended), indent=1))
    part.replace(work / 'training.json')


if __name__ == '__main__':
    main()
