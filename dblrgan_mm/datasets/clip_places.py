"""Places of training crops, for clips held in device memory."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmagic.registry import DATASETS
from mmengine.logging import print_log
from torch.utils.data import Dataset

from dblrgan_mm.clips.device_clips import PLACE, stored_shapes
from dblrgan_mm.errors import DatasetError


@DATASETS.register_module()
class ClipPlacesDataset(Dataset):
    """Draws the places of crops, which ``ClipsOnDevicePreprocessor`` then cuts. Our own design.

    An item has the keys ``places``, (k, 6), int64, the candidates, as described in
    ``dblrgan_mm.clips.device_clips``; ``noise``, (k,), float32; ``crop_size``; and ``sharp_input``,
    whether the sharp frames replace the blurry ones. The first candidate lies in the requested
    window, the others lie in random windows. All frames of a window belong to one clip. Crop
    position, mirroring, transposition and time direction are random, too. Use
    ``collate_fn=dict(type='default_collate')`` to form batches.

    Args:
        data_root: a clip store.
        split: the split to use.
        crop_size: height and width of a crop.
        candidates: number of places to choose from; 1 keeps the requested window.
        num_frames: frames per window, odd.
        sharp_prob: fraction of windows whose blurry frames are replaced by the sharp ones, as by
            ``SharpInput``.
        layout, layout_args: what the store was made from, as in ``VideoClipDataset``.

    Raises:
        ValueError: for an invalid argument.
        DatasetError: if the folder is not a clip store, a clip has no sharp frames, or every clip
            is shorter than a window or smaller than a crop. If only some clips are too short or too
            small, they are skipped and named in the log.
    """

    metainfo = dict(dataset_type='video_clip', task_name='video_deblurring')

    def __init__(
        self,
        data_root: str,
        split: str,
        crop_size: int,
        candidates: int = 8,
        num_frames: int = 5,
        sharp_prob: float = 0.0,
        layout: str = 'gopro',
        layout_args: dict | None = None,
    ) -> None:
        if num_frames < 1 or num_frames % 2 == 0:
            raise ValueError(
                f'num_frames must be odd, so that a centre frame exists, got {num_frames}'
            )
        if min(candidates, crop_size) < 1:
            raise ValueError(
                f'candidates and crop_size must be at least 1, got {candidates} and {crop_size}'
            )
        if not 0 <= sharp_prob <= 1:
            raise ValueError(f'sharp_prob must be in [0, 1], got {sharp_prob}')
        self.crop_size = crop_size
        self.candidates = candidates
        self.sharp_prob = sharp_prob
        reach = num_frames // 2
        windows, left_out = [], []
        self.sizes = []  # height and width of each clip's frames
        entries = stored_shapes(Path(data_root), split, layout, layout_args or {})
        for i, (name, entry) in enumerate(entries.items()):
            _, length, height, width, _ = entry['shape']
            self.sizes.append((height, width))
            if length < num_frames or min(height, width) < crop_size:
                left_out.append(f'{name} ({length} frames of {width}x{height})')
            else:
                windows += [(i, frame) for frame in range(reach, length - reach)]
        if left_out:
            message = (
                f'{len(left_out)} of {len(entries)} clips of {data_root}, split {split}, are '
                f'shorter than {num_frames} frames or smaller than {crop_size}x{crop_size}: '
                f'{", ".join(left_out[:5])}{", ..." if len(left_out) > 5 else ""}'
            )
            if not windows:
                raise DatasetError(f'{message}. Set a smaller crop_size, or use other clips.')
            print_log(f'{message}. They are skipped.', 'current', logging.WARNING)
        self.windows = np.array(windows)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        # NumPy's global generator is used because it is seeded for each sample
        draw = np.random.randint
        chosen = [index, *draw(len(self), size=self.candidates - 1).tolist()]
        code, step = draw(8), 2 * draw(2) - 1
        places = np.empty((self.candidates, len(PLACE)), np.int64)
        for place, (clip, frame) in zip(places, self.windows[chosen], strict=True):
            height, width = self.sizes[clip]
            top, left = draw(height - self.crop_size + 1), draw(width - self.crop_size + 1)
            place[:] = clip, frame, top, left, code, step
        noise = np.random.gumbel(size=self.candidates)  # noqa: NPY002
        return dict(
            places=torch.from_numpy(places),
            noise=torch.from_numpy(noise).float(),
            crop_size=self.crop_size,
            sharp_input=bool(np.random.uniform() < self.sharp_prob),  # noqa: NPY002
        )
