"""The video clip data sets and their transforms, registered in MMagic's registries."""

from dblrgan_mm import compat

compat.apply()

from dblrgan_mm.datasets.clip_places import ClipPlacesDataset
from dblrgan_mm.datasets.degradations import CameraNoise, RandomClipCompression
from dblrgan_mm.datasets.picked_crops import PickedCropsDataset
from dblrgan_mm.datasets.resumable import ResumableSampler
from dblrgan_mm.datasets.transforms import ClipRandomCrop, LoadClipFrames, SharpInput
from dblrgan_mm.datasets.video_clip_dataset import VideoClipDataset
from dblrgan_mm.errors import DatasetError

__all__ = [
    'CameraNoise',
    'ClipPlacesDataset',
    'ClipRandomCrop',
    'DatasetError',
    'LoadClipFrames',
    'PickedCropsDataset',
    'RandomClipCompression',
    'ResumableSampler',
    'SharpInput',
    'VideoClipDataset',
]
