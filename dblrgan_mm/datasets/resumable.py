"""Training data whose order and augmentation follow from the seed and the place alone.

So a run can jump to any iteration without loading what came before, and gets the same batches with
any number of worker processes. Ours.
"""

import random
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Dataset, Sampler

from dblrgan_mm import compat

compat.apply()

from mmagic.registry import DATA_SAMPLERS


class Place(int):
    """An index into a data set that knows its place in the endless order of samples.

    A plain int for whoever does not ask, such as MMagic's data sets.
    """

    seed: int
    place: int

    def __new__(cls, index: int, seed: int = 0, place: int = 0) -> 'Place':
        self = super().__new__(cls, index)
        self.seed, self.place = seed, place
        return self


@DATA_SAMPLERS.register_module()
class ResumableSampler(Sampler):
    """Endless permutations of a data set that can start anywhere.

    MMEngine's ``InfiniteSampler`` has to be run through from the beginning. Sample ``p`` of the
    endless order is sample ``p % size`` of the permutation that ``p // size`` seeds; process ``r``
    of ``w`` takes ``r``, ``r + w``, ``r + 2w``, ... as with MMEngine's.

    Args:
        dataset: what is sampled.
        shuffle: otherwise in the order of the data set, again and again.
        seed: one for all processes; None draws one.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.size = len(dataset)
        self.shuffle = shuffle
        self.rank, self.world_size = get_dist_info()
        self.start(sync_random_seed() if seed is None else seed, 0)

    def start(self, seed: int, place: int) -> None:
        """The next iterator begins with this place, which counts the samples of all processes."""
        self.seed, self.place = seed, place

    def __iter__(self) -> Iterator[Place]:
        epoch, order = None, range(self.size)
        place = self.place + self.rank
        while True:
            if self.shuffle and epoch != place // self.size:
                epoch = place // self.size
                # NumPy keeps this generator's numbers the same in all versions
                bits = np.random.MT19937(np.random.SeedSequence((self.seed, epoch)))
                order = np.random.RandomState(bits).permutation(self.size)
            yield Place(order[place % self.size], self.seed, place)
            place += self.world_size

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """For MMEngine's interface; the places count on."""


class SeededDataset(Dataset):
    """A data set that draws its random numbers anew for each :class:`Place`.

    Args:
        dataset: any data set; gets plain ints, and every attribute but these two is looked up in
            it.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        if isinstance(index, Place):
            seed_everything(index.seed, 0, index.place)
        return self.dataset[int(index)]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':  # looked up by copy and pickle before there is one
            raise AttributeError(name)
        return getattr(self.dataset, name)


def seed_everything(*key: int) -> None:
    """Seed Python's, NumPy's and torch's random numbers by a hash of whole numbers from 0 on."""
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002  (MMagic's transforms draw from it)
    torch.manual_seed(int(words[2]) << 32 | int(words[3]))
