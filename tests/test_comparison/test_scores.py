"""The scores of the comparison: against stored values of scikit-image, and without sharp frames."""

import csv
import math

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from dblrgan_mm.clips.frames import read_frame
from dblrgan_mm.comparison import lpips_weights, scores
from dblrgan_mm.comparison.scores import score_clip, score_unpaired_clip


@pytest.fixture(scope='module')
def golden(repo) -> list[dict[str, str]]:
    """tests/data/golden_scores.csv, written by tests/data/golden_scores.py."""
    with (repo / 'tests' / 'data' / 'golden_scores.csv').open() as file:
        return list(csv.DictReader(file))


def frames(sample_root, clip, side):
    return [read_frame(path) for path in sorted((sample_root / 'test' / clip / side).iterdir())]


@pytest.mark.parametrize('clip', ['sam2_blocks_carry', 'sam2_blocks_two_hands'])
def test_scores_equal_the_golden_values(sample_root, golden, clip):
    expected = [row for row in golden if row['clip'] == clip]
    found = score_clip(frames(sample_root, clip, 'blur'), frames(sample_root, clip, 'sharp'))
    assert len(found) == len(expected) == 10
    for row, score in zip(expected, found, strict=True):
        for name in ('psnr', 'psnr_y'):
            assert score[name] == pytest.approx(float(row[name]), abs=0.01), (row['frame'], name)
        for name in ('ssim', 'ssim_skimage'):
            assert score[name] == pytest.approx(float(row['ssim']), abs=1e-3), (row['frame'], name)


def test_scores_of_sharp_frames(sample_root):
    sharp = frames(sample_root, 'sam2_blocks_carry', 'sharp')[:3]
    found = score_clip(sharp, sharp)
    assert all(math.isinf(score['psnr']) and score['ssim'] == 1 for score in found)
    assert ['warping_error' in score for score in found] == [True, True, False]


class TestUnpaired:
    """The scores that need no sharp frames."""

    @pytest.fixture
    def photo(self):
        """A photo with more than 36 blocks of 96x96 pixels, as NIQE needs."""
        half = skimage.data.astronaut()
        return np.hstack([half, np.rot90(half)])

    def test_blur_raises_the_blur_effect_and_niqe(self, photo):
        before, after = self.scores(photo, cv2.GaussianBlur(photo, None, 2))
        assert 0 < before['blur_effect'] < after['blur_effect'] - 0.1 < 0.9
        assert before['niqe'] < after['niqe'] - 1

    def test_noise_raises_niqe(self, photo):
        noise = np.random.default_rng(0).normal(0, 12, photo.shape)
        before, after = self.scores(photo, np.clip(photo + noise, 0, 255).astype(np.uint8))
        assert before['niqe'] < after['niqe'] - 1
        assert before['blur_effect'] > after['blur_effect'], 'noise looks sharp to it'

    @staticmethod
    def scores(*images):
        return [score_unpaired_clip([image], [image])[0] for image in images]

    def test_flicker_raises_the_warping_error(self, sample_root):
        sharp = frames(sample_root, 'sam2_blocks_carry', 'sharp')[:3]
        darker = [sharp[0], (sharp[1] * 0.8).astype(np.uint8), sharp[2]]
        steady, flickering = (score_unpaired_clip(clip, sharp) for clip in (sharp, darker))
        assert ['warping_error' in score for score in steady] == [True, True, False]
        for i in range(2):
            assert flickering[i]['warping_error'] > 5 * steady[i]['warping_error']

    def test_small_frames_have_no_niqe(self, photo):
        small = np.vstack([photo, photo])[: 6 * 96, : 6 * 96]
        assert self.scores(small)[0].keys() == {'blur_effect'}


def test_lpips_where_its_weights_are(sample_root, tmp_path, monkeypatch):
    """Uses random weights of AlexNet instead of the downloaded ones."""
    from torchvision.models import alexnet

    scores.lpips_distance.cache_clear()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    assert scores.lpips_distance() is None
    scores.lpips_distance.cache_clear()
    lpips_weights().parent.mkdir(parents=True)
    torch.save(alexnet().state_dict(), lpips_weights())
    try:
        blurry, sharp = (frames(sample_root, 'sam2_blocks_carry', s)[0] for s in ('blur', 'sharp'))
        assert score_clip([sharp], [sharp])[0]['lpips'] == 0
        assert score_clip([blurry], [sharp])[0]['lpips'] > 0
    finally:
        scores.lpips_distance.cache_clear()
