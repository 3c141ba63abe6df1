"""Time the loading of training data from image files, an LMDB and a clip store."""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.ways import training_config
from dblrgan_mm.errors import LaunchError
from dblrgan_mm.measuring import machine


def measure_loading(args: argparse.Namespace) -> dict:
    """Measure samples per second of each way of storing frames, warm and cold."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        return _measure(args, Path(folder))


def _measure(args: argparse.Namespace, folder: Path) -> dict:
    cfg = training_config(args.config, args.data_root)
    from dblrgan_mm import compat

    compat.apply()
    from mmengine.registry import init_default_scope

    import dblrgan_mm.datasets  # noqa: F401  (registers types)
    from dblrgan_mm.clips import clip_store, layouts

    init_default_scope('mmagic')
    source = cfg.train_dataloader.dataset
    if clip_store.is_store(Path(source.data_root)):
        raise LaunchError(
            f'{source.data_root} is a clip store; give the image files it was made from'
        )
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
    stored: dict[str, list] = {
        'image files': [path for clip in clips for path in (*clip.blurry, *(clip.sharp or ()))],
        'LMDB': lmdb,
        'clip store': sorted(store.rglob('*.npy')),
    }
    batch, workers = cfg.train_dataloader.batch_size, args.workers
    samples = [samples_of(paths[name], batch, workers, 8) for name in stored]
    if not samples[0] == samples[1] == samples[2]:
        raise LaunchError(
            'image files, LMDB and clip store yield different samples; nothing was measured'
        )
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
        **_speeds(paths, stored, batch, args),
        gigabytes={name: sum(os.path.getsize(f) for f in files) / 1e9
                   for name, files in stored.items()},
    )  # fmt: skip


def _speeds(
    paths: dict[str, Any], stored: dict[str, list], batch: int, args: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Measure samples per second of each data set, alternately, with the files cached or not."""
    warm: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(args.repeats):
        for name, dataset in paths.items():
            warm[name].append(speed(dataset, batch, args.workers, args.seconds))
    cold: dict[str, list[float]] = {name: [] for name in stored}
    for _ in range(args.repeats):
        for name, files in stored.items():
            drop_from_cache(files)
            cold[name].append(speed_of_pass(paths[name], batch, args.workers, args.seconds))
    return dict(warm=warm, cold=cold)


def build(source: Any, **changes: Any) -> Any:
    from mmagic.registry import DATASETS

    return DATASETS.build({**source, **changes})


def mmagic_pipeline(pipeline: list[dict]) -> list[dict]:
    """Replace this project's transforms in a pipeline by MMagic's own."""
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
    """Write a clip store of the training set."""
    from tqdm import tqdm

    from dblrgan_mm import files
    from dblrgan_mm.clips import clip_store

    folder.mkdir()
    files.require_space(folder, 2 * sum(map(clip_store.stored_bytes, clips)))  # store and LMDB
    index = clip_store.new_index(source.layout, dict(source.get('layout_args', {})))
    entries = {}
    for i, clip in enumerate(tqdm(clips, 'clip store', unit='clip')):
        file = f'{source.split}/{i}.npy'
        entries[clip.name] = dict(file=file, **clip_store.write_clip(clip, folder / file))
    index['splits'][source.split] = dict(complete=True, clips=entries)
    clip_store.write_index(folder, index)
    return folder


def repeat_entries(store: Path, folder: Path, count: int) -> Path:
    """Make a store whose index repeats the clips of another one, ``count`` clips in all."""
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
    """Return a unique LMDB key of a frame; MMagic's own keys drop the folders."""
    return '_'.join(Path(path).with_suffix('').parts[-4:])


def write_lmdb(folder: Path, source: Any, clips: list) -> tuple[list[Path], list[dict]]:
    """Write LMDBs of the blurry and of the sharp frames, as MMagic's converters do.

    Returns their files and a pipeline that reads them.
    """
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
                if image is None:
                    raise LaunchError(f'{frame} cannot be read')
                png = cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
                put.put(frame_key(frame).encode(), png.tobytes())
    pipeline = mmagic_pipeline(source.pipeline)
    for step in pipeline:
        if step['type'] == 'LoadImageFromFile':
            step['backend_args'] = dict(backend='lmdb', db_path=str(paths[step['key']]))
    return [path / 'data.mdb' for path in paths.values()], pipeline


def rename_frames(dataset: Any) -> Any:
    """Make a data set name its frames by their LMDB keys."""
    original = dataset.get_data_info

    def get_data_info(idx: int) -> dict:
        info = original(idx)
        for name in ('img_path', 'gt_path'):
            info[name] = [f'{frame_key(path)}.png' for path in info[name]]
        return info

    dataset.get_data_info = get_data_info
    return dataset


def batches(dataset: Any, batch_size: int, workers: int) -> Iterator[dict[str, Any]]:
    """Yield batches forever; windows, crops and augmentations are the same for each data set."""
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
    np.random.seed(worker)  # noqa: NPY002  (MMagic's transforms use it)


def samples_of(dataset: Any, batch_size: int, workers: int, count: int) -> list[list[int]]:
    """Return checksums of the tensors in each of the first ``count`` batches."""
    import zlib

    loader = batches(dataset, batch_size, max(workers, 1))
    sums = []
    for _ in range(count):
        batch = next(loader)
        tensors = [*batch['inputs'], *(sample.gt_img for sample in batch['data_samples'])]
        sums.append([zlib.crc32(tensor.numpy().tobytes()) for tensor in tensors])
    return sums


def speed(dataset: Any, batch_size: int, workers: int, seconds: float) -> float:
    """Return samples per second, once the workers run and their first batches are used up."""
    loader = batches(dataset, batch_size, workers)
    for _ in range(2 * workers + 1):
        next(loader)
    return rate(loader, batch_size, seconds)


def speed_of_pass(dataset: Any, batch_size: int, workers: int, seconds: float) -> float:
    """Return samples per second of one pass over all windows, from the second batch on."""
    loader = batches(dataset, batch_size, workers)
    next(loader)
    return rate(itertools.islice(loader, len(dataset) // batch_size - 1), batch_size, seconds)


def rate(loader: Iterator, batch_size: int, seconds: float) -> float:
    """Return samples per second of a loader, until it ends or the time is up."""
    start = now = time.perf_counter()
    count = 0
    for _ in loader:
        count += batch_size
        now = time.perf_counter()
        if now - start > seconds:
            break
    return count / (now - start)


def drop_from_cache(files: list) -> None:
    """Drop files from the page cache."""
    if not hasattr(os, 'posix_fadvise'):
        raise LaunchError('the page cache cannot be dropped on this system')
    os.sync()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
