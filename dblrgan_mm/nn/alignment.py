"""Align the frames of a window to the centre frame with an optical flow that needs no training."""

import torch
from torch.nn import functional as F

SCALES = 5  # the flow is estimated at 1/2 to 1/32 of the frame's rows and columns
STEPS = (1, 2, 2, 2, 2)  # at each of these scales, from fine to coarse
LONGEST_STEP = 1.0  # pixels of the current scale
WINDOW, SMOOTHING = 2, 2  # radii of box filters, in pixels of the current scale
DAMPING = 1e-4  # squared luma difference per pixel; no motion where there is no texture
MULTIPLE = 2**SCALES


@torch.no_grad()
def align_frames(frames: torch.Tensor, luma: torch.Tensor) -> torch.Tensor:
    """Warp the frames of windows to their centre frames.

    The optical flow is that of Lucas and Kanade ("An iterative image registration technique", 1981)
    with a pyramid: from coarse to fine, the flow is refined in a few steps and smoothed. It finds
    motion up to about 120 pixels. The details and constants are ours. Where something is hidden in
    a frame, the warped frame is wrong; the network must cope with that. Gradients do not flow
    through the result.

    Args:
        frames: windows (n, t, c, h, w), floating point, t odd, any h and w.
        luma: luma of these frames, (n, t, 1, h, w), in [0, 1].

    Returns:
        Windows of the same shape and dtype. The centre frame is unchanged.

    Example:
        >>> window = torch.rand(1, 5, 1, 50, 70)
        >>> align_frames(window, window).shape
        torch.Size([1, 5, 1, 50, 70])
    """
    total = frames.shape[1]
    middle = total // 2
    if total == 1:
        return frames
    with torch.autocast(frames.device.type, enabled=False):
        flow = estimate_flow(luma.float())
        warped = _warp(_without_centre(frames).flatten(0, 1).float(), flow, 'bicubic')
        warped = warped.unflatten(0, (-1, total - 1)).to(frames.dtype)
    centre = frames[:, middle : middle + 1]
    return torch.cat((warped[:, :middle], centre, warped[:, middle:]), 1)


def estimate_flow(luma: torch.Tensor) -> torch.Tensor:
    """Estimate the optical flow from the centre frame to each other frame.

    Args:
        luma: windows (n, t, 1, h, w), float32, in [0, 1].

    Returns:
        (n * (t - 1), 2, h, w): columns and rows to move to find each pixel of the centre frame.
    """
    total, (height, width) = luma.shape[1], luma.shape[-2:]
    pad = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
    pyramid = [F.pad(luma.flatten(0, 1), pad, mode='replicate').unflatten(0, (-1, total))]
    for _ in range(SCALES):
        pyramid.append(_halve(pyramid[-1]))
    flow = _refine(pyramid[-1], None, STEPS[-1])
    for frames, steps in zip(pyramid[-2:0:-1], STEPS[-2::-1], strict=True):
        flow = _refine(frames, _double(flow), steps)
    return _double(flow)[..., :height, :width]


def _refine(frames: torch.Tensor, flow: torch.Tensor | None, steps: int) -> torch.Tensor:
    """Refine the flow, or estimate it for None, at the scale of the frames (n, t, 1, h, w)."""
    middle, others = frames.shape[1] // 2, _without_centre(frames)
    centre = frames[:, middle : middle + 1].expand_as(others).flatten(0, 1)
    others = others.flatten(0, 1)
    slope = _gradient(centre)
    if flow is None:
        flow = _box(_step(centre, slope, others), SMOOTHING)
        steps -= 1
    for _ in range(steps):
        flow = _box(flow + _step(centre, slope, _warp(others, flow)), SMOOTHING)
    # where still frames match better, e.g. on a background next to a moving hand, they stay
    moved = _warp(others, flow)
    errors = _box((torch.cat((moved, others), 1) - centre).abs(), WINDOW)
    return torch.where(errors[:, :1] <= errors[:, 1:], flow, 0.0)


def _step(centre: torch.Tensor, slope: torch.Tensor, warped: torch.Tensor) -> torch.Tensor:
    """Solve for the motion (n, 2, h, w) that remains between the centre and the warped frames."""
    x, y = ((slope + _gradient(warped)) / 2).chunk(2, 1)
    change = warped - centre
    sums = _box(torch.cat((x * x, x * y, y * y, x * change, y * change), 1), WINDOW)
    xx, xy, yy, xt, yt = sums.chunk(5, 1)
    xx, yy = xx + DAMPING, yy + DAMPING
    motion = torch.cat((xy * yt - yy * xt, xy * xt - xx * yt), 1) / (xx * yy - xy * xy)
    return motion.clamp(-LONGEST_STEP, LONGEST_STEP)


def _warp(frames: torch.Tensor, flow: torch.Tensor, mode: str = 'bilinear') -> torch.Tensor:
    """Sample frames (n, c, h, w) at each pixel's position plus its flow (n, 2, h, w)."""
    height, width = flow.shape[-2:]
    x = torch.arange(width, dtype=flow.dtype, device=flow.device)
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    columns = (x + flow[:, 0] + 0.5) * (2 / width) - 1
    rows = (y + flow[:, 1] + 0.5) * (2 / height) - 1
    grid = torch.stack((columns, rows), 3)
    return F.grid_sample(frames, grid, mode, padding_mode='border', align_corners=False)


def _without_centre(frames: torch.Tensor) -> torch.Tensor:
    middle = frames.shape[1] // 2
    return torch.cat((frames[:, :middle], frames[:, middle + 1 :]), 1)


def _double(flow: torch.Tensor) -> torch.Tensor:
    return 2 * F.interpolate(flow, scale_factor=2, mode='bilinear', align_corners=False)


def _halve(frames: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(frames.flatten(0, 1), 2).unflatten(0, (-1, frames.shape[1]))


def _gradient(x: torch.Tensor) -> torch.Tensor:
    """Compute central differences (n, 2, h, w) along columns and rows of (n, 1, h, w)."""
    x = F.pad(x, (1, 1, 1, 1), mode='replicate')
    columns = x[..., 1:-1, 2:] - x[..., 1:-1, :-2]
    rows = x[..., 2:, 1:-1] - x[..., :-2, 1:-1]
    return torch.cat((columns, rows), 1) / 2


def _box(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Average over squares of ``2 * radius + 1`` pixels; faster on a CPU than ``avg_pool2d``."""
    x = F.pad(x, (radius,) * 4, mode='replicate')
    first, *others = (slice(i, i - 2 * radius or None) for i in range(2 * radius + 1))
    x = sum((x[..., rows, :] for rows in others), x[..., first, :])
    x = sum((x[..., columns] for columns in others), x[..., first])
    return x / (2 * radius + 1) ** 2
