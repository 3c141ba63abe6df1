"""Training data can start at any sample; with real frames and augmentations."""

import copy
import itertools
import pickle
import time

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from dblrgan_mm.datasets import ResumableSampler, VideoClipDataset
from dblrgan_mm.datasets import resumable as module
from dblrgan_mm.datasets.resumable import Place, SeededDataset


def take(sampler, count: int) -> list:
    return list(itertools.islice(iter(sampler), count))


class TestSampler:
    def sampler(self, place: int = 0, seed: int = 3, size: int = 7, **kwargs) -> ResumableSampler:
        sampler = ResumableSampler(range(size), seed=seed, **kwargs)
        sampler.start(seed, place)
        return sampler

    def test_each_permutation_holds_everything_once(self):
        order = take(self.sampler(), 21)
        passes = [order[i : i + 7] for i in (0, 7, 14)]
        assert [sorted(part) for part in passes] == [list(range(7))] * 3
        assert passes[0] != passes[1] != passes[2]

    @pytest.mark.parametrize('place', [1, 6, 7, 8, 20])
    def test_starts_anywhere(self, place):
        assert take(self.sampler(place), 10) == take(self.sampler(), place + 10)[place:]

    def test_seeds_differ(self):
        assert take(self.sampler(seed=1), 7) != take(self.sampler(seed=2), 7)

    def test_without_shuffle(self):
        assert take(self.sampler(5, shuffle=False), 4) == [5, 6, 0, 1]

    def test_processes_share_one_order(self, monkeypatch):
        one = take(self.sampler(4), 12)
        shares = []
        for rank in range(3):
            monkeypatch.setattr(module, 'get_dist_info', lambda rank=rank: (rank, 3))
            shares.append(take(self.sampler(4), 4))
        assert [index for together in zip(*shares, strict=True) for index in together] == one

    def test_start_far_ahead_is_fast(self):
        begin = time.perf_counter()
        (index,) = take(self.sampler(200_000 * 64, size=2103), 1)
        assert time.perf_counter() - begin < 0.1
        assert index.place == 200_000 * 64

    def test_place_is_an_int_and_can_be_pickled(self):
        place = pickle.loads(pickle.dumps(Place(4, 5, 6)))  # noqa: S301  (our own)
        assert (place, place.seed, place.place) == (4, 5, 6)
        assert [10, 11, 12, 13, 14][place] == 14


@pytest.fixture(scope='module')
def dataset(repo, sample_root):
    """The sample training set with its crops, flips and reversals."""
    source = Config.fromfile(repo / 'configs' / 'dblrgan_sample.py').train_dataloader.dataset
    source.pop('type')
    return SeededDataset(VideoClipDataset(**{**source, 'data_root': str(sample_root)}))


class TestSeededDataset:
    def batches(self, dataset, place: int, count: int, workers: int) -> list[torch.Tensor]:
        sampler = ResumableSampler(dataset, seed=0)
        sampler.start(0, place)
        loader = DataLoader(
            dataset, 2, num_workers=workers, sampler=sampler, collate_fn=pseudo_collate
        )
        return [
            torch.cat([*batch['inputs'], *(s.gt_img for s in batch['data_samples'])])
            for batch in itertools.islice(loader, count)
        ]

    @pytest.mark.parametrize('workers', [0, 1, 2])
    def test_same_batches_from_anywhere_with_any_workers(self, dataset, workers):
        expected = self.batches(dataset, 0, 5, workers=0)
        torch.manual_seed(7)  # earlier draws of the process do not matter
        np.random.seed(7)  # noqa: NPY002
        found = self.batches(dataset, 4, 3, workers)
        assert all(torch.equal(a, b) for a, b in zip(found, expected[2:], strict=True))

    def test_a_data_set_that_loads_whole_batches_is_seeded_too(self):
        """torch prefers its ``__getitems__``, which would get indices without their places."""

        class Draws(torch.utils.data.Dataset):
            def __getitem__(self, index: int) -> float:
                return np.random.rand()  # noqa: NPY002

            def __len__(self) -> int:
                return 6

        dataset = SeededDataset(torch.utils.data.Subset(Draws(), range(4)))

        def draw() -> torch.Tensor:
            sampler = ResumableSampler(dataset, seed=0)
            return next(iter(DataLoader(dataset, 4, sampler=sampler)))

        assert torch.equal(draw(), draw())

    def test_each_repetition_of_a_sample_is_augmented_differently(self, dataset):
        one, two = (dataset[Place(0, 0, place)]['inputs'] for place in (1, 2))
        assert not torch.equal(one, two)

    def test_attributes_of_the_data_set_are_forwarded(self, dataset):
        assert len(dataset) == 20
        assert dataset.metainfo['task_name'] == 'video_deblurring'
        assert copy.deepcopy(dataset).split == 'train'
        with pytest.raises(AttributeError):
            _ = dataset.nonsense
