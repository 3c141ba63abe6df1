"""A killed or stopped run that resumes ends with bitwise the same weights as an unstopped one."""

import errno
import importlib.util
import itertools
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from dblrgan_mm import files, launch
from dblrgan_mm.engine.checkpoint_hooks import WholeFileBackend
from dblrgan_mm.inference.checkpoint import read_content

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'dblrgan_sample.py'
TINY = [
    'model.generator.mid_channels=4',
    'model.generator.num_blocks=1',
    'model.generator.norm=BN',
    'model.discriminator.conv_channels=((4,),(4,))',
    'model.discriminator.fc_channels=8',
    'model.train_cfg.gen_init_steps=4',
    'train_dataloader.dataset.pipeline.2.gt_patch_size=32',
    'val_dataloader.dataset.indices=[5,15]',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.checkpoint.max_keep_ckpts=10',
    *(f'{part}_dataloader.num_workers=0' for part in ('train', 'val')),
]
LENGTH = 12


def load_soak():
    spec = importlib.util.spec_from_file_location('soak_tool', ROOT / 'tools' / 'soak.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def differences(one: Path, other: Path) -> list[str]:
    """Return the differences between the last checkpoints of two work dirs."""
    last = (launch.newest_checkpoint(str(folder)) for folder in (one, other))
    return load_soak().differences(*(read_content(Path(path)) for path in last))


@HOOKS.register_module()
class SignalHook(Hook):
    """Sends a signal to this process after an iteration."""

    def __init__(self, iteration: int, number: int) -> None:
        self.iteration, self.number = iteration, number

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), self.number)


@HOOKS.register_module()
class InterruptedValidationHook(Hook):
    """Ends the run in its first validation."""

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def train(call_tool, tmp_path):
    """Train into a folder of tmp_path; returns the folder and the tool's result."""

    count = itertools.count()

    def run(name: str, *options: str, arguments: tuple = (), length: int = LENGTH):
        # MMEngine names a logger by the second at which it starts; give each a unique name
        limits = [
            f'experiment_name={tmp_path.name}_{next(count)}',
            f'train_cfg.max_iters={length}',
            f'train_cfg.val_interval={LENGTH // 2}',
        ]
        return tmp_path / name, call_tool(
            'train', CONFIG, '--work-dir', tmp_path / name, *arguments,
            '--cfg-options', *TINY, *limits, *options,
        )  # fmt: skip

    return run


@pytest.mark.slow
class TestExactResume:
    @pytest.mark.parametrize(
        'options',
        [
            (),
            ('optim_wrapper.generator.accumulative_counts=2',
             'optim_wrapper.discriminator.accumulative_counts=2'),
            ('optim_wrapper.generator.type=GuardedAmpOptimWrapper',
             'optim_wrapper.generator.dtype=bfloat16',
             'optim_wrapper.discriminator.type=GuardedAmpOptimWrapper',
             'optim_wrapper.discriminator.dtype=bfloat16'),
            ('default_hooks.compile.type=CompileGeneratorHook',
             'default_hooks.compile.backend=aot_eager'),
        ],
        ids=['plain', 'accumulation', 'bfloat16', 'compile'],
    )  # fmt: skip
    def test_kill_and_resume(self, train, options):
        """Resumes with another number of workers."""
        whole, done = train('whole', *options)
        assert done.code == 0, done.err
        parts, done = train('parts', *options)
        # as if killed after iteration 8, while its checkpoint was being written
        for file in parts.glob('iter_1*.pth'):
            file.unlink()
        (parts / 'iter_8.pth').write_bytes((parts / 'iter_8.pth').read_bytes()[:1000])
        (parts / 'last_checkpoint').write_text(str(parts / 'iter_8.pth'))
        workers = 'train_dataloader.num_workers=2'
        _, done = train('parts', workers, *options, arguments=('--resume',))
        assert done.code == 0, done.err
        assert 'Using the checkpoint before it' in done.err
        assert 'Resuming after iteration 6' in done.out
        assert (parts / f'iter_{LENGTH}.pth').is_file()
        assert differences(whole, parts) == []

    def test_differences_are_detected(self, train):
        one, _ = train('one', length=2)
        other, _ = train('other', 'randomness.seed=1', length=2)
        assert any(place.startswith('state_dict.generator') for place in differences(one, other))

    def test_a_validation_that_a_kill_prevented(self, train):
        """The resume repeats it: it averages the processes' buffers and finds the best weights."""
        whole, _ = train('whole')
        parts, done = train('parts', 'default_hooks.kill.type=InterruptedValidationHook')
        assert done.code == 130
        assert (parts / 'last_checkpoint').read_text() == str(parts / 'iter_6.pth')
        _, done = train('parts', arguments=('--resume',))
        validations = re.findall(r'Iter\(val\) \[2/2\] +PSNR', done.out)
        assert len(validations) == 2, 'of iterations 6 and 12'
        assert differences(whole, parts) == []

    def test_sigterm_saves_and_exits_with_0(self, train):
        whole, _ = train('whole')
        hook = f'default_hooks.kill.number={int(signal.SIGTERM)}'
        options = ('default_hooks.kill.type=SignalHook', 'default_hooks.kill.iteration=7', hook)
        parts, done = train('parts', *options)
        assert done.code == 0
        assert 'Stopped by SIGTERM after iteration 7; run the same command with' in done.out
        assert (parts / 'iter_7.pth').is_file()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        _, done = train('parts', arguments=('--resume',))
        assert done.code == 0
        assert differences(whole, parts) == []

    def test_sigterm_waits_for_the_accumulated_gradient(self, train):
        options = ('default_hooks.kill.type=SignalHook', 'default_hooks.kill.iteration=5',
                   f'default_hooks.kill.number={int(signal.SIGTERM)}',
                   'optim_wrapper.generator.accumulative_counts=2')  # fmt: skip
        parts, done = train('parts', *options)
        assert done.code == 0
        assert (parts / 'iter_6.pth').is_file()
        assert not (parts / 'iter_8.pth').exists()


@pytest.mark.slow
class TestChangedSettings:
    """A resume with other settings than those of the checkpoint."""

    def test_longer_than_planned(self, train):
        """The schedules do not end where the shorter run would have ended."""
        schedule = f'param_scheduler.T_max={LENGTH}'
        whole, _ = train('whole', schedule)
        parts, _ = train('parts', schedule, length=LENGTH // 2)
        _, done = train('parts', schedule, arguments=('--resume',))
        assert 'From iteration 7 on, the new ones are used' in done.out
        assert 'at that iteration: train_cfg.max_iters: 12 (was 6)\n' in done.out
        assert differences(whole, parts) == []

    def test_another_rate_and_schedule(self, train):
        train('parts', 'param_scheduler.T_max=6', length=6)
        new = ('param_scheduler.T_max=24', 'optim_wrapper.generator.optimizer.lr=2e-3',
               'optim_wrapper.generator.optimizer.weight_decay=0.5')  # fmt: skip
        parts, done = train('parts', *new, arguments=('--resume',))
        for change in ('T_max: 24 (was 6)', 'generator.optimizer.lr: 0.002 (was 0.001)',
                       'generator.optimizer.weight_decay: 0.5 (was None)'):  # fmt: skip
            assert change in done.out
        optimisers = read_content(parts / 'iter_12.pth')['optimizer']
        (group,) = optimisers['generator']['param_groups']
        fallen = (1 + math.cos(11 / 24 * math.pi)) / 2  # the default end is max_iters
        assert group['lr'] == pytest.approx(1e-5 + fallen * (2e-3 - 1e-5))
        assert group['weight_decay'] == 0.5
        (group,) = optimisers['discriminator']['param_groups']
        assert group['weight_decay'] == 0

    def test_checkpoint_without_stored_settings(self, train):
        """It was written before checkpoints had the settings, or without this hook."""
        parts, _ = train('parts', length=2)
        content = torch.load(parts / 'iter_2.pth', weights_only=True)
        del content['meta']['optimisation']
        torch.save(content, parts / 'iter_2.pth')
        _, done = train('parts', arguments=('--resume',), length=4)
        assert done.code == 0
        assert 'are used, even where those of the config differ' in done.out


@pytest.mark.slow
class TestFaults:
    def test_a_second_run_in_a_work_dir(self, train, tmp_path):
        with files.sole_writer(tmp_path / 'run'):
            folder, done = train('run')
        assert done.code == 1
        assert f'error: another process is writing to {folder}: wait for it' in done.err
        assert [path.name for path in folder.iterdir()] == ['.lock'], 'nothing is overwritten'

    def test_accumulation_that_does_not_divide_the_intervals(self, train):
        _, done = train('run', 'optim_wrapper.generator.accumulative_counts=5')
        assert done.code == 1
        assert 'error: train_cfg.max_iters=12 is not a multiple of the 5 iterations' in done.err

    def test_another_sampler(self, train):
        _, done = train('run', 'train_dataloader.sampler.type=InfiniteSampler')
        assert done.code == 1
        assert "needs train_dataloader.sampler=dict(type='ResumableSampler')" in done.err

    @pytest.mark.parametrize('until', [6, 100])
    def test_full_disk(self, train, monkeypatch, until):
        """The disk is full from the second checkpoint on, for two checkpoints or until the end."""
        put = WholeFileBackend.put
        full = [f'iter_{i}.pth' for i in range(4, until + 1)]
        if until == 6:
            full.append('best_PSNR_iter_6.pth')

        def fail(self, content, path) -> None:
            if Path(path).name in full:
                raise OSError(errno.ENOSPC, 'No space left on device')
            put(self, content, path)

        monkeypatch.setattr(WholeFileBackend, 'put', fail)
        # in the second case the last validation finds no better checkpoint and writes nothing
        rule = 'greater' if until == 6 else 'less'
        folder, done = train('run', 'default_hooks.checkpoint.max_keep_ckpts=1',
                             f'default_hooks.checkpoint.rule={rule}')  # fmt: skip
        assert f'The checkpoint of iteration 4 could not be written to {folder} (' in done.out
        assert 'No space left on device' in done.out
        assert f'the last complete checkpoint is {folder / "iter_2.pth"}. Free some' in done.out
        names = {path.name for path in folder.glob('*.pth')}
        if until == 6:
            assert done.code == 0
            assert names == {'iter_12.pth', 'best_PSNR_iter_12.pth'}
            assert (folder / 'last_checkpoint').read_text() == str(folder / 'iter_12.pth')
        else:
            assert done.code == 1
            assert 'error: the last checkpoint could not be written' in done.err
            assert 'iter_2.pth' in names
            assert (folder / 'last_checkpoint').read_text() == str(folder / 'iter_2.pth')

    def test_unreadable_frame(self, train, real_copy):
        frame = real_copy / 'train' / 'gopro_walk_a' / 'blur' / '000050.png'
        frame.write_bytes(frame.read_bytes()[:100])
        options = (f'train_dataloader.dataset.data_root={real_copy}',)
        _, done = train('stop', *options)
        assert done.code == 1
        assert str(frame) in done.err
        assert 'clip gopro_walk_a' in done.err
        folder, done = train('skip', *options, 'train_dataloader.dataset.unreadable=skip')
        assert done.code == 0, done.err
        assert f'{frame} ' in done.out
        assert 'Window skipped, 1 so far: clip gopro_walk_a' in done.out
        assert ' were skipped since this command started' in done.out
        again, _ = train('again', *options, 'train_dataloader.dataset.unreadable=skip')
        assert differences(folder, again) == []

    def test_losses_that_are_not_finite(self, train):
        folder, done = train(
            'run',
            'optim_wrapper.generator.optimizer.lr=1e30',
            'default_hooks.non_finite.max_in_a_row=3',
        )
        assert done.code == 1
        assert 'error: stopped at iteration ' in done.err
        assert '3 times in a row' in done.err
        assert len(list(folder.glob('non_finite_iter_*_rank0.json'))) == 1


@pytest.mark.soak
@pytest.mark.parametrize(('processes', 'kills'), [(1, 2), (3, 1)])
def test_soak(tmp_path, processes, kills):
    """A few of the dozens of kills of ``tools/soak.py``."""
    options = [*TINY, 'train_cfg.max_iters=120', 'train_cfg.val_interval=60',
               'train_dataloader.num_workers=1']  # fmt: skip
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / 'soak.py', tmp_path / 'soak', '--kills', str(kills),
         '--processes', str(processes), '--cfg-options', *options],
        env={**os.environ, 'MASTER_PORT': '29573'}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'equal, bit for bit' in done.stdout
