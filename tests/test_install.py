"""The wheel, installed outside the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MMAGIC_STACK = 'mmagic mmcv mmengine torchvision albumentations diffusers transformers skimage'

# stands in for an environment without some packages, which would take minutes to set up
BLOCKER = """
import os
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
blocked = os.environ.get('BLOCKED', '').split()
PathFinder.find_spec = lambda name, *arguments: (
    None if name.split('.')[0] in blocked else find_spec(name, *arguments)
)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """Call a command of the wheel in a folder outside the checkout."""
    folder = tmp_path_factory.mktemp('installed')
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    source = folder / 'source'
    files = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard', ':!tests/data'],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for file in filter(os.path.isfile, (ROOT / name for name in files)):
        target = source / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    subprocess.run(
        [*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', folder, source], check=True
    )
    environment = folder / 'venv'
    venv.create(environment, with_pip=False)
    python = environment / 'bin' / 'python'
    subprocess.run(
        [*pip, '--python', python, 'install', '--no-deps', *folder.glob('*.whl')], check=True
    )
    site = next((environment / 'lib').glob('python*/site-packages'))
    (site / 'others.pth').write_text(sysconfig.get_path('purelib') + '\n')  # torch and so on
    (site / 'blocker.py').write_text(BLOCKER)
    (site / 'blocker.pth').write_text('import blocker\n')
    work = folder / 'work'
    work.mkdir()

    def call(*arguments, blocked=MMAGIC_STACK) -> subprocess.CompletedProcess:
        command = [environment / 'bin' / 'dblrgan-mm', *map(str, arguments)]
        variables = {**os.environ, 'BLOCKED': blocked, 'NO_ALBUMENTATIONS_UPDATE': '1'}
        return subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True)

    call.site, call.work = site, work
    return call


def test_commands(installed):
    done = installed()
    assert done.returncode == 0
    for command in ('deblur', 'train', 'test', 'compare', 'check', 'convert', 'synthesize'):
        assert f'  {command} ' in done.stdout
    done = installed('deblurr')
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: no command 'deblurr'; the commands are deblur, serve, train"
    )
    assert 'usage: dblrgan-mm deblur' in installed('deblur', '--help').stdout


def test_deblur_without_mmagic(installed, sample_root):
    clip = sample_root / 'test' / 'sam2_blocks_carry' / 'blur'
    done = installed('deblur', clip, 'restored.mp4', '--end', 2)
    assert done.returncode == 0, done.stderr
    assert (installed.work / 'restored.mp4').stat().st_size > 1000


def test_preview_without_mmagic(installed, sample_root, page_clips):
    clip = sample_root / 'test' / 'sam2_blocks_carry' / 'blur'
    done = installed('deblur', clip, 'out', '--preview', 1)
    assert done.returncode == 0, done.stderr
    page = installed.work / 'out.preview' / 'index.html'
    assert len(page_clips(page)[0]['frames']) == 1
    for library in ('uPlot', 'Panzoom 4', 'sortable'):
        assert library in page.read_text(encoding='utf-8')


def test_serve(installed):
    done = installed('serve', blocked='fastapi')
    assert done.returncode == 1
    assert done.stderr == (
        "error: fastapi is missing; install it with: pip install 'dblrgan_mm[web]'\n"
    )
    for suffix in ('html', 'css', 'js'):
        assert (installed.site / 'dblrgan_mm' / 'web' / f'page.{suffix}').is_file()


def test_train_without_mmagic(installed):
    done = installed('train', 'dblrgan_sample')
    assert done.returncode == 1
    assert done.stderr.startswith('error: this command needs mmcv, mmengine, mmagic: run pip ')


def test_train(installed, sample_root):
    options = ('train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'model.generator.num_blocks=1',
               'model.generator.mid_channels=4', 'val_dataloader.dataset.indices=[5]',
               'model.discriminator.fc_channels=8')  # fmt: skip
    arguments = ('--data-root', sample_root, '--cfg-options', *options)
    done = installed('train', 'dblrgan_sample', *arguments, blocked='')
    assert done.returncode == 0, done.stdout + done.stderr
    assert (installed.work / 'work_dirs' / 'dblrgan_sample' / 'iter_2.pth').is_file()


def test_messages_name_paths_of_the_wheel(installed, tmp_path):
    done = installed('check', 'gopro', tmp_path)
    assert done.returncode == 1
    page = installed.site / 'dblrgan_mm' / '.mim' / 'docs' / 'gopro.md'
    assert str(page) in done.stdout
    assert page.is_file()


def test_a_config_of_another_project(installed, sample_root):
    """As in the README: it inherits one of this package, by name."""
    config = installed.work / 'mine.py'
    config.write_text(
        "_base_ = [__import__('dblrgan_mm').config('dblrgan_sample')]\n"
        'model = dict(generator=dict(num_blocks=2))\n'
    )
    python = installed.site.parents[2] / 'bin' / 'python'
    code = (
        'from mmengine import Config; cfg = Config.fromfile("mine.py"); '
        'print(cfg.model.generator.num_blocks, cfg.model.type)'
    )
    done = subprocess.run([python, '-c', code], cwd=installed.work, capture_output=True, text=True)
    assert done.stdout == '2 DBLRGAN\n', done.stderr


def test_files_are_where_mim_looks(installed):
    mim = installed.site / 'dblrgan_mm' / '.mim'
    for name in ('model-index.yml', 'configs/dblrgan_gopro.py', 'tools/train.py'):
        assert (mim / name).is_file(), name
    assert not list(mim.glob('tools/benchmark*')), 'for the checkout'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['dblrgan_gopr'], 'error: no config dblrgan_gopr: did you mean dblrgan_gopro'),
        (['nothing_like_it'], 'error: no config nothing_like_it: the configs are in '),
        (['dblrgan_sample', '--work-dir', 'SITE'], 'is inside the installed package'),
    ],
)
def test_bad_input(installed, arguments, message):
    folder = str(installed.site / 'dblrgan_mm' / 'runs')
    done = installed('train', *(folder if a == 'SITE' else a for a in arguments), blocked='')
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize('name', ['dblrgan_gopro.py', '_base_/datasets/gopro.py'])
def test_config_edited_in_place(installed, name):
    """The config itself, or one that it inherits."""
    config = installed.site / 'dblrgan_mm' / '.mim' / 'configs' / name
    warning = f'warning: {config} was edited inside the installed package'
    command = ('train', 'dblrgan_gopro', '--dataset', 'kitti')  # ends before it trains
    assert warning not in installed(*command, blocked='').stderr
    config.write_text(config.read_text() + '\n')
    assert warning in installed(*command, blocked='').stderr
