"""Test, train and measure on a machine with a GPU with one command: ``make gpu``.

A call does the parts that are left and ends before its own time limit; the next call with the same
work folder continues. Each part runs in its own process, so that its failure does not affect the
others. OUT always holds a report of the results so far. See docs/gpu.md for details.

Imports the standard library only.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
SAMPLE = ROOT / 'tests' / 'data' / 'gopro'
SPARE = 12  # seconds reserved at the end of a call for writing the report and the weights
WARM_UP = 500  # iterations, as in the configs
PEERS = ('basicvsr_pp', 'nafnet')  # of configs/baselines
DRY_NETWORK = {
    'dblrnet_ms': 'model.generator.channels=[4,8] model.generator.num_blocks=[0,1,0]',
    'dblrnet_plus': 'model.generator.mid_channels=4 model.generator.num_blocks=1',
}


class CallOverError(Exception):
    """This call has to end; the next one continues."""


class Run:
    """The state of a run, kept in ``status.json`` in the work folder.

    Attributes:
        parts: for each part by name, its ``state`` ('running', 'done', 'failed' or 'skipped'),
            ``seconds`` and ``note``.
        flags: problems and deviations from the plan, one line each.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.called = time.time()
        self.work: Path = args.work
        self.logs = self.work / 'logs'
        self.logs.mkdir(parents=True, exist_ok=True)
        self.file = self.work / 'status.json'
        known = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.begun: float = known.get('begun', self.called)
        self.parts: dict[str, dict] = known.get('parts', {})
        self.flags: list[str] = known.get('flags', [])
        self.facts: dict = known.get('facts', {})
        self.cpu = args.device == 'cpu'

    def save(self) -> None:
        content = dict(
            begun=self.begun, parts=self.parts, flags=self.flags, facts=self.facts,
            finished=self.finished(), config=self.args.config, minutes=self.args.minutes,
        )  # fmt: skip
        part = self.file.with_suffix('.part')
        part.write_text(json.dumps(content, indent=1) + '\n')
        part.replace(self.file)

    def finished(self) -> bool:
        return all(self.parts.get(name, {}).get('state') in ENDED for name, *_ in PARTS)

    def flag(self, text: str) -> None:
        """Add a line to the report, unless it is there already."""
        if text not in self.flags:
            self.flags.append(text)
            print(f'! {text}', flush=True)

    def left(self) -> float:
        """Seconds until the time budget ends."""
        return self.begun + 60 * self.args.minutes - time.time()

    def left_of_call(self) -> float:
        """Seconds until this call has to end."""
        return self.called + 60 * self.args.call_minutes - SPARE - time.time()

    def end(self, name: str, state: str, seconds: float, note: str = '') -> None:
        self.parts[name] = dict(state=state, seconds=round(seconds, 1), note=note)
        print(f'{name}: {state} in {seconds:.0f} s{note and ": " + note}', flush=True)
        self.save()
        write_report(self)

    def command(self, name: str, *command, limit: float) -> tuple[int, str]:
        """Run a command of a part; returns its exit code and the last line that it printed.

        A command that exceeds its limit or the time budget is killed; its exit code is 124.

        Raises:
            CallOverError: if it was killed because this call has to end.
        """
        if self.cpu:
            limit *= 4  # a CPU is slower, and may be busy
        limit = max(1.0, min(limit, self.left(), self.left_of_call()))
        with open(self.logs / f'{name}.log', 'a') as log:
            log.write(f'$ {" ".join(map(str, command))}\n')
            log.flush()
            process = subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=ROOT, env=environment(self.args), stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                if self.left_of_call() <= 0:
                    raise CallOverError from None
                return 124, f'killed after {limit:.0f} s: it took too long, or the time is up'
            finally:
                kill_group(process)
        return code, last_line(self.logs / f'{name}.log')


ENDED = ('done', 'failed', 'skipped')


def environment(args: argparse.Namespace) -> dict[str, str]:
    """Return the environment of every part: the package paths, and no update checks."""
    paths = [str(args.site), str(ROOT), os.environ.get('PYTHONPATH', '')]
    found = dict(
        os.environ,
        PYTHONPATH=os.pathsep.join(path for path in paths if path),
        PYTHONUNBUFFERED='1',
        NO_ALBUMENTATIONS_UPDATE='1',
        USE_FLAX='0',
        USE_TF='0',
    )
    if args.device == 'cpu':
        found['CUDA_VISIBLE_DEVICES'] = ''
    return found


def kill_group(process: subprocess.Popen) -> None:
    """Kill a process and its children, such as the workers of a data loader."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_line(log: Path) -> str:
    """Return the last non-empty line of a log; for a Python traceback this is the error."""
    if not log.is_file():
        return ''
    lines = [line.strip() for line in log.read_text(errors='replace').splitlines()]
    return next((line for line in reversed(lines) if line), '')[:300]


# The parts. Each returns (state, note). A part that the end of a call interrupts runs again.


def wheels(run: Run) -> tuple[str, str]:
    """Install the packages that were copied to this machine."""
    found = sorted(run.args.wheels.glob('*.whl')) if run.args.wheels else []
    if not found:
        return 'skipped', 'no wheels given: using the packages of this Python'
    code, line = run.command(
        'wheels', '-m', 'pip', 'install', '--quiet', '--no-index', '--no-deps', '--no-compile',
        '--upgrade', '--target', run.args.site, *found, limit=120,
    )  # fmt: skip
    return ('failed', line) if code else ('done', f'{len(found)} wheels in {run.args.site}')


def machine(run: Run) -> tuple[str, str]:
    """Report the GPU and check that it can be used."""
    code, line = run.command(
        'machine', TOOLS / 'gpu' / 'checks.py', 'machine', run.args.device, limit=120
    )
    return ('failed' if code else 'done'), line


def imports(run: Run) -> tuple[str, str]:
    """Check that MMagic and this package can be imported; if not, the plain loop trains."""
    code, line = run.command('imports', TOOLS / 'gpu' / 'checks.py', 'imports', limit=150)
    if code:
        run.facts['plain'] = True
        run.flag(f'the plain loop trains because an import failed: {line}')
    return ('failed' if code else 'done'), line


def tests(run: Run) -> tuple[str, str]:
    """Run the tests that need CUDA; a dry run collects and skips them."""
    code, line = run.command(
        'tests', '-m', 'pytest', '-q', '-rs', '--confcutdir', ROOT / 'tests' / 'test_gpu',
        '-p', 'no:cacheprovider', ROOT / 'tests' / 'test_gpu', *(['-m', 'cuda'] if run.cpu else []),
        limit=240,
    )  # fmt: skip
    if code:
        run.flag(f'tests on the GPU failed: {line}')
    return ('failed' if code else 'done'), line


def data(run: Run) -> tuple[str, str]:
    """Make a clip store of the frames that were copied to this machine."""
    source, store = run.args.data, run.work / 'store'
    if source and (source / 'index.json').is_file():
        run.facts['data'] = str(source)
        return 'done', f'{source} is a clip store'
    if not source or not (source / 'train').is_dir():
        run.flag(
            f'no frames in {source}/train: using the bundled sample clips' if source
            else 'no DATA given: using the bundled sample clips'
        )  # fmt: skip
        source = SAMPLE
    shutil.rmtree(store, ignore_errors=True)
    code, line = run.command(
        'data', TOOLS / 'dataset_converters' / 'make_clip_store.py', 'gopro', source, store,
        limit=240,
    )  # fmt: skip
    if code:
        return 'failed', line
    run.facts['data'] = str(store)
    return 'done', line


def smoke(run: Run) -> tuple[str, str]:
    """Train the sample config briefly, then resume it."""
    if run.cpu:
        return 'skipped', 'a dry run needs only the next part'
    work = run.work / 'smoke'
    command = (
        TOOLS / 'train.py', ROOT / 'configs' / 'dblrgan_sample.py', '--amp', '--work-dir', work,
        '--cfg-options', 'train_cfg.val_begin=1000000', 'default_hooks.checkpoint.interval=10',
        'model.train_cfg.gen_init_steps=5',
    )  # fmt: skip
    for iterations in (20, 25):
        code, line = run.command(
            'smoke', *command, f'train_cfg.max_iters={iterations}',
            *(['--resume'] if iterations > 20 else []), limit=120,
        )  # fmt: skip
        if code:
            run.flag(f'the sample training failed at {iterations} iterations: {line}')
            return 'failed', line
    return 'done', '20 iterations of a GAN in mixed precision, then 5 after resuming'


def rate(run: Run) -> tuple[str, str]:
    """Train briefly to find how many iterations fit; halves the batch when out of memory."""
    if run.facts.get('plain'):
        return 'skipped', 'the plain loop trains until a given time'
    if 'data' not in run.facts:
        return 'failed', 'there is no data'
    steps = 4 if run.cpu else 150
    work = run.work / 'rate'
    while True:
        shutil.rmtree(work, ignore_errors=True)
        (run.logs / 'rate.log').unlink(missing_ok=True)
        code, line = run.command(
            'rate', *training_command(run, work, iterations=steps),
            'train_cfg.val_begin=1000000000', f'default_hooks.logger.interval={max(2, steps // 3)}',
            f'log_processor.window_size={max(2, steps // 3)}', limit=180,
        )  # fmt: skip
        batch = run.facts.get('batch_divisor', 1)
        text = (run.logs / 'rate.log').read_text(errors='replace')
        if code and 'out of memory' in text.lower() and batch < 16:
            run.facts['batch_divisor'] = 2 * batch
            run.flag(f'out of memory: batch size divided by {2 * batch}')
            continue
        break
    times = logged(work, 'time')
    if code or not times:
        run.facts['plain'] = True
        run.flag(f'the plain loop trains because {run.args.config} failed: {line}')
        return 'failed', line
    run.facts['seconds_per_step'] = times[-1]
    memory = logged(work, 'memory')
    return 'done', f'{1 / times[-1]:.2f} steps/s' + (f', {memory[-1]:.0f} MB' if memory else '')


def logged(work: Path, name: str) -> list[float]:
    """Return the logged values of a quantity."""
    found = []
    for file in sorted(work.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            try:
                value = json.loads(line).get(name)
            except json.JSONDecodeError:  # truncated line
                continue
            found += [value] if isinstance(value, (int, float)) else []
    return found


def training_command(run: Run, work: Path, iterations: int, amp: bool = True) -> list:
    """Return the command that trains for some iterations; config options may be appended."""
    args = run.args
    warm_up = min(WARM_UP, max(1, iterations // 10))
    command = [
        TOOLS / 'train.py', args.config, '--work-dir', work, '--data-root', run.facts['data'],
        *(['--amp'] if amp and not run.cpu else []), '--cfg-options',
        f'train_cfg.max_iters={iterations}', f'param_scheduler.0.end={warm_up}',
        f'param_scheduler.1.begin={warm_up}', f'param_scheduler.1.end={iterations}',
        f'param_scheduler.1.T_max={iterations - warm_up}', *small(run),
    ]  # fmt: skip
    divisor = run.facts.get('batch_divisor', 1)
    if divisor > 1:
        command.append(f'train_dataloader.batch_size={max(1, batch_size(run) // divisor)}')
    return command


def batch_size(run: Run) -> int:
    """Return the batch size of the config, read by another process, which imports MMEngine."""
    code = (
        'import sys; from mmengine.config import Config; '
        'print(Config.fromfile(sys.argv[1]).train_dataloader.batch_size)'
    )
    found = subprocess.run(
        [sys.executable, '-c', code, run.args.config],
        cwd=ROOT, env=environment(run.args), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return int(found.stdout.split()[-1]) if found.returncode == 0 else 32


def small(run: Run) -> list[str]:
    """Return the options of a dry run: a tiny network and small crops."""
    if not run.cpu:
        return []
    network = DRY_NETWORK.get(Path(run.args.config).stem, '').split()
    return [
        *network, 'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False', 'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False', 'train_dataloader.dataset.crop_size=64',
        'val_dataloader.dataset.indices=2', 'test_dataloader.dataset.indices=4',
    ]  # fmt: skip


def train(run: Run) -> tuple[str, str]:
    """Start the training in a new session, or wait for the running one."""
    work = run.work / 'training'
    file = work / 'training.json'
    work.mkdir(exist_ok=True)
    if 'data' not in run.facts:
        return 'failed', 'there is no data'
    while True:
        state = json.loads(file.read_text()) if file.is_file() else {}
        if state.get('state') == 'ended':
            break
        if not is_alive(state.get('pid')):
            message = start_training(run, work)
            if message:
                return 'skipped', message
        elif run.left_of_call() <= 0:
            raise CallOverError
        time.sleep(min(5.0, max(0.2, run.left_of_call())))
    for attempt in state['attempts']:
        if attempt['code']:
            run.flag(f'training, attempt {attempt["name"]}, ended with code {attempt["code"]}: '
                     f'{attempt["line"]}')  # fmt: skip
    best = state['attempts'][-1]
    return ('failed' if best['code'] else 'done'), f'{best["name"]}; {progress(run)}'


def progress(run: Run) -> str:
    """Summarise the progress of the training from its log."""
    work = run.work / 'training'
    steps, times = logged(work, 'step'), logged(work, 'time')
    if not steps or not times:
        return last_line(run.logs / 'training_plain_loop.log') if run.facts.get('plain') else ''
    waits, losses = logged(work, 'data_time'), logged(work, 'loss')
    psnr = logged(work, 'PSNR')
    return (
        f'{steps[-1]} of {run.facts.get("iterations")} steps, {1 / times[-1]:.2f} steps/s, '
        f'{100 * sum(waits) / sum(times):.0f} % of the time waiting for data'
        + (f', loss {losses[-1]:.5f}' if losses else '')
        + (f', PSNR {", ".join(f"{value:.2f}" for value in psnr)} dB' if psnr else '')
    )


def is_alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f'/proc/{pid}/stat')
    return not state.is_file() or state.read_text().rsplit(')', 1)[-1].split()[0] != 'Z'


def start_training(run: Run, work: Path) -> str:
    """Start watch.py, which runs the training; returns the reason if it was not started."""
    args = run.args
    reserve = min(300.0, 0.25 * 60 * args.minutes)  # seconds for the test and the benchmarks
    seconds = run.left() - reserve
    if seconds < (5 if run.cpu else 60):
        return f'out of time: only {run.left():.0f} s of {args.minutes} minutes are left'
    starts = run.facts.get('starts', 0) + 1
    if starts > 3:
        raise RuntimeError('the training and its watcher were killed three times')
    step = run.facts.get('seconds_per_step')
    # the start takes 30 s, validation and checkpoints 5 %
    start = 0 if run.cpu else 30
    if 'iterations' not in run.facts:
        fit = int(0.92 * (seconds - start) / step) if step else 1
        run.facts['iterations'] = max(2, min(fit, 10 if run.cpu else fit) // 2 * 2)
    iterations = run.facts['iterations']  # set once: a resumed schedule cannot be extended
    options = [
        f'train_cfg.val_interval={iterations // 2}',
        f'default_hooks.checkpoint.interval={max(2, math.ceil(60 / step) if step else 2)}',
    ]
    normal = [*training_command(run, work, iterations), *options, '--resume']
    float32 = [*training_command(run, work, iterations, amp=False), *options, '--resume']
    plain = [
        TOOLS / 'gpu' / 'plain.py', args.config, run.facts['data'], work, '--device', args.device,
        '--until', run.begun + 60 * args.minutes - reserve, *(['--dry'] if run.cpu else []),
    ]  # fmt: skip
    attempts = {'first': normal, 'second': normal, 'float32': float32, 'plain loop': plain}
    if run.facts.get('plain'):
        attempts = {'plain loop': plain}
    plan = dict(
        deadline=time.time() + seconds,
        attempts={name: list(map(str, command)) for name, command in attempts.items()},
    )
    (work / 'plan.json').write_text(json.dumps(plan, indent=1))
    (work / 'training.json').unlink(missing_ok=True)
    with open(run.logs / 'training.log', 'a') as log:
        subprocess.Popen(
            [sys.executable, str(TOOLS / 'gpu' / 'watch.py'), str(work)],
            cwd=ROOT, env=environment(args), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
    while not (work / 'training.json').is_file():
        if run.left_of_call() <= 0:
            raise RuntimeError(f'the training did not start; see {run.logs / "training.log"}')
        time.sleep(0.1)
    run.facts['starts'] = starts
    run.save()
    print(f'training: started, at most {seconds:.0f} s, {iterations} iterations', flush=True)
    return ''


def test(run: Run) -> tuple[str, str]:
    """Score the best generator on the test split."""
    checkpoint = best_checkpoint(run)
    if checkpoint is None or checkpoint.name == 'plain.pth':
        return 'skipped', 'there is no checkpoint of tools/train.py'
    code, line = run.command(
        'test', TOOLS / 'test.py', run.args.config, checkpoint, '--work-dir', run.work / 'test',
        '--data-root', run.facts['data'], '--out', run.work / 'scores.json',
        *(['--cfg-options', *small(run)] if run.cpu else []), limit=150,
    )  # fmt: skip
    if code:
        return 'failed', line
    scores = json.loads((run.work / 'scores.json').read_text())
    run.facts['scores'] = scores
    return 'done', ', '.join(f'{name} {value:.3f}' for name, value in scores.items())


def benchmark_infer(run: Run) -> tuple[str, str]:
    """Benchmark restoring at 720p against a plain loop, peers and the machine's limits.

    Uses the trained generator, or the released one if there is none.
    """
    network = best_checkpoint(run) or 'dblrnet_ms'
    clip = SAMPLE / 'test' / 'sam2_blocks_carry'
    size = ['--frames', 3, '--repeats', 1] if run.cpu else ['--size', '1280x720', '--frames', 12]
    peers = [] if run.cpu else [ROOT / 'configs' / 'baselines' / f'{p}_gopro.py' for p in PEERS]
    code, line = run.command(
        'benchmark_infer', TOOLS / 'benchmark.py', 'infer', network, clip / 'blur',
        '--sharp', clip / 'sharp', '--device', run.args.device, *size,
        '--out', run.work / 'benchmark_infer.json', *(['--peers', *peers] if peers else []),
        limit=220,
    )  # fmt: skip
    return ('failed' if code else 'done'), line


def benchmark_train(run: Run) -> tuple[str, str]:
    """Benchmark a training step against the machine's limits, and its waits for data."""
    if 'data' not in run.facts:
        return 'failed', 'there is no data'
    few = ['--steps', 1, '--repeats', 1] if run.cpu else ['--steps', 10]
    code, line = run.command(
        'benchmark_train', TOOLS / 'benchmark.py', 'train', run.args.config,
        '--data-root', run.facts['data'], '--device', run.args.device, *few,
        '--out', run.work / 'benchmark_train.json',
        *(['--cfg-options', *small(run)] if run.cpu else []), limit=150,
    )  # fmt: skip
    return ('failed' if code else 'done'), line


# name, function, seconds it needs to start in a call, whether its failure ends the run
PARTS = (
    ('wheels', wheels, 60, True),
    ('machine', machine, 30, True),
    ('imports', imports, 60, False),
    ('tests', tests, 120, False),
    ('data', data, 60, False),
    ('smoke', smoke, 90, False),
    ('rate', rate, 90, False),
    ('train', train, 0, False),
    ('test', test, 60, False),
    ('benchmark_infer', benchmark_infer, 100, False),
    ('benchmark_train', benchmark_train, 100, False),
)


def do_parts(run: Run) -> str:
    """Do the parts that are left; returns a line that says how the call ended."""
    for name, function, least, needed in PARTS:
        known = run.parts.get(name, {})
        if known.get('state') in ENDED:
            if needed and known['state'] == 'failed':
                return f'{name} failed before: {known["note"]}; fix it, delete {run.work}, repeat'
            continue
        if name in run.args.skip:
            run.end(name, 'skipped', 0, 'by --skip')
            continue
        if run.left() <= 0:
            run.end(name, 'skipped', 0, f'out of time: the {run.args.minutes} minutes are up')
            run.flag(f'{name} was skipped: out of time')
            continue
        if run.left_of_call() < min(least, 20 * run.args.call_minutes):
            return f'no time left in this call for {name}; repeat the same command'
        begin = time.time()
        tries = known.get('tries', 0) + (name != 'train')
        if tries > 2:
            run.end(name, 'failed', 0, 'two calls ended while it was running')
            continue
        run.parts[name] = dict(state='running', tries=tries)
        run.save()
        try:
            state, note = function(run)
        except CallOverError:
            return f'this call ended during {name}, which continues; repeat the same command'
        except Exception as error:  # continue with the other parts
            state, note = 'failed', f'{type(error).__name__}: {error}'
        run.end(name, state, time.time() - begin, note)
        if needed and state == 'failed':
            run.flag(f'stopped at {name}: {note}')
            return f'stopped at {name}: {note}'
    failed = [name for name, part in run.parts.items() if part['state'] == 'failed']
    return f'finished, but failed: {", ".join(failed)}' if failed else 'finished'


# The results


def best_checkpoint(run: Run) -> Path | None:
    """Return the checkpoint to publish, None if there is none.

    That is the one of the best validation if the training is complete, else the newest one; without
    either, that of the plain loop.
    """
    work = run.work / 'training'

    def iteration(path: Path) -> int:
        return int(path.stem.rsplit('_', 1)[1])

    newest = sorted(work.glob('iter_*.pth'), key=iteration, reverse=True)
    best = sorted(work.glob('best_*.pth'), key=iteration, reverse=True)
    whole = bool(newest) and iteration(newest[0]) == run.facts.get('iterations')
    found = [*best, *newest] if whole else [*newest, *best]
    found.append(work / 'plain.pth')
    return next((path for path in found if path.is_file()), None)


def collect(run: Run) -> None:
    """Write OUT: report, status, benchmark results, weights and an archive of the logs."""
    out: Path = run.args.out
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = best_checkpoint(run)
    if checkpoint is not None:
        collect_weights(run, checkpoint)
    run.save()
    write_report(run)
    figures = [run.work / f'benchmark_{kind}.json' for kind in ('infer', 'train')]
    for file in (run.file, run.work / 'report.md', run.work / 'training' / 'curves.png', *figures):
        if file.is_file():
            shutil.copy(file, out / file.name)
    with tarfile.open(out / 'logs.tar.gz', 'w:gz') as archive:
        for file in [*run.logs.iterdir(), *run.work.glob('*/*/vis_data/scalars.json')]:
            archive.add(file, file.relative_to(run.work))
    for file in out.iterdir():
        if file.stat().st_size > run.args.file_mib * 2**20:
            run.flag(f'{file} is larger than {run.args.file_mib} MiB and may not be copied back')


def collect_weights(run: Run, checkpoint: Path) -> None:
    """Publish a checkpoint's generator with its scores to OUT, then remove older ones."""
    scores = run.facts.get('scores')
    state = [checkpoint.name, checkpoint.stat().st_mtime, scores]
    if run.facts.get('collected') == state:
        return
    fresh = run.work / 'weights'
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    found = subprocess.run(
        [
            sys.executable, str(TOOLS / 'publish_model.py'), str(checkpoint),
            str(fresh / 'generator.pth'),
            '--trained-on', f'{run.args.config}, {run.facts.get("data")}, {checkpoint.name}',
            '--metric', json.dumps(scores) if scores else 'not yet measured',
        ],
        cwd=ROOT, env=environment(run.args), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        line = (found.stderr.strip().splitlines() or [''])[-1]
        run.flag(f'the weights of {checkpoint} were not written: {line}')
        return
    for outdated in run.args.out.glob('generator-*.pth'):
        outdated.unlink()
    for file in fresh.iterdir():
        shutil.move(file, run.args.out / file.name)
    run.facts['collected'] = state


def write_report(run: Run) -> None:
    """Rewrite report.md from the current state."""
    lines = ['# Run on a GPU', '', f'Config `{run.args.config}`, {run.args.minutes} minutes.', '']
    lines += [f'- {flag}' for flag in run.flags] or ['No problems so far.']
    lines += ['', '| part | state | s | note |', '|---|---|---:|---|']
    for name, part in run.parts.items():
        note = part.get('note', '').replace('|', '/')
        lines.append(f'| {name} | {part["state"]} | {part.get("seconds", "")} | {note} |')
    lines += ['', f'Training: {progress(run) or "not started"}.']
    for key, value in run.facts.items():
        lines.append(f'\n{key}: {value}')
    for name in ('machine', 'tests', 'test', 'benchmark_infer', 'benchmark_train'):
        log = run.logs / f'{name}.log'
        if log.is_file():
            tail = log.read_text(errors='replace').splitlines()[-45:]
            tail = [line for line in tail if '\r' not in line]
            lines += ['', f'## {name}', '', '```', *tail, '```']
    (run.work / 'report.md').write_text('\n'.join(lines) + '\n')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    add = parser.add_argument
    add('--config', default='configs/gpu/dblrnet_ms.py', help='config to train')
    add('--data', type=Path, help="clips in GoPro's layout, or a clip store of them")
    add('--wheels', type=Path, help='folder of wheels to install first')
    add('--site', type=Path, default=Path('/tmp/site'), help='folder to install them into')  # noqa: S108
    add('--work', type=Path, default=Path('work_dirs/gpu'), help='work folder, kept between calls')
    add('--out', type=Path, help='folder for the results (default: WORK/out)')
    add('--minutes', type=float, default=20, help='total time from the first call (default: 20)')
    add('--call-minutes', type=float, default=9.5, help='time limit of a call (default: 9.5)')
    add('--file-mib', type=float, default=16, help='report larger result files (default: 16)')
    add('--skip', nargs='*', default=[], metavar='PART', choices=[name for name, *_ in PARTS])
    add('--device', choices=['cuda', 'cpu'], default='cuda', help='cpu: a tiny dry run')
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.out = (args.out or args.work / 'out').resolve()
    args.site = args.site.resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('ended by SIGTERM'))
    run = Run(args)
    try:
        line = do_parts(run)
    finally:
        collect(run)
    print(f'{line}\nreport and weights: {args.out}', flush=True)
    return 0 if line == 'finished' or 'repeat the same command' in line else 1


if __name__ == '__main__':
    sys.exit(main())
