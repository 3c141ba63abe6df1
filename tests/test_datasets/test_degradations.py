import numpy as np
import pytest

from dblrgan_mm.clips.motion_blur import decode_light
from dblrgan_mm.datasets import CameraNoise, RandomClipCompression
from dblrgan_mm.errors import LaunchError


def seeded(transform, frames: list[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    np.random.seed(seed)  # noqa: NPY002  (MMagic's transforms use it)
    return transform(dict(img=list(frames), gt=list(frames)))['img']


@pytest.fixture
def frames(real_clip) -> list[np.ndarray]:
    return list((255 * real_clip['blurry'][:5]).round().byte().permute(0, 2, 3, 1).numpy())


def psnr(frame: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.square(frame.astype(float) - other).mean())


class TestCameraNoise:
    def test_variance_in_linear_light(self):
        """On a grey ramp it is shot**2 * x + read**2 at every level."""
        levels = np.arange(60, 200, 20, np.uint8)
        frame = np.repeat(np.tile(levels, 3000)[:, None, None], 3, 2).reshape(-1, len(levels), 3)
        (noisy,) = seeded(CameraNoise(shot=(0.02, 0.02), read=(0.01, 0.01), prob=1), [frame])
        light, variance = decode_light(levels), decode_light(noisy).var(axis=(0, 2))
        np.testing.assert_allclose(variance, 0.02**2 * light + 0.01**2, rtol=0.1)

    def test_same_levels_and_other_noise_in_each_frame(self, frames):
        noisy = seeded(CameraNoise(prob=1), [frames[0], frames[0]])
        assert (noisy[0] != noisy[1]).any()
        assert psnr(noisy[0], frames[0]) == pytest.approx(psnr(noisy[1], frames[0]), abs=0.3)

    def test_default_noise_is_mild(self, frames):
        for seed in range(20):
            assert psnr(seeded(CameraNoise(prob=1), frames, seed)[0], frames[0]) > 30

    def test_single_image(self, frames):
        results = CameraNoise(prob=1)(dict(img=frames[0], gt=frames[0]))
        assert results['img'].shape == frames[0].shape


class TestRandomClipCompression:
    def test_quality_follows_the_rate_factor(self, frames):
        def quality(crf):
            coded = seeded(RandomClipCompression(crf=(crf, crf), prob=1), frames)
            assert [frame.shape for frame in coded] == [frame.shape for frame in frames]
            return np.mean([psnr(a, b) for a, b in zip(coded, frames, strict=True)])

        assert 28 < quality(28) < quality(12) - 2

    def test_frames_keep_their_order_and_colours(self, frames):
        coded = seeded(RandomClipCompression(crf=(10, 10), prob=1), frames)
        for i, frame in enumerate(coded):
            assert np.argmax([psnr(frame, other) for other in frames]) == i
            assert abs(frame.astype(float).mean((0, 1)) - frames[i].mean((0, 1))).max() < 1

    def test_odd_sides(self, frames):
        with pytest.raises(LaunchError, match='even width and height, but the frames have 253x144'):
            seeded(RandomClipCompression(prob=1), [frame[:, :-1] for frame in frames])


@pytest.mark.parametrize('kind', [CameraNoise, RandomClipCompression])
class TestBoth:
    def test_fraction_of_windows(self, kind, frames):
        frames = [frame[:16, :16] for frame in frames]
        transform = kind(prob=0.3)
        changed = [
            any((a != b).any() for a, b in zip(seeded(transform, frames, i), frames, strict=True))
            for i in range(100)
        ]
        assert 15 < sum(changed) < 45

    def test_reproducible_and_sharp_frames_untouched(self, kind, frames):
        transform = kind(prob=1)
        np.testing.assert_array_equal(seeded(transform, frames, 5), seeded(transform, frames, 5))
        results = transform(dict(img=list(frames), gt=list(frames)))
        np.testing.assert_array_equal(results['gt'], frames)

    def test_no_sharp_frames(self, kind, frames):
        with pytest.raises(LaunchError, match='this window has no sharp frames'):
            kind()(dict(img=frames))

    def test_fraction_outside_0_to_1(self, kind):
        with pytest.raises(ValueError, match=r'prob must be in \[0, 1\], got 2'):
            kind(prob=2)


@pytest.mark.parametrize(
    ('kind', 'arguments', 'message'),
    [
        (CameraNoise, dict(shot=(0.2, 0.1)), 'shot must be a range'),
        (CameraNoise, dict(read=(-0.1, 0.1)), 'read must be a range'),
        (RandomClipCompression, dict(crf=(30, 60)), 'crf must be a range'),
    ],
)
def test_ranges(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)
