"""A data preprocessor that cuts training crops on the device."""

from mmagic.models.data_preprocessors import DataPreprocessor
from mmagic.registry import MODELS
from mmagic.structures import DataSample

from dblrgan_mm.clips.device_clips import DeviceClips


@MODELS.register_module()
class ClipsOnDevicePreprocessor(DataPreprocessor):
    """MMagic's ``DataPreprocessor`` with the training clips in device memory.

    The method is our own. The class accepts the batches of a ``ClipPlacesDataset``, so no pixels
    pass through the data loader. With a GPU, the usual loader keeps the main process busy for about
    1 ms per sample. Other batches, such as those of a validation, are processed as in MMagic.

    Each process loads the clips itself, at its first batch. The clips are not part of the model's
    state, and averages of a model do not copy them.

    Args:
        data_root, split, layout, layout_args: the clip store; must equal the arguments of the
            ``ClipPlacesDataset``. The option ``--data-root`` sets both.
        num_frames: number of blurry frames in a window.
        gt_frames: number of sharp frames around the centre: 1, or ``num_frames`` for a
            discriminator that judges clips.
        **kwargs: as in MMagic's ``DataPreprocessor``.
    """

    def __init__(
        self,
        data_root: str,
        split: str,
        num_frames: int = 5,
        gt_frames: int = 1,
        layout: str = 'gopro',
        layout_args: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.num_frames = num_frames
        self.gt_frames = gt_frames
        self._source = (data_root, split, layout, layout_args)
        self._clips: DeviceClips | None = None

    def forward(self, data: dict, training: bool = False) -> dict:
        """Cut the crops for a batch of places; process other batches as MMagic does.

        Returns:
            ``inputs`` (n, t, 3, h, w), and ``data_samples`` with ``gt_img``, which is
            (n, 3, h, w), or (n, t, 3, h, w) for several sharp frames. The value range is the same
            as MMagic's.
        """
        if 'places' not in data:
            return super().forward(data, training)
        if self._clips is None:
            self._clips = DeviceClips(*self._source, device=self.device)
        places, noise = (
            data[name].to(self.device, non_blocking=True) for name in ('places', 'noise')
        )
        size, reach = int(data['crop_size'][0]), self.num_frames // 2
        places = self._clips.pick(places, noise, size)
        blurry, sharp = self._clips.crops(places, size, reach, self.gt_frames // 2)
        replaced = data['sharp_input'].nonzero()[:, 0].to(self.device, non_blocking=True)
        if len(replaced) > 0:
            blurry[replaced] = self._clips.crops(places[replaced], size, 0, reach)[1]
        sharp = self._do_norm(sharp.float())
        return dict(
            inputs=self._do_norm(blurry.float()),
            data_samples=DataSample(gt_img=sharp if self.gt_frames > 1 else sharp[:, 0]),
        )
