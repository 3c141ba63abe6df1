"""The clips of a clip store in device memory, and crops cut from them there.

A place says where to cut a crop: a row of integers, in the order of :data:`PLACE`. The method is
our own.
"""

import math
from pathlib import Path

import numpy as np
import torch

from dblrgan_mm.clips import clip_store
from dblrgan_mm.errors import DatasetError
from dblrgan_mm.resources import locate

# Number of the clip, centre frame of the window, first row and column of the crop, flips (bit 0:
# mirror the rows, bit 1: mirror the columns, bit 2: transpose), and time step: 1, or -1 if time is
# reversed
PLACE = ('clip', 'frame', 'top', 'left', 'code', 'step')


def stored_shapes(root: Path, split: str, layout: str, layout_args: dict) -> dict[str, dict]:
    """Return the index entries of a split's clips, in the order in which places number them.

    Raises:
        DatasetError: if the folder is not a clip store, or a clip has no sharp frames.
    """
    if not clip_store.is_store(root):
        raise DatasetError(
            f'{root.resolve()} is not a clip store. To make one, see '
            f'{locate("docs/clip_store.md")}.'
        )
    entries = clip_store.read_split(layout, root, split, layout_args)
    for name, entry in entries.items():
        clip_store.load_clip(root, name, entry, paired=True)  # checks the file
    return entries


class DeviceClips:
    """All clips of a split in one tensor on a device.

    Args:
        root: the clip store.
        split: the split to load.
        layout, layout_args: what the store was made from, as in ``VideoClipDataset``.
        device: the device that holds the clips.

    Raises:
        DatasetError: as in :func:`stored_shapes`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        layout: str = 'gopro',
        layout_args: dict | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        root = Path(root)
        entries = list(stored_shapes(root, split, layout, layout_args or {}).values())
        sizes = [math.prod(entry['shape']) for entry in entries]
        starts = np.cumsum([0, *sizes])
        self.flat = torch.empty(int(starts[-1]), dtype=torch.uint8, device=device)
        for entry, start, size in zip(entries, starts, sizes, strict=False):
            stored = np.load(root / entry['file'])
            self.flat[start : start + size] = torch.from_numpy(stored.reshape(-1))
        shapes = torch.tensor([entry['shape'] for entry in entries], device=device)
        self.lengths, self.sizes = shapes[:, 1], shapes[:, 2:4]
        self.starts = torch.from_numpy(starts[:-1]).to(device)

    def crops(
        self, places: torch.Tensor, size: int, reach: int, sharp_reach: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut the crops at the given places.

        Args:
            places: (n, 6), on the device; see :data:`PLACE`.
            size: height and width of a crop.
            reach: number of blurry frames before, and after, the centre frame.
            sharp_reach: the same for the sharp frames.

        Returns:
            Blurry frames (n, 2 reach + 1, 3, size, size) and sharp frames (n, 2 sharp_reach + 1,
            3, size, size), uint8, RGB.
        """
        clip, frame, top, left, code, step = places.unbind(-1)
        start, hw = self.starts[clip], self.sizes[clip]
        sides = []
        for around, offset in ((reach, 0), (sharp_reach, self.lengths[clip])):
            offsets = torch.arange(-around, around + 1, device=places.device)
            times = (offset + frame)[:, None] + step[:, None] * offsets
            sides.append(cut(self.flat, start, hw, times, top, left, code, size))
        return sides[0], sides[1]

    def pick(self, places: torch.Tensor, noise: torch.Tensor, size: int) -> torch.Tensor:
        """Keep one of several candidate crops, favouring blurry crops over sharp ones.

        Keep the candidate with the largest ``log(d + 0.3) + 0.5 g``, where d is the mean absolute
        difference between the blurry and the sharp centre frame of a crop, in grey levels, as in
        ``PickedCropsDataset``.

        Args:
            places: candidates (n, k, 6).
            noise: g (n, k), from a standard Gumbel distribution.
            size: height and width of a crop.

        Returns:
            Places (n, 6).
        """
        count, candidates = places.shape[:2]
        if candidates == 1:
            return places[:, 0]
        blurry, sharp = self.crops(places.flatten(0, 1), size, 0)
        difference = (blurry.short() - sharp).abs().float().mean(dim=(1, 2, 3, 4))
        score = (difference + 0.3).log().view(count, candidates) + 0.5 * noise
        return places[torch.arange(count, device=places.device), score.argmax(dim=1)]


def cut(
    flat: torch.Tensor,
    start: torch.Tensor,
    hw: torch.Tensor,
    times: torch.Tensor,
    top: torch.Tensor,
    left: torch.Tensor,
    code: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """Cut crops from clips stored as (frame, row, column, 3) in one tensor.

    Args:
        flat: all clips, uint8, one-dimensional.
        start: (n,), offset of the first frame of each crop's clip.
        hw: (n, 2), height and width of the clip's frames.
        times: (n, t), indices of the frames to cut from.
        top, left: (n,), first row and column of the crop.
        code: (n,), bit 0 mirrors the rows, bit 1 mirrors the columns, bit 2 then transposes.
        size: height and width of a crop.

    Returns:
        (n, t, 3, size, size), with the dtype of ``flat``.
    """
    i = torch.arange(size, device=flat.device)
    h, w = hw.unbind(1)
    rows = torch.where((code & 1).bool()[:, None], size - 1 - i, i) + top[:, None]
    columns = torch.where((code & 2).bool()[:, None], size - 1 - i, i) + left[:, None]
    rows, columns = rows * 3 * w[:, None], columns * 3
    plane = torch.where(
        (code & 4).bool()[:, None, None],
        rows[:, None, :] + columns[:, :, None],
        rows[:, :, None] + columns[:, None, :],
    )
    begin = start[:, None] + times * (3 * h * w)[:, None]
    colour = torch.arange(3, device=flat.device)[:, None, None]
    return flat[begin[:, :, None, None, None] + plane[:, None, None] + colour]
