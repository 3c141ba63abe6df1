"""Encode frames as image files, and keep the metadata of image files, such as the ICC profile."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from dblrgan_mm.clips.frames import encode_image
from dblrgan_mm.errors import UserError
from dblrgan_mm.video.decoding import BT709, BT2020, HLG, PQ, UNKNOWN

# Names of Pillow's entries of Image.info; 'text' is a PNG's own text, without XMP
NAMES = {
    'icc_profile': 'ICC profile',
    'exif': 'EXIF',
    'xmp': 'XMP',
    'dpi': 'resolution',
    'comment': 'comment',
    'text': 'text',
    'gamma': 'gamma',
    'chromaticity': 'primaries',
}
_KEPT = {
    '.png': ('icc_profile', 'exif', 'xmp', 'dpi', 'text'),
    '.jpg': ('icc_profile', 'exif', 'xmp', 'dpi'),
}
_XMP = 'XML:com.adobe.xmp'  # the key of XMP among the texts of a PNG


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of an image file, by Pillow's names (see ``NAMES``).

    The orientation is reset, because ``read_frame`` turns the image upright.
    """
    try:
        with Image.open(path) as image:
            if image.format == 'PNG':  # it may have texts and EXIF after its pixels
                image.load()
            exif = image.getexif() if 'exif' in image.info else None
            found = {name: image.info.get(name) for name in NAMES}
            found['text'] = {k: v for k, v in getattr(image, 'text', {}).items() if k != _XMP}
    # OpenCV reads more files than Pillow
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError):
        return {'metadata, which cannot be read': True}
    if exif:
        exif[ExifTags.Base.Orientation] = 1
        found['exif'] = exif.tobytes()
    return {name: value for name, value in found.items() if value}


def encode_frame(
    image: np.ndarray,
    suffix: str,
    metadata: dict[str, Any] | None = None,
    tags: dict[str, int] | None = None,
) -> tuple[bytes, list[str]]:
    """Encode an RGB frame as the content of a .png or .jpg file.

    Args:
        image: (h, w, 3), uint8; uint16 only for .png.
        suffix: '.png', '.jpg' or '.jpeg'.
        metadata: from :func:`read_metadata`.
        tags: colours of a video, see ``Format``. HDR and BT.2020 are stated in the PNG, in a chunk
            cICP (PNG, third edition, 11.3.2.6).

    Returns:
        The content, and the names of the metadata that are not in it.

    Raises:
        UserError: the format cannot store the image or its metadata.
    """
    kind = '.png' if suffix == '.png' else '.jpg'
    colours = _cicp(tags) if tags and kind == '.png' else b''
    if image.dtype == np.uint16:  # Pillow cannot write 16 bits per colour
        png = encode_image(image[..., ::-1], suffix)
        header = 33  # bytes of signature and first chunk
        return png[:header] + _chunk(b'cICP', colours) + png[header:], []
    metadata = dict(metadata or {})
    profile = metadata.get('icc_profile')
    if profile and profile[16:20] != b'RGB ':  # e.g. a CMYK profile; the pixels are RGB now
        metadata['profile of other colours'] = metadata.pop('icc_profile')
    kept = {name: metadata[name] for name in _KEPT[kind] if name in metadata}
    buffer = io.BytesIO()
    try:
        if kind == '.png':
            info = PngInfo()
            for key, text in kept.pop('text', {}).items():
                info.add_itxt(key, text)
            if 'xmp' in kept:
                info.add_itxt(_XMP, kept.pop('xmp').decode('utf-8', 'replace'))
            if colours:
                info.add(b'cICP', colours)
            Image.fromarray(image).save(buffer, 'PNG', compress_level=1, pnginfo=info, **kept)
        else:
            Image.fromarray(image).save(buffer, 'JPEG', quality=97, subsampling=0, **kept)
    except (ValueError, OSError) as error:
        height, width = image.shape[:2]
        raise UserError(
            f'an image of {width}x{height} pixels cannot be stored as {suffix} ({error}); use '
            'another format'
        ) from error
    names = [NAMES.get(name, name) for name in metadata if name not in _KEPT[kind]]
    return buffer.getvalue(), names


def _cicp(tags: dict[str, int]) -> bytes:
    """Return the content of a PNG's chunk cICP; b'' if the colours are those assumed without it."""
    primaries, transfer = tags['color_primaries'], tags['color_trc']
    if primaries != BT2020 and transfer not in (PQ, HLG):
        return b''
    primaries = BT2020 if primaries == UNKNOWN else primaries
    transfer = BT709 if transfer == UNKNOWN else transfer
    rgb, full_range = 0, 1
    return bytes([primaries, transfer, rgb, full_range])


def _chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG; b'' without content."""
    if not content:
        return b''
    body = name + content
    return struct.pack('>I', len(content)) + body + struct.pack('>I', zlib.crc32(body))
