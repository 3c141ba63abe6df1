"""Score restored frames in the same way for every restorer, with or without sharp frames."""

import functools
from collections.abc import Callable, Iterable

import numpy as np
import torch

from dblrgan_mm import compat

compat.apply()

from mmagic.evaluation.metrics.niqe import niqe
from mmagic.evaluation.metrics.psnr import psnr
from mmagic.evaluation.metrics.ssim import ssim

from dblrgan_mm.comparison import lpips_weights
from dblrgan_mm.evaluation.warping_error import motion, warping_error

# NIQE compares the statistics of blocks of 96x96; unless there are more blocks than its 36
# features, their covariance is singular
_NIQE_BLOCK, _NIQE_FEATURES = 96, 36


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
    return _score_frames(restored, sharp, _compare_frame)


def score_unpaired_clip(
    restored: Iterable[np.ndarray], blurry: Iterable[np.ndarray]
) -> list[dict[str, float]]:
    """Return the scores of each frame of a clip that has no sharp frames.

    Args:
        restored: frames in order, uint8 (h, w, 3), RGB.
        blurry: the same, before restoring; used for the optical flow only.

    Returns:
        For each frame

        - ``blur_effect``: scikit-image's, of Crete et al. 2007: 0 for no blur, 1 for maximal blur;
        - ``niqe``: MMagic's NIQE of Mittal et al. 2013, of luma; lower is more natural. Absent if
          the frame has no more than 36 blocks of 96x96 pixels;
        - ``warping_error``: as in :func:`score_clip`, but with the flow of the blurry clip.
    """
    return _score_frames(restored, blurry, _judge_frame)


def _score_frames(
    restored: Iterable[np.ndarray],
    reference: Iterable[np.ndarray],
    score: Callable[[np.ndarray, np.ndarray], dict[str, float]],
) -> list[dict[str, float]]:
    """Score each frame, and its flicker by the optical flow of the reference."""
    scores: list[dict[str, float]] = []
    before = None
    for frame, truth in zip(restored, reference, strict=True):
        if before is not None:
            flow, trusted = motion(before[1], truth)
            scores[-1]['warping_error'] = 1e3 * warping_error(before[0], frame, flow, trusted)
        before = (frame, truth)
        scores.append(score(frame, truth))
    return scores


def _compare_frame(frame: np.ndarray, sharp: np.ndarray) -> dict[str, float]:
    """Return the scores of a frame that need its sharp frame."""
    found = dict(
        psnr=float(psnr(frame, sharp, input_order='HWC')),
        psnr_y=float(psnr(frame, sharp, convert_to='Y', channel_order='rgb')),
        ssim=float(ssim(frame, sharp, channel_order='rgb')),
        ssim_skimage=ssim_skimage(frame, sharp),
    )
    perceptual = lpips_distance()
    if perceptual is not None:
        found['lpips'] = perceptual(frame, sharp)
    return found


def _judge_frame(frame: np.ndarray, _: np.ndarray) -> dict[str, float]:
    """Return the scores of a frame that need no other frame."""
    from skimage.measure import blur_effect

    found = dict(blur_effect=float(blur_effect(frame, channel_axis=2)))
    height, width = frame.shape[:2]
    if (height // _NIQE_BLOCK) * (width // _NIQE_BLOCK) > _NIQE_FEATURES:
        found['niqe'] = float(niqe(frame[..., ::-1], crop_border=0, convert_to='y'))
    return found


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
