"""Time restoring: a Deblurrer, a plain loop over the same network, and other restorers."""

import argparse
import math
import statistics
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.ways import dtypes_of, named, processes
from dblrgan_mm import measuring, nn
from dblrgan_mm.clips.clip import pad_index
from dblrgan_mm.clips.frames import frame_paths, read_frame
from dblrgan_mm.comparison.restoring import Method, build
from dblrgan_mm.devices import find_device, keep_freed_memory
from dblrgan_mm.errors import LaunchError, UserError
from dblrgan_mm.inference import Deblurrer
from dblrgan_mm.inference.checkpoint import load_generator
from dblrgan_mm.inference.deblurrer import find_weights

PLAIN = 'plain loop, float32'

_restore: Callable[[list], list]  # set per process; takes frames (h, w, 3), uint8, RGB
_device: torch.device


def choose(kind: str, source: str, device: str, dtype: str | None) -> None:
    """Set how this process restores.

    Args:
        kind: 'Deblurrer'; 'stream', a Deblurrer whose frames are not kept; 'plain', a loop over
            the network; or 'peer', the generator of another config.
        source: checkpoint, or the config of a peer.
        device: where the network runs.
        dtype: that of the Deblurrer.
    """
    global _restore, _device
    _device = torch.device(device)
    if _device.type == 'cuda':
        torch.cuda.set_device(_device)
    if kind in ('Deblurrer', 'stream'):
        deblurrer = Deblurrer.from_checkpoint(source, device, dtype)
        if _device.type == 'cpu':
            keep_freed_memory()  # as dblrgan-mm deblur does
        keep: Callable[..., Any] = list if kind == 'Deblurrer' else deque[Any](maxlen=0).extend
        _restore = lambda clip: keep(deblurrer(clip))  # noqa: E731
    elif kind == 'plain':
        # exact float32 (no TF32), in torch's default layout
        torch.backends.cudnn.allow_tf32 = False
        plain = plain_network(source).to(_device).to(memory_format=torch.contiguous_format)
        _restore = of_windows(plain, plain.num_frames, _device)
    else:
        network, num_frames = peer(source, _device)
        _restore = (
            of_windows(network, num_frames, _device) if num_frames else of_clips(network, _device)
        )


def plain_network(checkpoint: str) -> nn.DBLRNet | nn.MultiScaleDBLRNet:
    """Return the generator of a checkpoint as the module that is trained, in eval mode."""
    generator = load_generator(checkpoint)
    arguments = dict(generator.architecture)
    network = getattr(nn, arguments.pop('type'))(**arguments)
    network.load_state_dict(generator.state_dict)
    return network.eval()


def peer(config: str, device: torch.device) -> tuple[torch.nn.Module, int | None]:
    """Return a config's generator with random weights and its window size (None: whole clips)."""
    cfg, model = build(Method('', config, None), str(device))
    return model.generator, cfg.test_dataloader.dataset.get('num_frames', 5)


def of_windows(
    network: torch.nn.Module, num_frames: int, device: torch.device
) -> Callable[[list], list]:
    """Return a loop that restores a clip window by window, reflecting frames at its ends."""
    reach = num_frames // 2

    @torch.inference_mode()
    def loop(clip: list) -> list:
        frames = [to_tensor(frame, device) for frame in clip]
        restored = []
        for centre in range(len(clip)):
            around = range(centre - reach, centre + reach + 1)
            indices = [pad_index(i, len(clip), 'reflection') for i in around]
            window = torch.stack([frames[i] for i in indices])[None]
            restored.append(to_array(network(window[:, 0] if num_frames == 1 else window)[0]))
        return restored

    return loop


def of_clips(network: torch.nn.Module, device: torch.device) -> Callable[[list], list]:
    """Return a function that restores all frames of a clip at once."""

    @torch.inference_mode()
    def whole(clip: list) -> list:
        restored = network(torch.stack([to_tensor(frame, device) for frame in clip])[None])[0]
        return [to_array(frame) for frame in restored]

    return whole


def to_tensor(frame: np.ndarray, device: torch.device) -> torch.Tensor:
    values = torch.from_numpy(np.ascontiguousarray(frame)).to(device)
    return values.permute(2, 0, 1).float() / 255


def to_array(frame: torch.Tensor) -> np.ndarray:
    return frame.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def restore(clip: list) -> list:
    return _restore(clip)


def seconds_a_frame(clip: list) -> float:
    return measuring.seconds(lambda: _restore(clip), _device) / len(clip)


def profile(clip: list) -> dict[str, float]:
    """Return the seconds per frame of each operation."""
    found = measuring.seconds_by_operation(lambda: _restore(clip), _device)
    return {name: value / len(clip) for name, value in found.items()}


def peak_memory(clip: list) -> int | None:
    """Return the peak memory of restoring a clip in bytes, beyond what the process had before."""
    memory = measuring.PeakMemory(_device)
    _restore(clip)
    return memory.bytes()


def ceilings(dtypes: list[str]) -> dict[str, float]:
    """Measure the device's limits: operations/s by dtype, and 'copy' in bytes/s."""
    found = {
        dtype: measuring.matrix_product_ceiling(_device, getattr(torch, dtype)) for dtype in dtypes
    }
    return found | dict(copy=measuring.copy_ceiling(_device))


@torch.no_grad()
def macs_a_pixel(network: torch.nn.Module, num_frames: int | None) -> float:
    """Count the multiply-accumulates of convolutions and matrix products per restored pixel.

    Counts those of the plain algorithm, even where a faster one (Winograd) needs fewer.
    """
    side = 256  # MMagic's networks need no padding at this size
    shape = (1, 3, side, side) if num_frames == 1 else (1, num_frames or 5, 3, side, side)
    with measuring.flop_counter() as counter:
        restored = network(torch.rand(shape))
    return counter.get_total_flops() / 2 / (restored.numel() / 3)


def read_clip(folder: Path) -> list:
    """Read the frames of a folder; raises LaunchError."""
    if not folder.is_dir():
        raise LaunchError(f'{folder} is not a folder; give a folder of frames')
    try:
        return [read_frame(path) for path in frame_paths(folder)]
    except ValueError as error:
        raise LaunchError(str(error)) from error


def enlarged(clip: list, size: tuple[int, int]) -> list:
    return [cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in clip]


def measure_inference(args: argparse.Namespace) -> dict:
    """Measure the speed, memory and accuracy of each way of restoring, and the machine's limits."""
    device = find_device(args.device)
    checkpoint = str(find_weights(args.checkpoint))
    network = plain_network(checkpoint)
    clip = read_clip(args.blurry)
    sharp = read_clip(args.sharp) if args.sharp else None
    if sharp and [frame.shape for frame in clip] != [frame.shape for frame in sharp]:
        raise LaunchError(f'{args.sharp} and {args.blurry} differ in the number or size of frames')
    timed = enlarged(clip[: args.frames], args.size) if args.size else clip[: args.frames]
    height, width = timed[0].shape[:2]
    dtypes = fast_dtypes(checkpoint, device)
    ways: dict[str, tuple] = {PLAIN: ('plain', checkpoint, str(device), None)}
    ways |= {
        f'Deblurrer, {dtype}': ('Deblurrer', checkpoint, str(device), dtype) for dtype in dtypes
    }
    configs = named(args.peers)
    macs = dict.fromkeys(ways, macs_a_pixel(network, network.num_frames)) | {
        name: macs_a_pixel(*peer(config, torch.device('cpu'))) for name, config in configs.items()
    }
    peers = {name: ('peer', config, str(device), None) for name, config in configs.items()}
    restored, measured = run_ways(ways, peers, clip, timed, args.repeats, dtypes)
    return dict(
        checkpoint=Path(args.checkpoint).name,
        machine=measuring.machine(),
        device=str(device),
        width=width,
        height=height,
        frames=len(timed),
        scored=f'{len(clip)} frames {clip[0].shape[1]}x{clip[0].shape[0]}',
        macs={name: round(count * height * width) for name, count in macs.items()},
        dtype={name: way[3] or 'float32' for name, way in (ways | peers).items()},
        psnr=mean_psnr(restored | dict(blurry=clip), sharp) if sharp else {},
        **measured,
        **differences(restored),
    )


def fast_dtypes(checkpoint: str, device: torch.device) -> list[str]:
    """Return the dtypes of the Deblurrers to measure; says why int8 is not among them."""
    dtypes = dtypes_of(device)
    if device.type == 'cpu':
        try:
            Deblurrer.from_checkpoint(checkpoint, device, 'int8')
            dtypes.append('int8')
        except UserError as error:
            print(f'int8 is not measured: {error}')
    return dtypes


def run_ways(
    ways: dict[str, tuple],
    peers: dict[str, tuple],
    clip: list,
    timed: list,
    repeats: int,
    dtypes: list[str],
) -> tuple[dict[str, list], dict]:
    """Run each way and each peer in its own process.

    Returns:
        The frames of ``clip`` restored in each way, and the measurements on the clip ``timed``.
    """
    limits: dict[str, list[float]] = {}
    with processes(ways | peers, choose) as running:
        restored = {name: running[name].submit(restore, clip).result() for name in ways}
        seconds: dict[str, list[float]] = {name: [] for name in running}
        for process in running.values():  # load the libraries
            process.submit(restore, clip[: len(timed)]).result()
        # this also warms up
        memory = {name: p.submit(peak_memory, timed).result() for name, p in running.items()}
        for _ in tqdm(range(repeats), unit='round'):
            for name, value in running[PLAIN].submit(ceilings, dtypes).result().items():
                limits.setdefault(name, []).append(value)
            for name, process in running.items():
                seconds[name].append(process.submit(seconds_a_frame, timed).result())
        profiles = {name: running[name].submit(profile, timed).result() for name in ways}
    return restored, dict(seconds=seconds, profiles=profiles, memory=memory, ceilings=limits)


def differences(restored: dict[str, list]) -> dict[str, dict]:
    """Compare the values (0 to 255) that each way restored with those of the plain loop."""
    expected = restored[PLAIN]
    found = {
        name: np.stack([np.abs(np.int16(a) - b) for a, b in zip(out, expected, strict=True)])
        for name, out in restored.items()
    }
    return dict(
        largest_difference={name: int(values.max()) for name, values in found.items()},
        differing={name: float((values > 0).mean()) for name, values in found.items()},
        # in dB, over all frames together; None where they are equal
        difference_psnr={
            name: -10 * math.log10(np.square(values / 255).mean()) if values.any() else None
            for name, values in found.items()
        },
    )


def mean_psnr(clips: dict[str, list], sharp: list) -> dict[str, float]:
    return {
        name: statistics.mean(cv2.PSNR(a, b) for a, b in zip(frames, sharp, strict=True))
        for name, frames in clips.items()
    }


def measure_growth(args: argparse.Namespace) -> dict:
    """Measure a Deblurrer's seconds per frame and memory by frame size and clip length."""
    device = find_device(args.device)
    frames = read_clip(args.blurry)
    dtype = dtypes_of(device)[-1]
    way = ('stream', args.checkpoint, str(device), dtype)

    def measure(size: tuple[int, int], count: int) -> dict:
        clip = enlarged([frames[i % len(frames)] for i in range(count)], size)
        with processes({'': way}, choose) as running:
            process = running['']
            process.submit(restore, enlarged(clip[:3], (64, 64))).result()  # load libraries
            memory = process.submit(peak_memory, clip).result()  # also warms up
            times = [process.submit(seconds_a_frame, clip).result() for _ in range(args.repeats)]
        return dict(size=size, frames=count, seconds=times, memory=memory)

    return dict(
        checkpoint=Path(args.checkpoint).name,
        machine=measuring.machine(),
        device=str(device),
        dtype=dtype,
        sizes=[measure(size, args.frames) for size in tqdm(args.sizes, unit='size')],
        lengths=[measure(args.sizes[0], count) for count in tqdm(args.lengths, unit='length')],
    )
