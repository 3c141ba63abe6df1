import io
import os
import pickle
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

from dblrgan_mm import compat, devices, launch
from dblrgan_mm.datasets import DatasetError, VideoClipDataset
from dblrgan_mm.errors import CheckpointMismatchError, UserError

ALLOW_LIST = 'safe_globals' in compat.apply()


@pytest.fixture
def config(tmp_path) -> str:
    path = tmp_path / 'small.py'
    path.write_text(
        'model = dict(width=64, parts=dict(norm="BN", channels=[1, 2]))\n'
        'steps = [dict(crop=128), dict(flip=0.5)]\n'
    )
    return str(path)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Remove launcher variables, and use tmp_path for default work dirs."""
    for names in launch._RANK_VARIABLES.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('LOCAL_RANK', '0')  # load_config sets it; monkeypatch restores it


def load(*arguments: str):
    return launch.load_config(launch.argument_parser('').parse_args(arguments))


def refusal(*arguments: str) -> str:
    with pytest.raises(launch.LaunchError) as caught:
        load(*arguments)
    return str(caught.value)


class TestOptions:
    def test_values(self, config):
        cfg = load(
            config, '--cfg-options', 'model.width=32', 'model.parts.norm=None', 'lr=1e-3',
            'model.parts.channels=[3,4,[5,6]]', 'groups=((8,8),(16,))', 'steps.0.crop=64',
            'name=a=b', 'on=True', 'new.key.below=x',
        )  # fmt: skip
        assert cfg.model == dict(width=32, parts=dict(norm=None, channels=[3, 4, [5, 6]]))
        assert cfg.steps == [dict(crop=64), dict(flip=0.5)]
        assert cfg.groups == ((8, 8), (16,))
        assert (cfg.lr, cfg.name, cfg.on, cfg.new.key.below) == (1e-3, 'a=b', True, 'x')

    @pytest.mark.parametrize('option', ['model.width', 'model.width 32', '32'])
    def test_without_a_value(self, config, option):
        message = refusal(config, '--cfg-options', 'lr=1', option)
        assert message == f'--cfg-options takes KEY=VALUE, got {option!r}'

    @pytest.mark.parametrize(
        'option',
        ['steps.2.crop=1', 'steps.x.crop=1', 'model.parts.channels=[1,2', 'model.width.x=1'],
    )
    def test_option_that_does_not_fit(self, config, option):
        message = refusal(config, '--cfg-options', 'lr=1', option, 'seed=2')
        assert message.startswith(f'--cfg-options {option} does not fit the config: ')

    def test_variable_of_the_config_file(self, config, capsys):
        load(config, '--cfg-options', 'batch_size=8', 'train_cfg.max_iters=3', 'sync_bn=torch')
        warnings = capsys.readouterr().err.splitlines()
        assert len(warnings) == 1
        assert 'batch_size=8 has probably no effect' in warnings[0]

    @pytest.mark.parametrize(
        ('content', 'named'),
        [
            ("_base_ = ['nowhere.py']", 'nowhere.py'),
            ("_base_ = ['mmagic::_base_/nowhere.py']", 'nowhere.py'),  # no errno
            ('model = dict(', 'line 1'),
        ],
    )
    def test_faulty_config(self, tmp_path, content, named):
        (tmp_path / 'faulty.py').write_text(content)
        path = str(tmp_path / 'faulty.py')
        for message in (refusal(path), refusal('dblrgan_sample', '--dataset', path)):
            assert message.startswith(f'{path}: ')
            assert named in message

    def test_work_dir(self, config, tmp_path):
        assert load(config).work_dir == os.path.join('work_dirs', 'small')
        assert load(config, '--work-dir', 'runs/one').work_dir == 'runs/one'
        assert (tmp_path / 'runs' / 'one').is_dir()
        option = 'work_dir=runs/two'
        assert load(config, '--cfg-options', option).work_dir == 'runs/two'
        assert load(config, '--work-dir', 'x', '--cfg-options', option).work_dir == 'x'

    @pytest.mark.parametrize('part', ['train', 'val', 'test'])
    def test_loaders_without_workers(self, tmp_path, part):
        """torch refuses some options there, which configs set for workers."""
        loader = dict(num_workers=4, persistent_workers=True, prefetch_factor=3, batch_size=2)
        several = [loader, dict(loader, num_workers=0)]
        path = tmp_path / 'loaders.py'
        path.write_text(f'{part}_dataloader = {loader}\n')
        assert load(str(path))[f'{part}_dataloader'] == loader
        option = f'{part}_dataloader.num_workers=0'
        found = load(str(path), '--cfg-options', option)[f'{part}_dataloader']
        assert found == dict(num_workers=0, batch_size=2)
        path.write_text(f'{part}_dataloader = {several}\n')
        found = load(str(path))[f'{part}_dataloader']
        assert found == [loader, dict(num_workers=0, batch_size=2)]

    def test_nothing_is_left_in_the_work_dir(self, config, tmp_path):
        load(config, '--work-dir', 'runs')
        assert list((tmp_path / 'runs').iterdir()) == []


class TestRefusals:
    def test_no_config(self):
        message = refusal('nowhere.py')
        assert message.startswith('no config nowhere.py: the configs are in ')

    def test_work_dir_below_a_file(self, config, tmp_path):
        (tmp_path / 'file').write_text('')
        message = refusal(config, '--work-dir', 'file/run')
        assert f'cannot write to the work dir {tmp_path / "file" / "run"} (' in message
        assert 'Not a directory' in message
        assert 'choose another with --work-dir' in message

    def test_work_dir_that_is_a_file(self, config, tmp_path):
        (tmp_path / 'file').write_text('')
        assert f'cannot write to the work dir {tmp_path / "file"} (' in refusal(
            config, '--work-dir', 'file'
        )

    @pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
    def test_amp_without_instructions_for_it(self, config, monkeypatch):
        monkeypatch.setattr(devices, 'capabilities', dict)
        message = refusal(config, '--amp')
        assert message.startswith('--amp needs a GPU')
        assert 'instructions for bfloat16' in message
        assert 'leave --amp out' in message

    @pytest.mark.parametrize(
        ('launcher', 'variable'),
        [('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID'), ('mpi', 'OMPI_COMM_WORLD_RANK')],
    )
    @pytest.mark.parametrize('gpu', [False, True])
    def test_launcher_without_its_environment(self, config, monkeypatch, launcher, variable, gpu):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
        message = refusal(config, '--launcher', launcher)
        assert message.startswith(f'--launcher {launcher} needs {variable} in the environment')
        assert 'tools/dist_train.sh' in message


class TestEnvironment:
    def test_deterministic_sets_the_cublas_variable(self, config, monkeypatch):
        monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', '')  # so that monkeypatch restores it
        monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG')
        load(config)
        assert 'CUBLAS_WORKSPACE_CONFIG' not in os.environ
        load(config, '--cfg-options', 'randomness.deterministic=True')
        assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'

    @pytest.mark.parametrize(
        ('gpu', 'backend', 'by_gloo'),
        [(False, 'nccl', True), (True, 'nccl', False), (True, 'gloo', True)],
    )
    def test_gloo_with_a_gpu_where_the_config_says_so(
        self, config, monkeypatch, gpu, backend, by_gloo
    ):
        started, devices = [], []
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
        monkeypatch.setattr(torch.cuda, 'set_device', devices.append)
        monkeypatch.setattr(launch, '_init_gloo', lambda *arguments: started.append(arguments))
        for name, value in dict(RANK='1', WORLD_SIZE='2', LOCAL_RANK='1').items():
            monkeypatch.setenv(name, value)
        cfg = load(
            config, '--launcher', 'pytorch', '--cfg-options',
            f'env_cfg.dist_cfg.backend={backend}', 'env_cfg.dist_cfg.timeout=7',
        )  # fmt: skip
        assert started == ([('pytorch', 7)] if by_gloo else [])
        assert devices == ([0] if gpu and by_gloo else [])
        assert ('model_wrapper_cfg' in cfg) == by_gloo


class Touch:
    """A payload that creates a file when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


class TestCheckpoint:
    def refusal(self, path) -> str:
        with pytest.raises(UserError) as caught:
            launch.find_checkpoint(str(path))
        message = str(caught.value)
        assert '\n' not in message
        assert str(path) in message
        return message

    @pytest.fixture
    def checkpoint(self) -> dict:
        """What MMEngine stores: weights, log history, optimizer."""
        history = HistoryBuffer()
        history.update(0.5)
        return dict(
            meta=dict(iter=4, cfg='x = 1', seed=1),
            state_dict={'generator.weight': torch.rand(100, 50)},
            message_hub=dict(log_scalars={'train/loss': history}, runtime_info=dict(iter=3)),
            optimizer=dict(state={0: dict(step=torch.tensor(1.0))}, param_groups=[dict(lr=1e-3)]),
        )

    def test_package_weights_by_name(self):
        path = launch.find_checkpoint('dblrnet_plus')
        assert Path(path).is_file()
        assert Path(path).name.startswith('dblrnet_plus-')
        assert launch.find_checkpoint(path) == path

    def test_relative_to_the_current_folder(self, tmp_path):
        with pytest.raises(UserError) as caught:
            launch.find_checkpoint('work_dirs/a.pth')
        assert str(caught.value) == f'no checkpoint work_dirs/a.pth in {tmp_path}; check the path'

    def test_training_checkpoint_is_accepted(self, checkpoint, tmp_path):
        torch.save(checkpoint, tmp_path / 'good.pth')
        launch.find_checkpoint(str(tmp_path / 'good.pth'))

    def test_missing(self, tmp_path):
        message = self.refusal(tmp_path / 'iter_4.pth')
        assert message.startswith(f'no checkpoint {tmp_path / "iter_4.pth"}; ')
        assert 'is a folder' in self.refusal(tmp_path)

    def test_url_is_refused(self):
        message = self.refusal('https://example.org/dblrgan.pth')
        assert 'download the checkpoint and give the path of the file' in message

    @pytest.mark.parametrize('kept', [0.0, 0.001, 0.1, 0.5, 0.99])
    @pytest.mark.parametrize('zipped', [True, False])
    def test_damaged(self, checkpoint, tmp_path, kept, zipped):
        content = io.BytesIO()
        torch.save(checkpoint, content, _use_new_zipfile_serialization=zipped)
        path = tmp_path / 'cut.pth'
        path.write_bytes(content.getvalue()[: int(kept * len(content.getvalue()))])
        assert 'not a checkpoint, or damaged; use another file' in self.refusal(path)

    def test_a_flipped_bit(self, checkpoint, tmp_path):
        """The bit is in a weight, which torch does not check."""
        torch.save(checkpoint, tmp_path / 'bit.pth')
        content = bytearray((tmp_path / 'bit.pth').read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / 'bit.pth').write_bytes(content)
        assert 'is damaged' in self.refusal(tmp_path / 'bit.pth')

    @pytest.mark.parametrize(
        'content', [b'hello\n', b'<html>404</html>', b'version https://git-lfs\n', b'\x80\x02.']
    )
    def test_another_file(self, tmp_path, content):
        path = tmp_path / 'other.pth'
        path.write_bytes(content)
        assert 'not a checkpoint, or damaged' in self.refusal(path)

    @pytest.mark.skipif(not ALLOW_LIST, reason='torch before 2.4 cannot read it safely')
    def test_not_a_dictionary(self, tmp_path):
        torch.save([torch.zeros(1)], tmp_path / 'list.pth')
        assert 'contains a list, not the weights' in self.refusal(tmp_path / 'list.pth')

    @pytest.mark.skipif(not ALLOW_LIST, reason='torch before 2.4 cannot read it safely')
    @pytest.mark.parametrize('kind', ['zip', 'legacy', 'pickle', 'history'])
    def test_code_in_it_is_refused_and_does_not_run(self, checkpoint, tmp_path, kind):
        path, trace = tmp_path / 'bad.pth', tmp_path / 'trace'
        checkpoint['meta']['x'] = Touch(trace)
        if kind == 'pickle':
            path.write_bytes(pickle.dumps(checkpoint, protocol=2))
        else:
            if kind == 'history':  # hidden in an allowed type
                history = HistoryBuffer()
                history.extra = checkpoint['meta'].pop('x')
                checkpoint['message_hub']['log_scalars']['x'] = history
            torch.save(checkpoint, path, _use_new_zipfile_serialization=kind != 'legacy')
        message = self.refusal(path)
        assert not trace.exists()
        assert 'weights_only' not in message, 'no advice to load it anyway'
        if kind != 'pickle':
            assert 'refused because it would run code (io.open)' in message

        # the payload works: a careless unpickler would run this
        function, arguments = Touch(trace).__reduce__()
        function(*arguments).close()
        assert trace.exists()


class TestNewestCheckpoint:
    """The checkpoint that --resume uses."""

    @pytest.fixture
    def work_dir(self, tmp_path) -> Path:
        for iteration in (2, 4, 10, 12):
            torch.save(dict(meta=dict(iter=iteration)), tmp_path / f'iter_{iteration}.pth')
        (tmp_path / 'last_checkpoint').write_text(f'/moved/from/{tmp_path.name}/iter_10.pth')
        return tmp_path

    def cut(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-50])

    def test_last_checkpoint_is_used(self, work_dir, capsys):
        """The named one; iter_12 is from an earlier run in the same folder."""
        assert launch.newest_checkpoint(str(work_dir)) == str(work_dir / 'iter_10.pth')
        assert capsys.readouterr().err == ''

    def test_no_checkpoint_yet(self, tmp_path):
        assert launch.newest_checkpoint(str(tmp_path)) is None

    @pytest.mark.parametrize('damage', ['cut', 'missing'])
    def test_checkpoint_before_a_damaged_one(self, work_dir, capsys, damage):
        path = work_dir / 'iter_10.pth'
        self.cut(path) if damage == 'cut' else path.unlink()
        assert launch.newest_checkpoint(str(work_dir)) == str(work_dir / 'iter_4.pth')
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith('warning: ')
        assert str(path) in line
        assert line.endswith('Using the checkpoint before it')

    def test_checkpoint_before_a_damaged_one_in_a_folder_named_like_a_message(
        self, work_dir, capsys
    ):
        folder = work_dir / 'it would run code'
        folder.mkdir()
        for path in work_dir.glob('*.pth'):
            path.rename(folder / path.name)
        self.cut(folder / 'iter_12.pth')
        assert launch.newest_checkpoint(str(folder)) == str(folder / 'iter_10.pth')
        assert 'Using the checkpoint before it' in capsys.readouterr().err

    def test_all_checkpoints_damaged(self, work_dir):
        for path in work_dir.glob('*.pth'):
            self.cut(path)
        with pytest.raises(UserError, match=r'iter_2\.pth.*damaged'):
            launch.newest_checkpoint(str(work_dir))

    def test_code_in_the_last_checkpoint_is_refused(self, work_dir):
        """It may come from an attacker, so it is not skipped silently."""
        torch.save(dict(meta=Touch(work_dir / 'trace')), work_dir / 'iter_10.pth')
        with pytest.raises(UserError, match='it would run code'):
            launch.newest_checkpoint(str(work_dir))
        assert not (work_dir / 'trace').exists()


class TestRun:
    """What the user sees of an error."""

    def printed(self, error: BaseException, capsys) -> str:
        def main() -> None:
            raise error

        with pytest.raises(SystemExit) as caught:
            launch.run(main)
        assert caught.value.code == 1
        out, err = capsys.readouterr()
        assert out == ''
        assert err.count('\n') == 1, 'one line'
        return err

    @pytest.mark.parametrize('kind', [launch.LaunchError, DatasetError, CheckpointMismatchError])
    def test_user_error_is_one_line(self, kind, capsys):
        assert self.printed(kind('clip a: wrong. Mend it.'), capsys) == (
            'error: clip a: wrong. Mend it.\n'
        )

    def test_user_error_as_a_cause_of_other_errors(self, capsys):
        error = RuntimeError('somewhere in MMEngine')
        error.__cause__ = TypeError('while building')
        error.__cause__.__cause__ = DatasetError('no clip in x')
        assert self.printed(error, capsys) == 'error: no clip in x\n'

    def test_last_user_error_is_printed(self, capsys):
        error = UserError('clip a of x: no frame 3')
        error.__cause__ = DatasetError('no frame 3')
        assert self.printed(error, capsys) == 'error: clip a of x: no frame 3\n'

    def test_bug_while_handling_a_user_error_keeps_its_traceback(self):
        def main() -> None:
            try:
                raise UserError('no clip in x')
            except UserError:
                raise ZeroDivisionError  # noqa: B904

        with pytest.raises(ZeroDivisionError):
            launch.run(main)

    def test_several_lines_become_one(self, capsys):
        error = DatasetError('clip a: Codec says:\n  no\nsuch image\n')
        assert self.printed(error, capsys) == 'error: clip a: Codec says:   no such image\n'

    def test_missing_data_set(self, tmp_path, capsys):
        def main() -> None:
            VideoClipDataset(data_root=str(tmp_path / 'data'), split='train')

        with pytest.raises(SystemExit):
            launch.run(main)
        err = capsys.readouterr().err
        assert err.startswith(f'error: no folder {tmp_path / "data"}. ')
        assert err.count('\n') == 1

    def test_a_bug_keeps_its_traceback(self):
        def main() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            launch.run(main)

    def test_no_error(self, capsys):
        launch.run(lambda: print('done'))
        assert capsys.readouterr() == ('done\n', '')

    def test_ctrl_c(self, capsys):
        def main():
            raise KeyboardInterrupt

        with pytest.raises(SystemExit) as caught:
            launch.run(main)
        assert caught.value.code == 130
        assert capsys.readouterr().err == 'stopped\n'

    def test_closed_stdout(self):
        script = "from dblrgan_mm import launch; launch.run(lambda: print('x' * 10**6))"
        with subprocess.Popen(
            [sys.executable, '-c', script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            process.stdout.read(1)
            process.stdout.close()
            assert process.stderr.read() == b''
        assert process.returncode == 1


class TestCommands:
    """The two commands as processes: they answer quickly if they need not import MMagic."""

    def run(self, repo: Path, *command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, cwd=repo, check=False,
            env={**os.environ, 'PYTHONPATH': str(repo)},
        )  # fmt: skip

    @pytest.mark.parametrize(
        ('tool', 'options'),
        [
            ('train', ['--work-dir', '--resume', '--amp', '--cfg-options']),
            ('test', ['checkpoint', '--work-dir', '--out', '--amp', '--cfg-options']),
        ],
    )
    def test_help_within_a_second(self, repo, tool, options):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            done = self.run(repo, f'tools/{tool}.py', '--help')
            times.append(time.perf_counter() - start)
            assert done.returncode == 0
            for option in (*options, '--launcher', 'config'):
                assert option in done.stdout
            assert 'local_rank' not in done.stdout
        assert statistics.median(times) < 1

    def test_wrong_path_is_reported_quickly(self, repo):
        start = time.perf_counter()
        done = self.run(repo, 'tools/train.py', 'configs/nowhere.py')
        assert time.perf_counter() - start < 2
        assert done.returncode == 1
        assert done.stdout == ''
        assert done.stderr.startswith('error: no config configs/nowhere.py: the configs are in ')


class TestLaunchers:
    """Variables that MMEngine needs in the environment are checked before it fails."""

    def test_mpi_without_master_addr(self, monkeypatch):
        for name, value in zip(launch._RANK_VARIABLES['mpi'], '021', strict=True):
            monkeypatch.setenv(name, value)
        monkeypatch.delenv('MASTER_ADDR', raising=False)
        with pytest.raises(launch.LaunchError, match='mpi needs MASTER_ADDR'):
            launch._require_launcher('mpi')
        monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
        launch._require_launcher('mpi')

    @pytest.mark.parametrize('launcher', launch._RANK_VARIABLES)
    def test_first_process(self, monkeypatch, launcher):
        assert launch.is_first_process('none')
        for rank in ('0', '1'):
            monkeypatch.setenv(launch._RANK_VARIABLES[launcher][0], rank)
            assert launch.is_first_process(launcher) == (rank == '0')

    @pytest.mark.parametrize('nodes', [1, 2])
    def test_slurm_on_several_nodes(self, monkeypatch, nodes):
        for name, value in zip(launch._RANK_VARIABLES['slurm'], '021', strict=True):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv('SLURM_NNODES', str(nodes))
        monkeypatch.delenv('MASTER_ADDR', raising=False)
        if nodes == 1:
            launch._require_launcher('slurm')
        else:
            with pytest.raises(launch.LaunchError, match='slurm needs MASTER_ADDR'):
                launch._require_launcher('slurm')
