"""Run each way of doing a task in its own process, so that they can be measured alternately."""

import argparse
import contextlib
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from dblrgan_mm import launch
from dblrgan_mm.devices import fastest_dtype
from dblrgan_mm.errors import LaunchError
from dblrgan_mm.resources import find_config


@contextlib.contextmanager
def processes(
    ways: dict[str, tuple], prepare: Callable[..., None]
) -> Iterator[dict[str, ProcessPoolExecutor]]:
    """Start one process per way and call ``prepare`` in it with the way's arguments.

    Separate processes keep the thread and memory settings of one way from affecting the others.
    """
    context = multiprocessing.get_context('spawn')
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(ProcessPoolExecutor(1, context)) for name in ways}
        for name, process in running.items():
            process.submit(prepare, *ways[name]).result()
        yield running


def named(configs: Sequence[str]) -> dict[str, str]:
    """Return configs by their file names; raises LaunchError if two have the same name."""
    found = {Path(config).stem: find_config(config) for config in configs}
    if len(found) < len(configs):
        raise LaunchError(f'{" ".join(configs)}: two configs have the same file name; rename one')
    return found


def training_config(config: str, data_root: str | None, options: Sequence[str] = ()) -> Any:
    """Load a config with the command line's changes; raises LaunchError if it cannot train."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = launch.read_config(
            argparse.Namespace(
                config=config, dataset=None, data_root=data_root, cfg_options=options,
                work_dir=folder,
            )
        )  # fmt: skip
    if cfg.get('train_cfg') is None:
        raise LaunchError(f'{config} is for tests only: it has no training')
    return cfg


def dtypes_of(device: torch.device) -> list[str]:
    """Return float32 and the fastest dtype of a device, if they differ."""
    found = dict.fromkeys((torch.float32, fastest_dtype(device)))
    return [str(dtype).removeprefix('torch.') for dtype in found]
