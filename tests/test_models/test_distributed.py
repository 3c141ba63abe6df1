"""Two processes at batch size 2 take the same step as one process at batch size 4."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

GENERATOR = dict(type='DBLRNet', mid_channels=8, num_blocks=2, norm=None, residual=True)
DISCRIMINATOR = dict(
    type='FrameSequenceDiscriminator', conv_channels=((8, 8), (16, 16)), fc_channels=16
)


def take_step(rank: int, world_size: int, folder: str) -> None:
    """Take one SGD step with learning rate 1, so that the weights change by the gradient."""
    from dblrgan_mm import models  # noqa: F401, I001  (before MMagic: compat)
    import torch.distributed as dist
    from mmagic.registry import MODELS
    from mmagic.structures import DataSample
    from mmengine.model import MMSeparateDistributedDataParallel
    from mmengine.optim import OptimWrapper, OptimWrapperDict
    from mmengine.registry import init_default_scope
    from mmengine.runner.checkpoint import load_state_dict

    torch.set_num_threads(1)
    init_default_scope('mmagic')
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='DBLRGAN',
            generator=GENERATOR,
            discriminator=DISCRIMINATOR,
            pixel_loss=dict(type='ContentLoss'),
            gan_loss=dict(type='AdversarialLoss', loss_weight=0.1),
            data_preprocessor=dict(type='DataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
        )
    ).train()
    # batch statistics differ between 2 and 4 samples, so use the running ones
    model.discriminator.eval()
    blurry, sharp = 255 * torch.rand(2, 4, 5, 3, 24, 24)
    if world_size > 1:
        dist.init_process_group(
            'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=world_size
        )
        model = MMSeparateDistributedDataParallel(model)
    parts = model.module if world_size > 1 else model
    optim = OptimWrapperDict(
        **{
            name: OptimWrapper(torch.optim.SGD(getattr(parts, name).parameters(), lr=1.0))
            for name in ('generator', 'discriminator')
        }
    )
    samples = [DataSample() for _ in range(4)]
    for sample, gt in zip(samples, sharp, strict=True):
        sample.set_tensor_data(dict(gt_img=gt))
    mine = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
    model.train_step(dict(inputs=list(blurry[mine]), data_samples=samples[mine]), optim)
    weights = {
        name: torch.cat([p.detach().flatten() for p in getattr(parts, name).parameters()])
        for name in ('generator', 'discriminator')
    }
    if world_size > 1:
        # MMEngine's loader accepts the weights of several processes like those of one
        state = {key: value.clone() for key, value in parts.state_dict().items()}
        assert 'generator.head.0.weight' in state
        assert not any('.module.' in key for key in state)
        for parameter in parts.parameters():
            parameter.data.zero_()
        load_state_dict(parts, state, strict=True)
        assert all(torch.equal(value, state[key]) for key, value in parts.state_dict().items())
    torch.save(weights, Path(folder) / f'{world_size}-{rank}.pth')
    if world_size > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_at_batch_2_equal_one_at_batch_4(tmp_path):
    take_step(0, 1, str(tmp_path))
    mp.spawn(take_step, args=(2, str(tmp_path)), nprocs=2)
    one = torch.load(tmp_path / '1-0.pth', weights_only=True)
    for rank in range(2):
        two = torch.load(tmp_path / f'2-{rank}.pth', weights_only=True)
        for name in ('generator', 'discriminator'):
            torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=1e-5)
    torch.manual_seed(0)
    from dblrgan_mm.models import DBLRNet

    start = DBLRNet(**{k: v for k, v in GENERATOR.items() if k != 'type'})
    start = torch.cat([p.detach().flatten() for p in start.parameters()])
    assert (one['generator'] - start).abs().max() > 1e-3  # the gradient is not zero
