"""Training crops cut on the device that holds the clips, a CPU or a GPU."""

import json

import numpy as np
import pytest
import torch
from mmagic.registry import DATASETS, MODELS
from mmengine.dataset import default_collate, pseudo_collate
from torch.utils.data import DataLoader

import dblrgan_mm.models  # noqa: F401  (registers types)
from dblrgan_mm.clips import clip_store
from dblrgan_mm.clips.device_clips import DeviceClips
from dblrgan_mm.datasets import ClipPlacesDataset
from dblrgan_mm.datasets.resumable import Place, ResumableSampler, SeededDataset
from dblrgan_mm.errors import DatasetError

SIZE = 48
DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.cuda)]


@pytest.fixture(scope='module')
def clips(store) -> list[np.ndarray]:
    """All training clips, each (2, t, h, w, 3), in the order of the index."""
    entries = clip_store.read_split('gopro', store, 'train', {})
    return [np.load(store / entry['file']) for entry in entries.values()]


def dataset(store, candidates: int = 1, **arguments) -> SeededDataset:
    arguments = dict(crop_size=SIZE) | arguments
    return SeededDataset(ClipPlacesDataset(str(store), 'train', candidates=candidates, **arguments))


def places(store, count: int = 40, **arguments) -> dict:
    """Collate the first samples of a fixed order into a batch."""
    found = dataset(store, **arguments)
    return default_collate([found[Place(i % len(found), 3, i)] for i in range(count)])


def expected(clips, place) -> tuple[np.ndarray, np.ndarray]:
    """Cut a window (5, 3, h, w) and its sharp centre frame (1, 3, h, w) by slicing."""
    clip, frame, top, left, code, step = place
    blurry, sharp = clips[clip][..., top : top + SIZE, left : left + SIZE, :]
    window = np.stack([blurry[frame + step * i] for i in range(-2, 3)])
    found = []
    for frames in (window, sharp[frame][None]):
        frames = frames[:, ::-1] if code & 1 else frames
        frames = frames[:, :, ::-1] if code & 2 else frames
        frames = frames.swapaxes(1, 2) if code & 4 else frames
        found.append(frames.transpose(0, 3, 1, 2))
    return found[0], found[1]


@pytest.mark.parametrize('device', DEVICES)
class TestCrops:
    def test_crops_equal_slices(self, store, clips, device):
        batch = places(store)['places'][:, 0]
        held = DeviceClips(store, 'train', device=device)
        blurry, sharp = held.crops(batch.to(device), SIZE, 2)
        assert (blurry.device.type, blurry.dtype) == (device, torch.uint8)
        for i, place in enumerate(batch.tolist()):
            window, frame = expected(clips, place)
            np.testing.assert_array_equal(blurry[i].cpu(), window)
            np.testing.assert_array_equal(sharp[i].cpu(), frame)
        # all flips, directions and clips occur
        assert len({tuple(place[4:]) for place in batch.tolist()}) == 16
        assert len(batch[:, 0].unique()) == 3

    def test_the_best_candidate_is_kept(self, store, clips, device):
        batch = places(store, candidates=6)
        held = DeviceClips(store, 'train', device=device)
        kept = held.pick(batch['places'].to(device), batch['noise'].to(device), SIZE)
        for i, candidates in enumerate(batch['places'].tolist()):
            scores = []
            for place, g in zip(candidates, batch['noise'][i].tolist(), strict=True):
                window, frame = expected(clips, place)
                difference = np.abs(window[2].astype(float) - frame[0]).mean()
                scores.append(np.log(difference + 0.3) + 0.5 * g)
            assert kept[i].tolist() == candidates[int(np.argmax(scores))]

    def test_preprocessor_output_equals_mmagics(self, store, device):
        usual = dict(mean=[0.0] * 3, std=[255.0] * 3)
        ours = MODELS.build(
            dict(type='ClipsOnDevicePreprocessor', data_root=str(store), split='train', **usual)
        ).to(device)
        theirs = MODELS.build(dict(type='DataPreprocessor', **usual)).to(device)
        found = dataset(store)
        windows = DATASETS.build(
            dict(
                type='VideoClipDataset', data_root=str(store), split='train',
                pipeline=[
                    dict(type='LoadClipFrames', key='img', channel_order='rgb'),
                    dict(type='LoadClipFrames', key='gt', channel_order='rgb'),
                    dict(type='PackInputs', meta_keys=['key']),
                ],
            )
        )  # fmt: skip
        batch = default_collate([found[Place(i, 3, i)] for i in range(len(found))])
        batch['places'][..., 4:] = torch.tensor([0, 1])  # not mirrored, not reversed
        cropped = ours(batch, training=True)
        for i in range(0, len(found), 5):
            whole = theirs(pseudo_collate([windows[i]]), training=True)
            top, left = batch['places'][i, 0, 2:4].tolist()
            where = (..., slice(top, top + SIZE), slice(left, left + SIZE))
            assert torch.equal(cropped['inputs'][i], whole['inputs'][0][where])
            assert torch.equal(
                cropped['data_samples'].gt_img[i], whole['data_samples'].gt_img[0][where]
            )
        item = pseudo_collate([windows[0]])
        assert torch.equal(ours(item, True)['inputs'], theirs(item, True)['inputs'])
        batch['sharp_input'][1:3] = True
        replaced = ours(batch, training=True)['inputs']
        same = (replaced == cropped['inputs']).flatten(1).all(1)
        assert same.logical_not().nonzero()[:, 0].tolist() == [1, 2]
        assert torch.equal(replaced[1:3, 2], cropped['data_samples'].gt_img[1:3])
        if device == 'cuda':
            torch.cuda.set_sync_debug_mode('error')
            ours(batch, training=True)
            torch.cuda.set_sync_debug_mode('default')


class TestPlaces:
    def test_same_windows_as_the_usual_data_set(self, store):
        usual = DATASETS.build(
            dict(type='VideoClipDataset', data_root=str(store), split='train', pipeline=[])
        )
        found = dataset(store)
        names = list(clip_store.read_split('gopro', store, 'train', {}))
        assert len(found) == len(usual)
        for i in range(len(found)):
            clip, frame = found[Place(i)]['places'][0, :2].tolist()
            path = usual.get_data_info(i)['img_path'][2]
            assert path.endswith(f'{names[clip]}.npy#blurry.{frame}')

    def test_places_depend_only_on_seed_and_position(self, store):
        a, b = (places(store, candidates=4) for _ in range(2))
        assert torch.equal(a['places'], b['places'])
        assert torch.equal(a['noise'], b['noise'])

    def test_same_batches_with_any_number_of_workers(self, store):
        batches = []
        for workers in (0, 2):
            found = dataset(store, 4)
            sampler = ResumableSampler(found, seed=1)
            loader = DataLoader(found, 8, sampler=sampler, num_workers=workers,
                                collate_fn=default_collate)  # fmt: skip
            batches.append(next(iter(loader))['places'])
        assert torch.equal(*batches)

    def test_blurry_crops_are_kept_more_often(self, store):
        held = DeviceClips(store, 'train')

        def blur(candidates: int) -> float:
            batch = places(store, 60, candidates=candidates)
            kept = held.pick(batch['places'], batch['noise'], SIZE)
            blurry, sharp = held.crops(kept, SIZE, 0)
            return (blurry.float() - sharp).abs().mean().item()

        assert blur(8) > 1.3 * blur(1)

    def test_several_sharp_frames(self, store):
        preprocessor = MODELS.build(
            dict(
                type='ClipsOnDevicePreprocessor', data_root=str(store), split='train', gt_frames=5,
                mean=[0.0] * 3, std=[255.0] * 3,
            )
        )  # fmt: skip
        sharp = preprocessor(places(store, 3), True)['data_samples'].gt_img
        assert sharp.shape == (3, 5, 3, SIZE, SIZE)

    def test_fraction_of_sharp_windows(self, store):
        assert not places(store, 60)['sharp_input'].any()
        assert places(store, 60, sharp_prob=1.0)['sharp_input'].all()
        assert 15 <= places(store, 60, sharp_prob=0.5)['sharp_input'].sum() <= 45

    def test_sharp_windows_equal_the_sharp_frames(self, store):
        batch = places(store, 5, sharp_prob=1.0)
        usual = dict(type='ClipsOnDevicePreprocessor', data_root=str(store), split='train')
        result = MODELS.build(dict(usual, gt_frames=5))(batch, True)
        assert torch.equal(result['inputs'], result['data_samples'].gt_img)


class TestErrors:
    def test_no_clip_store(self, tmp_path):
        with pytest.raises(DatasetError, match='is not a clip store'):
            ClipPlacesDataset(str(tmp_path), 'train', 48)

    def test_crop_larger_than_all_frames(self, store):
        with pytest.raises(
            DatasetError, match=r'3 of 3 clips .*\(12 frames of 254x144\).*crop_size'
        ):
            ClipPlacesDataset(str(store), 'train', 145)

    def test_clips_shorter_than_a_window_are_left_out(self, store):
        names = list(clip_store.read_split('gopro', store, 'train', {}))
        found = ClipPlacesDataset(str(store), 'train', 48, num_frames=11)
        clips = {names[clip] for clip in found.windows[:, 0]}
        assert clips == {'gopro_walk_a'}
        places = {int(found[i]['places'][0, 0]) for i in range(len(found))}
        assert {names[i] for i in places} == clips

    def test_arguments(self, store):
        with pytest.raises(ValueError, match='num_frames must be odd'):
            ClipPlacesDataset(str(store), 'train', 48, num_frames=4)
        with pytest.raises(ValueError, match=r'sharp_prob must be in \[0, 1\], got 2'):
            ClipPlacesDataset(str(store), 'train', 48, sharp_prob=2)
        with pytest.raises(ValueError, match='must be at least 1, got 0 and 48'):
            ClipPlacesDataset(str(store), 'train', 48, candidates=0)

    def test_clips_without_sharp_frames(self, store, tmp_path):
        index = json.loads((store / 'index.json').read_text())
        entries = index['splits']['train']['clips']
        name = next(iter(entries))
        clip = np.load(store / entries[name]['file'])[:1]
        (tmp_path / 'train').mkdir()
        np.save(tmp_path / 'train' / 'a.npy', clip)
        entry = dict(entries[name], file='train/a.npy', shape=list(clip.shape))
        index['splits'] = dict(train=dict(complete=True, clips={name: entry}))
        (tmp_path / 'index.json').write_text(json.dumps(index))
        with pytest.raises(DatasetError, match='has no sharp frames'):
            ClipPlacesDataset(str(tmp_path), 'train', 48)
