"""Train a model from a config: ``dblrgan-mm train dblrgan_gopro``."""

import argparse
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dblrgan_mm import launch
from dblrgan_mm.errors import LaunchError
from dblrgan_mm.files import sole_writer


def main() -> None:
    parser = launch.argument_parser(__doc__)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from a checkpoint (default: the newest one in the work dir)',
    )
    args = parser.parse_args()
    cfg = launch.load_config(args)
    if cfg.get('train_cfg') is None:
        raise LaunchError(f'{args.dataset or args.config} is for tests only: it has no training')

    # one run per work dir: a process that outlived its launcher would corrupt the files
    first = launch.is_first_process(args.launcher)
    with sole_writer(Path(cfg.work_dir)) if first else nullcontext():
        train(cfg, args)


def train(cfg: Any, args: argparse.Namespace) -> None:
    """Train as the config and the command line say."""
    if args.amp:
        from dblrgan_mm.devices import find_device, half_dtype

        dtype = str(half_dtype(find_device('auto'))).removeprefix('torch.')
        wrappers = cfg.optim_wrapper
        for wrapper in [wrappers] if 'optimizer' in wrappers else wrappers.values():
            if isinstance(wrapper, dict):
                wrapper.update(type='GuardedAmpOptimWrapper', dtype=dtype)
    if int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)):
        args.resume = 'auto'  # after a restart by torchrun, a checkpoint given is outdated
    if args.resume:
        # MMEngine would resume from the config's load_from, which is for the first start only
        newest = launch.newest_checkpoint(cfg.work_dir) if args.resume == 'auto' else args.resume
        if newest is not None:
            cfg.load_from, cfg.resume = newest, True
    if cfg.get('load_from'):
        cfg.load_from = launch.find_checkpoint(cfg.load_from)

    runner = launch.build_runner(cfg)
    runner.train()
    runner.logger.info(f'Checkpoints, curves.png and logs: {cfg.work_dir}')
