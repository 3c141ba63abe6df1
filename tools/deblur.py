"""The same as ``dblrgan-mm deblur``."""

from dblrgan_mm import launch
from dblrgan_mm.cli.deblur import main

if __name__ == '__main__':
    launch.run(main)
