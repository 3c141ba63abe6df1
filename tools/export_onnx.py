"""The same as ``dblrgan-mm export``."""

from dblrgan_mm import launch
from dblrgan_mm.cli.export import main

if __name__ == '__main__':
    launch.run(main)
