"""`make gpu` without a GPU: failing parts, ending calls, packing, and the plain loop."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from dblrgan_mm import launch
from dblrgan_mm.clips import layouts
from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.checkpoint import read_content
from dblrgan_mm.nn import DBLRNet, MultiScaleDBLRNet

ROOT = Path(__file__).parents[2]
GPU = ROOT / 'tools' / 'gpu'


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f'gpu_{name}', GPU / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool() -> ModuleType:
    return load('run')


def part(*result, error: Exception | None = None):
    def function(run):
        run.facts.setdefault('order', []).append(result)
        if error:
            raise error
        return result

    return function


@pytest.fixture
def call(tool, tmp_path, monkeypatch, capsys):
    """Call `run.py` with other parts; returns exit code, printed text and status."""

    def main(parts=None, *arguments) -> SimpleNamespace:
        if parts is not None:
            tool.PARTS = tuple((name, function, least, needed)
                               for name, function, least, needed in parts)  # fmt: skip
        command = ['run.py', '--work', tmp_path / 'work', '--device', 'cpu', *arguments]
        monkeypatch.setattr(sys, 'argv', list(map(str, command)))
        before = signal.getsignal(signal.SIGTERM)
        try:
            code = tool.main()
        finally:
            signal.signal(signal.SIGTERM, before)
        status = json.loads((tmp_path / 'work' / 'status.json').read_text())
        return SimpleNamespace(code=code, out=capsys.readouterr().out, status=status)

    return main


class TestParts:
    def test_failed_part_does_not_stop_the_others(self, call, tmp_path):
        done = call(
            [
                ('a', part('done', 'fine'), 0, True),
                ('b', part('failed', 'no luck'), 0, False),
                ('c', part(error=ValueError('a fault')), 0, False),
                ('d', part('done', ''), 0, False),
            ]
        )
        assert done.code == 1
        assert 'finished, but failed: b, c' in done.out
        states = {name: (p['state'], p['note']) for name, p in done.status['parts'].items()}
        assert states == dict(
            a=('done', 'fine'), b=('failed', 'no luck'), c=('failed', 'ValueError: a fault'),
            d=('done', ''),
        )  # fmt: skip
        report = (tmp_path / 'work' / 'out' / 'report.md').read_text()
        assert '| b | failed | 0.0 | no luck |' in report
        assert {f.name for f in (tmp_path / 'work' / 'out').iterdir()} == {
            'report.md', 'status.json', 'logs.tar.gz',
        }  # fmt: skip

    def test_failure_of_a_required_part_ends_the_run(self, call):
        parts = [('a', part('failed', 'no GPU: x'), 0, True), ('b', part('done', ''), 0, False)]
        done = call(parts)
        assert done.code == 1
        assert 'stopped at a: no GPU: x' in done.out
        assert 'b' not in done.status['parts']
        done = call(parts)
        assert 'a failed before: no GPU: x; fix it, delete' in done.out

    def test_finished_parts_do_not_run_again(self, call):
        parts = [('a', part('done', ''), 0, True), ('b', part('failed', ''), 0, False)]
        call(parts)
        done = call(parts)
        assert len(done.status['facts']['order']) == 2
        assert done.status['finished']

    def test_out_of_time(self, call):
        parts = [('a', part('done', ''), 0, False), ('b', part('done', ''), 0, False)]
        done = call(parts, '--minutes', 0)
        assert done.code == 0
        assert done.status['parts']['a']['state'] == 'skipped'
        assert 'out of time: the 0.0 minutes are up' in done.out
        assert 'b was skipped: out of time' in done.status['flags']

    def test_skipped_parts(self, call):
        parts = [('machine', part('done', ''), 0, False), ('tests', part('done', ''), 0, False)]
        done = call(parts, '--skip', 'tests')
        assert done.status['parts']['tests'] == dict(state='skipped', seconds=0, note='by --skip')


class TestCalls:
    def test_ends_before_a_part_that_it_has_no_time_for(self, call):
        parts = [('a', part('done', ''), 0, False), ('b', part('done', ''), 100, False)]
        done = call(parts, '--call-minutes', 0.3)
        assert done.code == 0
        assert 'no time left in this call for b; repeat the same command' in done.out
        assert not done.status['finished']
        done = call(parts, '--call-minutes', 9)
        assert done.status['finished']
        assert done.status['parts']['b']['state'] == 'done'

    def test_command_interrupted_by_the_end_of_a_call_runs_again(self, call, tool):
        def slow(run):
            run.facts['times'] = run.facts.get('times', 0) + 1
            run.command('slow', '-c', 'import time; time.sleep(60)', limit=100)

        parts = [('slow', slow, 0, False), ('after', part('done', ''), 0, False)]
        tool.SPARE = 0
        for times in (1, 2):
            done = call(parts, '--call-minutes', 0.01)
            assert 'this call ended during slow, which continues; repeat' in done.out
            assert done.status['facts']['times'] == times
        done = call(parts, '--call-minutes', 9)
        assert done.status['parts']['slow']['note'] == 'two calls ended while it was running'
        assert done.status['parts']['after']['state'] == 'done'

    def test_command_over_its_limit_is_killed(self, call):
        def slow(run):
            code, line = run.command('slow', '-c', 'import time; time.sleep(60)', limit=0.1)
            return ('failed' if code == 124 else 'done'), line

        done = call([('slow', slow, 0, False)])
        assert done.status['parts']['slow']['state'] == 'failed'
        assert 'it took too long, or the time is up' in done.out

    def test_sigterm_ends_the_part_and_leaves_a_report(self, call, tmp_path):
        def stopped(run):
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            run.command('stopped', '-c', 'import time; time.sleep(60)', limit=100)

        with pytest.raises(SystemExit, match='ended by SIGTERM'):
            call([('stopped', stopped, 0, False)])
        report = (tmp_path / 'work' / 'out' / 'report.md').read_text()
        assert '| stopped | running |' in report


class TestMachine:
    @pytest.mark.slow
    def test_no_gpu(self, tmp_path):
        """The whole tool, started as a command."""
        environment = dict(os.environ, CUDA_VISIBLE_DEVICES='')
        done = subprocess.run(
            [sys.executable, GPU / 'run.py', '--work', tmp_path],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        line = done.stdout.splitlines()[-2]
        assert line.startswith('stopped at machine: no GPU: torch sees none. Use a machine')
        assert 'make gpu-dry' in line
        assert line in (tmp_path / 'out' / 'report.md').read_text()

    def test_too_little_memory(self, monkeypatch):
        checks = load('checks')
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
        monkeypatch.setattr(torch.backends.cudnn, 'version', lambda: 91900)
        monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (2**30, 80 * 2**30))
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: (9, 0))
        with pytest.raises(SystemExit) as caught:
            checks.machine('cuda')
        message = str(caught.value)
        assert message.startswith('too little memory: 1.0 of 80.0 GiB are free on the GPU, 6 are')
        assert '\n' not in message

    def test_memory_that_runs_out_halves_the_batch(self, tool, call, monkeypatch):
        batches = []

        def command(run, work, iterations, amp=True):
            batches.append(run.facts.get('batch_divisor', 1))
            if batches[-1] < 4:
                return ['-c', 'raise SystemExit("CUDA out of memory. Tried")']
            folder = work / 'run' / 'vis_data'
            write = f'import pathlib; p = pathlib.Path({str(folder)!r}); p.mkdir(parents=True); '
            return ['-c', write + '(p / "scalars.json").write_text(\'{"time": 0.5, "step": 2}\')']

        monkeypatch.setattr(tool, 'training_command', command)
        done = call([('data', lambda run: run.facts.update(data='x') or ('done', ''), 0, False),
                     ('rate', tool.rate, 0, False)])  # fmt: skip
        assert batches == [1, 2, 4]
        assert done.status['parts']['rate'] | dict(seconds=0) == dict(
            state='done', seconds=0, note='2.00 steps/s'
        )
        assert done.status['flags'][-1] == 'out of memory: batch size divided by 4'


class TestTraining:
    @pytest.fixture
    def parts(self, tool):
        def prepare(run):
            run.facts.update(data='x', seconds_per_step=0.1)
            return 'done', ''

        tool.SPARE = 0
        return [('prepare', prepare, 0, False), ('train', tool.train, 0, False)]

    def test_training_outlives_the_call_and_the_next_call_waits(
        self, tool, call, parts, monkeypatch, tmp_path
    ):
        code = 'import time; time.sleep(6); print("trained")'
        monkeypatch.setattr(tool, 'training_command', lambda *_, **__: ['-c', code])
        done = call(parts, '--call-minutes', 0.04)
        assert 'this call ended during train, which continues; repeat' in done.out
        done = call(parts, '--call-minutes', 1)
        assert done.status['parts']['train']['state'] == 'done'
        assert done.status['facts']['starts'] == 1
        state = json.loads((tmp_path / 'work' / 'training' / 'training.json').read_text())
        assert [a['name'] for a in state['attempts']] == ['first']

    def test_failed_training_is_retried_in_float32(self, tool, call, parts, monkeypatch):
        def command(run, work, iterations, amp=True):
            code = 'raise SystemExit("cuDNN error")' if amp else 'print("in float32")'
            return ['-c', code]

        monkeypatch.setattr(tool, 'training_command', command)
        done = call(parts)
        assert done.code == 0
        assert [flag for flag in done.status['flags'] if 'cuDNN' in flag] == [
            f'training, attempt {name}, ended with code 1: cuDNN error'
            for name in ('first', 'second')
        ]
        assert done.status['parts']['train']['note'].startswith('float32')

    def test_training_gets_sigterm_at_the_deadline(self, tmp_path):
        watch = load('watch')
        code = (
            'import signal, sys, time\n'
            'signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("saved")))\n'
            'time.sleep(60)'
        )
        log = tmp_path / 'log'
        begin = time.time()
        assert watch.attempt(['-c', code], log, begin + 3) == 0
        assert log.read_text() == 'saved\n'
        assert time.time() - begin < 30

    def test_out_of_time(self, call, parts):
        done = call(parts, '--minutes', 0.05)
        assert 'out of time' in done.status['parts']['train']['note']


class TestBestCheckpoint:
    @pytest.mark.parametrize(
        ('names', 'iterations', 'expected'),
        [
            ([], 10, None),
            (['plain.pth'], 10, 'plain.pth'),
            (['iter_9.pth', 'iter_10.pth', 'plain.pth'], 20, 'iter_10.pth'),
            (['iter_10.pth', 'best_PSNR_iter_5.pth'], 10, 'best_PSNR_iter_5.pth'),
            (['iter_9.pth', 'best_PSNR_iter_5.pth'], 10, 'iter_9.pth'),
        ],
    )
    def test_best_checkpoint_of_a_training(self, tool, tmp_path, names, iterations, expected):
        (tmp_path / 'training').mkdir()
        for name in names:
            (tmp_path / 'training' / name).touch()
        run = SimpleNamespace(work=tmp_path, facts=dict(iterations=iterations))
        found = tool.best_checkpoint(run)
        assert (found and found.name) == expected


class TestPack:
    def test_versions_are_those_of_the_lock(self):
        wanted = load('pack').locked(ROOT / 'requirements' / 'lock.txt')
        assert 'mmagic==1.2.0' in wanted
        assert len(wanted) == len({name.split('==')[0] for name in wanted})

    def test_package_missing_from_the_lock(self, tmp_path):
        (tmp_path / 'lock.txt').write_text("mmagic==1.2.0 ; python_version < '3.12'\n")
        with pytest.raises(UserError, match='lacks mmengine, mmcv-lite, mmagic'):
            load('pack').locked(tmp_path / 'lock.txt')

    def pack(self, call_tool, carry, *arguments):
        return call_tool('gpu/pack', carry, '--no-wheels', *arguments)

    def test_data(self, call_tool, sample_root, sample_store, tmp_path):
        for source in (sample_root, sample_store):
            carry = tmp_path / source.name
            done = self.pack(call_tool, carry, '--data', source, '--rows', 96)
            assert done.code == 0, done.err
            assert '32 of 32 training pairs' in done.out
            with tarfile.open(carry / 'data_1.tar') as archive:
                archive.extractall(carry / 'there', filter='data')
            clips = layouts.load_clips('gopro', carry / 'there', 'train')
            assert sum(len(clip.frames) for clip in clips) == 32
            assert layouts.load_clips('gopro', carry / 'there', 'test')

    def test_parts_stay_below_the_limit(self, call_tool, sample_root, tmp_path):
        size = load('pack').tree_size() / 2**20
        done = self.pack(
            call_tool, tmp_path, '--data', sample_root, '--limit-mib', size + 1.9, '--parts', 2,
            '--test-frames', 10,
        )  # fmt: skip
        assert done.code == 0, done.err
        files = sorted(tmp_path.glob('data_*.tar'))
        assert [file.name for file in files] == ['data_1.tar', 'data_2.tar']
        assert all(file.stat().st_size < 0.9 * 2**20 for file in files)
        kept = int(done.out.splitlines()[-1].split(' of 32 training pairs')[0])
        assert 20 <= kept < 32

    def test_a_repository_that_is_too_large(self, call_tool, tmp_path):
        done = self.pack(call_tool, tmp_path, '--limit-mib', 1.5)
        assert done.code == 1
        assert 'more than --limit-mib 1.5' in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'network'),
    [
        (
            'dblrnet_ms',
            lambda: MultiScaleDBLRNet(channels=(4, 8), num_blocks=(0, 1, 0), align=True),
        ),
        ('dblrnet_plus', lambda: DBLRNet(norm=None, residual=True, mid_channels=4, num_blocks=1)),
    ],
)
def test_the_plain_loop(config, network, sample_store, tmp_path):
    def run(script, *arguments):
        return subprocess.run(
            [sys.executable, script, *map(str, arguments)],
            capture_output=True, text=True, check=True, env=dict(os.environ, OMP_NUM_THREADS='1'),
        )  # fmt: skip

    run(GPU / 'plain.py', f'configs/gpu/{config}.py', sample_store, tmp_path, '--device', 'cpu',
        '--dry', '--until', time.time() + 1)  # fmt: skip
    target = tmp_path / 'generator.pth'
    run(GPU.parent / 'publish_model.py', tmp_path / 'plain.pth', target, '--trained-on', 'clips',
        '--metric', '-')  # fmt: skip
    (file,) = tmp_path.glob('generator-*.pth')
    stored = torch.load(file, weights_only=True)['state_dict']
    weights = {name.removeprefix('generator.'): value for name, value in stored.items()}
    network().load_state_dict(weights)


class TestConfigs:
    TINY = [
        'model.generator.channels=[4,8]', 'model.generator.num_blocks=[0,1,0]',
        'train_dataloader.batch_size=2', 'train_dataloader.dataset.crop_size=48',
        'val_dataloader.dataset.indices=2', 'default_hooks.checkpoint.max_keep_ckpts=9',
        *(f'{part}_dataloader.{key}' for part in ('train', 'val')
          for key in ('num_workers=0', 'persistent_workers=False')),
    ]  # fmt: skip

    @pytest.mark.parametrize('name', ['dblrnet_ms', 'dblrnet_plus'])
    def test_data_root_reaches_the_clips_on_the_device(self, name, tmp_path):
        arguments = [str(ROOT / 'configs' / 'gpu' / f'{name}.py'), '--data-root', '/store',
                     '--work-dir', str(tmp_path)]  # fmt: skip
        cfg = launch.load_config(launch.argument_parser('').parse_args(arguments))
        assert cfg.model.data_preprocessor.data_root == '/store'
        assert cfg.train_dataloader.dataset.data_root == '/store'
        assert cfg.val_dataloader.dataset.data_root == '/store'
        assert [metric.type for metric in cfg.val_evaluator] == ['PSNR']
        warm_up, cosine = cfg.param_scheduler
        assert cosine.begin == warm_up.end
        assert cosine.end == cosine.begin + cosine.T_max == cfg.train_cfg.max_iters

    @pytest.mark.slow
    def test_resume_is_exact(self, call_tool, sample_store, tmp_path):
        def train(work, iterations, *arguments):
            done = call_tool(
                'train', ROOT / 'configs' / 'gpu' / 'dblrnet_ms.py', '--data-root', sample_store,
                '--work-dir', tmp_path / work, *arguments, '--cfg-options', *self.TINY,
                f'train_cfg.max_iters={iterations}', 'default_hooks.checkpoint.interval=4',
            )  # fmt: skip
            assert done.code == 0, done.err
            return read_content(tmp_path / work / f'iter_{iterations}.pth')

        whole = train('whole', 8)
        train('parts', 4)
        resumed = train('parts', 8, '--resume')
        for part in ('state_dict', 'ema_state_dict'):
            for name, value in whole[part].items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(resumed[part][name]))


@pytest.mark.slow
def test_dry_run(tmp_path):
    """What `make gpu-dry` does, without the benchmarks."""
    done = subprocess.run(
        [sys.executable, GPU / 'run.py', '--device', 'cpu', '--work', tmp_path, '--skip', 'imports',
         'tests', 'benchmark_infer', 'benchmark_train'],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    out = tmp_path / 'out'
    report = (out / 'report.md').read_text()
    assert '10 of 10 steps' in report
    assert 'input/PSNR' in report
    assert list(out.glob('generator*.pth'))
    assert all(file.stat().st_size < 16 * 2**20 for file in out.iterdir())
    assert len(list(out.iterdir())) <= 8
