"""How fast clips are restored: a Deblurrer, a plain loop over the same network, other restorers."""

import argparse
import contextlib
import multiprocessing
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dblrgan_mm.benchmarks import machine
from dblrgan_mm.errors import LaunchError

PLAIN = 'plain loop, float32'

_restore: Callable[[list], list]  # of this process: frames (h, w, 3), uint8, RGB
_device: Any


def choose(kind: str, source: str, device: str, dtype: str | None) -> None:
    """Make this process restore by a 'Deblurrer' (as a 'stream': keeping no frames), a 'plain'
    loop, or another config ('peer')."""
    global _restore, _device
    import torch

    from dblrgan_mm.inference import Deblurrer

    _device = torch.device(device)
    if _device.type == 'cuda':
        torch.cuda.set_device(_device)
    if kind == 'Deblurrer':
        deblurrer = Deblurrer.from_checkpoint(source, device, getattr(torch, dtype))
        _restore = lambda clip: list(deblurrer(clip))  # noqa: E731
    elif kind == 'stream':
        deblurrer = Deblurrer.from_checkpoint(source, device, getattr(torch, dtype))
        _restore = lambda clip: deque(deblurrer(clip), maxlen=0)  # noqa: E731
    elif kind == 'plain':
        torch.backends.cudnn.allow_tf32 = False
        _restore = plain_loop(source, _device)
    elif kind == 'peer':
        _restore = other_restorer(source, _device)


def plain_loop(checkpoint: str, device: Any) -> Callable[[list], list]:
    """DBLRNet in float32 and torch's default layout, a window at a time."""
    import torch

    from dblrgan_mm.inference.checkpoint import load_generator
    from dblrgan_mm.models.dblrnet import DBLRNet

    generator = load_generator(checkpoint)
    plain = DBLRNet(**generator.architecture)
    plain.load_state_dict(generator.state_dict)
    plain.to(device, memory_format=torch.contiguous_format).eval()
    return of_windows(plain, plain.num_frames, device)


def other_restorer(config: str, device: Any) -> Callable[[list], list]:
    """The generator of a config as MMagic runs it, in float32, with random weights."""
    from dblrgan_mm.comparison.restoring import Method, build

    cfg, model = build(Method('', config, None), str(device))
    num_frames = cfg.test_dataloader.dataset.get('num_frames', 5)
    if num_frames is None:
        return of_clips(model.generator, device)
    return of_windows(model.generator, num_frames, device)


def of_windows(network: Any, num_frames: int, device: Any) -> Callable[[list], list]:
    """A loop over the frames; at the clip's ends they are reflected."""
    import torch

    reach = num_frames // 2

    @torch.inference_mode()
    def loop(clip: list) -> list:
        frames = [to_tensor(frame, device) for frame in clip]
        frames = [*frames[reach:0:-1], *frames, *frames[-2 : -2 - reach : -1]]
        restored = []
        for i in range(len(clip)):
            window = torch.stack(frames[i : i + num_frames])[None]
            restored.append(to_array(network(window[:, 0] if num_frames == 1 else window)[0]))
        return restored

    return loop


def of_clips(network: Any, device: Any) -> Callable[[list], list]:
    """All frames at once."""
    import torch

    @torch.inference_mode()
    def whole(clip: list) -> list:
        restored = network(torch.stack([to_tensor(frame, device) for frame in clip])[None])[0]
        return [to_array(frame) for frame in restored]

    return whole


def to_tensor(frame: Any, device: Any) -> Any:
    import numpy as np
    import torch

    frame = torch.from_numpy(np.ascontiguousarray(frame)).to(device)
    return frame.permute(2, 0, 1).float() / 255


def to_array(frame: Any) -> Any:
    return frame.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


def restore(clip: list) -> list:
    return _restore(clip)


def seconds_a_frame(clip: list) -> float:
    return machine.seconds(lambda: _restore(clip), _device) / len(clip)


def peak_memory(clip: list) -> int | None:
    """Bytes that restoring a clip takes at most, beyond what the process had."""
    from dblrgan_mm.comparison.restoring import PeakMemory

    memory = PeakMemory(str(_device))
    _restore(clip)
    return memory.bytes()


def ceilings(dtypes: list[str]) -> dict[str, float]:
    """Of this process's device: operations a second by dtype, and 'copy', bytes a second."""
    import torch

    found = {
        dtype: machine.matrix_product_ceiling(_device, getattr(torch, dtype)) for dtype in dtypes
    }
    return found | dict(copy=machine.copy_ceiling(_device))


@contextlib.contextmanager
def processes(ways: dict[str, tuple]) -> Iterator[dict[str, ProcessPoolExecutor]]:
    """A process for each way, arguments as of :func:`choose`: what a Deblurrer sets of threads
    and memory would help the others, too."""
    context = multiprocessing.get_context('spawn')
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(ProcessPoolExecutor(1, context)) for name in ways}
        for name, process in running.items():
            process.submit(choose, *ways[name]).result()
        yield running


def macs_a_frame(way: tuple, frames: int, height: int, width: int) -> int:
    """Multiply-accumulates of the convolutions and matrix products of a network, without sums of
    Winograd's; counted on shapes alone."""
    kind, source, *_ = way
    if kind != 'peer':
        from dblrgan_mm.inference.checkpoint import load_generator
        from dblrgan_mm.models.dblrnet import DBLRNet

        network = DBLRNet(**load_generator(source).architecture)
        # all layers work on each pixel alike: 64 maps of a small frame tell
        return _count(network, (1, network.num_frames, 3, 64, 64)) * height * width // 64**2
    from dblrgan_mm.comparison.restoring import Method, build

    cfg, model = build(Method('', source, None), 'cpu')
    num_frames = cfg.test_dataloader.dataset.get('num_frames', 5)
    side = 256  # at which MMagic's networks do not pad, each side a multiple of all strides
    shape = (1, num_frames or frames, 3, side, side)
    macs = _count(model.generator, shape if num_frames != 1 else (1, 3, side, side))
    return macs * height * width // side**2 // (1 if num_frames else frames)


def _count(network: Any, shape: tuple) -> int:
    import torch

    from dblrgan_mm.comparison.restoring import flop_counter

    with flop_counter() as counter, torch.no_grad():
        network.eval()(torch.rand(shape))
    return counter.get_total_flops() // 2


def read_clip(folder: Path) -> list:
    """Frames of a folder; raises LaunchError."""
    from dblrgan_mm.clips.frames import read_frame
    from dblrgan_mm.clips.sources import frame_paths

    if not folder.is_dir():
        raise LaunchError(f'no folder {folder}; give one with frames')
    try:
        return [read_frame(path) for path in frame_paths(folder)]
    except ValueError as error:
        raise LaunchError(str(error)) from error


def named(configs: list[str]) -> dict[str, str]:
    """Configs under the names of their files; raises LaunchError where two have the same."""
    found = {Path(config).stem: config for config in configs}
    if len(found) < len(configs):
        raise LaunchError(f'{" ".join(configs)}: two configs have the same file name; rename one')
    for config in configs:
        if not Path(config).is_file():
            raise LaunchError(f'no config file {config}. The configs are in configs/.')
    return found


def enlarged(clip: list, size: tuple[int, int] | None) -> list:
    import cv2

    if not size:
        return clip
    return [cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC) for frame in clip]


def dtypes_of(device: Any) -> list[str]:
    """float32, and what computes faster on a device."""
    import torch

    from dblrgan_mm.inference.deblurrer import fastest_dtype

    found = dict.fromkeys((torch.float32, fastest_dtype(device)))
    return [str(dtype).removeprefix('torch.') for dtype in found]


def measure_inference(args: argparse.Namespace) -> dict:
    """Seconds a frame, pixels and limits of each way to restore a clip."""
    import cv2
    import numpy as np

    from dblrgan_mm.inference.checkpoint import load_generator
    from dblrgan_mm.inference.deblurrer import find_device, released

    device = find_device(args.device)
    checkpoint = str(released().get(args.checkpoint, args.checkpoint))
    generator = load_generator(checkpoint)
    clip = read_clip(args.blurry)
    sharp = read_clip(args.sharp) if args.sharp else clip
    if [frame.shape for frame in clip] != [frame.shape for frame in sharp]:
        raise LaunchError(f'{args.sharp}: not as many frames, or not as large, as {args.blurry}')
    num_frames = generator.architecture['num_frames']
    least = max(num_frames, 5 if args.peers else 1) // 2 + 1
    if min(len(clip), args.frames) < least:
        raise LaunchError(
            f'{args.blurry}: {len(clip)} frames and --frames {args.frames}: at least {least} are '
            'needed of each'
        )
    timed = enlarged(clip[: args.frames], args.size)
    dtypes = dtypes_of(device)
    ways = {PLAIN: ('plain', checkpoint, str(device), None)}
    ways |= {
        f'Deblurrer, {dtype}': ('Deblurrer', checkpoint, str(device), dtype) for dtype in dtypes
    }
    peers = {
        name: ('peer', config, str(device), None) for name, config in named(args.peers).items()
    }
    limits: dict[str, list[float]] = {}
    with processes(ways | peers) as running:
        restored = {name: running[name].submit(restore, clip).result() for name in ways}
        seconds: dict[str, list[float]] = {name: [] for name in running}
        for process in running.values():  # libraries are loaded
            process.submit(restore, clip[: args.frames]).result()
        # and warm
        memory = {name: p.submit(peak_memory, timed).result() for name, p in running.items()}
        for _ in tqdm(range(args.repeats), unit='turn'):
            for name, value in running[PLAIN].submit(ceilings, dtypes).result().items():
                limits.setdefault(name, []).append(value)
            for name, process in running.items():
                seconds[name].append(process.submit(seconds_a_frame, timed).result())
    height, width = timed[0].shape[:2]
    macs = {
        name: macs_a_frame(way, len(timed), height, width) for name, way in (ways | peers).items()
    }
    expected = restored[PLAIN]
    difference = {
        name: np.stack([np.abs(np.int16(a) - b) for a, b in zip(out, expected, strict=True)])
        for name, out in restored.items()
    }
    psnr = {}
    if args.sharp:
        restored['blurry'] = clip
        for name, out in restored.items():
            psnr[name] = statistics.mean(cv2.PSNR(a, b) for a, b in zip(out, sharp, strict=True))
    return dict(
        checkpoint=Path(args.checkpoint).name,
        architecture=generator.architecture,
        machine=machine.machine(),
        device=str(device),
        width=width,
        height=height,
        frames=len(timed),
        scored=f'{len(clip)} frames {clip[0].shape[1]}x{clip[0].shape[0]}',
        seconds=seconds,
        macs=macs,
        memory=memory,
        ceilings=limits,
        dtype={name: way[3] or 'float32' for name, way in (ways | peers).items()},
        largest_difference={name: int(values.max()) for name, values in difference.items()},
        differing={name: float((values > 0).mean()) for name, values in difference.items()},
        psnr=psnr,
    )


def measure_growth(args: argparse.Namespace) -> dict:
    """Seconds a frame and memory of a Deblurrer for several sizes and lengths of a clip."""
    from dblrgan_mm.inference.deblurrer import find_device

    device = find_device(args.device)
    frames = read_clip(args.blurry)
    dtype = dtypes_of(device)[-1]
    way = ('stream', args.checkpoint, str(device), dtype)

    def measure(size: tuple[int, int], count: int) -> dict:
        clip = enlarged([frames[i % len(frames)] for i in range(count)], size)
        with processes({'': way}) as running:
            process = running['']
            process.submit(restore, enlarged(clip[:3], (64, 64))).result()  # libraries are loaded
            memory = process.submit(peak_memory, clip).result()  # and warm
            times = [process.submit(seconds_a_frame, clip).result() for _ in range(args.repeats)]
        return dict(size=size, frames=count, seconds=times, memory=memory)

    return dict(
        checkpoint=Path(args.checkpoint).name,
        machine=machine.machine(),
        device=str(device),
        dtype=dtype,
        sizes=[measure(size, args.frames) for size in tqdm(args.sizes, unit='size')],
        lengths=[measure(args.sizes[0], count) for count in tqdm(args.lengths, unit='length')],
    )
