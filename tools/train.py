"""The same as ``dblrgan-mm train``."""

from dblrgan_mm import launch
from dblrgan_mm.cli.train import main

if __name__ == '__main__':
    launch.run(main)
