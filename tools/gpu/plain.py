"""Train a network with torch only, for a machine on which MMagic cannot be imported.

Keeps the clips on the device, as ``ClipsOnDevicePreprocessor`` does. Network, batch, crop and
learning rate are those of ``configs/gpu``; the optimiser is Adam. The learning rate decays until
the given end time. Writes the average of the weights to ``WORK/plain.pth`` once a minute and at
the end.
"""

import argparse
import copy
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
CANDIDATES = 3
# config name: class, arguments, batch, crop, learning rate
NETWORKS: dict[str, tuple[str, dict[str, Any], int, int, float]] = {
    'dblrnet_ms': (
        'MultiScaleDBLRNet',
        dict(align=True, channels=(48, 64, 96, 128)),
        64,
        192,
        1e-3,
    ),
    'dblrnet_plus': ('DBLRNet', dict(norm=None, residual=True), 28, 192, 6e-4),
}


def train(args: argparse.Namespace) -> None:
    sys.path.insert(0, str(ROOT))
    from dblrgan_mm import nn
    from dblrgan_mm.clips.device_clips import DeviceClips

    kind = Path(args.config).stem
    name, arguments, batch, crop, rate = NETWORKS.get(kind, NETWORKS['dblrnet_ms'])
    if args.dry:
        arguments = arguments | (
            dict(channels=(4, 8), num_blocks=(0, 1, 0)) if 'Multi' in name else
            dict(mid_channels=4, num_blocks=1)
        )  # fmt: skip
        batch, crop = 2, 64
    device = torch.device(args.device)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    net = getattr(nn, name)(**arguments).to(device)
    average = copy.deepcopy(net).requires_grad_(False)
    clips = DeviceClips(args.store, 'train', device=device)
    reach = net.num_frames // 2
    optimiser = torch.optim.Adam(net.parameters(), lr=rate, fused=True)
    begin, saved, step = time.time(), time.time(), 0
    total = torch.zeros((), device=device)
    while (now := time.time()) < args.until or step == 0:
        done = min(1.0, (now - begin) / max(1.0, args.until - begin))
        warm = min(1.0, (step + 1) / 500)
        for group in optimiser.param_groups:
            group['lr'] = warm * rate * max(1e-3, 0.5 * (1 + math.cos(math.pi * done)))
        try:
            places = draw(clips, batch, crop, reach, device)
            blurry, sharp = clips.crops(places, crop, reach)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == 'cuda'):
                restored = net(blurry.float() / 255)
            difference = nn.rgb_to_luma(restored.float() - sharp[:, 0].float() / 255)
            loss = (difference.square() + 1e-6).sqrt().mean()
            optimiser.zero_grad()
            loss.backward()
        except torch.cuda.OutOfMemoryError:
            if batch == 1:
                raise
            optimiser.zero_grad()
            batch //= 2
            print(f'out of memory: the batch is now {batch}', flush=True)
            continue
        optimiser.step()
        with torch.no_grad():
            # average over few steps at first, so that the initial weights are soon forgotten
            momentum = max(1e-3, 1 / (step + 1))
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), momentum)
        step += 1
        total = total + loss.detach()
        if step % 100 == 0:
            print(f'step {step}: loss {total.item() / 100:.5f}, batch {batch}', flush=True)
            if not math.isfinite(total.item()):
                sys.exit(f'stopped at step {step}: the loss is not finite')
            total = torch.zeros((), device=device)
        if time.time() - saved > 60:
            saved = time.time()
            save(average, args.work)
    save(average, args.work)
    print(f'plain loop: {step} steps in {time.time() - begin:.0f} s')


def draw(clips, count: int, crop: int, reach: int, device: torch.device) -> torch.Tensor:
    """Draw the places (count, 6) of crops; blurry regions are preferred."""
    shape = (count, CANDIDATES)

    def below(limit: torch.Tensor) -> torch.Tensor:
        return (torch.rand(shape, device=device) * limit).long()

    fits = clips.sizes.amin(dim=1) >= crop
    frames = torch.where(fits, clips.lengths - 2 * reach, 0).clamp(min=0).float()
    clip = torch.multinomial(frames, count * CANDIDATES, replacement=True).view(shape)
    top, left = (below(clips.sizes[clip][..., i] - crop + 1) for i in (0, 1))
    code = torch.randint(8, (count, 1), device=device).expand(shape)
    forward = 2 * torch.randint(2, (count, 1), device=device).expand(shape) - 1
    places = torch.stack([clip, below(frames[clip]) + reach, top, left, code, forward], dim=-1)
    noise = -torch.empty(shape, device=device).exponential_().log()
    return clips.pick(places, noise, crop)


def save(average: torch.nn.Module, work: Path) -> None:
    weights = {f'generator.{name}': value.cpu() for name, value in average.state_dict().items()}
    torch.save(dict(state_dict=weights), work / 'plain.part')
    os.replace(work / 'plain.part', work / 'plain.pth')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('config', help='config file; its name selects the network')
    parser.add_argument('store', type=Path, help='clip store')
    parser.add_argument('work', type=Path, help='folder for plain.pth')
    parser.add_argument('--until', type=float, required=True, help='end, in seconds since 1970')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--dry', action='store_true', help='use a tiny network and batch')
    train(parser.parse_args())
