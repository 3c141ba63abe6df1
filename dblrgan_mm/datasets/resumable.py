"""Training data whose order and augmentation depend only on the seed and a sample's position.

A run can therefore start at any iteration without loading earlier samples, and gets the same
batches with any number of worker processes. The method is our own.
"""

import random
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from mmagic.registry import DATA_SAMPLERS
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Dataset, Sampler


class Place(int):
    """An index into a data set that knows its position in the endless sequence of samples.

    Other code, such as MMagic's data sets, can use it as a plain int.
    """

    seed: int
    place: int

    def __new__(cls, index: int, seed: int = 0, place: int = 0) -> 'Place':
        self = super().__new__(cls, index)
        self.seed, self.place = seed, place
        return self


@DATA_SAMPLERS.register_module()
class ResumableSampler(Sampler):
    """Samples endless permutations of a data set, starting at any position.

    MMEngine's ``InfiniteSampler`` can only start at the beginning. Here, sample ``p`` of the
    endless sequence is sample ``p % size`` of the permutation seeded with ``p // size``. As in
    MMEngine, process ``r`` of ``w`` takes samples ``r``, ``r + w``, ``r + 2w``, ...

    Args:
        dataset: the data set to sample from.
        shuffle: whether to shuffle; otherwise the order of the data set is repeated.
        seed: one seed for all processes; None draws one.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        self.size = len(dataset)
        self.shuffle = shuffle
        self.rank, self.world_size = get_dist_info()
        self.start(sync_random_seed() if seed is None else seed, 0)

    def start(self, seed: int, place: int) -> None:
        """Let the next iterator begin at this position, counted in samples of all processes."""
        self.seed, self.place = seed, place

    def __iter__(self) -> Iterator[Place]:
        epoch: int | None = None
        order: Sequence[int] | np.ndarray = range(self.size)
        place = self.place + self.rank
        while True:
            if self.shuffle and epoch != place // self.size:
                epoch = place // self.size
                # this generator gives the same numbers in all versions of NumPy
                bits = np.random.MT19937(np.random.SeedSequence((self.seed, epoch)))
                order = np.random.RandomState(bits).permutation(self.size)
            yield Place(order[place % self.size], self.seed, place)
            place += self.world_size

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Do nothing, because positions continue across epochs; MMEngine requires this method."""


class SeededDataset(Dataset):
    """A data set that seeds the random numbers for each :class:`Place`.

    Args:
        dataset: any data set. It gets plain ints, one at a time. Attributes not defined here are
            looked up in it, except special methods: torch would call ``__getitems__``, and no
            sample of the batch would be seeded.
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
        # copy and pickle look up 'dataset' before it exists
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)


def seed_everything(*key: int) -> None:
    """Seed the random numbers of Python, NumPy and torch with a hash of non-negative integers."""
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002  (MMagic's transforms draw from it)
    torch.manual_seed(int(words[2]) << 32 | int(words[3]))
