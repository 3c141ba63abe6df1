"""Restoring whole data sets with any restorer that MMagic builds, and what that costs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import torch

from dblrgan_mm.clips import clip_store, layouts
from dblrgan_mm.clips.clip import Clip
from dblrgan_mm.errors import UserError
from dblrgan_mm.measuring import PeakMemory, flop_counter, now


@dataclass(frozen=True)
class Clips:
    """A split of a data set, for a test.

    Attributes:
        name: in the tables.
        layout, root, split, layout_args: as of ``VideoClipDataset``; root may be a clip store.
    """

    name: str
    layout: str
    root: str
    split: str
    layout_args: dict[str, str] = field(default_factory=dict)

    def load(self) -> list[Clip]:
        """Its clips, with sharp frames; raises DatasetError."""
        source = clip_store if clip_store.is_store(Path(self.root)) else layouts
        return source.load_clips(self.layout, Path(self.root), self.split, **self.layout_args)


@dataclass(frozen=True)
class Method:
    """A restorer: a config and a checkpoint of it (None: random weights, to measure the cost)."""

    name: str
    config: str
    checkpoint: str | None


def frame_file(folder: Path, clips: str, clip: str, frame: str) -> Path:
    """Where a restored frame is, in the folder of its method."""
    return folder / clips / clip / f'{frame}.png'


@torch.no_grad()
def restore(
    method: Method, data: list[Clips], folder: Path, device: str, tell: Callable[..., None]
) -> dict[str, Any]:
    """Restore all frames of some data sets, a window or a clip at a time, and store them as PNG.

    The config's model and the pipeline of its ``test_dataloader`` are used, on other data.

    Args:
        method: what restores.
        data: what is restored.
        folder: where the frames go, see :func:`frame_file`.
        device: where the model runs.
        tell: called with 'frames' and their number, and with 'clip', name of data and of clip,
            as soon as a clip is complete.

    Returns:
        ``parameters`` of the generator; and ``data``, for each data set under its name ``size`` of
        the first frame, (w, h), ``macs``, multiply-accumulates a frame of that size, ``fps``,
        frames a second of the model alone, and ``memory``, bytes that it took at most (on a CPU, of
        the process, beyond what it had before).

    Raises:
        UserError: for a config without a model or test, for a checkpoint that is not its, and
            where it restores not all frames.
    """
    from mmagic.registry import DATASETS
    from mmengine.dataset import pseudo_collate

    place = torch.device(device)
    if place.type == 'cuda':
        torch.cuda.set_device(place)  # what is measured, and where MMagic's models look
    cfg, model = build(method, device)
    costs: dict[str, dict] = {}
    for clips in data:
        settings = dict(layout=clips.layout, data_root=clips.root, split=clips.split)
        settings |= dict(layout_args=clips.layout_args, centres='all', padding='reflection')
        dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, **settings))
        names = {clip.name: clip.frames for clip in clips.load()}
        first = pseudo_collate([dataset[0]])
        macs = count_macs(model, first)  # and warms up
        memory = PeakMemory(place)
        seconds, frames, done = 0.0, 0, dict.fromkeys(names, 0)
        for i in range(len(dataset)):
            item = pseudo_collate([dataset[i]])
            begin = now(place)
            (sample,) = model.test_step(item)
            seconds += now(place) - begin
            restored = sample.output.pred_img
            clip, centre = sample.metainfo['key'].rsplit('/', 1)
            whole = restored.ndim == 4  # a clip
            restored = restored if whole else restored[None]
            for name, frame in zip(names[clip] if whole else [centre], restored, strict=True):
                write_frame(frame_file(folder, clips.name, clip, name), frame)
            frames += len(restored)
            done[clip] += len(restored)
            tell('frames', len(restored))
            if done[clip] == len(names[clip]):
                tell('clip', clips.name, clip)
        short = next((clip for clip, frames in names.items() if done[clip] != len(frames)), None)
        if short is not None:
            raise UserError(f'{clips.name}: of clip {short} {done[short]} frames were restored')
        height, width = first['inputs'][0].shape[-2:]
        costs[clips.name] = dict(
            size=(width, height),
            macs=macs / (len(first['inputs'][0]) if whole else 1),
            fps=frames / seconds,
            memory=memory.bytes(),
        )
    return dict(parameters=sum(p.numel() for p in model.generator.parameters()), data=costs)


def build(method: Method, device: str) -> tuple[Any, torch.nn.Module]:
    """The config and model of a method, the latter in evaluation mode on a device."""
    from mmagic.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    import dblrgan_mm.datasets
    import dblrgan_mm.models  # noqa: F401
    from dblrgan_mm.engine.checkpoints import require_match
    from dblrgan_mm.inference.checkpoint import read_content

    cfg = Config.fromfile(method.config)
    if cfg.get('model') is None or cfg.get('test_dataloader') is None:
        raise UserError(f'{method.config} has no model, or no test_dataloader')
    init_default_scope('mmagic')
    model = MODELS.build(cfg.model)
    if method.checkpoint is not None:
        content = read_content(Path(method.checkpoint))
        weights = content.get('state_dict', content)
        require_match(model, weights)
        model.load_state_dict(weights, strict=False)
    return cfg, model.to(device).eval()


@torch.no_grad()
def count_macs(model: torch.nn.Module, batch: dict) -> int:
    """Multiply-accumulates of convolutions and matrix products in a test of one batch."""
    with flop_counter() as counter:
        model.test_step(batch)
    return counter.get_total_flops() // 2


def write_frame(path: Path, frame: torch.Tensor) -> None:
    """Write a frame (3, h, w), BGR in [0, 255], rounded, as a PNG file."""
    image = frame.clamp(0, 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise UserError(f'{path} could not be written')
