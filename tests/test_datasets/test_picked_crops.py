import numpy as np
import pytest
from mmagic.registry import DATASETS
from torch.utils.data import DataLoader

from dblrgan_mm.datasets.resumable import ResumableSampler, SeededDataset

LOADED = [
    dict(type='LoadClipFrames', key='img', channel_order='rgb'),
    dict(type='LoadClipFrames', key='gt', channel_order='rgb'),
]
CROPPED = [*LOADED, dict(type='ClipRandomCrop', gt_patch_size=48)]


def build(root, candidates=8, pipeline=(), inner=CROPPED, **arguments):
    clips = dict(
        type='VideoClipDataset', data_root=str(root), split='train', num_frames=5, pipeline=inner
    )
    return DATASETS.build(
        dict(
            type='PickedCropsDataset',
            dataset={**clips, **arguments},
            candidates=candidates,
            pipeline=list(pipeline),
        )
    )


def differences(dataset, count=60) -> np.ndarray:
    found = []
    for i in range(count):
        item = dataset[i % len(dataset)]
        blurry, sharp = item['img'][2].astype(float), item['gt'][0].astype(float)
        found.append(np.abs(blurry - sharp).mean())
    return np.array(found)


class TestPicking:
    def test_blurry_crops_are_kept_more_often_but_not_always(self, sample_store):
        plain, picked = (differences(build(sample_store, k)) for k in (1, 8))
        assert picked.mean() > 1.3 * plain.mean()
        assert (picked < np.median(plain)).any()

    def test_one_candidate_is_the_requested_window(self, sample_store):
        dataset = build(sample_store, 1)
        keys = [dataset[i]['key'] for i in range(len(dataset))]
        assert keys == [dataset.dataset.get_data_info(i)['key'] for i in range(len(dataset))]

    def test_image_files_and_clip_store_give_the_same(self, sample_root, sample_store):
        items = []
        for root in (sample_root, sample_store):
            dataset = SeededDataset(build(root))
            place = next(iter(ResumableSampler(dataset, seed=3)))
            items.append(dataset[place])
        assert items[0]['key'] == items[1]['key']
        np.testing.assert_array_equal(items[0]['img'], items[1]['img'])
        np.testing.assert_array_equal(items[0]['gt'], items[1]['gt'])

    def test_same_samples_with_any_number_of_workers(self, sample_store):
        pipeline = [dict(type='PackInputs', meta_keys=['key'])]
        batches = []
        for workers in (0, 2):
            dataset = SeededDataset(build(sample_store, 4, pipeline))
            loader = DataLoader(
                dataset,
                4,
                sampler=ResumableSampler(dataset, seed=1),
                num_workers=workers,
                collate_fn=lambda items: np.stack([item['inputs'].numpy() for item in items]),
            )
            batches.append(next(iter(loader)))
        np.testing.assert_array_equal(*batches)


class TestErrors:
    def test_no_candidate(self, sample_store):
        with pytest.raises(ValueError, match='candidates must be at least 1, got 0'):
            build(sample_store, 0)

    def test_skipped_frames(self, sample_store):
        with pytest.raises(ValueError, match="unreadable='stop'"):
            build(sample_store, unreadable='skip')

    def test_no_sharp_frames(self, sample_store):
        with pytest.raises(ValueError, match="gt='centre' or 'window'"):
            build(sample_store, gt=None, inner=LOADED[:1])
