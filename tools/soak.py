"""Kill a training many times and check that it still ends with the same result.

Trains a config twice: once without interruption, once killed at random times and resumed each time.
Then compares the last checkpoints bit by bit: weights, optimisers, schedules, average, counters.
Runs on a CPU in float32.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dblrgan_mm import launch
from dblrgan_mm.errors import LaunchError

TOOLS = Path(__file__).parent
ALL, ONE, TERM = 'SIGKILL to all', 'SIGKILL to one process', 'SIGTERM to the processes'
_TRAINING = 'Checkpoints will be saved'  # logged just before the first iteration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='folder for the two runs; must be new')
    parser.add_argument('--config', default=TOOLS.parent / 'configs' / 'dblrgan_sample.py')
    parser.add_argument(
        '--kills', type=launch.positive, default=50, help='number of kills (default: 50)'
    )
    parser.add_argument('--processes', type=launch.positive, default=1)
    parser.add_argument('--seed', type=int, default=0, help='seed of the random times')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE')
    args = parser.parse_args()
    if args.work_dir.exists():
        raise LaunchError(f'{args.work_dir} exists already; give a new folder')
    args.work_dir.mkdir(parents=True)

    begin = time.monotonic()
    undisturbed = Training(args, 'undisturbed')
    undisturbed.wait_for_training()
    training = time.monotonic()
    if undisturbed.process.wait() != 0:
        raise LaunchError(f'the undisturbed run failed, see {undisturbed.log}')
    seconds = time.monotonic() - training
    print(
        f'undisturbed: {training - begin:.0f} s to start, {seconds:.0f} s of training', flush=True
    )

    moments = random.Random(args.seed)  # noqa: S311  (no secret)
    counts = dict.fromkeys(undisturbed.kinds, 0)
    resumes = 0
    run = None
    while True:
        if run is None:
            run = Training(args, 'killed')
            run.wait_for_training()
        left = args.kills - sum(counts.values())
        # 0.8 makes sure that the last kill comes before the end of the training
        code = run.wait(moments.uniform(0, 0.8 * seconds / args.kills) if left else None)
        if code is None:
            kind = moments.choice(list(counts))
            counts[kind] += 1
            print(f'{sum(counts.values())}: {kind}', flush=True)
            code = run.kill(kind, moments)
            if code is None:
                continue  # torchrun has restarted it
            resumes += run.resumes()
            run = None
        elif code == 0:
            resumes += run.resumes()
            break
        if code > 0:
            raise LaunchError(f'a resumed run failed, see {args.work_dir / "killed.log"}')
    kills = sum(counts.values())
    whole, resumed = (last_checkpoint(args.work_dir / name) for name in ('undisturbed', 'killed'))
    different = differences(whole, resumed)
    kinds = ', '.join(f'{count} {kind}' for kind, count in counts.items())
    print(f'{kills} kills ({kinds}), {resumes} resumes')
    if different:
        raise LaunchError(f'the last checkpoints differ in {", ".join(different[:5])}')
    print('the last checkpoints are equal, bit for bit')
    if kills < args.kills:
        raise LaunchError(
            f'the training ended after {kills} of {args.kills} kills: give it more iterations'
        )


class Training:
    """A run of tools/train.py in its own process session.

    Attributes:
        kinds: the ways to kill it.
    """

    def __init__(self, args: argparse.Namespace, name: str) -> None:
        work_dir = args.work_dir / name
        work_dir.mkdir(exist_ok=True)
        self.log = args.work_dir / f'{name}.log'
        arguments = ['--work-dir', work_dir, '--resume', '--cfg-options', *args.cfg_options]
        if not args.cfg_options:
            arguments.pop()
        if args.processes > 1:
            command = [TOOLS / 'dist_train.sh', args.config, str(args.processes), *arguments]
            self.kinds: tuple[str, ...] = (ALL, ONE, TERM)
        else:
            command = [sys.executable, TOOLS / 'train.py', args.config, *arguments]
            self.kinds = (ALL, TERM)
        self._start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open('ab') as out:
            self.process = subprocess.Popen(  # noqa: S603  (this project's own scripts)
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, 'PYTHON': sys.executable, 'MAX_RESTARTS': '1000'},
            )

    def output(self) -> str:
        with self.log.open('rb') as file:
            file.seek(self._start)
            return file.read().decode(errors='replace')

    def resumes(self) -> int:
        """Return how often the run, or a restart of it, resumed from a checkpoint."""
        return len(re.findall(r'Resuming after iteration \d+', self.output()))

    def wait_for_training(self, times: int = 1) -> None:
        while self.process.poll() is None and self.output().count(_TRAINING) < times:
            time.sleep(0.1)

    def wait(self, seconds: float | None = None) -> int | None:
        """Return the exit code, or None if the run has not ended after ``seconds``."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self, kind: str, moments: random.Random) -> int | None:
        """Kill the run; return its exit code, or None if torchrun has restarted it."""
        if kind == ALL:
            # torchrun starts each process in its own session
            send(signal.SIGKILL, [self.process.pid, *self.workers()])
            return self.process.wait()
        if kind == ONE:
            times = self.output().count(_TRAINING)
            send(signal.SIGKILL, [moments.choice(self.workers())])
            self.wait_for_training(times + 1)
            return self.process.poll()
        # also to the data loader workers, as Slurm and torchrun do
        send(signal.SIGTERM, self.workers(), os.killpg)
        code = self.wait(120)
        if code is None:
            raise LaunchError(f'the run did not end within 120 s of SIGTERM, see {self.log}')
        return code

    def workers(self) -> list[int]:
        """Return the training processes, without the data loader workers."""
        if ONE not in self.kinds:
            return [self.process.pid]
        threads = Path(f'/proc/{self.process.pid}/task').iterdir()
        return [int(pid) for thread in threads for pid in (thread / 'children').read_text().split()]


def send(number: int, processes: list[int], how: Callable[[int, int], None] = os.kill) -> None:
    for process in processes:
        try:
            how(process, number)
        except ProcessLookupError:
            continue  # it has just ended on its own


def last_checkpoint(work_dir: Path) -> dict:
    from dblrgan_mm.inference.checkpoint import read_content

    return read_content(Path(launch.newest_checkpoint(str(work_dir)) or work_dir))


def differences(one: Any, other: Any, place: str = '') -> list[str]:
    """List where two checkpoints differ, ignoring times, paths and the log."""
    import torch

    if isinstance(one, dict) and isinstance(other, dict):
        names = {str(k): k for k in (*one, *other)}
        if not place:
            names = {name: names[name] for name in names if name not in ('meta', 'message_hub')}
        return [
            found
            for name, key in names.items()
            for found in differences(one.get(key), other.get(key), f'{place}.{name}'.lstrip('.'))
        ]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return differences(dict(enumerate(one)), dict(enumerate(other)), place or 'list')
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [place]
    return [] if one == other else [place]


if __name__ == '__main__':
    launch.run(main)
