"""The folder layouts of the benchmarks.

A layout describes the folders of one data set as downloaded. It lists files but reads no images.
"""

import glob
import inspect
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from dblrgan_mm.clips.clip import Clip, ClipFiles, number_of
from dblrgan_mm.errors import DatasetError
from dblrgan_mm.resources import locate

# Columns #1 to #10 of the table in the DBN paper. Its author gave the names in issue 2 of
# shuochsu/DeepVideoDeblurring.
DVD_TEST_CLIPS = (
    'IMG_0030',
    'IMG_0049',
    'IMG_0021',
    '720p_240fps_2',
    'IMG_0032',
    'IMG_0033',
    'IMG_0031',
    'IMG_0003',
    'IMG_0039',
    'IMG_0037',
)


@dataclass(frozen=True)
class Layout:
    """The folders of a data set, and its published contents.

    Attributes:
        find: ``(root, split, paired, **layout_args)`` yields the clips of a split, sorted by name,
            and without sharp frames if ``paired`` is False.
        splits: names of the splits.
        published: number of clips and of frames (pairs) in the complete data set, by split.
        page: the page in docs/ that explains how to get the data set.
    """

    find: Callable[..., Iterator[ClipFiles]]
    splits: tuple[str, ...]
    page: str
    published: dict[str, tuple[int, int]] = field(default_factory=dict)


def load_clips(
    layout: str, root: Path, split: str, paired: bool = True, **layout_args: str
) -> list[Clip]:
    """Return the clips of a split, with blurry and sharp frames matched by number.

    Raises:
        DatasetError: if a frame is missing or duplicate, or if the frame numbers do not determine
            the order or the pairs; the message names the first such clip and frame.
    """
    found = find_clips(layout, root, split, paired, **layout_args)
    return [files.clip() for files in found]


def find_clips(
    layout: str, root: Path, split: str, paired: bool = True, **layout_args: str
) -> list[ClipFiles]:
    """Return the clips of a split as found on disk, without checking them for faults.

    Raises:
        DatasetError: if the split does not exist or has no clips, or if the layout does not accept
            the ``layout_args``.
    """
    require_arguments(layout, split, layout_args)
    known = LAYOUTS[layout]
    if not root.is_dir():
        raise DatasetError(f'no folder {root.resolve()}. See {locate(known.page)}.')
    arguments = dict(split=split, paired=paired, **layout_args)
    try:
        found = list(known.find(root, **arguments))
        wrong = None if any(files.blurry for files in found) else f'no frame in {root.resolve()}.'
    except _NotFoundError as error:
        found, wrong = [], str(error)
    hint = _hint(known, root, arguments) if wrong else ''
    if hint or not found:
        raise DatasetError(f'{wrong}{hint} See {locate(known.page)}.')
    return found


def require_arguments(layout: str, split: str, layout_args: dict[str, str]) -> None:
    """Raise DatasetError unless the layout has the split and accepts the ``layout_args``."""
    known = LAYOUTS[layout]
    if known.splits and split not in known.splits:
        raise DatasetError(
            f'the {layout} layout has no split {split!r}, only {", ".join(known.splits)}'
        )
    find = inspect.signature(known.find)
    try:
        find.bind(Path(), split, True, **layout_args)
    except TypeError as error:
        takes = ', '.join(list(find.parameters)[3:]) or 'none'
        raise DatasetError(
            f'the {layout} layout does not accept these layout_args ({error}). It accepts: '
            f'{takes}. See {locate(known.page)}.'
        ) from error


def with_defaults(layout: str, layout_args: dict[str, str]) -> dict[str, str]:
    """Return the arguments of a layout, completed with its defaults."""
    parameters = list(inspect.signature(LAYOUTS[layout].find).parameters.values())[3:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {**defaults, **layout_args}


def gopro(root: Path, split: str, paired: bool, blur: str = 'blur') -> Iterator[ClipFiles]:
    """GOPRO_Large (Nah et al., CVPR 2017): ``<split>/<clip>/{blur,blur_gamma,sharp}/NNNNNN.png``.

    The first frame number is arbitrary and differs between clips. The literature uses ``blur``,
    not ``blur_gamma``.
    """
    for clip in _subfolders(root / split):
        yield _two_folders(clip.name, clip / blur, clip / 'sharp' if paired else None)


def dvd(root: Path, split: str, paired: bool) -> Iterator[ClipFiles]:
    """DVD, VideoDeblurring (Su et al., CVPR 2017): ``<clip>/{input,GT}/NNNNN.jpg``.

    ``root`` is the folder with the clips, ``quantitative_datasets`` in the archive. The clips are
    split by name: the ten clips in ``DVD_TEST_CLIPS`` are for testing, the other 61 for training.
    """
    clips = {clip.name: clip for clip in _subfolders(root)}
    if split == 'test':
        names = sorted(DVD_TEST_CLIPS)
        for name in names:
            if name not in clips:
                raise _NotFoundError(root / name)
    else:
        names = [name for name in clips if name not in DVD_TEST_CLIPS]
    for name in names:
        yield _two_folders(name, clips[name] / 'input', clips[name] / 'GT' if paired else None)


def bsd(root: Path, split: str, paired: bool, exposure: str = '2ms16ms') -> Iterator[ClipFiles]:
    """BSD (Zhong et al., ECCV 2020): ``BSD_<exposure>/<split>/<clip>/{Blur,Sharp}/RGB/*.png``.

    ``exposure`` names the exposures of the sharp and of the blurry camera: '1ms8ms', '2ms16ms' or
    '3ms24ms'.
    """
    exposures = ('1ms8ms', '2ms16ms', '3ms24ms')
    if exposure not in exposures:
        raise DatasetError(f'exposure must be one of {", ".join(exposures)}, got {exposure!r}')
    for clip in _subfolders(root / f'BSD_{exposure}' / split):
        sharp = clip / 'Sharp' / 'RGB' if paired else None
        yield _two_folders(clip.name, clip / 'Blur' / 'RGB', sharp)


def reds(root: Path, split: str, paired: bool, blur: str = 'blur') -> Iterator[ClipFiles]:
    """REDS (Nah et al., CVPR Workshops 2019): ``<split>/<split>_{blur,sharp}/NNN/NNNNNNNN.png``.

    ``blur='blur_comp'`` selects the compressed blurry frames. The sharp frames of ``test`` were
    never released.
    """
    for clip in _subfolders(root / split / f'{split}_{blur}'):
        sharp = root / split / f'{split}_sharp' / clip.name if paired else None
        yield _two_folders(clip.name, clip, sharp)


def kitti(
    root: Path, split: str, paired: bool, blur: str = 'blur image', sharp: str = 'clean image'
) -> Iterator[ClipFiles]:
    """Blurred KITTI (Pan et al., CVPR 2017): ``{blur,clean} image/{image_2,image_3}/*_NN.png``.

    There are 199 scenes, each with three frames of the left camera (``image_2``) and three of the
    right camera (``image_3``): ``NNNNNN_09.png``, ``_10`` and ``_11``. One scene and one camera
    form a clip, such as '000001_left'. For testing only.

    We found neither an archive of this data set nor a public loader for it. The folders follow the
    authors' README of 31 July 2017, and the frames and scenes follow the notes that accompany their
    code (panpanfei/data-Simultaneous-Stereo-Video-Deblurring-and-Scene-Flow-Estimation). The file
    names are KITTI's own. ``blur`` and ``sharp`` select other folders, which may be absolute paths:
    the multi-view ``training`` folder of KITTI 2015 itself has the sharp frames.
    """
    cameras = (('left', 'image_2'), ('right', 'image_3'))
    scenes: defaultdict[tuple[str, str], dict[str, list[str]]] = defaultdict(dict)
    for camera, folder in cameras:
        for side, top in (('blurry', blur), ('sharp', sharp))[: 1 + paired]:
            path = root / top / folder
            if not path.is_dir():
                raise _NotFoundError(path, 'no folder')
            for image in _images(path):
                match = re.fullmatch(r'(\d{6})_(09|10|11)', Path(image).stem)
                if match:
                    clip = scenes[f'{match[1]}_{camera}', folder]
                    clip.setdefault(side, []).append(image)
    if not scenes:
        raise _NotFoundError(root / blur / 'image_2', 'no frame NNNNNN_09, _10 or _11 in')
    for (name, folder), clip in sorted(scenes.items()):
        yield ClipFiles(
            name,
            clip.get('blurry', []),
            clip.get('sharp', []) if paired else None,
            (str((root / blur / folder).resolve()), str((root / sharp / folder).resolve())),
        )


def patterns(
    root: Path, split: str, paired: bool, blurry: str, sharp: str | None = None
) -> Iterator[ClipFiles]:
    """Your own data, located by two path patterns below ``root``.

    In a pattern, ``{split}`` stands for the split, ``{clip}`` for the clip's name and ``{frame}``
    for the frame's name, which ends in its number. ``*`` matches any text. None of these matches a
    slash. Example: ``{split}/{clip}/blur_{frame}.png`` and
    ``{split}/{clip}/sharp_{frame}.*``.
    """
    found = {'blurry': _matches(root, split, blurry)}
    if paired:
        if sharp is None:
            raise DatasetError(
                'layout_args need a pattern for the sharp frames: sharp=... If there are none, set '
                'gt=None in the config, or use --unpaired.'
            )
        found['sharp'] = _matches(root, split, sharp)
    if not any(found.values()):
        raise _NotFoundError(root / blurry.replace('{split}', split))
    for name in sorted(set().union(*found.values())):
        places = [
            str(root / pattern).replace('{split}', split).replace('{clip}', name)
            for pattern in (blurry, sharp)
            if pattern
        ]
        yield ClipFiles(
            name,
            found['blurry'].get(name, []),
            found['sharp'].get(name, []) if paired else None,
            (places[0], places[-1]),
        )


def dbn_frames(base: int = 1) -> list[int]:
    """Return the 0-based positions of the 30 frames of a DVD test clip that DBN is scored on.

    The authors give the frames as MATLAB's ``floor(linspace(2,97,30))`` (issue 2 of
    shuochsu/DeepVideoDeblurring) and never answered whether they count from 0 or from 1. With
    ``base=1``, the default because MATLAB counts from 1, 2 is the clip's second frame, '00001.jpg'.
    With ``base=0`` it is '00002.jpg'. Two facts support ``base=0``, but do not prove it: their
    launcher inserts its indices into the file names, and 2 to 97 are then exactly the frames of 100
    that have two neighbours on each side.
    """
    return [math.floor(2 + i * Fraction(97 - 2, 30 - 1)) - base for i in range(30)]


class _NotFoundError(Exception):
    """A folder or file that the layout needs is missing."""

    def __init__(self, path: Path, what: str = 'nothing at') -> None:
        super().__init__(f'{what} {path.resolve()}.')


def _hint(known: Layout, root: Path, arguments: dict) -> str:
    """Suggest why ``root`` has no frames: a wrong folder, or archives that are still packed."""
    inside = sorted(root.iterdir())
    for other in (root.resolve().parent, *(path for path in inside if path.is_dir())):
        try:
            files = list(known.find(other, **arguments))
        except (_NotFoundError, OSError):
            continue
        if any(one.blurry and (one.sharp or one.sharp is None) for one in files):
            return f' Did you mean the folder {other.resolve()}?'
    archives = [path.name for path in inside if _is_archive(path.name)]
    return f' Unpack {", ".join(archives)} first.' if archives else ''


def _is_archive(name: str) -> bool:
    return name.lower().endswith(('.zip', '.tar', '.tar.gz', '.tgz', '.7z', '.rar'))


def _subfolders(folder: Path) -> list[Path]:
    """Return the subfolders, sorted by name, without hidden ones."""
    if not folder.is_dir():
        raise _NotFoundError(folder, 'no folder')
    found = [path for path in folder.iterdir() if path.is_dir() and path.name[0] != '.']
    if not found:
        raise _NotFoundError(folder, 'no clip in')
    return sorted(found)


def _two_folders(name: str, blurry: Path, sharp: Path | None) -> ClipFiles:
    return ClipFiles(
        name,
        _images(blurry),
        None if sharp is None else _images(sharp),
        (str(blurry.resolve()), str((sharp or blurry).resolve())),
    )


def _images(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [e.path for e in entries if number_of(e.name) is not None and e.is_file()]


def _matches(root: Path, split: str, pattern: str) -> dict[str, list[str]]:
    """Return the files below ``root`` that match a pattern, by clip."""
    wanted = ''
    names = set()
    for part in re.split(r'(\{split\}|\{clip\}|\{frame\}|\*)', pattern):
        name = part[1:-1] if part.startswith('{') else None
        if name == 'split':
            wanted += re.escape(split)
        elif name in names:
            wanted += f'(?P={name})'
        elif name:
            wanted += f'(?P<{name}>[^/]+)'
            names.add(name)
        else:
            wanted += '[^/]*' if part == '*' else re.escape(part)
    if 'frame' not in names:
        raise DatasetError(f'the pattern {pattern!r} needs {{frame}}, the name of a frame')
    anything = re.sub(r'\{(clip|frame)\}', '*', glob.escape(pattern).replace('[*]', '*'))
    found = defaultdict(list)
    for path in glob.iglob(anything.replace('{split}', glob.escape(split)), root_dir=root):
        match = re.fullmatch(wanted, path)
        if match and number_of(os.path.basename(path)) is not None:
            found[match.groupdict().get('clip', split or 'clip')].append(os.path.join(root, path))
    return found


LAYOUTS: dict[str, Layout] = {
    'gopro': Layout(
        gopro, ('train', 'test'), 'docs/gopro.md', {'train': (22, 2103), 'test': (11, 1111)}
    ),
    'dvd': Layout(dvd, ('train', 'test'), 'docs/dvd.md', {'train': (61, 5708), 'test': (10, 1000)}),
    'bsd': Layout(
        bsd, ('train', 'valid', 'test'), 'docs/bsd.md', {'train': (60, 6000), 'test': (20, 3000)}
    ),
    'reds': Layout(
        reds,
        ('train', 'val', 'test'),
        'docs/reds.md',
        {'train': (240, 24_000), 'val': (30, 3_000), 'test': (30, 3_000)},
    ),
    'kitti': Layout(kitti, ('test',), 'docs/kitti.md', {'test': (398, 1194)}),
    'patterns': Layout(patterns, (), 'docs/own_data.md'),
}
