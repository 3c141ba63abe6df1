import cv2
import numpy as np
import pytest
from PIL import Image

from dblrgan_mm.clips import clip_store
from dblrgan_mm.datasets import ClipRandomCrop, LoadClipFrames, SharpInput
from dblrgan_mm.errors import LaunchError


@pytest.fixture
def frames(real_copy) -> list[str]:
    folder = real_copy / 'train' / 'gopro_walk_a' / 'blur'
    return [str(path) for path in sorted(folder.iterdir())[:3]]


def load(paths, key='img', **arguments) -> dict:
    return LoadClipFrames(key=key, **arguments).transform({f'{key}_path': paths})


class TestPixels:
    @pytest.mark.parametrize(('order', 'step'), [('rgb', -1), ('bgr', 1)])
    def test_channel_order(self, frames, order, step):
        loaded = load(frames, channel_order=order)
        assert len(loaded['img']) == 3
        for path, image in zip(frames, loaded['img'], strict=True):
            assert image.dtype == np.uint8
            np.testing.assert_array_equal(image, cv2.imread(path)[..., ::step])
        assert loaded['ori_img_shape'] == [(144, 254, 3)] * 3

    def test_one_path_gives_one_image(self, frames):
        loaded = load(frames[0], key='gt', channel_order='rgb', to_float32=True)
        assert loaded['gt'].dtype == np.float32
        np.testing.assert_array_equal(loaded['gt'], cv2.imread(frames[0])[..., ::-1])

    @pytest.mark.parametrize('order', ['rgb', 'bgr'])
    @pytest.mark.parametrize('mode', ['RGBA', 'P'])
    def test_alpha_and_palette(self, frames, order, mode):
        image = Image.open(frames[1])
        image = image.quantize(99) if mode == 'P' else image.convert(mode)
        image.save(frames[1])
        expected = np.asarray(image.convert('RGB'))[..., :: 1 if order == 'rgb' else -1]
        np.testing.assert_array_equal(load(frames, channel_order=order)['img'][1], expected)

    @pytest.mark.parametrize('order', ['rgb', 'bgr'])
    def test_orientation_is_followed(self, frames, tmp_path, order):
        path = str(tmp_path / '1.jpg')
        exif = Image.Exif()
        exif[274] = 6  # a quarter turn
        Image.open(frames[0]).save(path, exif=exif)
        (image,) = load([path], channel_order=order)['img']
        assert image.shape == (254, 144, 3)
        expected = cv2.imread(path)[..., :: -1 if order == 'rgb' else 1]
        np.testing.assert_array_equal(image, expected)


class TestClipStore:
    """Frames of a store equal those of the image files in every requested form."""

    @pytest.fixture
    def clip(self, sample_store):
        return clip_store.load_clips('gopro', sample_store, 'train')[0]

    @pytest.mark.parametrize(
        'arguments',
        [
            dict(channel_order='rgb'),
            dict(channel_order='bgr'),
            dict(channel_order='rgb', to_float32=True),
            dict(channel_order='bgr', to_float32=True),
            dict(channel_order='rgb', to_y_channel=True),
            dict(channel_order='bgr', to_y_channel=True),
            dict(channel_order='rgb', save_original_img=True),
            dict(channel_order='rgb', use_cache=True),
        ],
        ids=str,
    )
    def test_equals_image_files(self, clip, frames, arguments):
        stored, read = load(list(clip.blurry[:3]), **arguments), load(frames, **arguments)
        assert stored.keys() == read.keys()
        for key in read.keys() - {'img_path'}:
            if isinstance(read[key], list) and isinstance(read[key][0], np.ndarray):
                for one, other in zip(stored[key], read[key], strict=True):
                    assert one.dtype == other.dtype
                    np.testing.assert_array_equal(one, other)
            else:
                assert stored[key] == read[key]

    def test_other_color_types_are_refused(self, clip):
        with pytest.raises(LaunchError, match="color_type must be 'color', not 'grayscale'"):
            load([clip.blurry[0]], channel_order='rgb', color_type='grayscale')

    @pytest.mark.parametrize('order', ['rgb', 'bgr'])
    def test_frames_are_writable(self, clip, order):
        """MMagic's Flip writes in place."""
        (frame,) = load([clip.blurry[0]], channel_order=order)['img']
        original = frame.copy()
        cv2.flip(frame, 1, frame)
        np.testing.assert_array_equal(frame, original[:, ::-1])
        (again,) = load([clip.blurry[0]], channel_order=order)['img']
        np.testing.assert_array_equal(again, original)


class TestErrors:
    def message(self, paths, **arguments) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  (callers check the message)
            load(paths, channel_order='rgb', **arguments)
        return str(caught.value)

    @pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp', '.tif', '.webp'])
    @pytest.mark.parametrize('kept', [0.0, 0.001, 0.5, 0.98])
    def test_truncated(self, frames, tmp_path, suffix, kept):
        path = str(tmp_path / f'000001{suffix}')
        content = cv2.imencode(suffix, cv2.imread(frames[0]))[1].tobytes()
        with open(path, 'wb') as file:
            file.write(content[: int(kept * len(content))])
        assert self.message([*frames, path]) == (
            f'{path} cannot be decoded: truncated, or not an image. Copy it again.'
        )

    @pytest.mark.parametrize('order', ['rgb', 'bgr'])
    def test_no_image(self, frames, order):
        with open(frames[1], 'w') as file:
            file.write('<html>404</html>')
        with pytest.raises(ValueError, match=f'^{frames[1]} cannot be decoded: truncated, or not'):
            load(frames, channel_order=order)

    @pytest.mark.parametrize('order', ['rgb', 'bgr'])
    @pytest.mark.parametrize('suffix', ['.png', '.jpg'])
    def test_grey(self, frames, tmp_path, order, suffix):
        path = str(tmp_path / f'1{suffix}')
        cv2.imwrite(path, cv2.imread(frames[1], cv2.IMREAD_GRAYSCALE))
        with pytest.raises(ValueError, match=f'^{path} is a grey image; frames must be in colour'):
            load([frames[0], path], channel_order=order)

    def test_16_bit(self, frames):
        cv2.imwrite(frames[1], cv2.imread(frames[1]).astype(np.uint16) * 257)
        assert self.message(frames) == (
            f'{frames[1]} has 16 bits per channel; frames must have 8. Convert the clip to 8-bit '
            'images.'
        )

    def test_file_removed_after_listing(self, frames):
        assert f'{frames[0]}x was removed' in self.message([f'{frames[0]}x'])

    def test_folder_in_place_of_an_image(self, tmp_path):
        message = self.message(str(tmp_path))
        assert message.startswith(f'{tmp_path} cannot be read')
        assert 'directory' in message

    def test_frames_of_unequal_size(self, frames):
        cv2.imwrite(frames[1], cv2.imread(frames[1])[:, :200])
        assert self.message(frames) == (
            f'{frames[1]} has 200x144 pixels, but other frames of its clip have 254x144. '
            'All frames of a clip must have the same size.'
        )

    def test_sharp_of_another_size_than_blurry(self, frames):
        results = load(frames[:2], channel_order='rgb') | {'gt_path': [frames[2]]}
        cv2.imwrite(frames[2], cv2.imread(frames[2])[:100])
        message = f'{frames[2]} has 254x100 pixels, but other frames of its clip have 254x144'
        with pytest.raises(ValueError, match=message):
            LoadClipFrames(key='gt', channel_order='rgb').transform(results)


class TestClipRandomCrop:
    def crop(self, frames, size) -> dict:
        results = load(frames, channel_order='rgb') | {'gt_path': frames[1:2]}
        results = LoadClipFrames(key='gt', channel_order='rgb').transform(results)
        return ClipRandomCrop(gt_patch_size=size).transform(results)

    def test_crop_as_high_as_the_frame(self, frames):
        results = self.crop(frames, 144)
        assert [image.shape for image in results['img']] == [(144, 144, 3)] * 3
        (sharp,) = results['gt']
        np.testing.assert_array_equal(sharp, results['img'][1])

    def test_larger_than_the_frame(self, frames):
        with pytest.raises(LaunchError, match='larger') as caught:
            self.crop(frames, 145)
        assert str(caught.value) == (
            'the crop of 145x145 pixels is larger than the frames of 254x144: set gt_patch_size to '
            'at most 144, or remove the clip'
        )


class TestSharpInput:
    @pytest.fixture
    def window(self, frames) -> dict:
        sharp = [path.replace('/blur/', '/sharp/') for path in frames]
        return {**load(frames, channel_order='rgb'), **load(sharp, key='gt', channel_order='rgb')}

    def test_replaces_the_blurry_frames(self, window):
        blurry, sharp = window['img'], window['gt']
        results = SharpInput(prob=1.0).transform(dict(window))
        np.testing.assert_array_equal(results['img'], sharp)
        assert not np.array_equal(blurry, sharp)
        np.testing.assert_array_equal(results['gt'], sharp[1:2])
        results['img'][1][:] = 0  # noise on the input must not reach the target
        assert results['gt'][0].any()

    def test_otherwise_keeps_them(self, window):
        results = SharpInput(prob=0.0).transform(dict(window))
        np.testing.assert_array_equal(results['img'], window['img'])
        np.testing.assert_array_equal(results['gt'], window['gt'][1:2])

    def test_fraction_of_windows(self, window):
        np.random.seed(0)  # noqa: NPY002
        transform = SharpInput(prob=0.25)
        replaced = [
            np.array_equal(transform.transform(dict(window))['img'], window['gt'])
            for _ in range(200)
        ]
        assert 30 <= sum(replaced) <= 70

    @pytest.mark.parametrize('sharp', [0, 1])
    def test_needs_all_sharp_frames(self, window, sharp):
        window['gt'] = window['gt'][:sharp]
        with pytest.raises(LaunchError, match=f"3 blurry frames .* got {sharp}: set gt='window'"):
            SharpInput().transform(window)

    def test_probability(self):
        with pytest.raises(ValueError, match=r'prob must be in \[0, 1\], got 5'):
            SharpInput(prob=5)
