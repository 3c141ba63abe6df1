"""Pictures that compare a restored frame with the blurry and the sharp frame."""

import contextlib
import logging
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from mmagic.registry import VISUALIZERS
from mmengine.logging import print_log
from mmengine.visualization import Visualizer

_LABEL_HEIGHT = 22


@VISUALIZERS.register_module()
class DeblurVisualizer(Visualizer):
    """Draws the blurry, restored and sharp frame side by side, with an enlarged crop below each.

    MMagic's ``ConcatImageVisualizer`` stacks all frames of the input window and names files by
    frame only, so clips with the same frame numbers overwrite each other. Here files are named
    '<clip>_<frame>_<iteration>.png'.

    Args:
        name: instance name, as in MMEngine.
        zoom: enlargement factor of the crop. The crop has 1/zoom of the frame's width and height,
            and is taken where the network changed the frame most.
        *args, **kwargs: passed to MMEngine's ``Visualizer``, e.g. ``vis_backends``.
    """

    def __init__(self, name: str = 'visualizer', *args, zoom: int = 4, **kwargs) -> None:
        super().__init__(name, *args, **kwargs)
        self.zoom = zoom

    def add_scalars(self, *args, **kwargs) -> None:
        """Add scalars as MMEngine does; a write error (such as a full disk) is logged."""
        with log_write_errors('The logged scalars'):
            super().add_scalars(*args, **kwargs)

    def add_datasample(self, data_sample, step: int = 0) -> None:
        """Draw one sample to every backend.

        Args:
            data_sample: see :func:`centre_frames`.
            step: iteration, used in the file name.
        """
        frames = centre_frames(data_sample)
        picture = compare_frames(list(frames.values()), list(frames), self.zoom)
        clip, frame = data_sample.metainfo['key'].rsplit('/', 1)
        with log_write_errors('A picture'):
            for backend in self._vis_backends.values():
                backend.add_image(f'{clip.replace("/", "_")}_{frame}', picture, step)


def centre_frames(data_sample) -> dict[str, np.ndarray]:
    """Return the 'blurry', 'restored' and, if there is one, 'sharp' frame of a sample.

    Args:
        data_sample: ``DataSample`` of a model in 'predict' mode, with ``input``,
            ``output.pred_img`` and optionally ``gt_img``. Each is (c, h, w) or (t, c, h, w), BGR
            in [0, 255]; of several frames, the centre frame is returned.

    Returns:
        Frames (h, w, 3), RGB, uint8.
    """
    frames = dict(blurry=data_sample.input, restored=data_sample.output.pred_img)
    if 'gt_img' in data_sample:
        frames['sharp'] = data_sample.gt_img
    return {name: _to_rgb(f[len(f) // 2] if f.ndim == 4 else f) for name, f in frames.items()}


@contextlib.contextmanager
def log_write_errors(what: str) -> Iterator[None]:
    """Log an ``OSError`` instead of raising it: lost log output must not end a training."""
    try:
        yield
    except OSError as error:
        print_log(f'{what} could not be written ({error})', 'current', logging.ERROR)


def compare_frames(
    frames: Sequence[np.ndarray],
    labels: Sequence[str],
    zoom: int,
    change: np.ndarray | None = None,
) -> np.ndarray:
    """Draw labelled frames side by side, with an enlarged crop below each.

    Args:
        frames: at least two frames (h, w, 3), uint8, RGB, of equal size.
        labels: one label per frame.
        zoom: enlargement factor of the crops, without interpolation.
        change: (h, w), float; the crop is taken where its mean is largest. Default: the absolute
            difference of the first two frames.

    Returns:
        (2 h' + label height, len(frames) * w', 3), uint8, RGB.
    """
    height, width = frames[0].shape[:2]
    crop_h, crop_w = max(1, height // zoom), max(1, width // zoom)
    if change is None:
        change = np.abs(frames[0].astype(np.float32) - frames[1]).mean(axis=2)
    # mean over the crop with its top left corner at each pixel; crops that do not fit are cut off
    mean = cv2.boxFilter(change, -1, (crop_w, crop_h), anchor=(0, 0))
    mean = mean[: height - crop_h + 1, : width - crop_w + 1]
    top, left = (int(place) for place in np.unravel_index(int(mean.argmax()), mean.shape))

    columns = []
    for frame, label in zip(frames, labels, strict=False):
        title = np.full((_LABEL_HEIGHT, width, 3), 255, np.uint8)
        cv2.putText(title, label, (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        framed = frame.copy(order='C')
        cv2.rectangle(framed, (left, top), (left + crop_w - 1, top + crop_h - 1), (255, 220, 0), 1)
        crop = frame[top : top + crop_h, left : left + crop_w]
        enlarged = cv2.resize(crop, (width, height), interpolation=cv2.INTER_NEAREST)
        columns.append(np.concatenate([title, framed, enlarged]))
    return np.concatenate(columns, axis=1)


def _to_rgb(frame: torch.Tensor) -> np.ndarray:
    """Convert (3, h, w), BGR in [0, 255], to (h, w, 3), RGB, uint8."""
    return frame.detach().cpu().flip(0).clamp(0, 255).round().byte().permute(1, 2, 0).numpy()
