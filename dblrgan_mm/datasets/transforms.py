"""The transforms that MMagic lacks; flips, transposition, reversal and crops are MMagic's."""

import cv2
import numpy as np

from dblrgan_mm import compat

compat.apply()

from mmagic.datasets.transforms import LoadImageFromFile, PairedRandomCrop
from mmagic.registry import TRANSFORMS

from dblrgan_mm.clips import clip_store
from dblrgan_mm.clips.frames import AS_STORED, require_8_bit_colour


@TRANSFORMS.register_module()
class LoadClipFrames(LoadImageFromFile):
    """MMagic's ``LoadImageFromFile`` for clips, from image files or a clip store.

    MMagic's fails on an unreadable image with "'NoneType' object has no attribute 'ndim'", turns
    grey and 16-bit images into 8-bit colour in silence, and lets frames of different sizes pass.
    Arguments, keys and results are the same; frames are (h, w, 3), uint8 by default, in the
    channel order asked for ('rgb' in this project's configs, where MMagic's default is 'bgr').

    Frames of a clip store are mapped into memory: of a frame that is cropped next, the crop alone
    is read. The store holds RGB, so another order reads and copies whole frames.

    Raises:
        ValueError: for an image that cannot be decoded, is grey or has more than 8 bits, for a
            damaged file of a clip store, and for frames of one window, blurry or sharp, that
            differ in size.
    """

    def __init__(self, key: str, **kwargs) -> None:
        super().__init__(key, **kwargs)
        self._checked = self.color_type == 'color' and self.imdecode_backend in (None, 'cv2')

    def _load_image(self, filename: str) -> np.ndarray:
        if clip_store.is_place(filename):
            if self.color_type != 'color':
                raise ValueError(
                    f"a clip store holds colour, so color_type must be 'color', not "
                    f'{self.color_type!r}'
                )
            frame = clip_store.map_frame(filename)
            return frame if self.channel_order == 'rgb' else np.ascontiguousarray(frame[..., ::-1])
        color_type = self.color_type
        try:
            if self._checked:  # decoded to 8-bit colour, a frame would hide that it is not
                self.color_type = AS_STORED
            image = super()._load_image(filename)
        except FileNotFoundError:
            raise ValueError(f'{filename} has vanished since the data set was listed') from None
        except OSError as error:
            raise ValueError(f'{filename} cannot be read ({error})') from error
        except cv2.error:  # for an empty file, and for any where RGB is asked for
            image = None
        finally:
            self.color_type = color_type
        if not self._checked and image is not None:
            return image
        image = require_8_bit_colour(image, filename)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if self.channel_order == 'rgb' else image

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        shapes, paths = results[f'ori_{self.key}_shape'], results[f'{self.key}_path']
        if not isinstance(paths, list):
            shapes, paths = [shapes], [paths]
        # sharp frames are held against the blurry ones where those were loaded before
        expected = results.get('ori_img_shape', shapes)
        expected = expected[0] if isinstance(expected, list) else expected
        for shape, path in zip(shapes, paths, strict=False):
            if shape != expected:
                raise ValueError(
                    f'{path} has {shape[1]}x{shape[0]} pixels, other frames of its clip have '
                    f'{expected[1]}x{expected[0]}. Frames of a clip must be of equal size.'
                )
        return results


@TRANSFORMS.register_module()
class ClipRandomCrop(PairedRandomCrop):
    """MMagic's ``PairedRandomCrop`` of a window's blurry and sharp frames, which are of one size.

    Knows that the scale is 1, where MMagic's needs ``SetValues`` before it. Says that a crop is
    too large in a line, where MMagic's lists the path of every frame.

    Raises:
        ValueError: if the crop is larger than the frames.
    """

    def transform(self, results: dict) -> dict:
        frame = results[self.lq_key][0]
        height, width = frame.shape[:2]
        if min(height, width) < self.gt_patch_size:
            raise ValueError(
                f'the crop of {self.gt_patch_size}x{self.gt_patch_size} pixels is larger than the '
                f'frames of {width}x{height}: set gt_patch_size to at most {min(height, width)}, '
                'or leave the clip out'
            )
        return super().transform({**results, 'scale': 1})
