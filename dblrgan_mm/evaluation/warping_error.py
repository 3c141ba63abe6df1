"""Temporal consistency: how much a restored clip flickers."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmengine.dist import get_world_size

from dblrgan_mm import compat

compat.apply()

from mmagic.evaluation.metrics.base_sample_wise_metric import BaseSampleWiseMetric
from mmagic.registry import METRICS

from dblrgan_mm.clips.motion_blur import estimate_flow, warp


def motion(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Motion between two sharp frames, uint8 (h, w, 3), RGB.

    Returns:
        Optical flow from the first to the second, float32 (h, w, 2), by OpenCV's DIS; and bool
        (h, w), where it is to be trusted: inside of the picture, where the flow back agrees with
        it, and off the borders of motion (the two conditions of Ruder et al., "Artistic Style
        Transfer for Videos", 2016, equations 5 and 6).
    """
    first, second = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (first, second))
    forth, back = estimate_flow(first, second), estimate_flow(second, first)
    back, inside = warp(back, forth)
    length = (forth**2).sum(axis=2)
    agree = ((forth + back) ** 2).sum(axis=2) <= 0.01 * (length + (back**2).sum(axis=2)) + 0.5
    gradients = sum((np.gradient(forth[..., i], axis=axis) ** 2) for i in (0, 1) for axis in (0, 1))
    return forth, agree & (gradients <= 0.01 * length + 0.002) & (inside > 0)


def warping_error(
    first: np.ndarray, second: np.ndarray, flow: np.ndarray, trusted: np.ndarray
) -> float:
    """Mean squared difference, over the trusted pixels, of a frame and the next one warped to it.

    E_warp of a pair of frames in Lai et al., "Learning Blind Video Temporal Consistency", ECCV
    2018, section 4.2 (there with FlowNet2's flow); here flow and trust come from the sharp clip,
    the same for all that are compared. Frames are uint8 (h, w, 3), taken as [0, 1]; summed over
    the three channels. NaN where no pixel is to be trusted.
    """
    if not trusted.any():
        return float('nan')
    warped, _ = warp(second.astype(np.float32), flow)
    squared = ((first - np.clip(warped, 0, 255)) ** 2).sum(axis=2) / 255**2
    return float(squared[trusted].mean())


@METRICS.register_module()
class WarpingError(BaseSampleWiseMetric):
    """Flicker: :func:`warping_error` between consecutive restored frames, in units of 1e-3.

    Lower is steadier. An evenly soft clip is steadier than the sharp one, blur that changes from
    frame to frame, as of a shaking camera, is not; so it is to be read beside the score of the
    sharp clip, ``WarpingError/sharp``.

    Needs frames in order, one by one or whole clips, with ``key`` among the meta keys of
    ``PackInputs``, and one process: with several each sees every n-th frame.

    Raises:
        RuntimeError: in a run of several processes.
    """

    metric = 'WarpingError'

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._before: tuple[str, tuple[np.ndarray, np.ndarray]] | None = None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Process one batch; ``pred_img`` and ``gt_img`` are ([t,] c, h, w), BGR in [0, 255]."""
        if get_world_size() > 1:
            raise RuntimeError('WarpingError compares neighbouring frames: run it in one process')
        for sample in data_samples:
            clip = sample['key'].rsplit('/', 1)[0]
            restored, sharp = (
                _frames(frames) for frames in (sample['output']['pred_img'], sample['gt_img'])
            )
            for pair in zip(restored, sharp, strict=True):
                before = self._before
                if before is not None and before[0] == clip:
                    flow, trusted = motion(before[1][1], pair[1])
                    errors = (warping_error(before[1][i], pair[i], flow, trusted) for i in (0, 1))
                    self.results.append(tuple(errors))
                self._before = (clip, pair)

    def evaluate(self) -> dict:
        """Scores of all pairs of frames."""
        self._before = None
        self.size = len(self.results)  # else as many as there are items
        return super().evaluate()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Means over all pairs of frames, of the restored and of the sharp clips."""
        means = 1e3 * np.nanmean(np.array(results), axis=0) if results else (float('nan'),) * 2
        return {'WarpingError': float(means[0]), 'WarpingError/sharp': float(means[1])}


def _frames(tensor: Any) -> list[np.ndarray]:
    """([t,] 3, h, w) BGR to a list of (h, w, 3) RGB uint8."""
    tensor = tensor if tensor.ndim == 4 else tensor[None]
    tensor = tensor.detach().cpu().flip(1).clamp(0, 255).round().byte()
    return list(tensor.permute(0, 2, 3, 1).numpy())
