"""Frames are warped to the centre frame, and it is shifted along its motion: on real frames."""

import pytest
import torch
from torch.nn import functional as F

from dblrgan_mm.nn import align_frames, rgb_to_luma
from dblrgan_mm.nn.alignment import PATH, estimate_flow


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * (a - b).square().mean().log10().item()


def moved(frame: torch.Tensor, rows: float, columns: float) -> torch.Tensor:
    """Return a frame (c, h, w) whose content moved down and to the right."""
    height, width = frame.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) - rows, torch.arange(width) - columns, indexing='ij')
    grid = torch.stack(((x + 0.5) * 2 / width - 1, (y + 0.5) * 2 / height - 1), 2)
    return F.grid_sample(frame[None], grid[None], 'bicubic', 'border', align_corners=False)[0]


class TestKnownMotion:
    @pytest.mark.parametrize('motion', [(0.0, 0.0), (0.4, -1.7), (-6.0, 9.0), (3.0, -25.0)])
    def test_flow_is_the_motion(self, real_clip, motion):
        centre = rgb_to_luma(real_clip['blurry'][2])
        window = torch.stack([moved(centre, *motion), centre, moved(centre, *(-m for m in motion))])
        flow = estimate_flow(window[None])[..., 32:-32, 32:-32]
        there = torch.tensor([motion[1], motion[0]]).view(2, 1, 1)
        error = (flow - torch.stack([there, -there])).square().sum(1).sqrt()
        assert error.median() < 0.3

    def test_centre_frame_is_shifted_along_the_motion(self, real_clip):
        rows, columns = 3.0, -7.5
        centre = rgb_to_luma(real_clip['blurry'][2])
        before, after = moved(centre, -rows, -columns), moved(centre, rows, columns)
        window = torch.stack([before, centre, after])[None]
        shifted = align_frames(window, window)[0, 3:]
        assert len(shifted) == len(PATH)
        inner = (..., slice(32, -32), slice(32, -32))
        for fraction, frame in zip(PATH, shifted, strict=True):
            expected = moved(centre, -fraction * rows, -fraction * columns)
            assert psnr(frame[inner], expected[inner]) > 35 > psnr(centre[inner], expected[inner])

    def test_still_frames_stay(self, real_clip):
        frames = real_clip['blurry'][2].expand(1, 5, -1, -1, -1)
        aligned = align_frames(frames, rgb_to_luma(frames))
        expected = frames[:, :1].expand_as(aligned)
        torch.testing.assert_close(aligned, expected, rtol=0, atol=1e-5)

    def test_frames_without_texture_stay(self):
        frames = torch.tensor([0.2, 0.9, 0.4]).view(1, 3, 1, 1, 1).expand(1, 3, 1, 40, 50)
        aligned = align_frames(frames, frames)
        torch.testing.assert_close(aligned[:, :3], frames, rtol=0, atol=1e-6)
        torch.testing.assert_close(aligned[:, 3:], frames[:, 1:2].expand(-1, len(PATH), -1, -1, -1))


class TestRealMotion:
    def test_frames_come_closer_to_the_centre_frame(self, real_clip):
        window = real_clip['blurry'][None, :5]
        aligned = align_frames(window, rgb_to_luma(window))
        assert torch.equal(aligned[:, 2], window[:, 2])
        for i in (0, 1, 3, 4):
            assert psnr(aligned[:, i], window[:, 2]) > psnr(window[:, i], window[:, 2]) + 3

    def test_a_still_background_stays_next_to_a_moving_object(self, real_clip):
        window = rgb_to_luma(real_clip['blurry'][2]).expand(1, 3, -1, -1, -1).clone()
        block = window[0, 0, :, 80:120, 180:220].flip(-1).clone()
        for i, left in enumerate((60, 72, 84)):
            window[0, i, :, 50:90, left : left + 40] = block
        change = (align_frames(window, window)[0, 0] - window[0, 1])[..., 50:90, 126:150]
        assert change.abs().mean() < 1e-3  # beside the block in all frames

    def test_each_window_by_itself(self, real_clip):
        windows = torch.stack([real_clip['blurry'][:3], real_clip['blurry'][3:6]])
        luma = rgb_to_luma(windows)
        apart = [align_frames(windows[i : i + 1], luma[i : i + 1]) for i in (0, 1)]
        torch.testing.assert_close(align_frames(windows, luma), torch.cat(apart), rtol=0, atol=1e-4)

    def test_reversed_window(self, real_clip):
        luma = rgb_to_luma(real_clip['blurry'][None, :5])
        aligned, reverse = align_frames(luma, luma), align_frames(luma.flip(1), luma.flip(1))
        for part in (slice(5), slice(5, None)):  # frames; shifted centre frame
            turned = reverse[:, part].flip(1)
            torch.testing.assert_close(aligned[:, part], turned, rtol=0, atol=1e-4)


class TestValues:
    def test_one_frame_is_returned(self):
        frames = torch.rand(2, 1, 3, 5, 7)
        assert align_frames(frames, rgb_to_luma(frames)) is frames

    @pytest.mark.parametrize('size', [(1, 1), (2, 3), (31, 33), (64, 32)])
    def test_any_size(self, size):
        frames = torch.rand(1, 3, 1, *size)
        aligned = align_frames(frames, frames)
        assert aligned.shape == (1, 3 + len(PATH), 1, *size)
        assert aligned.isfinite().all()

    def test_bfloat16_and_autocast(self, real_clip):
        """The flow is estimated in float32."""
        luma = rgb_to_luma(real_clip['blurry'][None, :3])
        expected = align_frames(luma, luma)
        with torch.autocast('cpu', torch.bfloat16):
            torch.testing.assert_close(align_frames(luma, luma), expected)
        half = align_frames(luma.bfloat16(), luma)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), expected, rtol=0, atol=0.02)
