"""Training crops picked where the blur is."""

from typing import Any

import cv2
import numpy as np
from mmengine.dataset import Compose
from torch.utils.data import Dataset

from dblrgan_mm import compat

compat.apply()

from mmagic.registry import DATASETS


@DATASETS.register_module()
class PickedCropsDataset(Dataset):
    """Draws several candidate crops and keeps one, blurry ones more often than sharp ones. Ours.

    Most pixels of a random crop need no change, so a network learns little from them. The first
    candidate is the window that the sampler asks for, the others are drawn at random. With d the
    mean absolute difference between the blurry and the sharp centre frame of a crop, in grey
    levels, the candidate with the largest ``log(d + 0.3) + 0.5 g`` is kept, where g is noise with
    a standard Gumbel distribution. So a crop is kept with a probability proportional to
    ``(d + 0.3) ** 2`` among its candidates, and nearly sharp crops stay in.

    Args:
        dataset: config of the data set that the candidates are drawn from. Its pipeline loads and
            crops: the items have the keys ``img`` and ``gt``, lists of frames (h, w, 3), of equal
            size. On a clip store, two crops are read of a candidate that is not kept.
        candidates: number of crops to choose from; 1 keeps the first.
        pipeline: transforms of the crop that is kept.

    Raises:
        ValueError: for less than one candidate, for a data set without sharp frames, and for one
            that skips unreadable frames, which needs the whole pipeline.

    Attributes:
        dataset: the data set that the candidates are drawn from, built.
    """

    def __init__(self, dataset: dict, candidates: int = 8, pipeline: list = ()) -> None:
        if candidates < 1:
            raise ValueError(f'candidates must be at least 1, got {candidates}')
        self.dataset = DATASETS.build(dataset)
        if getattr(self.dataset, 'unreadable', 'stop') == 'skip':
            raise ValueError("PickedCropsDataset needs a data set with unreadable='stop'")
        if getattr(self.dataset, 'gt', 'centre') is None:
            raise ValueError(
                "PickedCropsDataset compares blurry and sharp frames: set gt='centre' or 'window'"
            )
        self.candidates = candidates
        self.pipeline = Compose(list(pipeline))

    @property
    def metainfo(self) -> dict:
        """The meta information of the data set, for MMEngine."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Load the annotations of the data set, for MMEngine."""
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        # NumPy's global generator is the one that MMagic's transforms and the sampler's seeds use
        others = np.random.randint(len(self), size=self.candidates - 1)  # noqa: NPY002
        noise = np.random.gumbel(size=self.candidates)  # noqa: NPY002
        best, kept = -np.inf, None
        for i, g in zip((index, *others.tolist()), noise, strict=True):
            item = self.dataset[i]
            score = np.log(difference(item) + 0.3) + 0.5 * g if self.candidates > 1 else 0.0
            if score > best:
                best, kept = score, item
        return self.pipeline(kept)


def difference(item: dict) -> float:
    """Mean absolute difference of the blurry and the sharp centre frame, in grey levels."""
    blurry, sharp = (frames[len(frames) // 2] for frames in (item['img'], item['gt']))
    return cv2.norm(blurry, sharp, cv2.NORM_L1) / blurry.size
