"""Shared fixtures: the bundled clips, data sets in the benchmarks' layouts, and the tools."""

import contextlib
import importlib.util
import io
import itertools
import json
import os
import re
import shutil
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import torch
from hypothesis import settings
from mmengine.config import config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import init_default_scope
from playwright.sync_api import Page, sync_playwright

from dblrgan_mm import compat, launch
from dblrgan_mm.clips import clip_store, layouts

compat.apply()  # before a test module imports MMagic

from dblrgan_mm.engine import hooks
from dblrgan_mm.engine.visualizer import DeblurVisualizer

# disable the update check of albumentations: tests use no network
os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')

settings.register_profile('fuzz', max_examples=10_000)  # make fuzz

ROOT = Path(__file__).parent.parent

# file names of frame {n} of a clip, blurry and sharp, in each data set
FRAMES = {
    'gopro': ('{split}/{clip}/blur/{n:06d}.png', '{split}/{clip}/sharp/{n:06d}.png'),
    'dvd': ('{clip}/input/{n:05d}.jpg', '{clip}/GT/{n:05d}.jpg'),
    'bsd': (
        'BSD_{exposure}/{split}/{clip}/Blur/RGB/{n:08d}.png',
        'BSD_{exposure}/{split}/{clip}/Sharp/RGB/{n:08d}.png',
    ),
    'reds': (
        '{split}/{split}_{blur}/{clip}/{n:08d}.png',
        '{split}/{split}_sharp/{clip}/{n:08d}.png',
    ),
    'kitti': ('blur image/{camera}/{clip}_{n:02d}.png', 'clean image/{camera}/{clip}_{n:02d}.png'),
    'patterns': ('{split}/{clip}/blurry/{n:05d}.png', '{split}/{clip}/sharp/{n:05d}.png'),
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Fail a test that takes long and has no mark that says so.

    The CPU time of the test and its child processes counts, as it hardly depends on how busy the
    machine is. Three times the ten seconds of ``slow`` leave room for slower machines.
    """
    before = sum(os.times()[:4])
    result = yield
    spent = sum(os.times()[:4]) - before
    expected = any(item.get_closest_marker(mark) for mark in ('slow', 'speed', 'soak', 'cuda'))
    if spent > 30 and not expected and not item.config.getoption('--hypothesis-profile'):
        pytest.fail(f'took {spent:.0f} s of CPU time: mark it as slow', pytrace=False)
    return result


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (MMagic's transforms use it)


@pytest.fixture(autouse=True)
def _own_loggers(monkeypatch):
    """Keep the log files of runs from later tests: ``uvicorn.Config`` closes all log files."""
    monkeypatch.setattr(MMLogger, '_instance_dict', OrderedDict())


@pytest.fixture(scope='module', autouse=True)
def _no_trimmings(request):
    """Leave out curves and the line breaks of dumped configs: they take longer than training.

    A test module that looks at curves sets ``DRAWS_CURVES = True``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, 'FormatCode', lambda text, **_: (text, False))
        if not getattr(request.module, 'DRAWS_CURVES', False):
            patch.setattr(hooks, 'plot_curves', lambda *arguments, **keywords: None)
        yield


@pytest.fixture(scope='session', autouse=True)
def _mmagic_scope():
    """Look up names in configs among MMagic's types, as a runner does."""
    init_default_scope('mmagic')


@pytest.fixture(scope='session')
def repo() -> Path:
    return ROOT


@pytest.fixture(scope='session')
def sample_root() -> Path:
    return ROOT / 'tests' / 'data' / 'gopro'


def _read(folder: Path) -> np.ndarray:
    return np.stack([cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())])


@pytest.fixture(scope='session')
def real_clip(sample_root) -> dict[str, torch.Tensor]:
    """Blurry and sharp frames of one training clip, each (t, 3, h, w), RGB in [0, 1]."""
    clip = sample_root / 'train' / 'gopro_walk_a'
    return {
        kind: torch.from_numpy(_read(clip / folder)).permute(0, 3, 1, 2).float() / 255
        for kind, folder in (('blurry', 'blur'), ('sharp', 'sharp'))
    }


@pytest.fixture
def write_clip(tmp_path) -> Callable[..., Path]:
    """Write a clip below tmp_path; a pixel is (R, G, B) = (x, y, frame), frame + 100 if sharp."""

    def write(
        name: str,
        numbers: Iterable[int],
        split: str = 'test',
        size: tuple[int, int] = (8, 6),
        stem: str = '{:06d}',
        suffixes: tuple[str, str] = ('.png', '.png'),
        folders: tuple[str, str] = ('blur', 'sharp'),
    ) -> Path:
        width, height = size
        for folder, suffix, offset in zip(folders, suffixes, (0, 100), strict=True):
            path = tmp_path / split / name / folder
            path.mkdir(parents=True)
            for t, number in enumerate(numbers):
                frame = np.empty((height, width, 3), np.uint8)
                frame[..., 0], frame[..., 1], frame[..., 2] = (
                    t + offset,
                    np.arange(height)[:, None],
                    np.arange(width),
                )
                cv2.imwrite(str(path / (stem.format(number) + suffix)), frame)  # expects BGR
        return tmp_path / split / name

    return write


@pytest.fixture
def real_copy(tmp_path, sample_root) -> Path:
    """A data set below tmp_path with one clip, train/gopro_walk_a; tests may damage it."""
    shutil.copytree(sample_root / 'train' / 'gopro_walk_a', tmp_path / 'train' / 'gopro_walk_a')
    return tmp_path


@pytest.fixture(scope='session')
def lay_out() -> Callable[..., list[list[Path]]]:
    """Write a clip below a root with the file names of its data set."""

    def write(
        root: Path,
        layout: str,
        clip: str,
        numbers: Iterable[int],
        images: Iterable[tuple[np.ndarray, np.ndarray]] = (),
        sharp: bool = True,
        **fields: str,
    ) -> list[list[Path]]:
        """Write empty files, or the pairs of ``images`` (BGR) repeatedly.

        Returns the files of each frame, blurry and sharp.
        """
        fields = dict(split='train', exposure='2ms16ms', blur='blur', camera='image_2') | fields
        names = FRAMES[layout] if sharp else FRAMES[layout][:1]
        pairs = itertools.cycle(images or [(None, None)])
        written = []
        for n, pair in zip(numbers, pairs, strict=False):
            written.append([root / name.format(clip=clip, n=n, **fields) for name in names])
            for path, image in zip(written[-1], pair, strict=False):
                path.parent.mkdir(parents=True, exist_ok=True)
                if image is None:
                    path.touch()
                else:
                    assert cv2.imwrite(str(path), image)
        return written

    return write


@pytest.fixture(scope='session')
def page_clips() -> Callable[[Path], list[dict[str, Any]]]:
    """Return the clips of a page; checks that their images exist and have the same size."""

    def read(page: Path) -> list[dict[str, Any]]:
        text = page.read_text(encoding='utf-8')
        clips = json.loads(re.search(r'id="clips">(.*?)</script>', text)[1])
        for clip in clips:
            for addresses in clip['images'].values():
                images = [cv2.imread(str(page.parent / unquote(place))) for place in addresses]
                assert len(images) == len(clip['frames'])
                assert len({image.shape for image in images}) == 1
        return clips

    return read


@pytest.fixture(scope='session')
def chromium() -> Iterator[Any]:
    """A headless browser; it must be installed where CI runs."""
    path = shutil.which('chromium') or shutil.which('google-chrome')
    if path is None and 'CI' not in os.environ:
        pytest.skip('needs Chromium')
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def new_page(chromium) -> Iterator[Callable[..., Page]]:
    """Open a window with the given options of Playwright; it is closed after the test."""
    contexts = []

    def open_page(**options: Any) -> Page:
        contexts.append(chromium.new_context(**options))
        return contexts[-1].new_page()

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope='session')
def call_tool() -> Callable[..., SimpleNamespace]:
    """Call a script below tools/ as from the command line, but in this process."""

    def call(name: str, *arguments) -> SimpleNamespace:
        """Return exit code, stdout and stderr."""
        path = ROOT / 'tools' / f'{name}.py'
        spec = importlib.util.spec_from_file_location(f'{path.stem}_tool', path)
        module = importlib.util.module_from_spec(spec)
        out, err, code = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', [str(path), *map(str, arguments)])
            patch.setitem(sys.modules, spec.name, module)  # needed by its dataclasses
            for kind in (DeblurVisualizer, MessageHub, MMLogger):
                # else MMEngine reuses those of a run that started in the same second
                patch.setattr(kind, '_instance_dict', OrderedDict())
            spec.loader.exec_module(module)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    launch.run(module.main)
                except SystemExit as exit_:
                    code = int(exit_.code or 0)
        return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())

    return call


@pytest.fixture(scope='session')
def sample_store(tmp_path_factory, sample_root) -> Path:
    """A clip store of all bundled clips; tests must not change it."""
    return store_of(sample_root, tmp_path_factory.mktemp('stores') / 'sample')


@pytest.fixture
def real_store(real_copy, tmp_path) -> Path:
    """A clip store of real_copy, next to its folders; tests may damage it."""
    return store_of(real_copy, tmp_path / 'store', ['train'])


def store_of(root: Path, store: Path, splits: Iterable[str] = ('train', 'test')) -> Path:
    index = clip_store.new_index('gopro', {})
    for split in splits:
        entries = {}
        for clip in layouts.load_clips('gopro', root, split):
            file = f'{split}/{clip.name}.npy'
            entries[clip.name] = dict(file=file, **clip_store.write_clip(clip, store / file))
        index['splits'][split] = dict(complete=True, clips=entries)
    clip_store.write_index(store, index)
    return store
