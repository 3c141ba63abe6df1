"""The same as ``dblrgan-mm synthesize``."""

from dblrgan_mm import launch
from dblrgan_mm.cli.synthesize import main

if __name__ == '__main__':
    launch.run(main)
