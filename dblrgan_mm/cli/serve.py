"""Restore videos from a page in a browser: ``dblrgan-mm serve``.

The page is for this computer only: it has no password. Uploaded videos and results are kept in a
folder; after a restart, unfinished videos are resumed.
"""

import argparse
import ipaddress
import logging
import math
import socket
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from dblrgan_mm import files
from dblrgan_mm.errors import UserError

_LOCAL = ('127.0.0.1', 'localhost', '[::1]')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def amount(text: str) -> float:
        if not 0 < float(text) < math.inf:
            raise argparse.ArgumentTypeError(f'must be greater than 0, got {text}')
        return float(text)

    def port(text: str) -> int:
        if int(text) not in range(65536):
            raise argparse.ArgumentTypeError(f'must be at most 65535, got {text}')
        return int(text)

    add = parser.add_argument
    add('--folder', type=Path, default=Path('deblurred'),
        help='folder for uploaded videos and results (default: deblurred)')  # fmt: skip
    add('--port', type=port, default=8000, help='port; 0: any free one (default: 8000)')
    add('--host', default='127.0.0.1', help='address to serve on (default: 127.0.0.1)')
    add('--public', action='store_true',
        help='allow an address that other computers can reach; anybody there can upload and '
        'download videos, without a password')  # fmt: skip
    add('--max-size', type=amount, default=2.0, metavar='GB',
        help='size of the largest upload (default: 2)')  # fmt: skip
    add('--keep', type=amount, default=7.0, metavar='DAYS',
        help='days after which videos and results are removed (default: 7)')  # fmt: skip
    add('--checkpoint', type=Path, metavar='FILE', help='weights to choose from in addition')
    add('--device', default='auto', help='auto (default), cpu, cuda, cuda:1 ...')
    return parser.parse_args(argv)


def check_address(host: str, public: bool) -> bool:
    """Return whether an address is local; raises UserError if it is not and ``public`` is unset."""
    try:
        local = host == 'localhost' or ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        local = False
    if not (local or public):
        raise UserError(
            f'--host {host}: other computers could reach the page, and anybody there could upload '
            'and download videos without a password; use --public if you want this'
        )
    return local


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    local = check_address(args.host, args.public)
    missing = next((name for name in ('fastapi', 'uvicorn') if find_spec(name) is None), None)
    if missing:
        raise UserError(f"{missing} is missing; install it with: pip install 'dblrgan_mm[web]'")
    logging.basicConfig(format='%(message)s', level=logging.WARNING)
    import uvicorn

    from dblrgan_mm.devices import find_device, keep_freed_memory
    from dblrgan_mm.inference.deblurrer import DEFAULT, Deblurrer, released
    from dblrgan_mm.web.app import build_app
    from dblrgan_mm.web.jobs import Jobs

    def load(name: str, dtype: str) -> Deblurrer:
        if name not in weights:
            raise UserError(f'the weights {name} are not available; choose others')
        return Deblurrer.from_checkpoint(weights[name], args.device, dtype)

    if find_device(args.device).type == 'cpu':
        keep_freed_memory()
    weights = {DEFAULT: DEFAULT} | {name: name for name in released()}
    if args.checkpoint:
        Deblurrer.from_checkpoint(args.checkpoint, args.device)  # to fail early
        weights = {args.checkpoint.name: str(args.checkpoint)} | weights
    with files.sole_writer(args.folder), _bound(args.host, args.port) as listener:
        jobs = Jobs(args.folder, load, keep=86400 * args.keep)
        hosts = (*_LOCAL, args.host) if local else None
        app = build_app(jobs, list(weights), int(1e9 * args.max_size), hosts)
        if not local:
            print(
                f'warning: anybody who can reach {args.host} can upload and download videos',
                file=sys.stderr,
            )
        host = f'[{args.host}]' if ':' in args.host and '[' not in args.host else args.host
        print(f'Page: http://{host}:{listener.getsockname()[1]}  (Ctrl+C to stop)', flush=True)
        config = uvicorn.Config(app, log_level='warning', timeout_graceful_shutdown=3)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            jobs.close()


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; raises UserError."""
    try:
        family, *_, address = socket.getaddrinfo(host.strip('[]'), port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UserError(
            f'cannot serve on {host} port {port} ({error.strerror}); choose another --port or '
            '--host'
        ) from error
    return listener
