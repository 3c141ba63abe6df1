import errno
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmagic.structures import DataSample

from dblrgan_mm.engine import DeblurVisualizer
from dblrgan_mm.engine import visualizer as module
from dblrgan_mm.engine.visualizer import compare_frames

LABEL = 22  # rows of the labels above the frames
HEIGHT, WIDTH = 144, 256


@pytest.fixture(scope='module')
def frames(sample_root) -> dict[str, np.ndarray]:
    """Five blurry frames and the sharp centre frame, read by cv2.imread, BGR."""
    clip = sample_root / 'test' / 'sam2_blocks_carry'
    blurry = [cv2.imread(str(clip / 'blur' / f'{n:06d}.png')) for n in range(35, 40)]
    return dict(blurry=np.stack(blurry), sharp=cv2.imread(str(clip / 'sharp' / '000037.png')))


def tensor(bgr: np.ndarray) -> torch.Tensor:
    """Convert (..., h, w, 3) uint8 to (..., 3, h, w) float, the format of a model's predictions."""
    return torch.from_numpy(np.moveaxis(bgr, -1, -3).copy()).float()


@pytest.fixture
def sample(frames) -> DataSample:
    """The network changed columns 100-163 of rows 30-65, a quarter of the width and height."""
    restored = frames['blurry'][2].copy()
    restored[30:66, 100:164] = frames['sharp'][30:66, 100:164] // 2
    sample = DataSample(metainfo=dict(key='sam2_blocks_carry/000037'))
    sample.set_tensor_data(dict(gt_img=tensor(frames['sharp']), input=tensor(frames['blurry'])))
    sample.output = DataSample(pred_img=tensor(restored))
    return sample


def draw(sample, folder, **arguments) -> Path:
    visualizer = DeblurVisualizer(
        vis_backends=[dict(type='LocalVisBackend')], save_dir=str(folder), **arguments
    )
    visualizer.add_datasample(sample, step=400)
    (path,) = folder.rglob('*.png')
    return path


def inside(panel: np.ndarray, top, left, height, width) -> np.ndarray:
    """Mask of the panel's pixels outside the outline that is drawn around the crop."""
    free = np.ones(panel.shape[:2], bool)
    free[top : top + height, left : left + width] = False
    free[top + 1 : top + height - 1, left + 1 : left + width - 1] = True
    return free


def test_centre_of_a_whole_clip_is_drawn(sample, frames, tmp_path):
    single = cv2.imread(str(draw(sample, tmp_path / 'single')))

    def clip(centre: torch.Tensor) -> torch.Tensor:
        black = torch.zeros_like(centre)
        return torch.stack([black, black, centre, black, black])

    whole = DataSample(metainfo=dict(key='sam2_blocks_carry/000037'))
    whole.set_tensor_data(dict(gt_img=clip(tensor(frames['sharp'])), input=sample.input))
    whole.output = DataSample(pred_img=clip(sample.output.pred_img))
    assert np.array_equal(cv2.imread(str(draw(whole, tmp_path / 'whole'))), single)


class TestFile:
    def test_named_by_clip_frame_and_iteration(self, sample, tmp_path):
        assert draw(sample, tmp_path).name == 'sam2_blocks_carry_000037_400.png'

    def test_panels_hold_the_frames(self, sample, frames, tmp_path):
        picture = cv2.imread(str(draw(sample, tmp_path)))
        assert picture.shape == (LABEL + 2 * HEIGHT, 3 * WIDTH, 3)
        panels = np.split(picture[LABEL : LABEL + HEIGHT], 3, axis=1)
        restored = sample.output.pred_img.numpy().transpose(1, 2, 0)
        for panel, frame in zip(
            panels, (frames['blurry'][2], restored, frames['sharp']), strict=True
        ):
            free = inside(panel, 30, 100, 36, 64)
            np.testing.assert_array_equal(panel[free], frame[free])
            assert (panel[~free] == (0, 220, 255)).all(), 'a yellow frame around the crop'

    def test_enlarged_crops_lie_where_the_network_changed_most(self, sample, frames, tmp_path):
        picture = cv2.imread(str(draw(sample, tmp_path)))
        crops = np.split(picture[LABEL + HEIGHT :], 3, axis=1)
        restored = sample.output.pred_img.numpy().transpose(1, 2, 0)
        for crop, frame in zip(
            crops, (frames['blurry'][2], restored, frames['sharp']), strict=True
        ):
            expected = frame[30:66, 100:164].repeat(4, axis=0).repeat(4, axis=1)
            np.testing.assert_array_equal(crop, expected)

    def test_zoom(self, sample, frames, tmp_path):
        picture = cv2.imread(str(draw(sample, tmp_path, zoom=8)))
        blurry = picture[LABEL + HEIGHT :, :WIDTH]
        patches = [
            frames['blurry'][2][top : top + 18, left : left + 32]
            for top in range(30, 49)
            for left in range(100, 133)
        ]
        assert any((blurry[::8, ::8] == patch).all() for patch in patches)

    def test_without_sharp_frame(self, sample, frames, tmp_path):
        del sample.gt_img
        picture = cv2.imread(str(draw(sample, tmp_path)))
        assert picture.shape == (LABEL + 2 * HEIGHT, 2 * WIDTH, 3)

    def test_input_of_one_frame(self, sample, frames, tmp_path):
        sample.set_tensor_data(dict(input=tensor(frames['sharp'])))
        picture = cv2.imread(str(draw(sample, tmp_path)))
        sharp = picture[LABEL : LABEL + HEIGHT, 2 * WIDTH :]
        blurry = picture[LABEL : LABEL + HEIGHT, :WIDTH]
        np.testing.assert_array_equal(blurry, sharp)

    def test_values_are_clamped(self, sample, tmp_path):
        sample.output.pred_img = sample.output.pred_img * 3 - 255
        picture = cv2.imread(str(draw(sample, tmp_path)))
        expected = sample.output.pred_img.clamp(0, 255).numpy().transpose(1, 2, 0)
        drawn = picture[LABEL : LABEL + HEIGHT, WIDTH : 2 * WIDTH]
        outline = 2 * (36 + 64) - 4  # of the crop, at any position
        assert (drawn != expected).any(-1).sum() <= outline


class TestCompareFrames:
    @pytest.mark.parametrize(
        ('top', 'left'), [(0, 0), (0, 30), (24, 0), (24, 30), (7, 13), (23, 29)]
    )
    def test_crop_reaches_the_borders(self, top, left):
        """Frames of 33x41 pixels and crops of 8x10, so that both sides leave a remainder."""
        before = np.zeros((33, 41, 3), np.uint8)
        after = before.copy()
        after[top : top + 8, left : left + 10] = np.arange(1, 81).reshape(8, 10, 1)
        picture = compare_frames([before, after], ['a', 'b'], zoom=4)
        assert picture.shape == (LABEL + 66, 82, 3)
        crop = cv2.resize(
            after[top : top + 8, left : left + 10], (41, 33), interpolation=cv2.INTER_NEAREST
        )
        np.testing.assert_array_equal(picture[LABEL + 33 :, 41:], crop)

    def test_frames_smaller_than_the_zoom(self):
        frame = np.full((3, 2, 3), 7, np.uint8)
        picture = compare_frames([frame, frame], ['a', 'b'], zoom=4)
        assert picture.shape == (LABEL + 6, 4, 3)
        assert (picture[-3:] == 7).all(), 'the crop is cut before the frame around it is drawn'

    def test_frames_are_not_changed(self):
        frames = [np.full((8, 8, 3), value, np.uint8) for value in (1, 2)]
        compare_frames(frames, ['a', 'b'], zoom=2)
        assert (frames[0] == 1).all()
        assert (frames[1] == 2).all()


def test_full_disk_does_not_end_the_run(tmp_path, monkeypatch):
    visualizer = DeblurVisualizer(vis_backends=[dict(type='LocalVisBackend')], save_dir=tmp_path)

    def fail(*args, **kwargs) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    visualizer._vis_backends['LocalVisBackend'].add_scalars = fail
    logged = []
    monkeypatch.setattr(module, 'print_log', lambda message, *args: logged.append(message))
    visualizer.add_scalars(dict(loss=1.0))
    assert logged == [
        'The logged scalars could not be written ([Errno 28] No space left on device)'
    ]
