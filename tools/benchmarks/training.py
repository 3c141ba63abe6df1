"""Time training: the step, its share of the machine's limit, and the waits for data."""

import argparse
import time
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.ways import dtypes_of, named, processes, training_config
from dblrgan_mm import compat, measuring
from dblrgan_mm.devices import find_device

_training: 'Training'  # set per process


class Training:
    """A config's model, optimisers and data, ready to step.

    A step of a GAN trains both the generator and the discriminator.

    Args:
        config: config file.
        options: ``data_root``, ``cfg_options`` and ``device`` of the command line.
        dtype: 'float32'; 'bfloat16' or 'float16' for mixed precision; or 'plain': float32 with
            weights in torch's default layout, an optimiser that steps weight by weight, and no
            TF32.
    """

    def __init__(self, config: str, options: argparse.Namespace, dtype: str) -> None:
        self.device = find_device(options.device)
        if self.device.type == 'cuda':
            torch.cuda.set_device(self.device)
        cfg = training_config(config, options.data_root, options.cfg_options)
        compat.apply()
        from mmagic.registry import MODELS
        from mmengine.optim import build_optim_wrapper
        from mmengine.registry import init_default_scope
        from mmengine.runner import Runner

        import dblrgan_mm.datasets
        import dblrgan_mm.engine
        import dblrgan_mm.models  # noqa: F401

        init_default_scope('mmagic')
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.gen_init_steps = model.disc_init_steps = 0
        wrappers = cfg.optim_wrapper
        players: list[Any] = [
            w for w in (wrappers, *wrappers.values()) if isinstance(w, dict) and 'optimizer' in w
        ]
        if dtype == 'plain':
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
            model.to(memory_format=torch.contiguous_format)
            for player in players:
                player.optimizer.foreach = False
        elif dtype != 'float32':
            for player in players:
                player.update(type='GuardedAmpOptimWrapper', dtype=dtype)
        self.model = model.to(self.device).train()
        self.optimisers = build_optim_wrapper(self.model, wrappers)
        loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
        loader.batch_sampler.sampler.start(0, 0)
        self.ahead = loader.num_workers * (loader.prefetch_factor or 0)  # prefetched batches
        self.loaded = iter(loader)
        self.batch = next(self.loaded)

    def step(self, batch: dict | None = None) -> None:
        log = self.model.train_step(batch or self.batch, self.optimisers)
        for value in log.values():
            value.item()  # waits for the device, as MMEngine's logging does


def choose(config: str, options: argparse.Namespace, dtype: str) -> None:
    """Prepare this process to train a config, and warm up with one step."""
    global _training
    _training = Training(config, options, dtype)
    _training.step()


def seconds_a_step(steps: int) -> float:
    def work() -> None:
        for _ in range(steps):
            _training.step()

    return measuring.seconds(work, _training.device) / steps


def describe() -> dict[str, Any]:
    """Return a step's windows, multiply-accumulates, peak memory and trained parameters."""
    memory = measuring.PeakMemory(_training.device)
    _training.step()
    taken = memory.bytes()
    with measuring.flop_counter() as counter:
        _training.step()
    inputs = _training.model.data_preprocessor(_training.batch, True)['inputs']
    return dict(
        windows=len(inputs),
        crop=list(inputs[0].shape[-2:]),
        macs=counter.get_total_flops() // 2,
        memory=taken,
        parameters=sum(p.numel() for p in _training.model.parameters() if p.requires_grad),
    )


def share_of_waiting(steps: int) -> float:
    """Return the share of time that training waits for data, which are loaded in the background."""
    for _ in range(_training.ahead):
        next(_training.loaded)
    waited, begin = 0.0, time.perf_counter()
    for _ in range(steps):
        before = time.perf_counter()
        batch = next(_training.loaded)
        waited += time.perf_counter() - before
        _training.step(batch)
        measuring.wait_for(_training.device)
    return waited / (time.perf_counter() - begin)


def profile() -> dict[str, float]:
    return measuring.seconds_by_operation(_training.step, _training.device)


def ceiling(dtype: str) -> float:
    kind = getattr(torch, 'float32' if dtype == 'plain' else dtype)
    return measuring.matrix_product_ceiling(_training.device, kind)


def measure_training(args: argparse.Namespace) -> dict:
    """Measure seconds per step of each config; of the first one also without optimisations."""
    device = find_device(args.device)
    dtypes = dtypes_of(device)
    configs = named(args.config)
    for config in configs.values():
        training_config(config, args.data_root, args.cfg_options)  # report a bad config early
    ways = {
        f'{name}, {dtype}': (config, args, dtype)
        for i, (name, config) in enumerate(configs.items())
        for dtype in (['plain'] if i == 0 else []) + dtypes
    }
    with processes(ways, choose) as running:
        about = {name: p.submit(describe).result() for name, p in running.items()}
        seconds: dict[str, list[float]] = {name: [] for name in running}
        limits: dict[str, list[float]] = {name: [] for name in running}
        for _ in tqdm(range(args.repeats), unit='round'):
            for name, process in running.items():
                limits[name].append(process.submit(ceiling, ways[name][2]).result())
                seconds[name].append(process.submit(seconds_a_step, args.steps).result())
        profiles = {name: process.submit(profile).result() for name, process in running.items()}
        waiting = {
            name: process.submit(share_of_waiting, 2 * args.steps).result()
            for name, process in running.items()
        }
    return dict(
        machine=measuring.machine(),
        device=str(device),
        about=about,
        seconds=seconds,
        ceilings=limits,
        waiting=waiting,
        profiles=profiles,
    )
