"""SIGTERM: end a training run on all processes at the same iteration."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch.utils.data import DataLoader

from dblrgan_mm import PARENT
from dblrgan_mm.engine.processes import any_process


class Termination:
    """A context manager that records SIGTERM instead of ending the process.

    Slurm and torchrun also send SIGTERM to the data loader workers. If these ended at once, the
    run would fail before the checkpoint is written, so they stay alive for 30 seconds. On exit
    they are shut down, because otherwise Python would wait for them when it ends.
    """

    def __init__(self, loaders: list[DataLoader]) -> None:
        self.received = False
        self.iterators: list[Any] = []
        self._loaders = loaders
        self._main = threading.current_thread() is threading.main_thread()
        self._world_size = get_world_size()

    def __enter__(self) -> 'Termination':
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._on_sigterm)
        for loader in self._loaders:
            loader.worker_init_fn = _OutliveTermination(loader.worker_init_fn)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
        for iterator in (*self.iterators, *(loader._iterator for loader in self._loaders)):
            if hasattr(iterator, '_shutdown_workers'):  # only with worker processes
                iterator._shutdown_workers()
        for loader in self._loaders:
            loader._iterator = None

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def agreed(self, count: int) -> bool:
        """Return whether any process received SIGTERM; the answer is the same on all processes.

        Args:
            count: number of optimiser steps so far. With several GPUs, only every tenth step asks
                the other processes.

        Raises:
            RuntimeError: torchrun has ended without ending this process.
        """
        if os.getppid() != PARENT and 'TORCHELASTIC_RUN_ID' in os.environ:
            raise RuntimeError(
                'torchrun has ended; stopping, so that this process does not write into the work '
                'dir of a new run'
            )
        if torch.cuda.is_available() and self._world_size > 1 and count % 10:
            return False  # asking the other processes would wait for the GPU
        return any_process(self.received)


class _OutliveTermination:
    """Initialises a data loader worker so that SIGTERM ends it only after 30 seconds."""

    def __init__(self, first: Callable[[int], None] | None) -> None:
        self._first = first

    def __call__(self, worker: int) -> None:
        if self._first is not None:
            self._first(worker)
        # replaces torch's handler, which ends the worker at once
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(30))
