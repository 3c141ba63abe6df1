"""The same as ``dblrgan-mm serve``."""

from dblrgan_mm import launch
from dblrgan_mm.cli.serve import main

if __name__ == '__main__':
    launch.run(main)
