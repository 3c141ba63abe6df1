"""Frames of a test, for a page in a browser."""

import math
from collections.abc import Sequence
from pathlib import Path

from mmagic.evaluation.metrics.psnr import psnr
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from dblrgan_mm.clips.frames import numbers_in, write_png
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
            write_png(path, images[name])
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
        for clip, frame in sorted(frames, key=lambda key: (key[0], numbers_in(key[1]), key)):
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
