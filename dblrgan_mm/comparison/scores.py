"""Score restored frames against sharp ones, in the same way for every restorer."""

import functools
from collections.abc import Callable, Iterable

import numpy as np
import torch

from dblrgan_mm import compat

compat.apply()

from mmagic.evaluation.metrics.psnr import psnr
from mmagic.evaluation.metrics.ssim import ssim

from dblrgan_mm.comparison import lpips_weights
from dblrgan_mm.evaluation.warping_error import motion, warping_error


def score_clip(
    restored: Iterable[np.ndarray], sharp: Iterable[np.ndarray]
) -> list[dict[str, float]]:
    """Return the scores of each frame of a clip.

    Args:
        restored: frames in order, uint8 (h, w, 3), RGB.
        sharp: the same.

    Returns:
        For each frame

        - ``psnr``, ``psnr_y``: MMagic's PSNR in dB, of RGB and of BT.601 luma (16 to 235, as in
          MATLAB);
        - ``ssim``: MMagic's SSIM, as in the MATLAB code of Wang et al. 2004, mean over RGB;
        - ``ssim_skimage``: scikit-image's SSIM with the same window (Gaussian, sigma 1.5), over
          the whole frame;
        - ``lpips``: of Zhang et al. 2018, with AlexNet; only if its weights are on this machine;
        - ``warping_error``: in 1e-3, against the next frame; absent for the last frame.
    """
    perceptual = lpips_distance()
    scores: list[dict[str, float]] = []
    before = None
    for frame, truth in zip(restored, sharp, strict=True):
        found = dict(
            psnr=float(psnr(frame, truth, input_order='HWC')),
            psnr_y=float(psnr(frame, truth, convert_to='Y', channel_order='rgb')),
            ssim=float(ssim(frame, truth, channel_order='rgb')),
            ssim_skimage=ssim_skimage(frame, truth),
        )
        if perceptual is not None:
            found['lpips'] = perceptual(frame, truth)
        if before is not None:
            flow, trusted = motion(before[1], truth)
            scores[-1]['warping_error'] = 1e3 * warping_error(before[0], frame, flow, trusted)
        before = (frame, truth)
        scores.append(found)
    return scores


def ssim_skimage(first: np.ndarray, second: np.ndarray) -> float:
    """Return scikit-image's structural similarity of two frames, uint8 (h, w, 3)."""
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            first,
            second,
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


@functools.cache
def lpips_distance() -> Callable[[np.ndarray, np.ndarray], float] | None:
    """Return a function that computes the LPIPS of two frames, uint8 (h, w, 3).

    Returns None if AlexNet's weights are not in torch's download cache. Downloads nothing.
    """
    if not lpips_weights().is_file():
        return None
    import lpips

    network = lpips.LPIPS(net='alex', verbose=False).eval()

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        pair = [
            torch.from_numpy(frame.copy()).permute(2, 0, 1)[None] / 127.5 - 1
            for frame in (first, second)
        ]
        with torch.inference_mode():
            return network(*pair).item()

    return distance
