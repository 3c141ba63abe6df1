from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmagic.evaluation import Evaluator
from mmagic.evaluation.metrics import psnr
from mmagic.structures import DataSample
from skimage.metrics import peak_signal_noise_ratio

from dblrgan_mm.evaluation import InputMetric


@pytest.fixture(scope='module')
def frames(sample_root) -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows of blurry frames (5, h, w, 3) and sharp centre frames (h, w, 3), BGR."""
    pairs = []
    for clip, first in (('sam2_blocks_carry', 32), ('sam2_blocks_two_hands', 104)):
        folder = sample_root / 'test' / clip
        window = [cv2.imread(str(folder / 'blur' / f'{first + i:06d}.png')) for i in range(5)]
        sharp = cv2.imread(str(folder / 'sharp' / f'{first + 2:06d}.png'))
        pairs.append((np.stack(window), sharp))
    return pairs


def samples(frames) -> list[DataSample]:
    """Return the outputs of a model whose frames are perfect except for one grey level."""
    found = []
    for window, sharp in frames:
        sample = DataSample()
        sample.set_tensor_data(dict(gt_img=tensor(sharp), input=tensor(window)))
        sample.output = DataSample(pred_img=tensor(sharp) + 1)
        found.append(sample)
    return found


def tensor(bgr: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(bgr, -1, -3).copy()).float()


def evaluate(metrics: list[dict], outputs: list[DataSample]) -> dict:
    evaluator = Evaluator(metrics)
    model = SimpleNamespace(data_preprocessor=None)
    evaluator.prepare_metrics(model, SimpleNamespace(dataset=outputs))
    for output in outputs:
        evaluator.process([output], None, evaluator.metrics)
    return evaluator.evaluate()


PSNR, SSIM = dict(type='PSNR'), dict(type='SSIM')


def of_input(metric: dict) -> dict:
    return dict(type='InputMetric', metric=metric)


def test_psnr_of_the_blurry_centre_frames(frames):
    scores = evaluate([of_input(PSNR)], samples(frames))
    assert list(scores) == ['input/PSNR']
    for expected in (
        np.mean([psnr(sharp, window[2]) for window, sharp in frames]),
        np.mean([peak_signal_noise_ratio(sharp, window[2]) for window, sharp in frames]),
    ):
        assert scores['input/PSNR'] == pytest.approx(expected, abs=1e-4)


def test_input_and_restored_frames_are_both_scored(frames):
    outputs = samples(frames)
    scores = evaluate([PSNR, SSIM, of_input(PSNR), of_input(SSIM)], outputs)
    assert list(scores) == ['PSNR', 'SSIM', 'input/PSNR', 'input/SSIM']
    assert scores['PSNR'] == pytest.approx(20 * np.log10(255), abs=1e-4), 'off by one everywhere'
    assert scores['input/PSNR'] < 35
    assert scores['input/SSIM'] < scores['SSIM']
    for output, (_, sharp) in zip(outputs, frames, strict=True):
        assert torch.equal(output.output.pred_img, tensor(sharp) + 1), 'outputs are left alone'


def test_input_of_one_frame(frames):
    outputs = samples(frames)
    for output, (window, _) in zip(outputs, frames, strict=True):
        output.set_tensor_data(dict(input=tensor(window[2])))
    assert evaluate([of_input(PSNR)], outputs) == evaluate([of_input(PSNR)], samples(frames))


def test_whole_clips(frames):
    """If a restorer returns all frames of a clip, all blurry frames are scored."""
    window, _ = frames[0]
    sample = DataSample()
    sample.set_tensor_data(dict(gt_img=tensor(window) + 2, input=tensor(window)))
    sample.output = DataSample(pred_img=tensor(window))
    scores = evaluate([of_input(PSNR)], [sample])
    assert scores['input/PSNR'] == pytest.approx(20 * np.log10(255 / 2), abs=0.3), 'clipped at 255'


def test_arguments_reach_the_metric(frames):
    scores = evaluate([of_input(dict(type='PSNR', crop_border=20))], samples(frames)[:1])
    window, sharp = frames[0]
    inner = (slice(20, -20), slice(20, -20))
    expected = peak_signal_noise_ratio(sharp[inner], window[2][inner])
    assert scores['input/PSNR'] == pytest.approx(expected, abs=1e-4)


def test_unknown_metric():
    with pytest.raises(KeyError, match='NoSuchMetric'):
        InputMetric(dict(type='NoSuchMetric'))
