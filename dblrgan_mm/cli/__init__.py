"""The command ``dblrgan-mm``: one module per subcommand, imported when it is used."""

import importlib
import sys

import dblrgan_mm
from dblrgan_mm import launch
from dblrgan_mm.errors import UserError

COMMANDS = {
    'deblur': 'restore blurry videos, folders of images, or images',
    'serve': 'restore videos from a page in a browser',
    'train': 'train a model from a config',
    'test': 'score a checkpoint on a test set',
    'compare': 'compare several restorers by the same scores',
    'check': 'check every frame of a data set or clip store',
    'convert': 'convert a data set into a clip store',
    'synthesize': 'make blurry-sharp pairs from sharp videos',
    'publish': 'extract the generator from a checkpoint',
    'export': 'export a generator to ONNX',
}


def main() -> None:
    """Run ``dblrgan-mm COMMAND ...``."""
    launch.run(_main)


def _main() -> None:
    command, *arguments = sys.argv[1:] or ['--help']
    if command in ('-h', '--help'):
        print('usage: dblrgan-mm COMMAND ...\n\nVideo deblurring. Commands:\n')
        for name, what in COMMANDS.items():
            print(f'  {name:<12}{what}')
        print('\ndblrgan-mm COMMAND --help describes a command.')
        return
    if command == '--version':
        print(dblrgan_mm.__version__)
        return
    if command not in COMMANDS:
        raise UserError(f'no command {command!r}; the commands are {", ".join(COMMANDS)}')
    sys.argv = [f'dblrgan-mm {command}', *arguments]
    importlib.import_module(f'dblrgan_mm.cli.{command}').main()
