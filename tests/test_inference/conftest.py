"""Shared fixtures: videos to restore."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest


@pytest.fixture(scope='session')
def walk(sample_root) -> list[np.ndarray]:
    """Twelve blurry frames of a real clip, RGB (96, 128, 3)."""
    folder = sample_root / 'train' / 'gopro_walk_a' / 'blur'
    return [cv2.imread(str(p))[24:120, 64:192, ::-1].copy() for p in sorted(folder.iterdir())]


@pytest.fixture(scope='session')
def write_video() -> Callable[..., Path]:
    """Write frames as a video."""

    def write(
        path: Path,
        frames: list[np.ndarray],
        codec: str = 'libx264',
        pixels: str = 'yuv420p',
        times: list[int] | None = None,
        time_base: Fraction = Fraction(1, 30000),
        rate: Fraction = Fraction(30000, 1001),
        tags: dict[str, int] | None = None,
        aspect: Fraction = Fraction(1),
        rotation: int = 0,
        sound: str | None = None,
        subtitles: str | None = None,
        options: dict[str, str] | None = None,
    ) -> Path:
        """``times`` are in units of ``time_base``; ``sound`` and ``subtitles`` are codec names."""
        h, w = frames[0].shape[:2]
        tags = tags or {}
        with av.open(str(path), 'w') as container:
            container.metadata['title'] = 'A walk'
            stream = container.add_stream(codec, rate=rate, options=options or {'crf': '1'})
            stream.width, stream.height, stream.pix_fmt = w, h, pixels
            stream.time_base = stream.codec_context.time_base = time_base
            stream.codec_context.sample_aspect_ratio = aspect
            for name, value in tags.items():
                setattr(stream.codec_context, name, value)
            if rotation:
                stream.set_display_rotation(rotation)
            voice = container.add_stream(sound, rate=48000) if sound else None
            words = container.add_mux_stream(subtitles) if subtitles else None
            if voice:
                voice.metadata['language'] = 'fin'
            if words:
                words.metadata['language'] = 'deu'
            container.start_encoding()
            seconds = len(frames) / rate
            if voice:
                noise = np.random.default_rng(0).normal(0, 0.1, (1, int(seconds * 48000)))
                frame = av.AudioFrame.from_ndarray(
                    noise.astype(np.float32), format='fltp', layout='mono'
                )
                frame.sample_rate, frame.pts = 48000, 0
                resampler = av.AudioResampler(voice.format, voice.layout, 48000)
                for part in (*resampler.resample(frame), *resampler.resample(None)):
                    container.mux(voice.encode(part))
                container.mux(voice.encode())
            if words:
                for i in range(2):
                    text = f'word {i}'.encode()
                    packet = av.Packet(
                        len(text).to_bytes(2, 'big') + text if subtitles == 'mov_text' else text
                    )
                    packet.stream, packet.time_base = words, Fraction(1, 1000)
                    packet.pts = packet.dts = 100 * i
                    packet.duration = 90
                    container.mux(packet)
            interval = round(1 / rate / time_base)
            for i, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(
                    image, format=f'rgb{24 * image.itemsize}{"le" * (image.itemsize - 1)}'
                )
                frame = frame.reformat(
                    format=pixels,
                    dst_colorspace=tags.get('colorspace'),
                    dst_color_range=tags.get('color_range'),
                )
                frame.pts, frame.time_base = times[i] if times else i * interval, time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write
