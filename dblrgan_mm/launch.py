"""What the tools share: arguments, config, processes, errors.

Imports nothing heavy at the top, so that ``--help`` answers at once.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from dblrgan_mm.errors import LaunchError, UserError

PARENT = os.getppid()  # as early as can be known: it may die, as torchrun may

# (rank, world size, local rank) as each launcher tells them
_RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The options that MMagic users know, as far as training and testing share them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir',
        help='where checkpoints, logs and pictures go (default: work_dirs/<name of the config>)',
    )
    parser.add_argument(
        '--data-root', help="the data set's folder, or a clip store of it, in place of the config's"
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision; needs a GPU')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        default=[],
        metavar='KEY=VALUE',
        help='override settings, e.g. train_dataloader.batch_size=8; lists as "[a,b]"',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', *_RANK_VARIABLES],
        default='none',
        help='job launcher; without a GPU, or with env_cfg.dist_cfg.backend=gloo, the processes '
        'talk by gloo',
    )
    # torch.distributed.launch passes it; torchrun sets the environment variable
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def positive(text: str) -> int:
    """A whole number from 1 on, of a command line."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {text}')
    return int(text)


class KeyValue(argparse.Action):
    """Collects KEY=VALUE pairs into a dictionary."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for pair in values:
            if '=' not in pair:
                parser.error(f'{option_string} takes KEY=VALUE, got {pair!r}')
        setattr(namespace, self.dest, dict(pair.split('=', 1) for pair in values))


def layout_parser(description: str) -> argparse.ArgumentParser:
    """The options that the tools share which walk a whole data set."""
    from dblrgan_mm.clips.layouts import LAYOUTS

    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add('layout', metavar='LAYOUT', choices=LAYOUTS, help=f'one of {", ".join(LAYOUTS)}')
    add('root', metavar='ROOT', type=Path, help="the data set's folder")
    add('--split', nargs='+', metavar='NAME', help='its parts (default: all)')
    add('--layout-args', nargs='+', action=KeyValue, default={}, metavar='KEY=VALUE',
        help='arguments of the layout, e.g. blur=blur_gamma')  # fmt: skip
    add('--unpaired', action='store_true', help='look for no sharp frames')
    add('--workers', type=positive, default=os.cpu_count(), metavar='N',
        help='threads (default: one a processor)')  # fmt: skip
    return parser


def load_config(args: argparse.Namespace) -> Any:
    """The config file with the command line's overrides, as an ``mmengine.Config``.

    Raises:
        LaunchError: if the config is missing or an override does not fit it, the work dir cannot
            be written, ``--amp`` is asked for without a GPU, or the launcher's variables are
            missing.
    """
    require_config(args.config)

    # MMagic imports albumentations, which asks the network for a newer version of itself
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    from mmengine.config import Config, DictAction

    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    for option in args.cfg_options:
        try:
            cfg.merge_from_dict(_parse_option(option, DictAction))
        except (AssertionError, KeyError, TypeError) as error:
            raise LaunchError(f'--cfg-options {option} does not fit the config: {error}') from error
    if args.data_root:
        cfg.data_root = args.data_root  # for the log
        for part in ('train', 'val', 'test'):
            _set_data_root(cfg.get(f'{part}_dataloader'), args.data_root)
        _set_data_root(cfg.get('model'), args.data_root)  # clips that are kept on the device
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', Path(args.config).stem)
    _require_writable(cfg.work_dir)

    if cfg.get('randomness', {}).get('deterministic'):
        # CUDA's matrix products refuse to be deterministic without it
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

    import torch

    if args.amp and not torch.cuda.is_available():
        raise LaunchError(
            '--amp needs a GPU, and torch sees none; leave --amp out to run in float32'
        )
    if args.launcher != 'none':
        if args.launcher == 'pytorch':
            os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
        _require_launcher(args.launcher)
        # MMEngine's model wrapper reads it under every launcher
        os.environ.setdefault('LOCAL_RANK', os.environ[_RANK_VARIABLES[args.launcher][2]])
        group = cfg.get('env_cfg', {}).get('dist_cfg', {})
        if not torch.cuda.is_available() or group.get('backend') == 'gloo':
            _init_gloo(args.launcher, group.get('timeout'))
            if torch.cuda.is_available():  # processes may share a GPU, which NCCL refuses
                torch.cuda.set_device(int(os.environ['LOCAL_RANK']) % torch.cuda.device_count())
            # MMEngine would hand the wrapper the number of a GPU
            wrapper = cfg.get('model_wrapper_cfg') or dict(
                type='MMDistributedDataParallel', broadcast_buffers=False
            )
            # looking for unused parameters, DDP sums gradients in the same order in the first
            # iteration of a process as in the others, so that a resumed run is an exact one
            cfg.model_wrapper_cfg = dict(wrapper, device_ids=None, find_unused_parameters=True)
    return cfg


def require_config(path: str) -> None:
    """Raise :class:`LaunchError` where there is no such file."""
    if not Path(path).is_file():
        raise LaunchError(f'no config file {path}. The configs are in configs/.')


def _set_data_root(part: Any, data_root: str) -> None:
    """Set data_root in a part of the config, also where data sets wrap each other."""
    if isinstance(part, dict):
        if 'data_root' in part:
            part['data_root'] = data_root
        part = part.values()
    elif not isinstance(part, (list, tuple)):
        return
    for inner in part:
        _set_data_root(inner, data_root)


def _parse_option(option: str, action: Any) -> dict:
    """A KEY=VALUE pair, the value read as MMEngine's ``DictAction`` reads it."""
    if '=' not in option:
        raise LaunchError(f'--cfg-options takes KEY=VALUE, got {option!r}')
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument('--cfg-options', nargs='+', action=action)
    return parser.parse_args(['--cfg-options', option]).cfg_options


def _require_writable(work_dir: str) -> None:
    try:
        os.makedirs(work_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir):
            pass
    except OSError as error:
        raise LaunchError(
            f'cannot write to the work dir {os.path.abspath(work_dir)} ({error.strerror}); '
            'choose another with --work-dir'
        ) from error


def _require_launcher(launcher: str) -> None:
    missing = [name for name in _RANK_VARIABLES[launcher] if name not in os.environ]
    if missing:
        raise LaunchError(
            f'--launcher {launcher} finds no {missing[0]} in the environment; '
            'start the command by tools/dist_train.sh, tools/dist_test.sh or tools/slurm_*.sh'
        )
    # torchrun sets it, and MMEngine asks Slurm for it, but only on machines with GPUs
    nodes = int(os.environ.get('SLURM_NNODES', '1'))
    if 'MASTER_ADDR' not in os.environ and (launcher == 'mpi' or nodes > 1):
        raise LaunchError(
            f'--launcher {launcher} needs MASTER_ADDR in the environment: '
            'the address of the machine of rank 0'
        )


def _init_gloo(launcher: str, timeout: float | None = None) -> None:
    """Start the process group on a machine without GPUs.

    MMEngine's launchers call ``torch.cuda.set_device`` and fail there; they leave a process
    group alone that exists already.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        return
    rank, world_size, local_rank = (os.environ[name] for name in _RANK_VARIABLES[launcher])
    os.environ.update(RANK=rank, WORLD_SIZE=world_size, LOCAL_RANK=local_rank)
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
    dist.init_process_group('gloo', timeout=timedelta(seconds=timeout) if timeout else None)


def build_runner(cfg: Any) -> Any:
    """The ``mmengine.Runner`` of a config; its log names the patches that MMagic needed."""
    from mmengine.runner import Runner

    from dblrgan_mm import compat

    runner = Runner.from_cfg(cfg)
    runner.logger.info(f'Patches for MMagic: {", ".join(compat.apply()) or "none needed"}')
    return runner


def check_checkpoint(path: str) -> None:
    """Raise :class:`UserError` unless ``path`` is a whole file that torch loads without running
    code."""
    if path.startswith(('http://', 'https://')):
        raise LaunchError(f'{path} is an address: download the checkpoint and give the file')
    from dblrgan_mm.inference.checkpoint import read_content

    read_content(Path(path))


def newest_checkpoint(work_dir: str) -> str | None:
    """The newest whole checkpoint of a training; None where there is none yet.

    That is the one that ``last_checkpoint`` names, or without that file the one of the highest
    iteration. Where it is damaged or missing, a line on stderr says so, and the one before it is
    taken.

    Raises:
        UserError: the newest one would run code, or none of them is whole.
    """
    folder = Path(work_dir)
    note = folder / 'last_checkpoint'
    named = note.read_text(encoding='utf-8').strip() if note.is_file() else ''
    newest = Path(named) if os.path.isfile(named) else folder / Path(named).name  # it was moved

    def iteration(path: Path) -> int:
        found = re.fullmatch(r'iter_(\d+)\.pth', path.name)
        return int(found[1]) if found else -1

    candidates = sorted(newest.parent.glob('iter_*.pth') if named else folder.glob('iter_*.pth'),
                        key=iteration, reverse=True)  # fmt: skip
    if named:
        older = [path for path in candidates if 0 <= iteration(path) < iteration(newest)]
        candidates = [newest, *older]
    for path in candidates:
        try:
            check_checkpoint(str(path))
        except UserError as error:
            if path == candidates[-1] or 'run code' in str(error):
                raise
            print(f'warning: {error}. The one before it is taken', file=sys.stderr)
        else:
            return str(path)
    return None


def run(main: Callable[[], None]) -> None:
    """Run a command; what its user can mend ends it with one line on stderr and exit code 1.

    Ctrl-C ends it with exit code 130, a closed stdout (``| head``) with 1.
    """
    try:
        main()
        _leave_group()
        sys.stdout.flush()
    except BrokenPipeError:
        # the interpreter would flush again, and fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        message = _user_message(error)
        if message is None:
            raise
        print(f'error: {message}', file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print('stopped', file=sys.stderr)
        sys.exit(130)


def _leave_group() -> None:
    """End the process group: a process that exits inside of one may abort in gloo's threads."""
    dist = sys.modules.get('torch.distributed')
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _user_message(error: BaseException) -> str | None:
    """The message of the error of ours that the chain began with; None where there is none."""
    chain: BaseException | None = error
    found = None
    while chain is not None:
        if isinstance(chain, UserError):
            found = chain
        chain = chain.__cause__ or chain.__context__
    if found is None:
        return None
    # a data loader's worker hands over its whole traceback as the message
    message = str(found).rsplit(f'{type(found).__name__}: ', 1)[-1]
    return ' '.join(message.split('\n')).strip()
