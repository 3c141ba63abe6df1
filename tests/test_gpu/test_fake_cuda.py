"""All code stays on the device of its tensors; checked without a GPU.

Forward passes only: torch has no backward pass for fake tensors.
"""

import pytest
import torch
from mmagic.registry import METRICS
from mmengine.evaluator import BaseMetric

from dblrgan_mm.evaluation import InputMetric, WarpingError
from dblrgan_mm.inference.checkpoint import Generator
from dblrgan_mm.inference.deblurrer import Deblurrer
from dblrgan_mm.nn import (
    AdversarialLoss,
    ContentLoss,
    DBLRNet,
    FrameSequenceDiscriminator,
    MultiScaleDBLRNet,
)

NETWORKS = {
    'paper': lambda: DBLRNet(mid_channels=8, num_blocks=1),
    'plus': lambda: DBLRNet(mid_channels=8, num_blocks=1, norm=None, residual=True),
    'early, rgb': lambda: DBLRNet(mid_channels=8, num_blocks=1, color='rgb', fusion='early'),
    'one frame': lambda: DBLRNet(mid_channels=8, num_blocks=1, num_frames=1),
    'multi-scale': lambda: MultiScaleDBLRNet(channels=(4, 8), num_blocks=(1, 1, 1)),
    'aligned': lambda: MultiScaleDBLRNet(channels=(4, 8), num_blocks=(1, 1, 1), align=True),
}


def deblurrer(device: torch.device, dtype: torch.dtype) -> Deblurrer:
    arguments = dict(mid_channels=8, num_blocks=1, num_frames=5, color='luma', residual=False)
    architecture = dict(type='DBLRNet', **arguments, norm='BN', fusion='slow')
    return Deblurrer.from_generator(
        Generator(architecture, DBLRNet(**arguments).state_dict()), device, dtype
    )


def test_a_tensor_left_on_the_cpu_is_found(fake_cuda):
    net = NETWORKS['paper']()
    with pytest.raises(RuntimeError, match=r'device'):
        net(torch.rand(1, 5, 3, 16, 16, device='cpu'))


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
def test_networks(fake_cuda, name, dtype):
    net = NETWORKS[name]()
    with torch.autocast('cuda', dtype, enabled=dtype is not None):
        restored = net(torch.rand(2, net.num_frames, 3, 17, 21))
    assert restored.device.type == 'cuda'
    assert restored.shape == (2, 3, 17, 21)


@pytest.mark.parametrize('num_frames', [1, 5])
def test_discriminator(fake_cuda, num_frames):
    net = FrameSequenceDiscriminator(num_frames, conv_channels=((4, 4), (8, 8)), fc_channels=8)
    logits = net(torch.rand(2, num_frames, 3, 16, 16))
    assert logits.device.type == 'cuda'


@pytest.mark.parametrize('color', ['luma', 'rgb'])
@pytest.mark.parametrize('form', ContentLoss.FORMS)
def test_content_loss(fake_cuda, color, form):
    loss = ContentLoss(color, form)(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8))
    assert loss.device.type == 'cuda'


@pytest.mark.parametrize('form', AdversarialLoss.FORMS)
def test_adversarial_loss(fake_cuda, form):
    loss = AdversarialLoss(form)
    for is_disc in (True, False):
        assert loss(torch.rand(2, 1), True, is_disc).device.type == 'cuda'


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('tile', [None, 8])
@pytest.mark.parametrize('kind', [torch.uint8, torch.uint16, torch.float32])
def test_network_of_a_deblurrer(fake_cuda, dtype, tile, kind):
    windows = torch.zeros(2, 5, 3, 33, 20, dtype=kind)
    restored = deblurrer(fake_cuda, dtype).network(windows, tile)
    assert restored.device.type == 'cuda'
    assert restored.shape == (2, 3, 33, 20)


@pytest.mark.parametrize('like', [torch.uint8, torch.uint16])
def test_deblurrer_keeps_type_and_device_of_frames(fake_cuda, like):
    """Skips the check for NaN and infinite values, which needs content."""
    ours = deblurrer(fake_cuda, torch.bfloat16)
    frame = torch.zeros(3, 24, 16, dtype=like)
    batch = [torch.stack([ours._to_device(frame)] * 5)] * 2
    restored, _ = ours._compute(torch.stack(batch), 8)
    assert restored.device.type == 'cuda'
    frames = ours._in_input_format(restored, frame)
    assert [(f.dtype, f.device.type, f.shape) for f in frames] == [(like, 'cuda', (3, 24, 16))] * 2


@METRICS.register_module(force=True)
class InputOnly(BaseMetric):
    """Checks that the frames are on the GPU."""

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            difference = sample['output']['pred_img'] - sample['gt_img']
            assert difference.device.type == 'cuda'

    def compute_metrics(self, results):
        return {}


def test_metrics_take_frames_from_the_device(fake_cuda):
    """Up to the point where the metric reads their content."""
    frames = torch.zeros(3, 16, 16)
    sample = dict(key='clip/1', input=torch.zeros(5, 3, 16, 16), gt_img=frames,
                  output=dict(pred_img=frames))  # fmt: skip
    InputMetric(dict(type='InputOnly')).process(None, [sample])
    with pytest.raises(RuntimeError, match='numpy'):  # fails on the content, not on the device
        WarpingError().process(None, [sample])
