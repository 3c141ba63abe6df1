"""The same as ``dblrgan-mm check``."""

from dblrgan_mm import launch
from dblrgan_mm.cli.check import main

if __name__ == '__main__':
    launch.run(main)
