import cv2
import numpy as np
import pytest

from dblrgan_mm.datasets import ClipRandomCrop, LoadClipFrames


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


class TestErrors:
    def message(self, paths, **arguments) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  (the callers look at the message)
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

    def test_vanished(self, frames):
        assert f'{frames[0]}x has vanished' in self.message([f'{frames[0]}x'])

    def test_folder_in_place_of_an_image(self, tmp_path):
        message = self.message(str(tmp_path))
        assert message.startswith(f'{tmp_path} cannot be read')
        assert 'directory' in message

    def test_frames_of_unequal_size(self, frames):
        cv2.imwrite(frames[1], cv2.imread(frames[1])[:, :200])
        assert self.message(frames) == (
            f'{frames[1]} has 200x144 pixels, other frames of its clip have 254x144. '
            'Frames of a clip must be of equal size.'
        )

    def test_sharp_of_another_size_than_blurry(self, frames):
        results = load(frames[:2], channel_order='rgb') | {'gt_path': [frames[2]]}
        cv2.imwrite(frames[2], cv2.imread(frames[2])[:100])
        message = f'{frames[2]} has 254x100 pixels, other frames of its clip have 254x144'
        with pytest.raises(ValueError, match=message):
            LoadClipFrames(key='gt', channel_order='rgb').transform(results)


class TestClipRandomCrop:
    def crop(self, frames, size) -> dict:
        results = load(frames, channel_order='rgb') | {'gt_path': frames[1:2]}
        results = LoadClipFrames(key='gt', channel_order='rgb').transform(results)
        return ClipRandomCrop(gt_patch_size=size).transform(results)

    def test_as_high_as_the_frame(self, frames):
        results = self.crop(frames, 144)
        assert [image.shape for image in results['img']] == [(144, 144, 3)] * 3
        (sharp,) = results['gt']
        np.testing.assert_array_equal(sharp, results['img'][1])

    def test_larger_than_the_frame(self, frames):
        with pytest.raises(ValueError, match='larger') as caught:
            self.crop(frames, 145)
        assert str(caught.value) == (
            'the crop of 145x145 pixels is larger than the frames of 254x144: set gt_patch_size to '
            'at most 144, or leave the clip out'
        )
