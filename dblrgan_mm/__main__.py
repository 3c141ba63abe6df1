"""``python -m dblrgan_mm COMMAND``, for example below torchrun."""

from dblrgan_mm.cli import main

if __name__ == '__main__':
    main()
