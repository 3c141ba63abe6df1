"""Measure speed.

``data``: samples per second of loading, by each way of keeping the frames. ``infer``: frames per
second of restoring, against a plain loop over the same network.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from dblrgan_mm import launch
from dblrgan_mm.errors import LaunchError

PLAIN = 'plain loop, float32'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)
    data = commands.add_parser(
        'data',
        help='loading for training',
        description='Samples per second of the training data loader of a config, from image files '
        "by MMagic's own transforms, from an LMDB as MMagic makes it, and from a clip store. Same "
        'machine, same run, same windows and crops, taken by turns. Writes the LMDB and the store '
        'of all frames of the training set.',
    )
    data.add_argument('config', help='config whose training data are image files')
    data.add_argument('--data-root', help="the data set's folder, in place of the config's")
    data.add_argument('--workers', type=int, default=1, help='worker processes (default: 1)')
    data.add_argument('--seconds', type=float, default=5, help='length of a measurement (5)')
    data.add_argument('--repeats', type=int, default=5, help='measurements of each (5)')
    data.add_argument(
        '--folder', type=Path, help='where LMDB and store go (default: a temporary one)'
    )
    data.add_argument('--out', type=Path, help='JSON file for the figures')
    infer = commands.add_parser(
        'infer',
        help='restoring',
        description='Frames per second of a Deblurrer against a loop of DBLRNet in float32 as it '
        'is trained, without any of its measures. Same machine, same run, same clip, taken by '
        'turns, each in a process of its own; and what the pixels lose.',
    )
    infer.add_argument('checkpoint', help='as for tools/deblur.py')
    infer.add_argument('blurry', type=Path, help='folder of blurry frames')
    infer.add_argument('--sharp', type=Path, help='folder of their sharp frames')
    infer.add_argument('--size', type=launch.positive, nargs=2, metavar=('WIDTH', 'HEIGHT'),
        help='enlarge the frames that are timed, not those that are scored')  # fmt: skip
    infer.add_argument('--frames', type=int, default=5, help='that are timed (5)')
    infer.add_argument('--device', default='auto')
    infer.add_argument(
        '--repeats', type=launch.positive, default=3, help='measurements of each (3)'
    )
    infer.add_argument('--out', type=Path, help='JSON file for the figures')
    args = parser.parse_args()
    if args.out and not args.out.parent.is_dir():
        raise LaunchError(f'{args.out}: the folder {args.out.parent} does not exist; make it first')
    if args.command == 'infer':
        result = measure_inference(args)
        print_inference(result)
        if args.out:
            args.out.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = measure_loading(args, Path(folder))
    print_loading(result)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')


def measure_loading(args: argparse.Namespace, folder: Path) -> dict:
    """Samples per second of each path, warm and cold; all figures as a dictionary."""
    cfg = launch.load_config(
        argparse.Namespace(
            config=args.config, data_root=args.data_root, cfg_options=[], work_dir=str(folder),
            launcher='none', amp=False,
        )
    )  # fmt: skip
    from dblrgan_mm import compat

    compat.apply()
    from mmengine.registry import init_default_scope

    import dblrgan_mm.datasets  # noqa: F401  (registers)
    from dblrgan_mm.clips import clip_store, layouts

    init_default_scope('mmagic')
    if cfg.get('train_dataloader') is None:
        raise LaunchError(f'{args.config} is for tests only: it loads nothing for training')
    source = cfg.train_dataloader.dataset
    if clip_store.is_store(Path(source.data_root)):
        raise LaunchError(f'{source.data_root} is a clip store: give the image files it is made of')
    clips = layouts.load_clips(
        source.layout, Path(source.data_root), source.split, **source.get('layout_args', {})
    )
    store = write_store(folder / 'store', source, clips)
    lmdb, lmdb_pipeline = write_lmdb(folder, source, clips)
    few, many = (repeat_entries(store, folder / f'store_{n}', n) for n in (10, 1000))
    paths = {
        'image files': build(source, pipeline=mmagic_pipeline(source.pipeline)),
        'LMDB': rename_frames(build(source, pipeline=lmdb_pipeline)),
        'clip store': build(source, data_root=str(store)),
        'index of 10 clips': build(source, data_root=str(few)),
        'index of 1000 clips': build(source, data_root=str(many)),
    }
    stored = {
        'image files': [path for clip in clips for path in (*clip.blurry, *clip.sharp)],
        'LMDB': lmdb,
        'clip store': sorted(store.rglob('*.npy')),
    }
    batch, workers = cfg.train_dataloader.batch_size, args.workers
    samples = [samples_of(paths[name], batch, workers, 8) for name in stored]
    if not samples[0] == samples[1] == samples[2]:
        raise LaunchError('the paths do not yield the same samples; nothing was measured')
    speeds = {name: [] for name in paths}
    for _ in range(args.repeats):
        for name, dataset in paths.items():
            speeds[name].append(speed(dataset, batch, workers, args.seconds))
    cold = {name: [] for name in stored}
    for _ in range(args.repeats):
        for name, files in stored.items():
            drop_from_cache(files)
            cold[name].append(speed_of_pass(paths[name], batch, workers, args.seconds))
    frames = sum(len(clip.frames) for clip in clips)
    height, width = clip_store.map_frame(f'{sorted(store.rglob("*.npy"))[0]}#blurry.0').shape[:2]
    return dict(
        config=Path(args.config).name,
        machine=machine(),
        clips=len(clips),
        pairs=frames,
        width=width,
        height=height,
        crop=next(t.gt_patch_size for t in source.pipeline if 'gt_patch_size' in t),
        num_frames=source.num_frames,
        sharp_frames=source.num_frames if source.get('gt') == 'window' else 1,
        batch_size=batch,
        workers=workers,
        warm=speeds,
        cold=cold,
        gigabytes={name: sum(os.path.getsize(f) for f in files) / 1e9
                   for name, files in stored.items()},
    )  # fmt: skip


def build(source: Any, **changes: Any) -> Any:
    from mmagic.registry import DATASETS

    return DATASETS.build({**source, **changes})


def mmagic_pipeline(pipeline: list[dict]) -> list[dict]:
    """A pipeline with MMagic's own transforms in place of this project's."""
    steps = []
    for step in pipeline:
        if step['type'] == 'LoadClipFrames':
            steps.append({**step, 'type': 'LoadImageFromFile'})
        elif step['type'] == 'ClipRandomCrop':
            steps += [
                dict(type='SetValues', dictionary=dict(scale=1)),
                {**step, 'type': 'PairedRandomCrop'},
            ]
        else:
            steps.append(step)
    return steps


def write_store(folder: Path, source: Any, clips: list) -> Path:
    """A clip store of the training set."""
    from tqdm import tqdm

    from dblrgan_mm import files
    from dblrgan_mm.clips import clip_store

    folder.mkdir()
    files.require_space(folder, 2 * sum(map(clip_store.stored_bytes, clips)))  # and the LMDB
    index = clip_store.new_index(source.layout, dict(source.get('layout_args', {})))
    entries = {}
    for i, clip in enumerate(tqdm(clips, 'clip store', unit='clip')):
        file = f'{source.split}/{i}.npy'
        entries[clip.name] = dict(file=file, **clip_store.write_clip(clip, folder / file))
    index['splits'][source.split] = dict(complete=True, clips=entries)
    clip_store.write_index(folder, index)
    return folder


def repeat_entries(store: Path, folder: Path, count: int) -> Path:
    """A store whose index names the clips of another again and again, `count` clips in all."""
    from dblrgan_mm.clips import clip_store

    folder.mkdir()
    (folder / 'clips').symlink_to(store.resolve())
    index = clip_store.read_index(store)
    for part in index['splits'].values():
        entries = list(part['clips'].values())
        part['clips'] = {
            f'clip {i}': {**entries[i % len(entries)],
                          'file': f'clips/{entries[i % len(entries)]["file"]}'}
            for i in range(count)
        }  # fmt: skip
    clip_store.write_index(folder, index)
    return folder


def frame_key(path: str) -> str:
    """A name for a frame that no other frame has: MMagic's LMDB keys drop the folders."""
    return '_'.join(Path(path).with_suffix('').parts[-4:])


def write_lmdb(folder: Path, source: Any, clips: list) -> tuple[list[Path], list[dict]]:
    """LMDBs of blurry and of sharp frames as MMagic's converters write them, and a pipeline."""
    import cv2
    import lmdb
    from tqdm import tqdm

    paths = {}
    for key, side in (('img', 'blurry'), ('gt', 'sharp')):
        paths[key] = folder / f'{side}.lmdb'
        frames = [frame for clip in clips for frame in getattr(clip, side)]
        with lmdb.open(str(paths[key]), map_size=1 << 40) as env, env.begin(write=True) as put:
            for frame in tqdm(frames, f'LMDB, {side}', unit='frame'):
                image = cv2.imread(frame, cv2.IMREAD_UNCHANGED)
                png = cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
                put.put(frame_key(frame).encode(), png.tobytes())
    pipeline = mmagic_pipeline(source.pipeline)
    for step in pipeline:
        if step['type'] == 'LoadImageFromFile':
            step['backend_args'] = dict(backend='lmdb', db_path=str(paths[step['key']]))
    return [path / 'data.mdb' for path in paths.values()], pipeline


def rename_frames(dataset: Any) -> Any:
    """Frames are asked for by their key in the LMDB."""
    original = dataset.get_data_info

    def get_data_info(idx: int) -> dict:
        info = original(idx)
        for name in ('img_path', 'gt_path'):
            info[name] = [f'{frame_key(path)}.png' for path in info[name]]
        return info

    dataset.get_data_info = get_data_info
    return dataset


def batches(dataset: Any, batch_size: int, workers: int) -> Iterator[list[dict]]:
    """Batches without end; the same windows, crops and augmentations for each data set."""
    from mmengine.dataset import InfiniteSampler, pseudo_collate
    from torch.utils.data import DataLoader

    return iter(
        DataLoader(
            dataset,
            batch_size=batch_size,
            num_workers=workers,
            sampler=InfiniteSampler(dataset, shuffle=True, seed=0),
            collate_fn=pseudo_collate,
            worker_init_fn=seed_worker,
        )
    )


def seed_worker(worker: int) -> None:
    import random

    import numpy as np

    random.seed(worker)
    np.random.seed(worker)  # noqa: NPY002  (MMagic's transforms draw from it)


def samples_of(dataset: Any, batch_size: int, workers: int, count: int) -> list[float]:
    """A checksum of each of the first batches."""
    import zlib

    loader = batches(dataset, batch_size, max(workers, 1))
    sums = []
    for _ in range(count):
        batch = next(loader)
        tensors = [*batch['inputs'], *(sample.gt_img for sample in batch['data_samples'])]
        sums.append([zlib.crc32(tensor.numpy().tobytes()) for tensor in tensors])
    return sums


def speed(dataset: Any, batch_size: int, workers: int, seconds: float) -> float:
    """Samples per second, once the worker processes run and what they had ahead is used up."""
    loader = batches(dataset, batch_size, workers)
    for _ in range(2 * workers + 1):
        next(loader)
    return rate(loader, batch_size, seconds)


def speed_of_pass(dataset: Any, batch_size: int, workers: int, seconds: float) -> float:
    """Samples per second of a pass that draws each window once, from the second batch on."""
    loader = batches(dataset, batch_size, workers)
    next(loader)
    return rate(itertools.islice(loader, len(dataset) // batch_size - 1), batch_size, seconds)


def rate(loader: Iterator, batch_size: int, seconds: float) -> float:
    """Samples per second of a loader, until it ends or the seconds are over."""
    start = now = time.perf_counter()
    count = 0
    for _ in loader:
        count += batch_size
        now = time.perf_counter()
        if now - start > seconds:
            break
    return count / (now - start)


def drop_from_cache(files: list) -> None:
    """Drop files from this machine's page cache."""
    if not hasattr(os, 'posix_fadvise'):
        raise LaunchError('the page cache cannot be dropped on this system')
    os.sync()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def machine() -> str:
    """The machine and the versions that matter, in words."""
    import platform

    import cv2
    import torch

    return (
        f'{os.cpu_count()}-core {platform.machine()} ({torch.backends.cpu.get_cpu_capability()}), '
        f'torch {torch.__version__}, '
        f'OpenCV {cv2.__version__}, Python {platform.python_version()}'
    )


_way: Callable[[list], list]  # of this process


def choose_way(checkpoint: str, device: str, dtype: str | None) -> None:
    """Make this process restore by a Deblurrer, or by the plain loop where ``dtype`` is None."""
    global _way
    import numpy as np
    import torch

    from dblrgan_mm.inference import Deblurrer
    from dblrgan_mm.inference.checkpoint import load_generator
    from dblrgan_mm.models.dblrnet import DBLRNet

    if dtype is not None:
        deblurrer = Deblurrer.from_checkpoint(checkpoint, device, getattr(torch, dtype))
        _way = lambda clip: list(deblurrer(clip))  # noqa: E731
        return
    generator = load_generator(checkpoint)
    plain = DBLRNet(**generator.architecture)
    plain.load_state_dict(generator.state_dict)
    plain.to(device).eval()
    reach = plain.num_frames // 2

    @torch.inference_mode()
    def loop(clip: list) -> list:
        """A frame at a time, at the clip's ends reflected."""
        frames = [
            torch.from_numpy(np.ascontiguousarray(f)).permute(2, 0, 1).to(device).float() / 255
            for f in clip
        ]
        frames = [*frames[reach:0:-1], *frames, *frames[-2 : -2 - reach : -1]]
        restored = []
        for i in range(len(clip)):
            out = plain(torch.stack(frames[i : i + plain.num_frames])[None])[0]
            out = out.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0)
            restored.append(out.cpu().numpy())
        return restored

    _way = loop


def restore(clip: list) -> list:
    return _way(clip)


def seconds_a_frame(clip: list) -> float:
    begin = time.perf_counter()
    _way(clip)
    return (time.perf_counter() - begin) / len(clip)


def measure_inference(args: argparse.Namespace) -> dict:
    """Frames per second and PSNR of each way to restore a clip."""
    import cv2
    import numpy as np
    import torch

    from dblrgan_mm.clips.frames import read_frame
    from dblrgan_mm.clips.sources import frame_paths
    from dblrgan_mm.inference.checkpoint import load_generator
    from dblrgan_mm.inference.deblurrer import fastest_dtype, find_device

    device = find_device(args.device)
    generator = load_generator(args.checkpoint)

    def read(folder: Path) -> list:
        if not folder.is_dir():
            raise LaunchError(f'no folder {folder}; give one with frames')
        try:
            return [read_frame(path) for path in frame_paths(folder)]
        except ValueError as error:
            raise LaunchError(str(error)) from error

    clip = read(args.blurry)
    sharp = read(args.sharp) if args.sharp else clip
    if [frame.shape for frame in clip] != [frame.shape for frame in sharp]:
        raise LaunchError(f'{args.sharp}: not as many frames, or not as large, as {args.blurry}')
    num_frames = generator.architecture['num_frames']
    least = num_frames // 2 + 1
    if min(len(clip), args.frames) < least:
        raise LaunchError(
            f'{args.blurry}: {len(clip)} frames and --frames {args.frames}: at least {least} are '
            'needed of each'
        )
    timed = clip[: args.frames]
    if args.size:
        timed = [cv2.resize(f, args.size, interpolation=cv2.INTER_CUBIC) for f in timed]

    dtypes = [
        str(dtype).removeprefix('torch.')
        for dtype in dict.fromkeys((torch.float32, fastest_dtype(device)))
    ]
    ways = {PLAIN: None, **{f'Deblurrer, {dtype}': dtype for dtype in dtypes}}
    with contextlib.ExitStack() as stack:
        # each in a process of its own: a Deblurrer's settings of threads and memory would help
        # the plain loop, too
        processes = {
            name: stack.enter_context(
                ProcessPoolExecutor(
                    1,
                    multiprocessing.get_context('spawn'),
                    choose_way,
                    (args.checkpoint, str(device), dtype),
                )
            )
            for name, dtype in ways.items()
        }
        restored = {name: process.submit(restore, clip).result()
                    for name, process in processes.items()}  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for process in processes.values():
            process.submit(restore, timed[:num_frames]).result()
        for _ in range(args.repeats):
            for name, process in processes.items():
                seconds[name].append(process.submit(seconds_a_frame, timed).result())
    expected = restored[PLAIN]
    largest = {
        name: max(int(np.abs(np.int16(a) - b).max()) for a, b in zip(out, expected, strict=True))
        for name, out in restored.items()
    }
    psnr = {}
    if args.sharp:
        restored['blurry'] = clip
        for name, out in restored.items():
            psnr[name] = statistics.mean(cv2.PSNR(a, b) for a, b in zip(out, sharp, strict=True))
    height, width = timed[0].shape[:2]
    return dict(
        checkpoint=Path(args.checkpoint).name,
        architecture=generator.architecture,
        machine=machine(),
        device=str(device) if device.type == 'cpu' else torch.cuda.get_device_name(device),
        width=width,
        height=height,
        frames=len(timed),
        scored=f'{len(clip)} frames {clip[0].shape[1]}x{clip[0].shape[0]}',
        seconds=seconds,
        largest_difference=largest,
        psnr=psnr,
    )


def print_inference(result: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    print(
        f'{result["frames"]} frames {result["width"]}x{result["height"]} on {result["device"]}, '
        f'medians; differences and PSNR over {result["scored"]}.'
    )
    table = Table()
    columns = ('', 's a frame', 'range', 'ratio', 'largest difference of 255', 'PSNR, dB')
    for name in columns:
        table.add_column(name, justify='right' if name else 'left')
    first = statistics.median(result['seconds'][PLAIN])
    for name, values in result['seconds'].items():
        middle = statistics.median(values)
        table.add_row(
            name,
            f'{middle:.3f}',
            f'{min(values):.3f} to {max(values):.3f}',
            f'{first / middle:.2f}',
            str(result['largest_difference'][name]),
            f'{result["psnr"][name]:.3f}' if result['psnr'] else '',
        )
    if result['psnr']:
        table.add_row('blurry', '', '', '', '', f'{result["psnr"]["blurry"]:.3f}')
    Console(width=110).print(table)
    print(result['machine'])


def print_loading(result: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    first = statistics.median(result['warm']['image files'])
    print(
        f'A sample: {result["num_frames"]} blurry and {result["sharp_frames"]} sharp frames of '
        f'{result["width"]}x{result["height"]}, cropped to {result["crop"]}. {result["pairs"]} '
        f'pairs, {result["workers"]} worker(s), medians of {len(result["warm"]["LMDB"])}.'
    )
    table = Table()
    columns = ('', 'samples/s', 'range', 'ratio', 'cold', 'GB')
    for name in columns:
        table.add_column(name, justify='right' if name else 'left')
    for name, values in result['warm'].items():
        middle = statistics.median(values)
        cold, size = result['cold'].get(name), result['gigabytes'].get(name)
        table.add_row(
            name,
            f'{middle:.1f}',
            f'{min(values):.1f} to {max(values):.1f}',
            f'{middle / first:.1f}',
            '' if cold is None else f'{statistics.median(cold):.1f}',
            '' if size is None else f'{size:.2f}',
        )
    Console().print(table)
    print(result['machine'])
    print('samples/s: frames in the page cache. cold: dropped from it before, each window once.')


if __name__ == '__main__':
    launch.run(main)
