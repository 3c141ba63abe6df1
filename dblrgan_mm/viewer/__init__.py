"""Write a page that shows restored frames in a browser, from disk and without the network."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dblrgan_mm import files

_HERE = Path(__file__).parent


@dataclass
class ViewedClip:
    """A clip of a page.

    Attributes:
        name: its name.
        frames: names of its frames, in order.
        images: for each method, one image file per frame: PNG, JPEG or WebP.
        psnr: for each method with scores, the PSNR of each frame in dB; None where unknown.
    """

    name: str
    frames: Sequence[str]
    images: Mapping[str, Sequence[str | Path]]
    psnr: Mapping[str, Sequence[float | None]]


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
    """Write a page with a slider between any two methods, a plot of PSNR and tables.

    The page is one file. It refers to the images by relative paths, and to nothing else.

    Args:
        path: the page. Its folder can be moved together with the images, if they are inside it.
        title: title of the page.
        clips: the clips to show, at least one. All have at least two methods.
        tables: tables below the plot.
        notes: lines below the title, such as failures.
    """
    import jinja2
    from markupsafe import Markup

    def source(name: str) -> Markup:
        """Return a script or style of ours, which needs no escaping."""
        return Markup((_HERE / name).read_text(encoding='utf-8'))  # noqa: S704

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.policies['json.dumps_kwargs'] = {}  # the default sorts the methods by name
    page = environment.get_template('page.html').render(
        title=title,
        clips=[_plain(clip, path.parent) for clip in clips],
        tables=tables,
        notes=notes,
        source=source,
    )
    files.write_whole(path, page.encode())


def _plain(clip: ViewedClip, folder: Path) -> dict[str, Any]:
    """Return a clip as JSON values, with the addresses of its images relative to ``folder``."""
    images = {
        method: [quote(Path(os.path.relpath(image, folder)).as_posix()) for image in given]
        for method, given in clip.images.items()
    }
    psnr = {
        method: [None if v is None or not math.isfinite(v) else round(v, 3) for v in given]
        for method, given in clip.psnr.items()
    }
    return dict(name=clip.name, frames=list(clip.frames), images=images, psnr=psnr)
