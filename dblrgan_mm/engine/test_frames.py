"""Frames of a test, for a page in a browser."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
from mmagic.evaluation.metrics.psnr import psnr
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from dblrgan_mm.engine.visualizer import centre_frames, log_write_errors
from dblrgan_mm.viewer import ViewedClip


class TestFramesHook(Hook):
    """Writes blurry, restored and sharp frames of a test into ``frames`` of the log folder.

    Args:
        max_frames: if the test has more frames, only every n-th is written.

    Attributes:
        clips: the written frames, of all processes, with their PSNR; set after the test.
    """

    __test__ = False  # not a pytest class

    def __init__(self, max_frames: int = 200) -> None:
        self.max_frames = max_frames
        self.clips: list[ViewedClip] = []
        self._seen = 0
        self._written: list[tuple[str, str, dict[str, Path], dict[str, float]]] = []

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        every = math.ceil(len(runner.test_dataloader.dataset) / self.max_frames)
        for sample in outputs or ():
            number = self._seen * get_world_size() + get_rank()  # as the sampler divides them
            self._seen += 1
            if number % every == 0:
                with log_write_errors('A frame'):
                    self._write(Path(runner.log_dir) / 'frames', sample)

    def _write(self, folder: Path, sample) -> None:
        clip, frame = sample.metainfo['key'].rsplit('/', 1)
        images = centre_frames(sample)
        paths = {name: folder / name / clip / f'{frame}.png' for name in images}
        for name, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            png = cv2.imencode('.png', cv2.cvtColor(images[name], cv2.COLOR_RGB2BGR))[1]
            path.write_bytes(png.tobytes())
        sharp = images.get('sharp')
        scores = {} if sharp is None else {
            name: float(psnr(image, sharp)) for name, image in images.items()
        }  # fmt: skip
        self._written.append((clip, frame, paths, scores))

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        parts = all_gather_object(self._written)
        # the sampler repeats some frames, so that all processes have equally many
        frames = {(clip, frame): rest for part in parts for clip, frame, *rest in part}
        by_clip: dict[str, list[str]] = {}
        for clip, frame in sorted(frames, key=_numerical):
            by_clip.setdefault(clip, []).append(frame)
        self.clips = []
        for clip, names in by_clip.items():
            paths, scores = zip(*(frames[clip, name] for name in names), strict=True)
            self.clips.append(
                ViewedClip(
                    clip,
                    names,
                    {method: [found[method] for found in paths] for method in paths[0]},
                    {method: [found[method] for found in scores] for method in scores[0]},
                )
            )


def _numerical(key: tuple[str, str]) -> tuple[str, list[int], str]:
    """Sort the frames of a clip by the numbers in their names, as ``frame_paths`` does."""
    clip, frame = key
    return clip, [int(number) for number in re.findall(r'\d+', frame)], frame
