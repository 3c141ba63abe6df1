"""tools/train.py and tools/test.py, called as from the command line, but in this process."""

import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.runner.checkpoint import _load_checkpoint
from skimage.metrics import peak_signal_noise_ratio

from dblrgan_mm import devices, launch
from dblrgan_mm.cli.test import print_table, score_table
from dblrgan_mm.datasets import VideoClipDataset
from dblrgan_mm.engine.hooks import read_scalars
from dblrgan_mm.nn import DBLRNet

ROOT = Path(__file__).parents[2]
DRAWS_CURVES = True  # conftest.py


def load_tool(name: str):
    """Import a script from its path: tools/ is not a package."""
    spec = importlib.util.spec_from_file_location(f'{name}_tool', ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(name: str, *arguments) -> SimpleNamespace:
    """Call a tool; returns its exit code, stdout and stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [f'tools/{name}.py', *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                launch.run(load_tool(name).main)
            except SystemExit as exit_:
                code = exit_.code
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


class TestTrainArguments:
    """The arguments that reach the runner."""

    @pytest.fixture
    def built(self, monkeypatch) -> list:
        """The configs that runners are built from; these runners do not train."""
        configs = []

        def from_cfg(cfg):
            configs.append(cfg)
            return SimpleNamespace(
                train=lambda: None, logger=SimpleNamespace(info=lambda message: None)
            )

        monkeypatch.setattr(Runner, 'from_cfg', from_cfg)
        return configs

    @pytest.fixture
    def work_dir(self, tmp_path) -> Path:
        """Has iter_4.pth as newest checkpoint; start.pth, for load_from, is next to the folder."""
        folder = tmp_path / 'run'
        folder.mkdir()
        for path in (tmp_path / 'start.pth', folder / 'iter_4.pth'):
            torch.save(dict(meta={}, state_dict={}), path)
        (folder / 'last_checkpoint').write_text(str(folder / 'iter_4.pth'))
        return folder

    def train(self, work_dir, text: str, *arguments) -> SimpleNamespace:
        config = work_dir.parent / 'config.py'
        config.write_text(f'train_cfg = dict()\n{text}')
        return call('train', config, '--work-dir', work_dir, *arguments)

    def resumed(self, cfg) -> str | None:
        """Return the checkpoint that MMEngine resumes from with this config."""
        return (cfg.load_from or find_latest_checkpoint(cfg.work_dir)) if cfg.resume else None

    def start(self, work_dir) -> str:
        return f'load_from = "{work_dir.parent / "start.pth"}"\nresume = False\n'

    def test_without_resume(self, built, work_dir):
        assert self.train(work_dir, self.start(work_dir)).code == 0
        assert built[0].load_from == str(work_dir.parent / 'start.pth')
        assert not built[0].resume

    @pytest.mark.parametrize('text', ['start', 'load_from = None\nresume = False\n'])
    def test_resume_newest(self, built, work_dir, text):
        """Resumes from it even if the config sets load_from, which is only for the first start."""
        text = self.start(work_dir) if text == 'start' else text
        assert self.train(work_dir, text, '--resume').code == 0
        assert self.resumed(built[0]) == str(work_dir / 'iter_4.pth')

    def test_resume_before_there_is_a_checkpoint(self, built, work_dir):
        """A job script may always pass --resume."""
        for name in ('last_checkpoint', 'iter_4.pth'):
            (work_dir / name).unlink()
        assert self.train(work_dir, self.start(work_dir), '--resume').code == 0
        assert built[0].load_from == str(work_dir.parent / 'start.pth')
        assert not built[0].resume

    def test_resume_from_a_given_checkpoint(self, built, work_dir):
        other = work_dir / 'iter_2.pth'
        torch.save(dict(meta={}, state_dict={}), other)
        assert self.train(work_dir, self.start(work_dir), '--resume', other).code == 0
        assert self.resumed(built[0]) == str(other)

    @pytest.mark.parametrize('arguments', [('--resume',), ('--resume', 'iter_4.pth')])
    @pytest.mark.parametrize('damage', ['missing', 'truncated'])
    def test_resume_from_a_bad_checkpoint(self, built, work_dir, arguments, damage):
        path = work_dir / 'iter_4.pth'
        if damage == 'missing':
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:100])
        arguments = [str(path) if '.pth' in argument else argument for argument in arguments]
        done = self.train(work_dir, 'load_from = None\n', *arguments)
        assert done.code == 1
        assert built == []
        word = f'no checkpoint {path}' if damage == 'missing' else f'{path}: not a checkpoint, or'
        assert word in done.err
        assert done.err.count('\n') == 1

    def test_missing_checkpoint_to_start_from(self, built, work_dir):
        (work_dir.parent / 'start.pth').unlink()
        done = self.train(work_dir, self.start(work_dir))
        assert (done.code, built) == (1, [])
        assert done.err.startswith(f'error: no checkpoint {work_dir.parent / "start.pth"}; ')

    @pytest.mark.parametrize(
        ('gpu', 'dtype'), [((8, 0), 'bfloat16'), ((7, 5), 'float16'), (None, 'bfloat16')]
    )
    @pytest.mark.parametrize('networks', [1, 2])
    def test_amp(self, built, work_dir, monkeypatch, networks, gpu, dtype):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu is not None)
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: gpu)
        monkeypatch.setattr(devices, 'capabilities', lambda: dict(avx512_bf16=True))
        wrapper = 'dict(type="OptimWrapper", optimizer=dict(type="Adam"))'
        if networks == 2:
            wrapper = f'dict(constructor="X", generator={wrapper}, discriminator={wrapper})'
        assert self.train(work_dir, f'optim_wrapper = {wrapper}\n', '--amp').code == 0
        found = built[0].optim_wrapper
        found = [found] if networks == 1 else [found.generator, found.discriminator]
        assert [wrapper.type for wrapper in found] == ['GuardedAmpOptimWrapper'] * networks
        assert [wrapper.dtype for wrapper in found] == [dtype] * networks


class TestScores:
    def test_table(self, capsys):
        scores = {'PSNR': 30.126, 'SSIM': 0.91, 'NIQE': 4.5, 'input/PSNR': 28, 'input/SSIM': 0.92}
        print_table(score_table(scores))
        rows = {}
        for line in capsys.readouterr().out.splitlines():
            cells = line.replace('┃', '│').split('│')[1:-1]
            if cells:
                rows[cells[0].strip()] = [cell.strip() for cell in cells[1:]]
        assert rows == {
            '': ['blurry', 'restored', 'gain'],
            'PSNR': ['28.00', '30.13', '+2.13'],
            'SSIM': ['0.9200', '0.9100', '-0.0100'],
            'NIQE': ['', '4.5000', ''],
        }

    def test_unknown_file_type_is_refused_before_the_test(self, tmp_path, monkeypatch):
        started = []
        monkeypatch.setattr(Runner, 'from_cfg', started.append)
        (tmp_path / 'config.py').write_text('x = 1\n')
        torch.save(dict(state_dict={}), tmp_path / 'a.pth')
        done = call(
            'test', tmp_path / 'config.py', tmp_path / 'a.pth', '--work-dir', tmp_path / 'run',
            '--out', tmp_path / 'scores.txt',
        )  # fmt: skip
        assert started == []
        assert done.code in (1, 2)
        assert 'scores.txt' in done.err
        assert '.json' in done.err


CONFIG = ROOT / 'configs' / 'dblrgan_sample.py'
TINY = [
    'model.generator.mid_channels=4',
    'model.generator.num_blocks=1',
    'model.discriminator.conv_channels=((4,),(4,))',
    'model.discriminator.fc_channels=8',
    'model.train_cfg.gen_init_steps=2',
    'train_dataloader.dataset.pipeline.2.gt_patch_size=32',
    'val_dataloader.dataset.indices=[5,15]',  # the middle frames of the two clips
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=2',
    # workers that end with their loader, instead of at exit, take five seconds each
    *(f'{part}_dataloader.num_workers=0' for part in ('train', 'val', 'test')),
]


def iterations(count: int) -> list[str]:
    return [f'train_cfg.max_iters={count}', f'train_cfg.val_interval={count}']


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> SimpleNamespace:
    """The sample DBLRGAN with tiny networks: four iterations, then resumed for two more."""
    work_dir = tmp_path_factory.mktemp('runs') / 'dblrgan'
    options = ['--work-dir', work_dir, '--cfg-options', *TINY]
    first = call('train', CONFIG, *options, *iterations(4))
    pictures = {path.name for path in work_dir.rglob('*.png')}
    second = call('train', CONFIG, '--resume', *options, *iterations(6))
    return SimpleNamespace(work_dir=work_dir, first=first, pictures=pictures, second=second)


@pytest.fixture(scope='module')
def tested(trained) -> SimpleNamespace:
    """The table and the scores of the last checkpoint of the resumed run."""
    scores = trained.work_dir / 'scores.json'
    checkpoint = (trained.work_dir / 'last_checkpoint').read_text()
    done = call(
        'test', CONFIG, checkpoint, '--work-dir', trained.work_dir, '--out', scores,
        '--cfg-options', *TINY,
    )  # fmt: skip
    return SimpleNamespace(**vars(done), scores=json.loads(scores.read_text()))


@pytest.mark.slow
class TestEndToEnd:
    def test_train(self, trained):
        assert trained.first.code == 0
        assert str(trained.work_dir) in trained.first.out
        assert trained.pictures == {
            'curves.png', 'sam2_blocks_carry_000037_4.png', 'sam2_blocks_two_hands_000106_4.png',
        }  # fmt: skip
        checkpoint = _load_checkpoint(str(trained.work_dir / 'iter_4.pth'))
        assert checkpoint['state_dict']['step_counter'] == 4

    def test_resume_continues(self, trained):
        assert trained.second.code == 0
        last = Path((trained.work_dir / 'last_checkpoint').read_text())
        assert last == trained.work_dir / 'iter_6.pth'
        checkpoint = _load_checkpoint(str(last))
        assert checkpoint['meta']['iter'] == 6
        assert checkpoint['state_dict']['step_counter'] == 6
        assert checkpoint['state_dict']['generator_ema.steps'] == 6
        steps = {
            name: {int(state['step']) for state in optimizer['state'].values()}
            for name, optimizer in checkpoint['optimizer'].items()
            if isinstance(optimizer, dict)
        }
        assert steps == dict(generator={6}, discriminator={4}), 'the generator had a head start'

    def test_curves_show_both_parts(self, trained):
        curves = read_scalars(trained.work_dir)
        assert sorted(curves['loss_pix']) == [1, 2, 3, 4, 5, 6]
        assert sorted(curves['loss_disc_real']) == [3, 4, 5, 6]
        assert sorted(curves['PSNR']) == [4, 6]
        assert cv2.imread(str(trained.work_dir / 'curves.png')).std() > 5

    def test_scores(self, trained, tested, sample_root):
        """Compared with scores computed here by the averaged generator on all test frames."""
        state = _load_checkpoint(str(trained.work_dir / 'iter_6.pth'))['state_dict']
        prefix = 'generator_ema.module.'
        net = DBLRNet(mid_channels=4, num_blocks=1, norm=None, residual=True).eval()
        net.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )
        dataset = VideoClipDataset(data_root=str(sample_root), split='test', test_mode=True)
        blurry, restored = [], []
        for i in range(len(dataset)):
            window = dataset.get_data_info(i)
            frames = np.stack([cv2.imread(path)[..., ::-1] for path in window['img_path']])
            sharp = cv2.imread(window['gt_path'][0])[..., ::-1]
            x = torch.from_numpy(frames.transpose(0, 3, 1, 2) / np.float32(255))
            with torch.no_grad():
                out = net(x[None])[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
            blurry.append(peak_signal_noise_ratio(sharp, frames[2]))
            restored.append(peak_signal_noise_ratio(sharp / 255, out / 255, data_range=1))
        assert len(restored) == 20
        assert list(tested.scores) == ['PSNR', 'SSIM', 'input/PSNR', 'input/SSIM']
        assert tested.scores['input/PSNR'] == pytest.approx(np.mean(blurry), abs=1e-3)
        assert tested.scores['PSNR'] == pytest.approx(np.mean(restored), abs=0.01)

    def test_table(self, tested):
        assert tested.code == 0
        (row,) = (line for line in tested.out.splitlines() if '│ PSNR' in line)
        blurry, restored = tested.scores['input/PSNR'], tested.scores['PSNR']
        cells = [cell.strip() for cell in row.split('│')[1:-1]]
        assert cells == ['PSNR', f'{blurry:.2f}', f'{restored:.2f}', f'{restored - blurry:+.2f}']

    def test_picture_of_each_clip(self, tested):
        (line,) = (line for line in tested.out.splitlines() if line.startswith('Pictures: '))
        pictures = sorted(Path(line.removeprefix('Pictures: ')).iterdir())
        assert [path.name.rsplit('_', 1)[0] for path in pictures] == [
            'sam2_blocks_carry_000037',
            'sam2_blocks_two_hands_000106',
        ]
        for path in pictures:
            assert cv2.imread(str(path)).shape == (22 + 2 * 144, 3 * 256, 3)

    def test_page(self, tested, page_clips):
        (line,) = (line for line in tested.out.splitlines() if line.startswith('Page for'))
        clips = page_clips(Path(line.partition(': ')[2]))
        assert [clip['name'] for clip in clips] == ['sam2_blocks_carry', 'sam2_blocks_two_hands']
        assert [len(clip['frames']) for clip in clips] == [10, 10]
        assert list(clips[0]['images']) == ['blurry', 'restored', 'sharp']
        blurry, restored = (
            np.mean([clip['scores'][method] for clip in clips]) for method in ('blurry', 'restored')
        )
        assert blurry == pytest.approx(tested.scores['input/PSNR'], abs=1e-3)
        assert restored == pytest.approx(tested.scores['PSNR'], abs=0.05), 'after rounding'

    def test_checkpoint_of_another_width(self, trained):
        done = call(
            'test', CONFIG, trained.work_dir / 'iter_6.pth', '--work-dir', trained.work_dir,
            '--cfg-options', *TINY, 'model.generator.mid_channels=8',
        )  # fmt: skip
        assert done.code == 1
        assert 'PSNR' not in done.out.rsplit('Load', 1)[-1], 'no scores'
        (line,) = done.err.splitlines()
        assert line.startswith(
            'error: the checkpoint belongs to another architecture than the config: '
        )
        assert (
            'generator.head.0.weight has shape (1, 1, 3, 3, 3) in the checkpoint, (2, 1, 3, 3, 3) '
            'in the model'
        ) in line
