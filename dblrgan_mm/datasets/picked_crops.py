"""Training crops chosen where there is blur."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmagic.registry import DATASETS
from mmengine.dataset import Compose
from torch.utils.data import Dataset


@DATASETS.register_module()
class PickedCropsDataset(Dataset):
    """Draws several candidate crops and keeps one, favouring blurry crops over sharp ones.

    The method is our own. Most pixels of a random crop need no change, so a network learns little
    from them. The first candidate is the window that the sampler requests, the others are drawn at
    random. Let d be the mean absolute difference between the blurry and the sharp centre frame of a
    crop, in grey levels. The candidate with the largest ``log(d + 0.3) + 0.5 g`` is kept, where g
    is noise with a standard Gumbel distribution. Among the candidates, a crop is thus kept with a
    probability proportional to ``(d + 0.3) ** 2``. If nearly sharp crops are a fraction q of all
    crops, about ``q ** candidates`` of the kept crops are nearly sharp. With many candidates a
    network learns faster to remove strong blur, but hardly ever sees a sharp frame, and changes it.

    Args:
        dataset: config of the data set that the candidates are drawn from. Its pipeline loads and
            crops: items must have the keys ``img`` and ``gt``, lists of frames (h, w, 3) of equal
            size. With a clip store, only two crops are read for a candidate that is not kept.
        candidates: number of crops to choose from; 1 always keeps the requested window.
        pipeline: transforms applied to the crop that is kept.

    Raises:
        ValueError: if there is less than one candidate, the data set has no sharp frames, or it
            skips unreadable frames, which requires the whole pipeline.

    Attributes:
        dataset: the built data set that the candidates are drawn from.
    """

    def __init__(self, dataset: dict, candidates: int = 8, pipeline: Sequence = ()) -> None:
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
        # NumPy's global generator is seeded by the sampler and also used by MMagic's transforms
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
    """Return the mean absolute difference of blurry and sharp centre frame, in grey levels."""
    blurry, sharp = (frames[len(frames) // 2] for frames in (item['img'], item['gt']))
    return cv2.norm(blurry, sharp, cv2.NORM_L1) / blurry.size
