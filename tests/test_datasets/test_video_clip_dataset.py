import shutil
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmagic.registry import DATASETS
from mmengine.config import Config
from torch.utils.data import DataLoader

from dblrgan_mm import launch
from dblrgan_mm.clips import clip_store
from dblrgan_mm.clips.clip import pad_index
from dblrgan_mm.datasets import DatasetError, VideoClipDataset


@pytest.fixture(scope='session')
def config(repo) -> Config:
    return Config.fromfile(repo / 'configs' / '_base_' / 'datasets' / 'gopro.py')


def windows(root, split='test', **arguments) -> list[dict]:
    dataset = VideoClipDataset(data_root=str(root), split=split, **arguments)
    return [dataset.get_data_info(i) for i in range(len(dataset))]


def numbers(paths) -> list[int]:
    return [int(Path(path).stem) for path in paths]


def images(paths) -> torch.Tensor:
    """Read frames by OpenCV: (t, 3, h, w), uint8, RGB."""
    frames = np.stack([cv2.imread(path)[..., ::-1] for path in paths])
    return torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())


class TestWindows:
    def test_every_test_frame_once_and_in_order(self, sample_root):
        keys = [w['key'] for w in windows(sample_root, test_mode=True)]
        assert keys == [
            *(f'sam2_blocks_carry/{n:06d}' for n in range(32, 42)),
            *(f'sam2_blocks_two_hands/{n:06d}' for n in range(101, 111)),
        ]

    @pytest.mark.parametrize('padding', ['reflection', 'replicate', None])
    @pytest.mark.parametrize('split', ['train', 'test'])
    def test_never_across_clips(self, sample_root, split, padding):
        for window in windows(sample_root, split, padding=padding, num_frames=7, gt='window'):
            clip = window['key'].split('/')[0]
            for paths, folder in ((window['img_path'], 'blur'), (window['gt_path'], 'sharp')):
                assert len(paths) == 7
                assert {Path(path).parent for path in paths} == {
                    sample_root / split / clip / folder
                }

    def test_training_windows_hold_real_frames_only(self, sample_root):
        found = [w for w in windows(sample_root, 'train') if w['key'].startswith('gopro_walk_a')]
        assert [numbers(w['img_path']) for w in found] == [
            list(range(first, first + 5)) for first in range(47, 55)
        ]

    @pytest.mark.parametrize(
        ('padding', 'expected'),
        [
            ('reflection', [[2, 1, 0, 1, 2], [1, 0, 1, 2, 3], [0, 1, 2, 3, 2], [1, 2, 3, 2, 1]]),
            ('replicate', [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]),
        ],
    )
    def test_padding(self, write_clip, tmp_path, padding, expected):
        write_clip('clip', range(4))
        found = windows(tmp_path, padding=padding)
        assert [numbers(w['img_path']) for w in found] == expected

    @pytest.mark.parametrize(
        ('length', 'padding', 'expected'),
        [
            (1, 'reflection', [[0] * 5]),
            (1, 'replicate', [[0] * 5]),
            (2, 'reflection', [[0, 1, 0, 1, 0], [1, 0, 1, 0, 1]]),
            (2, 'replicate', [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1]]),
            (3, 'reflection', [[2, 1, 0, 1, 2], [1, 0, 1, 2, 1], [0, 1, 2, 1, 0]]),
        ],
    )
    def test_clip_shorter_than_the_window(self, write_clip, tmp_path, length, padding, expected):
        write_clip('clip', range(length))
        assert [numbers(w['img_path']) for w in windows(tmp_path, padding=padding)] == expected

    def test_clip_just_as_long_as_the_window(self, write_clip, tmp_path):
        write_clip('clip', range(3, 8))
        (window,) = windows(tmp_path)
        assert numbers(window['img_path']) == [3, 4, 5, 6, 7]
        assert window['middle_of_clip']

    def test_single_frames(self, write_clip, tmp_path):
        write_clip('clip', range(3))
        assert [numbers(w['img_path']) for w in windows(tmp_path, num_frames=1)] == [[0], [1], [2]]

    def test_sharp_centre(self, sample_root):
        for window in windows(sample_root, test_mode=True):
            assert window['num_input_frames'] == 5
            assert window['num_output_frames'] == 1
            centre = Path(window['img_path'][2])
            assert window['gt_path'] == [str(centre.parents[1] / 'sharp' / centre.name)]

    def test_sharp_window(self, sample_root):
        for window in windows(sample_root, test_mode=True, gt='window'):
            assert window['num_output_frames'] == 5
            assert numbers(window['gt_path']) == numbers(window['img_path'])
            assert {Path(path).parent.name for path in window['gt_path']} == {'sharp'}

    @pytest.mark.parametrize('padding', ['reflection', None])
    def test_one_middle_per_clip(self, sample_root, padding):
        middles = [w['key'] for w in windows(sample_root, padding=padding) if w['middle_of_clip']]
        assert middles == ['sam2_blocks_carry/000037', 'sam2_blocks_two_hands/000106']

    def test_other_folder_of_blurry_frames(self, write_clip, tmp_path):
        write_clip('clip', range(5), folders=('blur_gamma', 'sharp'))
        (window,) = windows(tmp_path, layout_args=dict(blur='blur_gamma'))
        assert {Path(path).parent.name for path in window['img_path']} == {'blur_gamma'}

    def test_clips_without_sharp_frames(self, sample_root, real_copy):
        shutil.rmtree(real_copy / 'train' / 'gopro_walk_a' / 'sharp')
        found = windows(real_copy, 'train', gt=None)
        assert [numbers(w['img_path']) for w in found] == [
            list(range(first, first + 5)) for first in range(47, 55)
        ]
        assert not any('gt_path' in window for window in found)
        paired = windows(sample_root, 'train')[:8]
        assert [w['key'] for w in found] == [w['key'] for w in paired]

    def test_three_frames_of_kitti(self, tmp_path, lay_out):
        """A window of five is extended by reflection at both ends, as in docs/kitti.md."""
        for camera in ('image_2', 'image_3'):
            lay_out(tmp_path, 'kitti', '000001', range(9, 12), camera=camera)
        found = windows(tmp_path, layout='kitti', test_mode=True)
        files = [[Path(path).stem for path in w['img_path']] for w in found]
        expected = [(11, 10, 9, 10, 11), (10, 9, 10, 11, 10), (9, 10, 11, 10, 9)]
        assert files == 2 * [[f'000001_{n:02d}' for n in window] for window in expected]
        cameras = ['left'] * 3 + ['right'] * 3
        assert [w['key'] for w in found] == [
            f'000001_{camera}/000001_{n:02d}'
            for camera, n in zip(cameras, (9, 10, 11) * 2, strict=True)
        ]


class TestCentres:
    """The 30 frames of a DVD test clip that DBN scores."""

    BY_MATLAB = (
        2, 5, 8, 11, 15, 18, 21, 24, 28, 31, 34, 38, 41, 44, 47, 51, 54, 57, 60, 64, 67, 70, 74,
        77, 80, 83, 87, 90, 93, 97,
    )  # fmt: skip

    def found(self, root, lay_out, length, **arguments) -> list[dict]:
        lay_out(root, 'dvd', 'IMG_0001', range(length))
        return windows(root, 'train', layout='dvd', **arguments)

    @pytest.mark.parametrize(('centres', 'first'), [('dbn_1based', 1), ('dbn_0based', 2)])
    def test_windows(self, tmp_path, lay_out, centres, first):
        found = self.found(tmp_path, lay_out, 100, centres=centres, test_mode=True)
        wanted = [number - 2 + first for number in self.BY_MATLAB]
        assert [w['key'] for w in found] == [f'IMG_0001/{n:05d}' for n in wanted]
        for window, n in zip(found, wanted, strict=True):
            neighbours = [n - 2, n - 1, n, n + 1, n + 2] if n > 1 else [1, 0, 1, 2, 3]
            assert numbers(window['img_path']) == neighbours
            assert numbers(window['gt_path']) == [n]
            assert Path(window['img_path'][2]).name == f'{n:05d}.jpg'
        assert sum(window['middle_of_clip'] for window in found) == 1

    @pytest.mark.parametrize(('centres', 'needed'), [('dbn_1based', 97), ('dbn_0based', 98)])
    def test_shorter_clip(self, tmp_path, lay_out, centres, needed):
        assert len(self.found(tmp_path, lay_out, needed, centres=centres, test_mode=True)) == 30
        for folder in ('input', 'GT'):
            (tmp_path / 'IMG_0001' / folder / f'{needed - 1:05d}.jpg').unlink()
        message = (
            f'clip IMG_0001 has {needed - 1} frames, but not all of the 30 frames that DBN is '
            "scored on can be the centre of a window. Set centres='all', or set padding."
        )
        with pytest.raises(DatasetError, match=message):
            windows(tmp_path, 'train', layout='dvd', centres=centres, test_mode=True)

    @pytest.mark.parametrize('centres', ['dbn_1based', 'dbn_0based'])
    def test_without_padding_no_window_reaches_beyond_the_clip(self, tmp_path, lay_out, centres):
        try:
            found = self.found(tmp_path, lay_out, 100, centres=centres, padding=None)
        except DatasetError:
            return  # an error is allowed, too
        for window in found:
            assert len(set(window['img_path'])) == 5


class TestPadIndex:
    @given(st.integers(1, 12), st.data())
    def test_equals_numpy_pad(self, length, data):
        beyond = data.draw(st.integers(0, 30))
        index = data.draw(st.integers(-beyond, length - 1 + beyond))
        for padding, mode in (('reflection', 'reflect'), ('replicate', 'edge')):
            padded = np.pad(np.arange(length), beyond, mode=mode)
            assert pad_index(index, length, padding) == padded[index + beyond]


class TestPixels:
    def test_packed_item_equals_the_files(self, sample_root, config):
        dataset = VideoClipDataset(
            data_root=str(sample_root), split='test', test_mode=True, pipeline=config.test_pipeline
        )
        for i in (0, 5, 19):  # a padded window, a middle, a padded window
            window, item = dataset.get_data_info(i), dataset[i]
            assert torch.equal(item['inputs'], images(window['img_path']))
            sample = item['data_samples']
            assert torch.equal(sample.gt_img, images(window['gt_path'])[0])
            assert sample.metainfo['key'] == window['key']
            assert sample.metainfo['middle_of_clip'] == (i == 5)
            # MMagic needs it to convert the result back to BGR
            assert sample.metainfo['img_channel_order'] == 'rgb'
            assert sample.metainfo['gt_channel_order'] == 'rgb'

    def test_without_sharp_frames(self, real_copy, config):
        """For inference: the test pipeline without loading sharp frames."""
        shutil.rmtree(real_copy / 'train' / 'gopro_walk_a' / 'sharp')
        dataset = VideoClipDataset(
            data_root=str(real_copy), split='train', gt=None, test_mode=True,
            pipeline=[step for step in config.test_pipeline if step.get('key') != 'gt'],
        )  # fmt: skip
        assert len(dataset) == 12
        item, window = dataset[3], dataset.get_data_info(3)
        assert torch.equal(item['inputs'], images(window['img_path']))
        assert item['data_samples'].metainfo['key'] == 'gopro_walk_a/000050'
        assert 'gt_img' not in item['data_samples']


class TestClipStore:
    """Items from a clip store are bitwise equal to those from the image files."""

    def pair(self, config, sample_root, sample_store, split, pipeline, **arguments) -> list:
        return [
            VideoClipDataset(
                data_root=str(root), split=split, pipeline=config[pipeline], **arguments
            )
            for root in (sample_root, sample_store)
        ]

    def same(self, one: dict, other: dict) -> None:
        assert torch.equal(one['inputs'], other['inputs'])
        one, other = one['data_samples'], other['data_samples']
        assert torch.equal(one.gt_img, other.gt_img)
        assert one.metainfo.keys() == other.metainfo.keys()
        for key in one.metainfo.keys() - {'img_path', 'gt_path'}:
            assert one.metainfo[key] == other.metainfo[key], key

    @pytest.mark.parametrize('split', ['train', 'test'])
    @pytest.mark.parametrize('gt', ['centre', 'window'])
    @pytest.mark.parametrize(
        ('pipeline', 'arguments'),
        [
            ('train_pipeline', dict()),
            ('train_pipeline', dict(padding='reflection')),
            ('test_pipeline', dict(test_mode=True)),
        ],
        ids=['train', 'train_padded', 'test'],
    )
    def test_items(self, config, sample_root, sample_store, split, gt, pipeline, arguments):
        files, store = self.pair(
            config, sample_root, sample_store, split, pipeline, gt=gt, **arguments
        )
        assert [store.get_data_info(i)['key'] for i in range(len(store))] == [
            files.get_data_info(i)['key'] for i in range(len(files))
        ]
        inputs = []
        for i in range(len(files)):
            items = []
            for dataset in (files, store):
                np.random.seed(i)  # noqa: NPY002  (MMagic's transforms use it)
                items.append(dataset[i])
            self.same(*items)
            inputs.append(items[0]['inputs'].float())
        assert min(frames.std() for frames in inputs) > 5, 'these are pictures'

    @pytest.mark.parametrize('source', ['sample_root', 'sample_store'])
    def test_frame_that_occurs_twice_in_a_window_is_flipped_once(self, config, source, request):
        """MMagic's Flip works in place, on frames that a window may contain twice."""
        others = ('RandomTransposeHW', 'TemporalReverse')
        flipped = [
            {**step, 'flip_ratio': 1.0} if step.type == 'Flip' else step
            for step in config.train_pipeline
            if step.type not in others and step.get('direction') != 'vertical'
        ]
        plain = [step for step in flipped if step['type'] != 'Flip']
        assert len(plain) == len(flipped) - 1
        for i in (0, 1, 11):
            items = []
            for pipeline in (flipped, plain):
                dataset = VideoClipDataset(
                    data_root=str(request.getfixturevalue(source)), split='train', gt='window',
                    padding='reflection', pipeline=pipeline,
                )  # fmt: skip
                assert len(set(dataset.get_data_info(i)['img_path'])) < 5
                np.random.seed(i)  # noqa: NPY002
                items.append(dataset[i])
            for kind in (lambda item: item['inputs'], lambda item: item['data_samples'].gt_img):
                assert torch.equal(kind(items[0]).flip(-1), kind(items[1]))
                assert not torch.equal(kind(items[0]), kind(items[1]))

    def test_training_changes_neither_file_nor_later_items(self, config, real_copy, real_store):
        (file,) = (real_store / 'train').iterdir()
        content = file.read_bytes()
        tested = VideoClipDataset(
            data_root=str(real_store), split='train', pipeline=config.test_pipeline, test_mode=True
        )
        before = tested[5]
        flips = [{**step} for step in config.train_pipeline]
        for step in flips:
            step |= {ratio: 1.0 for ratio in step if ratio.endswith('_ratio')}
        trained = VideoClipDataset(
            data_root=str(real_store), split='train', pipeline=flips, gt='window'
        )
        kept = [trained[i] for i in range(len(trained))]
        assert len(kept) == 8
        self.same(tested[5], before)
        del kept
        assert file.read_bytes() == content

    @pytest.mark.parametrize(
        ('context', 'workers'), [('fork', 2), pytest.param('spawn', 1, marks=pytest.mark.slow)]
    )
    def test_workers(self, config, sample_root, sample_store, context, workers):
        files, store = self.pair(
            config, sample_root, sample_store, 'test', 'test_pipeline', test_mode=True
        )
        loader = DataLoader(
            store, 3, num_workers=workers, collate_fn=list, multiprocessing_context=context
        )
        items = [item for batch in loader for item in batch]
        assert len(items) == len(files) == 20
        for i, item in enumerate(items):
            self.same(files[i], item)

    def test_without_sharp_frames(self, config, sample_store):
        dataset = VideoClipDataset(
            data_root=str(sample_store), split='test', gt=None, test_mode=True,
            pipeline=[step for step in config.test_pipeline if step.get('key') != 'gt'],
        )  # fmt: skip
        item = dataset[0]
        assert item['inputs'].shape == (5, 3, 144, 256)
        assert 'gt_img' not in item['data_samples']

    def test_incomplete_store(self, config, real_store):
        index = clip_store.read_index(real_store)
        index['splits']['train']['complete'] = False
        clip_store.write_index(real_store, index)
        with pytest.raises(DatasetError, match="holds only part of split 'train'"):
            windows(real_store, 'train')

    def test_file_damaged_during_training(self, config, real_store):
        dataset = VideoClipDataset(
            data_root=str(real_store), split='train', pipeline=config.train_pipeline
        )
        (file,) = (real_store / 'train').iterdir()
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(DatasetError) as caught:
            dataset[2]
        assert str(caught.value).startswith(
            f'clip gopro_walk_a, window around frame 000051: {file} has '
        )


class TestTrainPipeline:
    """The pipeline of the GoPro config keeps blurry and sharp crops aligned."""

    DRAWS = 24

    def draw(self, root, config, count=DRAWS, **arguments) -> list[tuple]:
        dataset = VideoClipDataset(
            data_root=str(root), split='train', pipeline=config.train_pipeline, **arguments
        )
        items = [dataset[i % len(dataset)] for i in range(count)]
        return [(item['inputs'].numpy(), item['data_samples'].gt_img.numpy()) for item in items]

    @pytest.mark.parametrize('gt', ['centre', 'window'])
    def test_same_crop_flip_and_order(self, write_clip, tmp_path, config, gt):
        write_clip('clip', range(6), split='train', size=(160, 144))
        seen = []
        for blurry, sharp in self.draw(tmp_path, config, gt=gt):
            assert blurry.shape == (5, 3, 128, 128)
            assert sharp.shape == ((5, 3, 128, 128) if gt == 'window' else (3, 128, 128))
            assert (blurry[:, :2] == blurry[0, :2]).all(), 'one crop for all frames: x, y'
            assert (sharp[..., :2, :, :] == blurry[0, :2]).all(), 'and for the sharp ones'
            times = blurry[:, 2, 0, 0].astype(int)
            assert (blurry[:, 2] == times[:, None, None]).all()
            expected = times if gt == 'window' else times[2]
            assert (sharp[..., 2, 0, 0] == expected + 100).all(), 'of the same moments'

            x, y = blurry[0, :2].astype(int)
            transposed = bool(x[0, 0] == x[0, 1])
            along_x, along_y = (0, 1) if transposed else (1, 0)
            steps = np.diff(x, axis=along_x), np.diff(y, axis=along_y), np.diff(times)
            assert all(abs(step).max() == 1 == abs(step).min() for step in steps)
            signs = [{*step.flatten().tolist()} for step in steps]
            assert all(len(sign) == 1 for sign in signs)
            seen.append((transposed, *(sign.pop() for sign in signs)))
        for augmentation in zip(*seen, strict=True):
            assert len(set(augmentation)) == 2, 'each augmentation is both on and off'

    @pytest.mark.parametrize('gt', ['centre', 'window'])
    def test_real_frames_stay_aligned(self, real_copy, config, gt):
        clip = real_copy / 'train' / 'gopro_walk_a'
        shutil.rmtree(clip / 'blur')
        shutil.copytree(clip / 'sharp', clip / 'blur')
        crops = self.draw(real_copy, config, 10, gt=gt)
        for blurry, sharp in crops:
            np.testing.assert_array_equal(blurry if gt == 'window' else blurry[2], sharp)
        assert not any((a[0] == b[0]).all() for a, b in pairwise(crops))

    def test_crop_is_cut_from_the_named_frames(self, sample_root, config):
        others = ('Flip', 'RandomTransposeHW', 'TemporalReverse')
        crop = [step for step in config.train_pipeline if step.type not in others]
        dataset = VideoClipDataset(data_root=str(sample_root), split='train', pipeline=crop)
        for i in (0, 9, 15):
            item, window = dataset[i], dataset.get_data_info(i)
            whole, sharp = images(window['img_path']), images(window['gt_path'])[0]
            centre = (frames.numpy()[2].transpose(1, 2, 0) for frames in (whole, item['inputs']))
            difference = cv2.matchTemplate(*map(np.ascontiguousarray, centre), cv2.TM_SQDIFF)
            top, left = np.unravel_index(difference.argmin(), difference.shape)
            cut = (..., slice(top, top + 128), slice(left, left + 128))
            assert torch.equal(item['inputs'], whole[cut])
            assert torch.equal(item['data_samples'].gt_img, sharp[cut])


class TestArguments:
    @pytest.mark.parametrize(
        ('wrong', 'message'),
        [
            (dict(num_frames=4), 'num_frames must be odd, .* got 4'),
            (dict(num_frames=0), 'num_frames must be odd, .* got 0'),
            (dict(num_frames=-1), 'num_frames must be odd, .* got -1'),
            (dict(layout='dvdx'), "layout must be one of .*gopro.*, got 'dvdx'"),
            (
                dict(centres='dbn'),
                "centres must be 'all', 'dbn_1based' or 'dbn_0based', got 'dbn'",
            ),
            (dict(gt='center'), "gt must be 'centre', 'window' or None, got 'center'"),
            (dict(padding='zero'), "padding must be 'reflection', 'replicate' or None, got 'zero'"),
        ],
    )
    def test_refused(self, sample_root, wrong, message):
        with pytest.raises(ValueError, match=message):
            VideoClipDataset(data_root=str(sample_root), split='train', **wrong)


class TestBadData:
    """Errors on disk are reported in one line with clip, frame and what to do."""

    BLURRY = 'train/gopro_walk_a/blur/000051.png'

    def build(self, root, config, **changes) -> VideoClipDataset:
        return DATASETS.build(
            {**config.train_dataloader.dataset, 'data_root': str(root), 'lazy_init': False}
            | changes
        )

    def test_found_at_start_up(self, real_copy, config):
        (real_copy / 'train' / 'gopro_walk_a' / 'sharp' / '000058.png').unlink()
        with pytest.raises(DatasetError, match='clip gopro_walk_a: 12 blurry frames but 11 sharp'):
            self.build(real_copy, config)

    def test_clip_shorter_than_the_window(self, write_clip, tmp_path, config):
        write_clip('tiny', range(4), split='train')
        message = (
            'clip tiny: 4 frames are too few for a window of 5. Remove the clip, or change '
            'num_frames or padding'
        )
        with pytest.raises(DatasetError, match=message):
            self.build(tmp_path, config)

    def spoil(self, kind: str, root: Path) -> str:
        """Damage frame 000051; return what the message must contain besides clip and frame."""
        path = root / self.BLURRY
        if kind == 'empty':
            path.write_bytes(b'')
        elif kind == 'truncated':
            path.write_bytes(path.read_bytes()[:20_000])
        elif kind == 'text':
            path.write_text('no image')
        elif kind == 'vanished':
            path.unlink()
        elif kind == 'grey':
            cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
        elif kind == '16_bit':
            cv2.imwrite(str(path), cv2.imread(str(path)).astype(np.uint16) * 257)
        elif kind == 'smaller':
            cv2.imwrite(str(path), cv2.imread(str(path))[:, :200])
        elif kind == 'sharp_smaller':
            path = root / self.BLURRY.replace('blur', 'sharp')
            cv2.imwrite(str(path), cv2.imread(str(path))[:100])
        unequal = (
            'pixels, but other frames of its clip have 254x144. All frames of a clip must have the '
            'same size.'
        )
        return {
            'vanished': f'{path} was removed after the data set was listed',
            'grey': f'{path} is a grey image; frames must be in colour. Convert the clip to RGB',
            '16_bit': f'{path} has 16 bits per channel; frames must have 8. Convert the clip to 8-',
            'smaller': f'{path} has 200x144 {unequal}',
            'sharp_smaller': f'{path} has 254x100 {unequal}',
        }.get(kind, f'{path} cannot be decoded: truncated, or not an image. Copy it again.')

    KINDS = (
        'empty', 'truncated', 'text', 'vanished', 'grey', '16_bit', 'smaller', 'sharp_smaller'
    )  # fmt: skip

    @pytest.mark.parametrize('kind', KINDS)
    def test_frame(self, real_copy, config, kind):
        dataset = self.build(real_copy, config)
        expected = self.spoil(kind, real_copy)
        with pytest.raises(DatasetError) as caught:
            dataset[2]
        message = str(caught.value)
        assert message.startswith('clip gopro_walk_a, window around frame 000051: ')
        assert expected in message
        assert f'[gopro layout, train split of {real_copy}]' in message
        assert '\n' not in message

    @pytest.mark.parametrize('kind', ['empty', 'sharp_smaller'])
    def test_frame_read_by_a_worker(self, real_copy, config, kind, capsys):
        dataset = self.build(real_copy, config)
        expected = self.spoil(kind, real_copy)
        batches = iter(DataLoader(dataset, num_workers=1, sampler=[2], collate_fn=list))
        with pytest.raises(SystemExit) as exit_:
            launch.run(lambda: next(batches))
        batches._shutdown_workers()  # torch's own shutdown after an error takes five seconds
        assert exit_.value.code == 1
        assert capsys.readouterr().err == (
            f'error: clip gopro_walk_a, window around frame 000051: {expected} '
            f'[gopro layout, train split of {real_copy}]\n'
        )

    def test_crop_larger_than_the_frame(self, real_copy, config):
        pipeline = [
            {**step, 'gt_patch_size': 512} if step['type'] == 'ClipRandomCrop' else step
            for step in config.train_pipeline
        ]
        dataset = self.build(real_copy, config, pipeline=pipeline)
        message = r'clip gopro_walk_a, window around frame 000049: the crop of 512x512 .* 254x144'
        with pytest.raises(DatasetError, match=message):
            dataset[0]


class TestUnreadable:
    """An unreadable frame during training."""

    @pytest.fixture
    def damaged(self, real_copy) -> Path:
        frame = real_copy / 'train' / 'gopro_walk_a' / 'blur' / '000050.png'
        frame.write_bytes(frame.read_bytes()[:100])
        return frame

    PIPELINE = [
        dict(type='LoadClipFrames', key='img', channel_order='rgb'),
        dict(type='LoadClipFrames', key='gt', channel_order='rgb'),
        dict(type='PackInputs', meta_keys=['key']),
    ]

    def dataset(self, root, **kwargs) -> VideoClipDataset:
        return VideoClipDataset(
            data_root=str(root), split='train', pipeline=self.PIPELINE, **kwargs
        )

    def test_stops(self, real_copy, damaged):
        dataset = self.dataset(real_copy)
        with pytest.raises(DatasetError, match=str(damaged)):
            dataset[1]

    def test_skipped_windows_are_reported(self, real_copy, damaged):
        dataset = self.dataset(real_copy, unreadable='skip')
        good = [i for i in range(len(dataset)) if str(damaged) not in
                dataset.get_data_info(i)['img_path']]  # fmt: skip
        assert 0 < len(good) < len(dataset)
        keys = [dataset.get_data_info(i)['key'] for i in good]
        for i in range(len(dataset)):
            sample = dataset[i]['data_samples']
            assert sample.metainfo['key'] in keys
            skipped = sample.metainfo['skipped']
            assert bool(skipped) == (i not in good)
            assert all(str(damaged) in message for message in skipped)

    def test_nothing_can_be_read(self, real_copy):
        dataset = self.dataset(real_copy, unreadable='skip')
        for frame in (real_copy / 'train').rglob('blur/*.png'):
            frame.write_bytes(b'')
        with pytest.raises(DatasetError, match='cannot be decoded'):
            dataset[0]

    def test_unsuitable_setting_is_not_skipped(self, real_copy):
        pipeline = [*self.PIPELINE[:2], dict(type='ClipRandomCrop', gt_patch_size=1000)]
        dataset = VideoClipDataset(
            data_root=str(real_copy), split='train', pipeline=pipeline, unreadable='skip'
        )
        with pytest.raises(DatasetError, match=r'clip gopro_walk_a, .* set gt_patch_size to at'):
            dataset[0]
        assert dataset._skipped == []

    def test_arguments(self, real_copy):
        with pytest.raises(ValueError, match="unreadable must be 'stop' or 'skip', got 'ignore'"):
            self.dataset(real_copy, unreadable='ignore')
        with pytest.raises(ValueError, match='a test covers every frame'):
            self.dataset(real_copy, unreadable='skip', test_mode=True)


class TestWholeClips:
    """num_frames=None, for restorers that process a whole clip at once."""

    def test_one_item_per_clip(self, sample_root):
        clips = windows(sample_root, num_frames=None, gt='window', test_mode=True)
        assert [clip['key'].split('/')[0] for clip in clips] == [
            'sam2_blocks_carry',
            'sam2_blocks_two_hands',
        ]
        for clip in clips:
            assert len(clip['img_path']) == len(clip['gt_path']) == clip['num_output_frames'] == 10
            assert numbers(clip['img_path']) == numbers(clip['gt_path'])
            assert numbers(clip['img_path']) == sorted(numbers(clip['img_path']))
            assert clip['middle_of_clip']

    def test_without_sharp_frames(self, sample_root):
        clips = windows(sample_root, num_frames=None, gt=None)
        assert [len(clip['img_path']) for clip in clips] == [10, 10]

    @pytest.mark.parametrize('arguments', [dict(gt='centre'), dict(gt=None, centres='dbn_1based')])
    def test_unsuitable_arguments(self, sample_root, arguments):
        with pytest.raises(ValueError, match=r"num_frames=None.*gt='window'"):
            windows(sample_root, num_frames=None, **arguments)
