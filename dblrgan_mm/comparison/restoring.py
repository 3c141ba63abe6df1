"""Restore whole data sets with any restorer that MMagic can build, and measure the cost."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dblrgan_mm.clips import clip_store
from dblrgan_mm.clips.clip import Clip
from dblrgan_mm.clips.frames import write_png
from dblrgan_mm.errors import UserError
from dblrgan_mm.measuring import PeakMemory, flop_counter, now

if TYPE_CHECKING:
    from mmengine.model import BaseModel


@dataclass(frozen=True)
class Clips:
    """A split of a data set to test on.

    Attributes:
        name: its name in the tables.
        layout, root, split, layout_args: as for ``VideoClipDataset``; root may be a clip store.
        paired: whether there are sharp frames to compare with.
    """

    name: str
    layout: str
    root: str
    split: str
    layout_args: dict[str, str] = field(default_factory=dict)
    paired: bool = True

    def load(self) -> list[Clip]:
        """Return its clips; raises DatasetError."""
        return clip_store.load_any(
            self.layout, Path(self.root), self.split, self.paired, **self.layout_args
        )


@dataclass(frozen=True)
class Method:
    """A restorer: a config and its checkpoint (None: random weights, to measure the cost only)."""

    name: str
    config: str
    checkpoint: str | None


def frame_file(folder: Path, clips: str, clip: str, frame: str) -> Path:
    """Return the path of a restored frame in the folder of its method."""
    return folder / clips / clip / f'{frame}.png'


@torch.no_grad()
def restore(
    method: Method, data: list[Clips], folder: Path, device: str, tell: Callable[..., None]
) -> dict[str, Any]:
    """Restore all frames of some data sets, one window or clip at a time, and write them as PNG.

    Uses the config's model and the pipeline of its ``test_dataloader``, on the given data.

    Args:
        method: the restorer.
        data: the data sets to restore.
        folder: where the frames are written, see :func:`frame_file`.
        device: where the model runs.
        tell: called with 'frames' and the number of frames just restored; and, as soon as a clip
            is complete, with 'clip', the name of the data set and the name of the clip.

    Returns:
        ``parameters``, those of the generator; and ``data``, a dictionary by the name of the data
        set with ``size``, (w, h) of the first frame; ``macs``, multiply-accumulates per frame of
        that size; ``fps``, frames per second of the model alone; and ``memory``, its peak memory
        in bytes (on a CPU that of the process, beyond what it had before).

    Raises:
        UserError: if the config has no model or no test data, the checkpoint does not match the
            config, or not all frames were restored.
    """
    place = torch.device(device)
    if place.type == 'cuda':
        torch.cuda.set_device(place)  # used by the measurements and by MMagic's models
    cfg, model = build(method, device)
    dataset = cfg.test_dataloader.dataset
    costs = {
        clips.name: _restore_clips(model, dataset, clips, folder, place, tell) for clips in data
    }
    return dict(parameters=sum(p.numel() for p in model.generator.parameters()), data=costs)


def _restore_clips(
    model: 'BaseModel',
    dataset: dict,
    clips: Clips,
    folder: Path,
    device: torch.device,
    tell: Callable[..., None],
) -> dict[str, Any]:
    """Restore one data set with the pipeline of ``dataset``; return its part of the costs."""
    from mmagic.registry import DATASETS
    from mmengine.dataset import pseudo_collate

    settings: dict[str, Any] = dict(layout=clips.layout, data_root=clips.root, split=clips.split)
    settings |= dict(layout_args=clips.layout_args, centres='all', padding='reflection')
    if not clips.paired:
        # MMagic's recurrent networks look for sharp frames in a test: give them the blurry ones
        copy = dict(type='CopyValues', src_keys=['img'], dst_keys=['gt'])
        steps = [copy if step.get('key') == 'gt' else step for step in dataset['pipeline']]
        settings |= dict(gt=None, pipeline=steps)
    windows = DATASETS.build(dict(dataset, **settings))
    names = {clip.name: clip.frames for clip in clips.load()}
    first = pseudo_collate([windows[0]])
    macs = count_macs(model, first)  # also warms up
    memory = PeakMemory(device)
    seconds, frames, done = 0.0, 0, dict.fromkeys(names, 0)
    for i in range(len(windows)):
        item = pseudo_collate([windows[i]])
        begin = now(device)
        (sample,) = model.test_step(item)
        seconds += now(device) - begin
        restored = sample.output.pred_img
        clip, centre = sample.metainfo['key'].rsplit('/', 1)
        whole = restored.ndim == 4  # the model returns a whole clip
        restored = restored if whole else restored[None]
        for name, frame in zip(names[clip] if whole else [centre], restored, strict=True):
            write_frame(frame_file(folder, clips.name, clip, name), frame)
        frames += len(restored)
        done[clip] += len(restored)
        tell('frames', len(restored))
        if done[clip] == len(names[clip]):
            tell('clip', clips.name, clip)
    short = next((clip for clip, wanted in names.items() if done[clip] != len(wanted)), None)
    if short is not None:
        raise UserError(
            f'{clips.name}: only {done[short]} of {len(names[short])} frames of clip {short} '
            'were restored'
        )
    height, width = first['inputs'][0].shape[-2:]
    return dict(
        size=(width, height),
        macs=macs / (len(first['inputs'][0]) if whole else 1),
        fps=frames / seconds,
        memory=memory.bytes(),
    )


def build(method: Method, device: str) -> tuple[Any, 'BaseModel']:
    """Return the config and the model of a method; the model is on the device, in eval mode."""
    from mmagic.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    import dblrgan_mm.datasets
    import dblrgan_mm.models  # noqa: F401
    from dblrgan_mm.engine.checkpoint_hooks import require_match
    from dblrgan_mm.inference.checkpoint import read_content

    cfg = Config.fromfile(method.config)
    if cfg.get('model') is None or cfg.get('test_dataloader') is None:
        raise UserError(f'{method.config} lacks a model or a test_dataloader')
    init_default_scope('mmagic')
    model = MODELS.build(cfg.model)
    if method.checkpoint is not None:
        content = read_content(Path(method.checkpoint))
        weights = content.get('state_dict', content)
        require_match(model, weights)
        model.load_state_dict(weights, strict=False)
    return cfg, model.to(device).eval()


@torch.no_grad()
def count_macs(model: 'BaseModel', batch: dict) -> int:
    """Count the multiply-accumulates of convolutions and matrix products in one test batch."""
    with flop_counter() as counter:
        model.test_step(batch)
    return counter.get_total_flops() // 2


def write_frame(path: Path, frame: torch.Tensor) -> None:
    """Round a frame (3, h, w), BGR in [0, 255], and write it as a PNG file."""
    write_png(path, frame.clamp(0, 255).round().byte().flip(0).permute(1, 2, 0).cpu().numpy())
