"""Degradations that a camera adds to a blurry frame after the exposure: noise and compression.

For single images, use MMagic's ``RandomJPEGCompression``.
"""

import io
from collections.abc import Sequence

import numpy as np
from mmagic.datasets.transforms import RandomVideoCompression
from mmagic.registry import TRANSFORMS
from mmcv.transforms import BaseTransform

from dblrgan_mm.clips.motion_blur import decode_light, encode_light
from dblrgan_mm.errors import LaunchError
from dblrgan_mm.video.decoding import EXACT


@TRANSFORMS.register_module()
class CameraNoise(BaseTransform):
    """Adds shot and read noise to frames, in linear light.

    A sensor counts photons before the camera applies its tone curve. The noise is therefore added
    after decoding the sRGB curve and before encoding it again (Rim et al., "Realistic Blur
    Synthesis for Learning Image Deblurring", ECCV 2022). For an amount of light x in [0, 1], the
    variance of the noise is ``shot ** 2 * x + read ** 2``. ``shot`` and ``read`` are drawn once per
    window.

    Args:
        keys: names of the frames, uint8 arrays (h, w, 3) or lists of them.
        shot: range of the standard deviation of the shot noise at full light.
        read: range of the standard deviation of the read noise.
        prob: fraction of windows that get noise.

    Raises:
        ValueError: if a range does not satisfy ``0 <= low <= high``, or ``prob`` is outside [0, 1].
        LaunchError: if a window has no sharp frames.
    """

    def __init__(
        self,
        keys: Sequence[str] = ('img',),
        shot: tuple[float, float] = (0.0, 0.02),
        read: tuple[float, float] = (0.0, 0.004),
        prob: float = 0.5,
    ) -> None:
        for name, (low, high) in dict(shot=shot, read=read).items():
            if not 0 <= low <= high:
                raise ValueError(f'{name} must be a range 0 <= low <= high, got ({low}, {high})')
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must be in [0, 1], got {prob}')
        self.keys, self.shot, self.read, self.prob = tuple(keys), shot, read, prob

    def transform(self, results: dict) -> dict:
        """Add the noise to a window."""
        require_sharp(results)
        if np.random.uniform() >= self.prob:  # noqa: NPY002  (seeded for each sample)
            return results
        shot, read = (np.random.uniform(*given) for given in (self.shot, self.read))  # noqa: NPY002
        rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002  (twice as fast)

        def noisy(frame: np.ndarray) -> np.ndarray:
            light = decode_light(frame)
            noise = rng.standard_normal(light.shape, np.float32)
            return encode_light(light + noise * np.sqrt(shot**2 * light + read**2))

        for key in self.keys:
            frames = results[key]
            results[key] = [*map(noisy, frames)] if isinstance(frames, list) else noisy(frames)
        return results


@TRANSFORMS.register_module()
class RandomClipCompression(RandomVideoCompression):
    """MMagic's ``RandomVideoCompression`` with a random quality, for current versions of PyAV.

    MMagic's version fails with PyAV 10 and later (``pict_type = 'NONE'``). It sets a bit rate, so
    its quality depends on the size and the motion of the crop. This version sets the constant rate
    factor of H.264, as cameras and players do. Frames stay uint8.

    Args:
        keys: names of the frames, lists of uint8 arrays (h, w, 3), RGB, with even h and w.
        crf: range of the constant rate factor; 18 is hard to tell from the source, 28 is coarse.
        prob: fraction of windows that are compressed.

    Raises:
        ValueError: if the range does not satisfy ``0 <= low <= high <= 51``, or ``prob`` is outside
            [0, 1].
        LaunchError: if frames have an odd height or width, or a window has no sharp frames.
    """

    def __init__(
        self,
        keys: Sequence[str] = ('img',),
        crf: tuple[int, int] = (12, 24),
        prob: float = 0.3,
    ) -> None:
        low, high = crf
        if not 0 <= low <= high <= 51:
            raise ValueError(f'crf must be a range 0 <= low <= high <= 51, got ({low}, {high})')
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must be in [0, 1], got {prob}')
        super().__init__(params=dict(crf=crf, prob=prob), keys=list(keys))

    def __call__(self, results: dict) -> dict:
        require_sharp(results)
        return super().__call__(results)

    def _apply_random_compression(self, imgs: list[np.ndarray]) -> list[np.ndarray]:
        import av
        from av.video.reformatter import VideoReformatter

        height, width = imgs[0].shape[:2]
        if height % 2 or width % 2:
            raise LaunchError(
                f'H.264 needs an even width and height, but the frames have {width}x{height} pixels'
            )
        low, high = self.params['crf']
        crf = int(np.random.randint(low, high + 1))  # noqa: NPY002  (seeded for each sample)
        buffer = io.BytesIO()
        to_yuv, to_rgb = VideoReformatter(), VideoReformatter()  # shared by all frames
        exact = dict(interpolation=EXACT, threads=1)
        with av.open(buffer, 'w', 'matroska') as container:
            stream = container.add_stream('libx264', rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
            stream.options = dict(crf=str(crf), preset='veryfast', bf='0')
            stream.codec_context.thread_count = 1  # same result on every machine
            for image in imgs:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')
                container.mux(stream.encode(to_yuv.reformat(frame, format='yuv420p', **exact)))
            container.mux(stream.encode(None))
        buffer.seek(0)
        with av.open(buffer, 'r') as encoded:
            encoded.streams.video[0].thread_type = 'NONE'
            return [
                to_rgb.reformat(frame, format='rgb24', **exact).to_ndarray()
                for frame in encoded.decode(video=0)
            ]


def require_sharp(results: dict) -> None:
    """Raise a LaunchError unless a window has sharp frames, the targets of the degraded frames."""
    if 'gt' not in results:
        raise LaunchError(
            'degradations are for training on pairs, but this window has no sharp frames: load '
            "them first with LoadClipFrames(key='gt'), or remove the degradations"
        )
