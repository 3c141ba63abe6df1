"""Align the frames of a window with an optical flow that needs no training."""

import torch
from torch.nn import functional as F

SCALES = 5  # the flow is estimated at 1/2 to 1/32 of the frame's rows and columns
STEPS = (1, 2, 2, 2, 2)  # at each of these scales, from fine to coarse
LONGEST_STEP = 1.0  # pixels of the current scale
WINDOW, SMOOTHING = 2, 2  # radii of box filters, in pixels of the current scale
DAMPING = 1e-4  # squared luma difference per pixel; no motion where there is no texture
MULTIPLE = 2**SCALES
PATH = (-1, -0.5, 0.5, 1)  # shifts of the centre frame, in motions per frame


@torch.no_grad()
def align_frames(frames: torch.Tensor, luma: torch.Tensor) -> torch.Tensor:
    """Warp the frames of windows to the centre frame, and shift the centre frame along its motion.

    The optical flow is that of Lucas and Kanade ("An iterative image registration technique", 1981)
    with a pyramid: from coarse to fine, the flow is refined in a few steps and smoothed. It finds
    motion up to about 120 pixels. The details and constants are ours. Where something is hidden in
    a frame, the warped frame is wrong; the network must cope with that. Gradients do not flow
    through the result.

    Motion blur mixes the pixels on the path of the motion, and the optical flow gives this path
    (Kim and Lee, "Generalized video deblurring for dynamic scenes", CVPR 2015). Shifting the centre
    frame along it puts these pixels on top of each other. The shifts are fixed fractions of the
    motion per frame, so this works for any direction and length of the blur. Such shifted frames as
    input of a network are our idea.

    Args:
        frames: windows (n, t, c, h, w), floating point, t odd, any h and w.
        luma: luma of these frames, (n, t, 1, h, w), in [0, 1].

    Returns:
        (n, t + len(PATH), c, h, w), of the same dtype: the warped frames, with an unchanged centre
        frame, and the centre frame shifted along its motion by the fractions of ``PATH``. With
        t = 1, the frames as they are.

    Example:
        >>> window = torch.rand(1, 5, 1, 50, 70)
        >>> align_frames(window, window).shape
        torch.Size([1, 9, 1, 50, 70])
    """
    total = frames.shape[1]
    middle = total // 2
    if total == 1:
        return frames
    centre = frames[:, middle : middle + 1]
    with torch.autocast(frames.device.type, enabled=False):
        flow = estimate_flow(luma.float())
        warped = _warp(_without_centre(frames).flatten(0, 1).float(), flow, 'bicubic')
        warped = warped.unflatten(0, (-1, total - 1))
        before, after = (flow[i :: total - 1] for i in (middle - 1, middle))
        motion = (after - before) / 2  # unflatten here would fix the size in ONNX files
        flows = torch.stack([fraction * motion for fraction in PATH], 1)
        sources = centre.expand(-1, len(PATH), -1, -1, -1)
        shifted = _warp(sources.flatten(0, 1).float(), flows.flatten(0, 1))
        shifted = shifted.unflatten(0, (-1, len(PATH)))
    parts = (warped[:, :middle], centre, warped[:, middle:], shifted)
    return torch.cat([part.to(frames.dtype) for part in parts], 1)


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
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device)
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device)
    place = torch.stack(torch.meshgrid(columns, rows, indexing='xy'))
    scale = 2 / (place[:, -1:, -1:] + 1)  # a tensor: ONNX files take any size
    grid = torch.addcmul((place + 0.5) * scale - 1, flow, scale).permute(0, 2, 3, 1)
    return F.grid_sample(frames, grid, mode, padding_mode='border', align_corners=False)


def _without_centre(frames: torch.Tensor) -> torch.Tensor:
    middle = frames.shape[1] // 2
    return torch.cat((frames[:, :middle], frames[:, middle + 1 :]), 1)


def _double(flow: torch.Tensor) -> torch.Tensor:
    return F.interpolate(2 * flow, scale_factor=2, mode='bilinear', align_corners=False)


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
    last = 2 * radius
    ends = [slice(i, i - last or None) for i in range(last + 1)]
    sums = x[..., ends[0], :] + x[..., ends[last], :]
    for rows in ends[1:last]:
        sums += x[..., rows, :]
    x = sums[..., ends[0]] + sums[..., ends[last]]
    for columns in ends[1:last]:
        x += sums[..., columns]
    return x.div_((last + 1) ** 2)
