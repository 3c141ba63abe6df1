"""The same as ``dblrgan-mm compare``."""

from dblrgan_mm import launch
from dblrgan_mm.cli.compare import main

if __name__ == '__main__':
    launch.run(main)
