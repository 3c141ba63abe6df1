"""Write a page that shows restored frames in a browser, from disk and without the network."""

import base64
import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from dblrgan_mm import files

if TYPE_CHECKING:
    import torch

_HERE = Path(__file__).parent


@dataclass
class ViewedClip:
    """A clip of a page.

    Attributes:
        name: its name.
        frames: names of its frames, in order.
        images: for each method, one image file per frame: PNG, JPEG or WebP.
        scores: for each method with scores, the score of each frame; None where unknown.
        score: name of the score.
        unit: its unit, or ''.
    """

    name: str
    frames: Sequence[str]
    images: Mapping[str, Sequence[str | Path]]
    scores: Mapping[str, Sequence[float | None]]
    score: str = 'PSNR'
    unit: str = 'dB'


@dataclass
class Table:
    """A table of a page.

    Attributes:
        title: text above it.
        heads: text of the first row.
        rows: text of the other rows. A row may be shorter than ``heads``; its last cell then spans
            the columns up to the end.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_page(
    path: Path,
    title: str,
    clips: Sequence[ViewedClip],
    tables: Sequence[Table] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write a page with a slider between any two methods, a plot of their scores and tables.

    The page is one file. It refers to the images by relative paths, and to nothing else.

    Args:
        path: the page. Its folder can be moved together with the images, if they are inside it.
        title: title of the page.
        clips: the clips to show, at least one. All have at least two methods.
        tables: tables below the plot.
        notes: lines below the title, such as failures.
    """
    shown = [_relative(clip, path.parent) for clip in clips]
    files.write_whole(path, _render(title, shown, tables, notes).encode())


def _render(
    title: str, clips: list[dict[str, Any]], tables: Sequence[Table], notes: Sequence[str]
) -> str:
    import jinja2
    from markupsafe import Markup

    def source(name: str) -> Markup:
        """Return a script or style of ours, which needs no escaping."""
        return Markup((_HERE / name).read_text(encoding='utf-8'))  # noqa: S704

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.policies['json.dumps_kwargs'] = {}  # the default sorts the methods by name
    return environment.get_template('page.html').render(
        title=title, clips=clips, tables=tables, notes=notes, source=source
    )


def _relative(clip: ViewedClip, folder: Path) -> dict[str, Any]:
    """Return a clip as JSON values, with the addresses of its images relative to ``folder``."""
    images = {
        method: [quote(Path(os.path.relpath(image, folder)).as_posix()) for image in given]
        for method, given in clip.images.items()
    }
    scores = {
        method: [None if v is None or not math.isfinite(v) else round(v, 4) for v in given]
        for method, given in clip.scores.items()
    }
    return vars(clip) | dict(frames=list(clip.frames), images=images, scores=scores)


class Shown:
    """Frames that a notebook shows with a slider; see :func:`show`."""

    def __init__(self, page: str) -> None:
        self._page = page

    def _repr_html_(self) -> str:
        page = html.escape(self._page)
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 640px; border: 0"></iframe>'


def show(title: str = 'Frames', **methods: 'Sequence[np.ndarray | torch.Tensor]') -> Shown:
    """Show frames in a Jupyter notebook, with a slider between any two methods.

    The pictures are stored in the notebook.

    Args:
        title: title above the frames.
        **methods: at least two names with equally many frames each: RGB, uint8 or uint16, arrays
            (h, w, 3) or tensors (3, h, w), as a ``Deblurrer`` takes and returns them.

    Raises:
        ValueError: fewer than two methods, no frame, or different numbers of frames.

    Example:
        >>> frames = [np.zeros((36, 64, 3), np.uint8)] * 3
        >>> show(blurry=frames, restored=frames)._repr_html_()[:7]
        '<iframe'
    """
    counts = {name: len(frames) for name, frames in methods.items()}
    if len(counts) < 2 or len(set(counts.values())) > 1 or not all(counts.values()):
        raise ValueError(f'give two or more methods with equally many frames; got {counts}')
    images = {name: [_data_url(frame) for frame in frames] for name, frames in methods.items()}
    numbers = [str(i) for i in range(next(iter(counts.values())))]
    clip = ViewedClip('clip', numbers, images, scores={})
    return Shown(_render(title, [vars(clip)], tables=(), notes=()))


def _data_url(frame: 'np.ndarray | torch.Tensor') -> str:
    import cv2

    from dblrgan_mm.clips.frames import encode_image

    if not isinstance(frame, np.ndarray):
        frame = frame.permute(1, 2, 0).cpu().numpy()
    png = encode_image(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), '.png')
    return f'data:image/png;base64,{base64.b64encode(png).decode()}'
