"""The page in a browser: Chromium opens it from disk."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from dblrgan_mm.viewer import Table, ViewedClip, write_page

METHODS = {'input': 40, 'A & B': 90, '<b>': 140, 'edvr': 180, 'sharp': 220}  # grey level
CLIPS = {'walk': 4, 'name with #, % and ä': 3, 'blocks': 2}  # number of frames
HEADS = ('', 'PSNR, dB', 'GMAC')
ROWS = (('input', '27.62', ''), ('A & B', '28.5', '9.5'), ('edvr', '9.75', '110.2'),
        ('nafnet', 'failed: out of memory'))  # fmt: skip


def level(method: str, clip: str, frame: int) -> int:
    """Return the grey level of an image, which tells what it shows."""
    return METHODS[method] + 10 * list(CLIPS).index(clip) + frame


def psnr(method: str, frame: int) -> float:
    return math.inf if method == 'sharp' else 20 + frame + METHODS[method] / 100


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder with a page of five methods and three clips, moved after it was written."""
    written = tmp_path_factory.mktemp('page') / 'written'
    clips = []
    for clip, count in CLIPS.items():
        images: dict[str, list[Path]] = {}
        for method in METHODS:
            for i in range(count):
                path = written / 'methods' / method / clip / f'{i}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                image = np.full((36, 64, 3), level(method, clip, i), np.uint8)
                image[:, 32] = 0, 0, 255  # a line in the middle
                path.write_bytes(cv2.imencode('.png', image)[1].tobytes())
                images.setdefault(method, []).append(path)
        scores = {method: [psnr(method, i) for i in range(count)] for method in METHODS}
        clips.append(ViewedClip(clip, [f'{i:06d}' for i in range(count)], images, scores))
    table = Table('means', HEADS, ROWS)
    write_page(written / 'index.html', 'A <title>', clips, [table], ['nafnet failed: & so on'])
    return shutil.move(written, written.with_name('moved to #2'))


@pytest.fixture
def page(folder, new_page) -> Iterator[Page]:
    """The page in a window that reports errors; nothing is loaded from the network."""
    page = new_page()
    problems = []
    page.on('pageerror', lambda error: problems.append(str(error)))
    page.on('requestfailed', lambda request: problems.append(request.url))
    page.on('request', lambda r: problems.append(r.url) if r.url.startswith('http') else None)
    page.goto((folder / 'index.html').as_uri())
    yield page
    assert problems == []


def colours(page: Page, tmp_path: Path) -> tuple[int, int]:
    """Return the grey level at a quarter and at three quarters of the viewer's width."""
    path = tmp_path / 'viewer.png'
    page.wait_for_function('[...document.images].every(image => image.complete)')
    page.locator('#viewer').screenshot(path=path)
    picture = cv2.imread(str(path))
    y, width = picture.shape[0] // 3, picture.shape[1]
    return int(picture[y, width // 4, 0]), int(picture[y, 3 * width // 4, 0])


def choose(page: Page, left: str, right: str) -> None:
    page.get_by_label('Left').select_option(left)
    page.get_by_label('Right').select_option(right)


class TestSlider:
    def test_any_two_methods(self, page, tmp_path):
        assert colours(page, tmp_path) == (level('input', 'walk', 0), level('A & B', 'walk', 0))
        for left in METHODS:
            choose(page, left, '<b>')
            assert colours(page, tmp_path) == (level(left, 'walk', 0), level('<b>', 'walk', 0))

    def test_drag(self, page, tmp_path):
        choose(page, 'input', 'sharp')
        box = page.locator('#viewer').bounding_box()
        y = box['y'] + box['height'] / 2
        for share, expected in ((0.9, ('input', 'input')), (0.1, ('sharp', 'sharp'))):
            handle = page.locator('#handle').bounding_box()
            page.mouse.move(handle['x'] + handle['width'] / 2, y)
            page.mouse.down()
            page.mouse.move(box['x'] + share * box['width'], y, steps=3)
            page.mouse.up()
            assert colours(page, tmp_path) == tuple(level(m, 'walk', 0) for m in expected)

    def test_keys(self, page):
        handle = page.get_by_role('slider')
        handle.focus()
        for _ in range(60):
            page.keyboard.press('ArrowRight')
        expect(handle).to_have_attribute('aria-valuenow', '100')
        page.keyboard.press('ArrowLeft')
        expect(handle).to_have_attribute('aria-valuenow', '98')
        expect(page.locator('#frame')).to_have_text('000000 (1 of 4)')


class TestFrames:
    def test_keys_and_buttons(self, page, tmp_path):
        number = page.locator('#frame')
        for key, expected in (('ArrowRight', 1), ('ArrowRight', 2), ('ArrowLeft', 1), ('End', 3),
                              ('ArrowRight', 3), ('Home', 0), ('ArrowLeft', 0)):  # fmt: skip
            page.keyboard.press(key)
            expect(number).to_have_text(f'{expected:06d} ({expected + 1} of 4)')
        page.get_by_title('Next frame').click()
        assert colours(page, tmp_path) == (level('input', 'walk', 1), level('A & B', 'walk', 1))
        page.get_by_title('Previous frame').click()
        expect(number).to_have_text('000000 (1 of 4)')
        page.keyboard.press('x')
        assert colours(page, tmp_path) == (level('A & B', 'walk', 0), level('input', 'walk', 0))

    def test_every_clip(self, page, tmp_path):
        page.keyboard.press('End')
        for clip, count in CLIPS.items():
            page.get_by_label('Clip').select_option(label=clip)
            expect(page.locator('#frame')).to_contain_text(f'({min(count, 4)} of {count})')
            expected = [level(m, clip, count - 1) for m in ('input', 'A & B')]
            assert list(colours(page, tmp_path)) == expected
        page.get_by_label('Clip').blur()
        page.keyboard.press('[')
        expect(page.locator('#clip')).to_have_value('1')
        page.keyboard.press(']')
        page.keyboard.press(']')
        expect(page.locator('#clip')).to_have_value('2')

    def test_scores_are_shown(self, page):
        choose(page, 'edvr', 'sharp')
        page.keyboard.press('ArrowRight')
        expect(page.locator('#left-name')).to_have_text(f'edvr {psnr("edvr", 1):.2f} dB')
        expect(page.locator('#right-name')).to_have_text('sharp')


class TestZoom:
    def test_both_pictures_move_together(self, page):
        def places() -> list:
            return page.evaluate(
                '["left-image", "right-image"].map(id =>'
                ' JSON.stringify(document.getElementById(id).getBoundingClientRect()))'
            )

        before = places()
        box = page.locator('#viewer').bounding_box()
        page.mouse.move(box['x'] + 50, box['y'] + 50)
        page.mouse.wheel(0, -300)
        page.wait_for_function('viewer.style.getPropertyValue("--zoom").includes("scale")')
        zoomed = places()
        assert zoomed[0] == zoomed[1] != before[0]
        page.mouse.down()
        page.mouse.move(box['x'] + 20, box['y'] + 30, steps=3)
        page.mouse.up()
        page.wait_for_timeout(100)
        moved = places()
        assert moved[0] == moved[1] != zoomed[0]
        page.keyboard.press('ArrowRight')
        assert places() == moved, 'kept in the next frame'
        page.keyboard.press('0')
        page.wait_for_function('zoom.getScale() === 1')
        page.wait_for_timeout(100)
        assert places() == before


class TestPlot:
    def test_click_shows_the_frame(self, page):
        over = page.locator('#plot .u-over')
        box = over.bounding_box()
        for frame in (2, 0, 3):
            over.click(position=dict(x=min(box['width'] - 2, frame * box['width'] / 3), y=50))
            expect(page.locator('#frame')).to_have_text(f'{frame:06d} ({frame + 1} of 4)')

    def test_one_line_per_method_with_finite_scores(self, page):
        names = page.locator('#plot .u-legend .u-series .u-label').all_inner_texts()
        assert names == ['frame', 'input', 'A & B', '<b>', 'edvr']

    def test_title(self, page):
        expect(page.get_by_role('heading', name='PSNR per frame, dB')).to_be_visible()

    def test_score_without_a_unit(self, new_page, folder):
        image = next((folder / 'methods' / 'input' / 'walk').iterdir())
        scores = dict(input=[0.3456], restored=[0.2])
        clip = ViewedClip(
            'clip', ['1'], dict(input=[image], restored=[image]), scores, 'blur effect', ''
        )
        write_page(folder / 'blur.html', 'Blur', [clip])
        page = new_page()
        page.goto((folder / 'blur.html').as_uri())
        expect(page.get_by_role('heading', name='blur effect per frame')).to_be_visible()
        expect(page.locator('#left-name')).to_have_text('input 0.346')

    def test_absent_without_scores(self, new_page, folder):
        image = next((folder / 'methods' / 'input' / 'walk').iterdir())
        clip = ViewedClip('clip', ['0:01'], dict(input=[image], restored=[image]), {})
        write_page(folder / 'plain.html', 'Preview', [clip])
        page = new_page()
        page.goto((folder / 'plain.html').as_uri())
        expect(page.locator('#frame')).to_have_text('0:01 (1 of 1)')
        expect(page.locator('#scores')).to_be_hidden()
        expect(page.locator('table')).to_have_count(0)


class TestTable:
    def test_sorts_by_number_and_name(self, page):
        names = page.locator('.sortable tbody tr td:first-child')
        page.get_by_role('columnheader', name='PSNR').click()
        expect(names).to_have_text(['A & B', 'input', 'edvr', 'nafnet'])
        page.get_by_role('columnheader', name='PSNR').click()
        expect(names).to_have_text(['edvr', 'input', 'A & B', 'nafnet'])
        page.get_by_role('columnheader', name='GMAC').click()
        expect(names).to_have_text(['edvr', 'A & B', 'input', 'nafnet'])

    def test_failures_are_named(self, page):
        expect(page.locator('.note')).to_have_text('nafnet failed: & so on')
        expect(page.locator('.reason')).to_have_text('failed: out of memory')


def test_fits_a_phone(folder, new_page, tmp_path):
    page = new_page(viewport=dict(width=390, height=844), has_touch=True, is_mobile=True)
    page.goto((folder / 'index.html').as_uri())
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    assert colours(page, tmp_path) == (level('input', 'walk', 0), level('A & B', 'walk', 0))
    page.get_by_title('Next frame').tap()
    expect(page.locator('#frame')).to_have_text('000001 (2 of 4)')


def test_missing_image_is_named(folder, new_page, tmp_path):
    copy = shutil.copytree(folder, tmp_path / 'copy')
    (copy / 'methods' / 'edvr' / 'walk' / '1.png').unlink()
    page = new_page()
    page.goto((copy / 'index.html').as_uri())
    choose(page, 'input', 'edvr')
    page.keyboard.press('ArrowRight')
    expect(page.locator('#right-image')).to_have_attribute('alt', 'edvr: image cannot be loaded')
