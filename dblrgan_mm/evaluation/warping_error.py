"""Temporal consistency: how much a restored clip flickers."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmagic.evaluation.metrics.base_sample_wise_metric import BaseSampleWiseMetric
from mmagic.registry import METRICS
from mmengine.dist import get_world_size

from dblrgan_mm.clips.motion_blur import estimate_flow, warp


def motion(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the motion between two sharp frames, uint8 (h, w, 3), RGB.

    Returns:
        The optical flow from the first to the second frame, float32 (h, w, 2), by OpenCV's DIS; and
        a mask, bool (h, w), of the pixels whose flow is reliable. Reliable flow ends inside the
        frame, agrees with the backward flow and is not at a motion boundary (the last two
        conditions are equations 5 and 6 of Ruder et al., "Artistic Style Transfer for Videos",
        2016).
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
    """Return the mean squared difference between a frame and the next frame warped to it.

    This is E_warp of a pair of frames in Lai et al., "Learning Blind Video Temporal Consistency",
    ECCV 2018, section 4.2. The authors use FlowNet2's flow; here the flow and the mask come from
    the sharp clip, so they are the same for all methods compared. Frames are uint8 (h, w, 3) and
    are scaled to [0, 1]. The difference is summed over the three channels and averaged over the
    pixels of the mask ``trusted``. The result is NaN if the mask is empty.
    """
    if not trusted.any():
        return float('nan')
    warped, _ = warp(second.astype(np.float32), flow)
    squared = ((first - np.clip(warped, 0, 255)) ** 2).sum(axis=2) / 255**2
    return float(squared[trusted].mean())


@METRICS.register_module()
class WarpingError(BaseSampleWiseMetric):
    """Flicker: :func:`warping_error` between consecutive restored frames, in units of 1e-3.

    Lower means less flicker. A uniformly soft clip flickers less than the sharp clip; blur that
    changes from frame to frame, as with a shaking camera, flickers more. Compare the result with
    the score of the sharp clip, ``WarpingError/sharp``.

    The metric needs frames in temporal order, as single frames or complete clips, ``key`` among the
    meta keys of ``PackInputs``, and a single process: of n processes, each sees only every n-th
    frame.

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
        """Compute the scores of all pairs of frames."""
        self._before = None
        self.size = len(self.results)  # the default is the number of data set items
        return super().evaluate()

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the means over all pairs of frames, for the restored and the sharp clips."""
        means = 1e3 * np.nanmean(np.array(results), axis=0) if results else (float('nan'),) * 2
        return {'WarpingError': float(means[0]), 'WarpingError/sharp': float(means[1])}


def _frames(tensor: Any) -> list[np.ndarray]:
    """Convert ([t,] 3, h, w), BGR, to a list of frames (h, w, 3), RGB, uint8."""
    tensor = tensor if tensor.ndim == 4 else tensor[None]
    tensor = tensor.detach().cpu().flip(1).clamp(0, 255).round().byte()
    return list(tensor.permute(0, 2, 3, 1).numpy())
