"""The same as ``dblrgan-mm convert``."""

from dblrgan_mm import launch
from dblrgan_mm.cli.convert import main

if __name__ == '__main__':
    launch.run(main)
