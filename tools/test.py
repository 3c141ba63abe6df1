"""The same as ``dblrgan-mm test``."""

from dblrgan_mm import launch
from dblrgan_mm.cli.test import main

if __name__ == '__main__':
    launch.run(main)
