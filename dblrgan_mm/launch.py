"""Code shared by the tools: arguments, config, processes, errors.

Heavy imports are not at the top, so that ``--help`` answers at once.
"""

import argparse
import inspect
import os
import re
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dblrgan_mm import files
from dblrgan_mm.errors import LaunchError, UnsafeCheckpointError, UserError
from dblrgan_mm.resources import PACKAGE, ROOT, find_config, locate, read_config_file

DATASETS = ('bsd', 'dvd', 'gopro', 'kitti', 'own', 'reds', 'sample')

_PLACE = ('layout', 'layout_args', 'data_root', 'split')  # where a data set is
# what MMEngine needs to be None if there is no training
_TRAINING = (
    'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler',
    'val_dataloader', 'val_cfg', 'val_evaluator',
)  # fmt: skip

# names of the variables in which each launcher sets rank, world size and local rank
_RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with MMagic's usual options that training and testing share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        'config', help='config file, or name of a config of the package, e.g. dblrgan_gopro'
    )
    parser.add_argument(
        '--work-dir',
        help='folder for checkpoints, logs and pictures (default: work_dirs/<name of the config>, '
        'followed by the name given to --dataset)',
    )
    parser.add_argument(
        '--data-root', help='folder of the data set, or of a clip store of it; overrides the config'
    )
    parser.add_argument(
        '--dataset',
        metavar='NAME',
        help=f"replaces the config's data set: {', '.join(DATASETS)}, or a config file of your own",
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
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
        'communicate with gloo',
    )
    # torch.distributed.launch passes it; torchrun sets the environment variable
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def positive(text: str) -> int:
    """Parse a positive integer of the command line."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {text}')
    return int(text)


def require_target(target: Path, suffix: str) -> None:
    """Raise :class:`UserError` unless a file to write has the suffix and its folder exists."""
    if target.suffix != suffix:
        raise UserError(f'{target}: must end with {suffix}')
    files.require_folder(target.parent, target)


def require_mmagic() -> None:
    """Raise :class:`LaunchError` if a package of MMagic's stack is not installed."""
    missing = [name for name in ('mmcv', 'mmengine', 'mmagic') if find_spec(name) is None]
    if missing:
        raise LaunchError(
            f'this command needs {", ".join(missing)}: run pip install "dblrgan_mm[lite]", or '
            '"dblrgan_mm[mmagic]" if a compiled mmcv is installed'
        )


class KeyValue(argparse.Action):
    """Collects KEY=VALUE pairs into a dictionary."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for pair in values:
            if '=' not in pair:
                parser.error(f'{option_string} takes KEY=VALUE, got {pair!r}')
        setattr(namespace, self.dest, dict(pair.split('=', 1) for pair in values))


def layout_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options shared by the tools that process a complete data set."""
    from dblrgan_mm.clips.layouts import LAYOUTS

    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add('layout', metavar='LAYOUT', choices=LAYOUTS, help=f'one of {", ".join(LAYOUTS)}')
    add('root', metavar='ROOT', type=Path, help='folder of the data set')
    add('--split', nargs='+', metavar='NAME', help='splits to process (default: all)')
    add('--layout-args', nargs='+', action=KeyValue, default={}, metavar='KEY=VALUE',
        help='arguments of the layout, e.g. blur=blur_gamma')  # fmt: skip
    add('--unpaired', action='store_true', help='do not look for sharp frames')
    add('--workers', type=positive, default=os.cpu_count(), metavar='N',
        help='number of threads (default: one per processor)')  # fmt: skip
    return parser


def load_config(args: argparse.Namespace) -> Any:
    """Load the config file, and prepare this process for it."""
    cfg = read_config(args)
    prepare_process(cfg, args)
    return cfg


def read_config(args: argparse.Namespace) -> Any:
    """Read the config file with the command line's overrides, as an ``mmengine.Config``.

    Raises:
        LaunchError: if the config or MMagic is missing, an override does not fit the config, or
            the work dir cannot be written to.
    """
    args.config = find_config(args.config)
    require_mmagic()

    # MMagic imports albumentations, which looks for a newer version of itself online
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    from mmengine.config import DictAction

    cfg = read_config_file(args.config)
    if args.dataset:
        use_dataset(cfg, args.dataset)
    for option in args.cfg_options:
        try:
            cfg.merge_from_dict(_parse_option(option, DictAction))
        except (AssertionError, KeyError, TypeError) as error:
            raise LaunchError(f'--cfg-options {option} does not fit the config: {error}') from error
        _warn_if_ineffective(option)
    for part in ('train', 'val', 'test'):
        loaders = cfg.get(f'{part}_dataloader')
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            if loader and not loader.get('num_workers'):
                for name in ('persistent_workers', 'prefetch_factor'):  # torch refuses them
                    loader.pop(name, None)
    if args.data_root:
        cfg.data_root = args.data_root  # for the log
        for part in ('train', 'val', 'test'):
            _update_datasets(cfg.get(f'{part}_dataloader'), data_root=args.data_root)
        _update_datasets(cfg.get('model'), data_root=args.data_root)  # clips kept on the device
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        name = Path(args.config).stem + (f'_{Path(args.dataset).stem}' if args.dataset else '')
        cfg.work_dir = os.path.join('work_dirs', name)
    _require_writable(cfg.work_dir)
    return cfg


def prepare_process(cfg: Any, args: argparse.Namespace) -> None:
    """Set the environment of a run, and join its process group if it uses gloo.

    It does on a machine without GPUs, or if the config says so.

    Raises:
        LaunchError: if ``--amp`` is given and the device has no 16-bit type, or the launcher's
            environment variables are missing.
    """
    cfg.launcher = args.launcher
    if cfg.get('randomness', {}).get('deterministic'):
        # without it, CUDA's matrix products raise an error in deterministic mode
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

    import torch

    from dblrgan_mm.devices import find_device, half_dtype

    if args.amp and half_dtype(find_device('auto')) is None:
        raise LaunchError(
            '--amp needs a GPU (compute capability 7.0 or later) or a CPU with instructions for '
            'bfloat16 (AVX-512 BF16 or AMX); leave --amp out to run in float32'
        )
    if args.launcher != 'none':
        if args.launcher == 'pytorch':
            os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
        _require_launcher(args.launcher)
        # MMEngine's model wrapper reads this variable with every launcher
        os.environ.setdefault('LOCAL_RANK', os.environ[_RANK_VARIABLES[args.launcher][2]])
        group = cfg.get('env_cfg', {}).get('dist_cfg', {})
        if not torch.cuda.is_available() or group.get('backend') == 'gloo':
            _init_gloo(args.launcher, group.get('timeout'))
            if torch.cuda.is_available():  # with gloo, processes may share a GPU; NCCL refuses it
                torch.cuda.set_device(int(os.environ['LOCAL_RANK']) % torch.cuda.device_count())
            # MMEngine would pass a GPU index to the wrapper
            wrapper = cfg.get('model_wrapper_cfg') or dict(
                type='MMDistributedDataParallel', broadcast_buffers=False
            )
            # with find_unused_parameters, DDP sums gradients in the same order in the first
            # iteration of a process as in the later ones, which makes a resumed run exact
            cfg.model_wrapper_cfg = dict(wrapper, device_ids=None, find_unused_parameters=True)


def use_dataset(cfg: Any, name: str) -> None:
    """Make a config read another data set: its layout, folder and splits.

    Args:
        cfg: an ``mmengine.Config``, changed in place. If the data set is for tests only, as Blurred
            KITTI, training and validation are removed from the config.
        name: one of ``DATASETS``, or a config file like those in ``configs/_base_/datasets``.

    Raises:
        LaunchError: if there is no such data set or file, or the file has no test data.
    """
    path = Path(name)
    if name in DATASETS:
        path = ROOT / 'configs' / '_base_' / 'datasets' / f'{name}.py'
    if not path.is_file():
        raise LaunchError(f'--dataset {name}: no such file, and not one of {", ".join(DATASETS)}')
    source = read_config_file(path)
    if source.get('test_dataloader') is None:
        raise LaunchError(f'--dataset {name}: has no test_dataloader')
    for part in ('train', 'val', 'test'):
        loader = source.get(f'{part}_dataloader')
        if loader is not None:
            place = {key: loader.dataset.get(key) for key in _PLACE}
            _update_datasets(cfg.get(f'{part}_dataloader'), **place)
            if part == 'train':
                _update_datasets(cfg.get('model'), **place)  # clips kept on the device
    if source.get('train_dataloader') is None:  # for tests only
        for key in _TRAINING:
            cfg[key] = None


def _update_datasets(part: Any, **values: Any) -> None:
    """Set values in the data sets of a part of the config, including nested data sets."""
    if isinstance(part, dict):
        if 'data_root' in part:
            part.update(values)
        part = part.values()
    elif not isinstance(part, (list, tuple)):
        return
    for inner in part:
        _update_datasets(inner, **values)


def _warn_if_ineffective(option: str) -> None:
    """Warn about an option whose first name MMEngine's runner does not read.

    Most of these are variables of a config file, such as ``batch_size``. They have done their work
    when the options are applied.
    """
    from mmengine.runner import Runner

    name = option.partition('=')[0].partition('.')[0]
    # the runner reads these from its config
    others = ('model_wrapper_cfg', 'sync_bn', 'find_unused_parameters', 'compile',
              'efficient_conv_bn_eval', 'activation_checkpointing')  # fmt: skip
    if name not in (*inspect.signature(Runner.__init__).parameters, *others):
        print(
            f'warning: --cfg-options {option} has probably no effect: the runner does not read '
            f'{name}. Set the entry itself, e.g. train_dataloader.batch_size=8',
            file=sys.stderr,
        )


def _parse_option(option: str, action: Any) -> dict:
    """Parse a KEY=VALUE pair; the value is read as by MMEngine's ``DictAction``."""
    if '=' not in option:
        raise LaunchError(f'--cfg-options takes KEY=VALUE, got {option!r}')
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument('--cfg-options', nargs='+', action=action)
    return parser.parse_args(['--cfg-options', option]).cfg_options


def _require_writable(work_dir: str) -> None:
    inside = Path(work_dir).resolve()
    if inside.is_relative_to(PACKAGE.resolve()):
        raise LaunchError(
            f'the work dir {inside} is inside the installed package, which an update deletes; '
            'choose another with --work-dir'
        )
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
            f'--launcher {launcher} needs {missing[0]} in the environment; '
            f'start the command with {locate("tools/dist_train.sh")}, dist_test.sh or slurm_*.sh'
        )
    # torchrun sets MASTER_ADDR; MMEngine asks Slurm for it, but only on machines with GPUs
    nodes = int(os.environ.get('SLURM_NNODES', '1'))
    if 'MASTER_ADDR' not in os.environ and (launcher == 'mpi' or nodes > 1):
        raise LaunchError(
            f'--launcher {launcher} needs MASTER_ADDR in the environment: '
            'the address of the machine of rank 0'
        )


def is_first_process(launcher: str) -> bool:
    """Return whether this process has rank 0, even before there is a process group."""
    return launcher == 'none' or int(os.environ[_RANK_VARIABLES[launcher][0]]) == 0


def _init_gloo(launcher: str, timeout: float | None = None) -> None:
    """Start a process group with the gloo backend.

    MMEngine's launchers call ``torch.cuda.set_device``, which fails without GPUs. They do not
    change an existing process group.
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
    """Build the ``mmengine.Runner`` of a config, and log the patches that MMagic needed."""
    from mmengine.runner import Runner

    from dblrgan_mm import compat

    runner = Runner.from_cfg(cfg)
    runner.logger.info(f'Patches for MMagic: {", ".join(compat.apply()) or "none needed"}')
    return runner


def find_checkpoint(name: str) -> str:
    """Return the path of a checkpoint, given as a path or as the name of the package's weights.

    Raises:
        UserError: unless it is an intact checkpoint that loads without running code.
    """
    if name.startswith(('http://', 'https://')):
        raise LaunchError(f'{name} is a URL: download the checkpoint and give the path of the file')
    from dblrgan_mm.inference.checkpoint import read_content
    from dblrgan_mm.inference.deblurrer import find_weights

    path = find_weights(name)
    read_content(path)
    return str(path)


def newest_checkpoint(work_dir: str) -> str | None:
    """Return the newest intact checkpoint of a training, or None if there is none yet.

    This is the checkpoint named in ``last_checkpoint`` or, without that file, the one with the
    highest iteration. If it is damaged or missing, a warning is printed on stderr and the
    checkpoint before it is used.

    Raises:
        UserError: if none is intact, or if a checkpoint newer than the newest intact one would run
            code.
    """
    folder = Path(work_dir)
    note = folder / 'last_checkpoint'
    named = note.read_text(encoding='utf-8').strip() if note.is_file() else ''
    # the work dir may have been moved
    newest = Path(named) if os.path.isfile(named) else folder / Path(named).name

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
            find_checkpoint(str(path))
        except UserError as error:
            if path == candidates[-1] or isinstance(error, UnsafeCheckpointError):
                raise
            print(f'warning: {error}. Using the checkpoint before it', file=sys.stderr)
        else:
            return str(path)
    return None


def run(main: Callable[[], None]) -> None:
    """Run a command; an error that the user can fix gives one line on stderr and exit code 1.

    Ctrl-C gives exit code 130, a closed stdout (``| head``) exit code 1.
    """
    try:
        main()
        _leave_group()
        sys.stdout.flush()
    except BrokenPipeError:
        # otherwise the interpreter would flush stdout at exit and fail again
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
    """End the process group: a process that exits without this may abort in gloo's threads."""
    dist = sys.modules.get('torch.distributed')
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _user_message(error: BaseException) -> str | None:
    """Return the message of a :class:`UserError`, or of the last one that caused the error.

    Return None if there is none. An error that was raised while a ``UserError`` was handled, and
    not from it, is a bug.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, UserError):
        found = found.__cause__
    if found is None:
        return None
    # an error from a data loader worker has its complete traceback as the message
    message = str(found).rsplit(f'{type(found).__name__}: ', 1)[-1]
    return ' '.join(message.split('\n')).strip()
