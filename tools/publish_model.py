"""The same as ``dblrgan-mm publish``."""

from dblrgan_mm import launch
from dblrgan_mm.cli.publish import main

if __name__ == '__main__':
    launch.run(main)
