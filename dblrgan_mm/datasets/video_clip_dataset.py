"""The video clip data set: windows of blurry frames and the matching sharp frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmagic.registry import DATASETS
from mmengine.dataset import BaseDataset

from dblrgan_mm.clips import clip_store, layouts
from dblrgan_mm.clips.clip import Clip, pad_index
from dblrgan_mm.errors import DatasetError, LaunchError

_MAX_SKIPPED = 100  # windows skipped for one item; after that, loading fails


@DATASETS.register_module()
class VideoClipDataset(BaseDataset):
    """Windows of consecutive frames, each within one clip.

    The frames come from a benchmark's own folders, with any image type and numbering, or from a
    clip store made from them. The blurry and sharp frames of every clip are matched by number
    before training starts. An item holds what MMagic's transforms expect:

    - ``img_path``: the ``num_frames`` blurry frames of the window, in order;
    - ``gt_path``: a list with the sharp centre frame (``gt='centre'``), or with all sharp frames of
      the window (``gt='window'``, for a discriminator that judges clips); absent if ``gt`` is
      None;
    - ``key``: '<clip>/<name of the centre frame>';
    - ``middle_of_clip``: whether this window is the middle one of its clip;
    - ``num_input_frames`` and ``num_output_frames``.

    Args:
        data_root: folder of the data set, or of a clip store made from it, which is much faster to
            read (docs/clip_store.md).
        split: the split, as the layout names it: 'train' or 'test' for GoPro.
        layout: the folder layout, a name in ``dblrgan_mm.clips.layouts.LAYOUTS``.
        layout_args: further arguments of the layout, e.g. ``dict(blur='blur_gamma')``.
        num_frames: frames per window, odd. MMagic turns a window of one frame into an image. None:
            each item is a whole clip, for restorers that process it from end to end, such as
            MMagic's BasicVSR++; this needs ``gt='window'`` or None.
        gt: 'centre', 'window', or None. With None, sharp frames are not searched for, so clips need
            not have any.
        padding: what replaces frames beyond the ends of a clip: 'reflection' (for 0 1 2 3, the
            window around 0 is 2 1 0 1 2), 'replicate' (0 0 0 1 2), or None: windows never extend
            beyond a clip, so its first and last ``num_frames // 2`` frames are never a centre.
            The default, 'auto', means None if ``test_mode`` is off. If it is on, 'auto' means
            'reflection', so that a test covers every frame exactly once.
        centres: which frames of a clip are the centre of a window: 'all', or the 30 frames that
            DBN is scored on for DVD, 'dbn_1based' or 'dbn_0based'
            (``dblrgan_mm.clips.layouts.dbn_frames`` explains what is known about the base).
        unreadable: what to do in training if a frame cannot be used: 'stop', or 'skip', which
            replaces the window with another one drawn at random. With 'skip', the data sample of
            each item has ``skipped``, a list of messages, usually empty, for
            ``UnreadableFramesHook``. If frames do not fit a setting, e.g. are smaller than the
            crop, loading fails in any case.
        pipeline: transforms. If windows may be skipped, the last one must be ``PackInputs`` or
            another one that returns ``data_samples``.
        test_mode: as in MMEngine.
        **kwargs: further arguments of MMEngine's ``BaseDataset``.

    Raises:
        ValueError: for an invalid argument.
        DatasetError: if the root has no clips, or if the frames of a clip are missing, do not
            match, have gaps in their numbering or are fewer than a window; from ``__getitem__``, if
            a frame cannot be used. Each message names the clip and, if there is one, the frame.
    """

    METAINFO = dict(dataset_type='video_clip', task_name='video_deblurring')

    def __init__(
        self,
        data_root: str,
        split: str,
        layout: str = 'gopro',
        layout_args: dict | None = None,
        num_frames: int | None = 5,
        gt: str | None = 'centre',
        padding: str | None = 'auto',
        centres: str = 'all',
        unreadable: str = 'stop',
        pipeline: Sequence = (),
        test_mode: bool = False,
        **kwargs: Any,
    ) -> None:
        if layout not in layouts.LAYOUTS:
            raise ValueError(f'layout must be one of {", ".join(layouts.LAYOUTS)}, got {layout!r}')
        if num_frames is not None and (num_frames < 1 or num_frames % 2 == 0):
            raise ValueError(
                f'num_frames must be odd, so that a centre frame exists, got {num_frames}'
            )
        if gt not in ('centre', 'window', None):
            raise ValueError(f"gt must be 'centre', 'window' or None, got {gt!r}")
        if centres not in ('all', 'dbn_1based', 'dbn_0based'):
            raise ValueError(
                f"centres must be 'all', 'dbn_1based' or 'dbn_0based', got {centres!r}"
            )
        if num_frames is None and (gt == 'centre' or centres != 'all'):
            raise ValueError(
                "num_frames=None gives whole clips: set gt='window' or None, and centres='all'"
            )
        if padding == 'auto':
            padding = 'reflection' if test_mode else None
        if padding not in ('reflection', 'replicate', None):
            raise ValueError(f"padding must be 'reflection', 'replicate' or None, got {padding!r}")
        if unreadable not in ('stop', 'skip'):
            raise ValueError(f"unreadable must be 'stop' or 'skip', got {unreadable!r}")
        if unreadable == 'skip' and test_mode:
            raise ValueError("unreadable='skip' is for training: a test covers every frame")
        self.split = split
        self.layout = layout
        self.layout_args = layout_args or {}
        self.num_frames = num_frames
        self.gt = gt
        self.padding = padding
        self.centres = centres
        self.unreadable = unreadable
        self._skipped: list[str] = []
        super().__init__(
            data_root=data_root, pipeline=list(pipeline), test_mode=test_mode, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        """Return one entry per window, sorted by clip name."""
        clips = clip_store.load_any(
            self.layout,
            Path(self.data_root),
            self.split,
            paired=self.gt is not None,
            **self.layout_args,
        )
        return [window for clip in clips for window in self._windows(clip)]

    def _windows(self, clip: Clip) -> list[dict]:
        length = len(clip.frames)
        if self.num_frames is None:
            return [self._window(clip, range(length), length // 2, middle=True)]
        half = self.num_frames // 2
        margin = half if self.padding is None else 0
        if length <= 2 * margin:
            raise DatasetError(
                f'clip {clip.name}: {length} frames are too few for a window of '
                f'{self.num_frames}. Remove the clip, or change num_frames or padding.'
            )
        centres: Sequence[int] = range(margin, length - margin)
        if self.centres != 'all':
            wanted = layouts.dbn_frames(base=int(self.centres == 'dbn_1based'))
            if not set(wanted) <= set(centres):
                raise DatasetError(
                    f'clip {clip.name} has {length} frames, but not all of the 30 frames that DBN '
                    "is scored on can be the centre of a window. Set centres='all', or set padding."
                )
            centres = wanted
        windows = []
        for centre in centres:
            around = range(centre - half, centre + half + 1)
            indices = [pad_index(i, length, self.padding) for i in around]
            middle = centre == centres[len(centres) // 2]
            windows.append(self._window(clip, indices, centre, middle))
        return windows

    def _window(self, clip: Clip, indices: Sequence[int], centre: int, middle: bool) -> dict:
        window = dict(
            key=f'{clip.name}/{clip.frames[centre]}',
            middle_of_clip=middle,
            img_path=[clip.blurry[i] for i in indices],
            num_input_frames=len(indices),
            num_output_frames=1,
        )
        if self.gt is not None and clip.sharp is not None:
            sharp = indices if self.gt == 'window' else [centre]
            window['gt_path'] = [clip.sharp[i] for i in sharp]
            window['num_output_frames'] = len(sharp)
        return window

    def __getitem__(self, idx: int) -> dict:
        self._skipped = []
        item = super().__getitem__(idx)
        if self.unreadable == 'skip':  # on every item: MMagic stacks samples with the same keys
            item['data_samples'].set_metainfo(dict(skipped=self._skipped))
        return item

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on one window; report faults of the data with clip and frame.

        Return None if the window is to be skipped; MMEngine then draws another one.
        """
        data_info = self.get_data_info(idx)
        try:
            return self.pipeline(data_info)
        # LaunchError: the frames are intact, but do not fit the settings of a transform
        except (ValueError, OSError, LaunchError) as error:
            clip, frame = data_info['key'].rsplit('/', 1)
            message = (
                f'clip {clip}, window around frame {frame}: {error} '
                f'[{self.layout} layout, {self.split} split of {self.data_root}]'
            )
            skip = self.unreadable == 'skip' and not isinstance(error, LaunchError)
            if skip and len(self._skipped) < _MAX_SKIPPED:
                self._skipped.append(message)
                return None
            raise DatasetError(message) from error
