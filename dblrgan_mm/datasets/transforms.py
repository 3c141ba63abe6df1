"""Loading and cropping of clips; use MMagic's flips, transposition and time reversal."""

import cv2
import numpy as np
from mmagic.datasets.transforms import LoadImageFromFile, PairedRandomCrop
from mmagic.registry import TRANSFORMS
from mmcv.transforms import BaseTransform

from dblrgan_mm.clips import clip_store
from dblrgan_mm.clips.frames import AS_STORED, require_8_bit_colour
from dblrgan_mm.errors import LaunchError


@TRANSFORMS.register_module()
class LoadClipFrames(LoadImageFromFile):
    """MMagic's ``LoadImageFromFile`` for clips, from image files or a clip store.

    MMagic's version fails on an unreadable image with "'NoneType' object has no attribute 'ndim'",
    silently converts grey and 16-bit images to 8-bit colour, and accepts frames of different sizes.
    Arguments, keys and results are the same. Frames are (h, w, 3), uint8 by default, in the
    requested channel order ('rgb' in this project's configs; MMagic's default is 'bgr').

    Frames of a clip store are memory-mapped: if the next transform crops the frame, only the crop
    is read. The store holds RGB, so another channel order reads and copies whole frames.

    Raises:
        ValueError: if an image cannot be decoded, is grey or has more than 8 bits per channel, if
            a clip store file is damaged, or if frames of one window, blurry or sharp, differ in
            size.
        LaunchError: if grey frames are requested from a clip store.
    """

    color_type: str | int  # set by MMagic

    def __init__(self, key: str, **kwargs) -> None:
        super().__init__(key, **kwargs)
        self._checked = self.color_type == 'color' and self.imdecode_backend in (None, 'cv2')

    def _load_image(self, filename: str) -> np.ndarray:
        if clip_store.is_place(filename):
            if self.color_type != 'color':
                raise LaunchError(
                    f"a clip store holds colour frames, so color_type must be 'color', not "
                    f'{self.color_type!r}'
                )
            frame = clip_store.map_frame(filename)
            return frame if self.channel_order == 'rgb' else np.ascontiguousarray(frame[..., ::-1])
        color_type = self.color_type
        try:
            if self._checked:  # decoding to 8-bit colour would hide other formats
                self.color_type = AS_STORED
            image = super()._load_image(filename)
        except FileNotFoundError:
            raise ValueError(f'{filename} was removed after the data set was listed') from None
        except OSError as error:
            raise ValueError(f'{filename} cannot be read ({error})') from error
        except cv2.error:  # for an empty file; for any undecodable one if RGB is requested
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
        # compare sharp frames with the blurry ones if those were loaded before
        expected = results.get('ori_img_shape', shapes)
        expected = expected[0] if isinstance(expected, list) else expected
        for shape, path in zip(shapes, paths, strict=False):
            if shape != expected:
                raise ValueError(
                    f'{path} has {shape[1]}x{shape[0]} pixels, but other frames of its clip have '
                    f'{expected[1]}x{expected[0]}. All frames of a clip must have the same size.'
                )
        return results


@TRANSFORMS.register_module()
class ClipRandomCrop(PairedRandomCrop):
    """MMagic's ``PairedRandomCrop`` for a window's blurry and sharp frames, which have equal size.

    The scale is fixed to 1, whereas MMagic's version needs ``SetValues`` before it. If the crop is
    too large, the message is one line, whereas MMagic's lists the path of every frame.

    Raises:
        LaunchError: if the crop is larger than the frames.
    """

    def transform(self, results: dict) -> dict:
        frame = results[self.lq_key][0]
        height, width = frame.shape[:2]
        if min(height, width) < self.gt_patch_size:
            raise LaunchError(
                f'the crop of {self.gt_patch_size}x{self.gt_patch_size} pixels is larger than the '
                f'frames of {width}x{height}: set gt_patch_size to at most {min(height, width)}, '
                'or remove the clip'
            )
        return super().transform({**results, 'scale': 1})


@TRANSFORMS.register_module()
class SharpInput(BaseTransform):
    """Replaces the blurry frames by the sharp ones in a fraction of the windows.

    The method is our own. A network that is trained only on blurry windows expects blur wherever
    it sees motion, so it changes sharp frames of a moving scene. These windows teach it to return
    them as they are. After training with 5 % of them, a network sharpened mildly blurred frames too
    much. The data set must have ``gt='window'``; afterwards, ``gt`` holds only the sharp centre
    frame, as with ``gt='centre'``.

    Args:
        prob: fraction of windows whose blurry frames are replaced.

    Raises:
        ValueError: if ``prob`` is outside [0, 1].
        LaunchError: if a window has not as many sharp frames as blurry ones.
    """

    def __init__(self, prob: float = 0.01) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must be in [0, 1], got {prob}')
        self.prob = prob

    def transform(self, results: dict) -> dict:
        """Replace the frames, or not, and keep the sharp centre frame as the target."""
        blurry, sharp = results['img'], results.get('gt', [])
        if len(blurry) != len(sharp):
            raise LaunchError(
                f'SharpInput needs a sharp frame for each of the {len(blurry)} blurry frames of a '
                f"window, got {len(sharp)}: set gt='window', and load them with "
                "LoadClipFrames(key='gt')"
            )
        if np.random.uniform() < self.prob:  # noqa: NPY002  (seeded for each sample)
            results['img'] = [frame.copy() for frame in sharp]
        results['gt'] = [sharp[len(sharp) // 2]]
        return results
