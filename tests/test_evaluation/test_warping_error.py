import cv2
import numpy as np
import pytest
import torch
from mmagic.structures import DataSample
from test_input_metric import evaluate, tensor

from dblrgan_mm.clips.frames import read_frame
from dblrgan_mm.evaluation import warping_error as module
from dblrgan_mm.evaluation.warping_error import motion, warping_error

METRIC = [dict(type='WarpingError')]


@pytest.fixture(scope='module')
def clip(sample_root) -> dict[str, list[np.ndarray]]:
    folder = sample_root / 'test' / 'sam2_blocks_carry'
    return {
        side: [read_frame(path) for path in sorted((folder / side).iterdir())]
        for side in ('blur', 'sharp')
    }


def samples(restored, sharp, name='clip') -> list[DataSample]:
    found = []
    for i, (frame, truth) in enumerate(zip(restored, sharp, strict=True)):
        sample = DataSample(metainfo=dict(key=f'{name}/{i:06d}'))
        sample.set_tensor_data(dict(gt_img=tensor(truth[..., ::-1])))
        sample.output = DataSample(pred_img=tensor(frame[..., ::-1]))
        found.append(sample)
    return found


class TestDefinition:
    def test_still_clip(self, clip):
        frame = clip['sharp'][0]
        flow, trusted = motion(frame, frame)
        assert abs(flow).max() < 0.1
        assert trusted.mean() > 0.9
        assert warping_error(frame, frame, 0 * flow, trusted) == 0
        brighter = np.clip(frame, 0, 250) + 5
        error = warping_error(np.clip(frame, 0, 250), brighter, 0 * flow, trusted)
        assert error == pytest.approx(3 * (5 / 255) ** 2, rel=1e-5)

    def test_motion_is_followed(self, clip):
        frame = clip['sharp'][0]
        first, second = frame[:, 6:], frame[:, :-6]  # everything moves by 6 pixels to the right
        flow, trusted = motion(first, second)
        assert np.median(flow[..., 0]) == pytest.approx(6, abs=0.3)
        assert trusted.mean() > 0.5
        still = warping_error(first, second, 0 * flow, trusted)
        assert warping_error(first, second, flow, trusted) < 0.2 * still

    def test_empty_mask_gives_nan(self, clip):
        frame = clip['sharp'][0]
        nowhere = np.zeros(frame.shape[:2], bool)
        assert np.isnan(warping_error(frame, frame, np.zeros((*nowhere.shape, 2), 'f4'), nowhere))


class TestMetric:
    def test_flicker_raises_the_error(self, clip):
        flickering = [np.clip(f + 4.0 * (-1) ** i, 0, 255) for i, f in enumerate(clip['sharp'])]
        scores = evaluate(METRIC, samples(flickering, clip['sharp']))
        assert scores['WarpingError'] > 1.5 * scores['WarpingError/sharp'] > 0

    def test_uniformly_soft_clip_scores_below_sharp(self, clip):
        soft = [cv2.GaussianBlur(frame, (0, 0), 2) for frame in clip['sharp']]
        scores = evaluate(METRIC, samples(soft, clip['sharp']))
        assert scores['WarpingError'] < scores['WarpingError/sharp']

    def test_changing_blur_scores_above_sharp(self, clip):
        scores = evaluate(METRIC, samples(clip['blur'], clip['sharp']))
        assert scores['WarpingError'] > scores['WarpingError/sharp']

    def test_sharp_frames_score_as_the_sharp_clip(self, clip):
        scores = evaluate(METRIC, samples(clip['sharp'], clip['sharp']))
        assert scores['WarpingError'] == scores['WarpingError/sharp']

    def test_nothing_is_compared_across_clips(self, clip):
        once = samples(clip['blur'], clip['sharp'], 'a')
        other = samples(clip['blur'][::-1], clip['sharp'][::-1], 'b')
        both = [evaluate(METRIC, part)['WarpingError'] for part in (once, other)]
        assert evaluate(METRIC, once + other)['WarpingError'] == pytest.approx(np.mean(both))

    def test_whole_clips(self, clip):
        one = DataSample(metainfo=dict(key='clip/000005'))
        one.set_tensor_data(dict(gt_img=tensor(np.stack(clip['sharp'])[..., ::-1])))
        one.output = DataSample(pred_img=tensor(np.stack(clip['blur'])[..., ::-1]))
        assert evaluate(METRIC, [one]) == evaluate(METRIC, samples(clip['blur'], clip['sharp']))

    def test_several_processes_are_refused(self, clip, monkeypatch):
        monkeypatch.setattr(module, 'get_world_size', lambda: 2)
        with pytest.raises(RuntimeError, match='one process'):
            evaluate(METRIC, samples(clip['blur'][:2], clip['sharp'][:2]))


def test_frames_are_rounded_and_clamped(clip):
    frames = module._frames(torch.tensor([[-3.0, 270.0], [1.4, 1.6], [0, 1]])[..., None])
    assert frames[0][:, 0].tolist() == [[0, 1, 0], [1, 2, 255]]
