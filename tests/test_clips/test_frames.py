import cv2
import numpy as np
import pytest
from PIL import Image

from dblrgan_mm.clips.frames import IMAGE_SUFFIXES, encode_image, read_frame
from dblrgan_mm.errors import UserError


@pytest.fixture
def image(sample_root) -> np.ndarray:
    """A real frame, uint8 (h, w, 3), RGB."""
    path = sample_root / 'train' / 'gopro_walk_a' / 'blur' / '000050.png'
    return np.asarray(Image.open(path).convert('RGB'))


@pytest.fixture
def path(tmp_path):
    return tmp_path / '000050.png'


class TestPixels:
    def test_channel_order(self, image, path):
        Image.fromarray(image).save(path)
        np.testing.assert_array_equal(read_frame(path), image)
        np.testing.assert_array_equal(read_frame(str(path), 'bgr'), image[..., ::-1])

    @pytest.mark.parametrize('suffix', IMAGE_SUFFIXES)
    def test_every_type(self, image, tmp_path, suffix):
        path = tmp_path / f'1{suffix}'
        cv2.imwrite(str(path), image[..., ::-1])
        frame = read_frame(path)
        assert (frame.dtype, frame.shape) == (np.uint8, image.shape)
        np.testing.assert_array_equal(frame, cv2.imread(str(path))[..., ::-1])
        assert cv2.PSNR(frame, image) > 30

    def test_palette(self, image, path):
        few = Image.fromarray(image).quantize(200)
        few.save(path)
        assert Image.open(path).mode == 'P'
        np.testing.assert_array_equal(read_frame(path), np.asarray(few.convert('RGB')))

    def test_alpha_is_dropped(self, image, path):
        alpha = np.full((*image.shape[:2], 1), 7, np.uint8)
        Image.fromarray(np.concatenate([image, alpha], 2)).save(path)
        np.testing.assert_array_equal(read_frame(path), image)

    @pytest.mark.parametrize('orientation', range(1, 9))
    def test_orientation_is_followed(self, image, tmp_path, orientation):
        path = tmp_path / '1.jpg'
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(image).save(path, exif=exif)
        frame = read_frame(path)
        height, width = image.shape[:2]
        assert frame.shape[:2] == ((width, height) if orientation > 4 else (height, width))
        np.testing.assert_array_equal(frame, cv2.imread(str(path))[..., ::-1])


class TestErrors:
    def message(self, path) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  (callers check the message)
            read_frame(path)
        return str(caught.value)

    @pytest.mark.parametrize('suffix', ['.png', '.jpg', '.tif'])
    def test_grey(self, image, tmp_path, suffix):
        path = tmp_path / f'1{suffix}'
        Image.fromarray(image).convert('L').save(path)
        assert self.message(path) == (
            f'{path} is a grey image; frames must be in colour. Convert the clip to RGB images.'
        )

    @pytest.mark.parametrize('channels', [1, 3, 4])
    @pytest.mark.parametrize('suffix', ['.png', '.tif'])
    def test_16_bit(self, image, tmp_path, suffix, channels):
        path = tmp_path / f'1{suffix}'
        deep = np.repeat(image[..., :1], channels, 2).astype(np.uint16) * 257
        assert cv2.imwrite(str(path), deep)
        assert self.message(path) == (
            f'{path} has 16 bits per channel; frames must have 8. Convert the clip to 8-bit images.'
        )

    def test_float(self, image, tmp_path):
        path = tmp_path / '1.tif'
        assert cv2.imwrite(str(path), image.astype(np.float32))
        assert f'{path} has 32 bits per channel; frames must have 8.' in self.message(path)

    @pytest.mark.parametrize('kept', [0, 8, 1000, -1000])
    def test_truncated(self, image, path, kept):
        Image.fromarray(image).save(path)
        path.write_bytes(path.read_bytes()[:kept])
        assert self.message(path) == (
            f'{path} cannot be decoded: truncated, or not an image. Copy it again.'
        )

    def test_missing(self, path):
        assert self.message(path) == f'{path} does not exist'

    def test_folder(self, tmp_path):
        assert self.message(tmp_path) == f'{tmp_path} cannot be read (Is a directory)'


def test_image_that_cannot_be_encoded():
    with pytest.raises(UserError, match=r'^an image of 65501x1 pixels cannot be stored as \.jpg;'):
        encode_image(np.zeros((1, 65501, 3), np.uint8), '.jpg')
