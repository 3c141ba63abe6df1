"""Find, read and encode frames that are image files."""

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dblrgan_mm.errors import UserError

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')

# keep the file's bit depth and number of channels; apply the orientation tag
AS_STORED = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR


def frame_paths(folder: Path) -> list[Path]:
    """Return the images in a folder, in numerical order."""
    paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != '.']
    return sorted(paths, key=lambda path: (numbers_in(path.stem), path))


def numbers_in(name: str) -> list[int]:
    """Return the numbers in the name of a frame, to sort frames by them."""
    return [int(number) for number in re.findall(r'\d+', name)]


def read_frame(path: str | Path, channel_order: str = 'rgb') -> np.ndarray:
    """Read an 8-bit image file with three channels.

    Args:
        path: the file; an alpha channel is dropped.
        channel_order: 'rgb' or 'bgr'.

    Returns:
        uint8 (h, w, 3).

    Raises:
        ValueError: if the file is missing, truncated or not an image, or if the image is grey or
            has more than 8 bits per channel; the message names the file.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise ValueError(f'{path} does not exist') from None
    except OSError as error:
        raise ValueError(f'{path} cannot be read ({error.strerror or error})') from error
    try:
        image = cv2.imdecode(content, AS_STORED)
    except cv2.error:  # for an empty file
        image = None
    image = require_8_bit_colour(image, path)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if channel_order == 'rgb' else image


def require_8_bit_colour(image: np.ndarray | None, path: str | Path) -> np.ndarray:
    """Return an image that was decoded with ``AS_STORED``.

    Raises:
        ValueError: unless it is uint8 (h, w, 3); the message names the file.
    """
    if image is None:
        raise ValueError(f'{path} cannot be decoded: truncated, or not an image. Copy it again.')
    if image.dtype != np.uint8:
        raise ValueError(
            f'{path} has {8 * image.itemsize} bits per channel; frames must have 8. Convert the '
            'clip to 8-bit images.'
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f'{path} is a grey image; frames must be in colour. Convert the clip to RGB images.'
        )
    return image


def encode_image(image: np.ndarray, suffix: str, options: Sequence[int] = ()) -> bytes:
    """Return the content of an image file.

    Args:
        image: BGR or grey.
        suffix: of the file, e.g. '.png'.
        options: flags of ``cv2.imencode``, each followed by its value.

    Raises:
        UserError: if the format cannot store the image, e.g. because of its size.
    """
    done, content = cv2.imencode(suffix, image, list(options))
    if not done:
        height, width = image.shape[:2]
        raise UserError(
            f'an image of {width}x{height} pixels cannot be stored as {suffix}; use another format'
        )
    return content.tobytes()


def write_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB image (h, w, 3) as PNG, with little compression; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    path.write_bytes(encode_image(bgr, '.png', [cv2.IMWRITE_PNG_COMPRESSION, 1]))
