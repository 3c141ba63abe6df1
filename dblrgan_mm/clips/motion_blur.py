"""Motion blur from sharp frames: average neighbours, or sub-frames interpolated by optical flow."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

Flows = tuple[np.ndarray, np.ndarray]


NEAR_WHITE = 250  # stored values above it may be clipped, so the true light may be brighter


def decode_light(frame: np.ndarray, light: str = 'linear', lights: float = 1) -> np.ndarray:
    """Convert stored values, uint8 of any shape, to amounts of light, float32 in [0, lights].

    Args:
        frame: Stored values.
        light: 'linear' (sRGB curve), 'gamma' (power of 2.2) or 'encoded' (no curve).
        lights: Assumed light of a clipped value, 255, as a multiple of white (after Rim et al.
            2022, "Realistic Blur Synthesis for Learning Image Deblurring"). Compression and
            downscaling change clipped values, so the factor rises linearly from 1 at 250.
    """
    code = np.arange(256) / 255
    if light == 'linear':
        code = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    elif light == 'gamma':
        code = code**2.2
    if lights != 1:
        near_white = np.clip((np.arange(256) - NEAR_WHITE) / (255 - NEAR_WHITE), 0, 1)
        code = code * (1 + (lights - 1) * near_white)
    return code.astype(np.float32)[frame]


def encode_light(amount: np.ndarray, light: str = 'linear') -> np.ndarray:
    """Convert float amounts of light of any shape, clipped to [0, 1], to stored values, uint8."""
    code = np.clip(amount, 0, 1)
    if light == 'linear':
        code = np.where(code <= 0.0031308, 12.92 * code, 1.055 * code ** (1 / 2.4) - 0.055)
    elif light == 'gamma':
        code = code ** (1 / 2.2)
    return np.rint(255 * code).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def places(h: int, w: int) -> np.ndarray:
    """Return the coordinates x and y of every pixel, float32 (h, w, 2)."""
    return np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=2).astype(np.float32)


def warp(image: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample an image (h, w[, c]) at x + flow, where flow is float32 (h, w, 2), in pixels.

    Returns:
        The sampled image, and a mask, float32 (h, w): 1 where the sample is inside the image,
        else 0.
    """
    h, w = flow.shape[:2]
    where = cv2.add(places(h, w), flow)
    inside = cv2.inRange(where, (0, 0), (w - 1, h - 1)).astype(np.float32) / 255
    sampled = cv2.remap(  # type: ignore[call-overload]  # None: both coordinates are in one map
        image, where, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return sampled, inside


def estimate_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Estimate dense optical flow between two grey frames, uint8 (h, w).

    Returns:
        float32 (h, w, 2), x and y in pixels. Reproducible for a fixed number of OpenCV threads.
    """
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # Half the resolution takes a fifth of the time. At 240 rows, it cost 0.06 dB PSNR of the blur.
    dis.setFinestScale(0 if len(first) < 200 else 1)
    return dis.calc(first, second, None)  # type: ignore[call-overload]  # None: no first guess


def estimate_flows(first: np.ndarray, second: np.ndarray) -> Flows:
    """Estimate the flows first-to-second and second-to-first, from BGR frames, uint8 (h, w, 3)."""
    first, second = (cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in (first, second))
    return estimate_flow(first, second), estimate_flow(second, first)


def interpolate(first: np.ndarray, second: np.ndarray, flows: Flows, time: float) -> np.ndarray:
    """Interpolate two frames, float32 (h, w, 3), amounts of light, at a time in [0, 1].

    Both frames are warped to that time (Jiang et al. 2018, Super SloMo, equation 4) and blended
    according to their distance in time. Where one would be sampled outside the image, only the
    other one is used.
    """
    forth, back = flows
    both = time * (1 - time)
    first, first_inside = warp(first, cv2.addWeighted(back, time**2, forth, -both, 0))
    second, second_inside = warp(second, cv2.addWeighted(forth, (1 - time) ** 2, back, -both, 0))
    first_weight = (1 - time) * (first_inside + 1e-3)
    share = first_weight / (first_weight + time * (second_inside + 1e-3))
    return second + share[..., None] * (first - second)


def sub_frame_times(stride: int, shutter: float, sub_frames: int = 8, least: int = 1) -> np.ndarray:
    """Return the times of an exposure's sub-frames, in source intervals from its middle.

    One of them is 0.

    Args:
        stride: Source intervals per interval of the blurry clip.
        shutter: Exposure in intervals of the blurry clip.
        sub_frames: Approximate number of sub-frames per source interval.
        least: Minimum number of sub-frames, odd.
    """
    samples = max(least, int(shutter * stride * sub_frames) // 2 * 2 + 1)
    return shutter * stride * ((np.arange(samples) + 0.5) / samples - 0.5)


def blur_by_flow(
    frames: Sequence[np.ndarray],
    flows: Sequence[Flows],
    times: np.ndarray,
    light: str = 'linear',
    lights: float = 1,
) -> np.ndarray:
    """Average interpolated sub-frames (our implementation, modelled on how DVD was made).

    Args:
        frames: Consecutive sharp frames, uint8 (h, w, 3), BGR.
        flows: Flows in both directions between each frame and the next.
        times: Times of the sub-frames, in intervals from frames[0].
        light: As in `decode_light`.
        lights: As in `decode_light`.

    Returns:
        The blurry frame, uint8 (h, w, 3).
    """
    amounts = [decode_light(frame, light, lights) for frame in frames]
    total = np.zeros_like(amounts[0])
    for time in times.tolist():
        i = math.floor(time)
        total += interpolate(amounts[i], amounts[i + 1], flows[i], time - i)
    return encode_light(total / len(times), light)


def blur_by_average(
    frames: Sequence[np.ndarray], light: str = 'linear', lights: float = 1
) -> np.ndarray:
    """Average consecutive frames, uint8 (h, w, 3); `light` and `lights` as in `decode_light`."""
    total: Any = sum(decode_light(frame, light, lights) for frame in frames)
    return encode_light(total / len(frames), light)
