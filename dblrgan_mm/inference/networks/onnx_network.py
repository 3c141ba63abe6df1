"""Run a generator exported to ONNX with onnxruntime."""

import json
from pathlib import Path
from typing import Any

import torch

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.networks.layers import unit_range

INPUT, OUTPUT = 'windows', 'restored'


class OnnxNetwork:
    """Restores windows in float32 with a file written by ``dblrgan-mm export``.

    The frame is divided into square tiles. Each tile is computed together with its :attr:`halo`,
    the surrounding pixels that its result depends on, so that there are no seams. Tiles start at
    multiples of :attr:`multiple`, so that they consist of whole pixels at every scale of the
    network. A network that aligns frames always computes whole frames.

    Args:
        path: path of the ONNX file.
        device: the CPU, or a GPU, which needs the package onnxruntime-gpu. None: a GPU if there is
            one that onnxruntime can use.

    Attributes:
        num_frames: frames in a window.
        halo: pixels around a tile that are computed with it; None: frames are not divided.
        multiple: the side of a tile is rounded up to a multiple of this number.
        default_tile: side of a tile, in pixels, that needs about 400 MB; None: whole frames.
        meta: description stored in the file.

    Raises:
        UserError: the file is missing, damaged, or was not written by ``dblrgan-mm export``, or
            onnxruntime or its GPU support is missing.
    """

    def __init__(self, path: str | Path, device: torch.device | None = None) -> None:
        onnxruntime = import_onnxruntime()
        if not Path(path).is_file():
            raise UserError(f'no ONNX file {path}; check the path')
        gpu = 'CUDAExecutionProvider'
        usable = gpu in onnxruntime.get_available_providers()
        if device is None:
            device = torch.device('cuda' if usable and torch.cuda.is_available() else 'cpu')
        provider = 'CPUExecutionProvider' if device.type == 'cpu' else gpu
        unusable = UserError(
            f'{path}: this onnxruntime cannot run on {device}; install onnxruntime-gpu, or use '
            '--device cpu'
        )
        if device.type not in ('cpu', 'cuda') or (device.type == 'cuda' and not usable):
            raise unusable
        options = onnxruntime.SessionOptions()
        options.enable_cpu_mem_arena = False  # the arena would keep the memory of the largest tile
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        where = [(provider, {'device_id': device.index or 0} if device.type == 'cuda' else {})]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=where)
        except Exception as error:  # onnxruntime's errors have no common base class
            raise UserError(
                f'{path}: not a valid ONNX file, or damaged ({type(error).__name__}); export it '
                'again with dblrgan-mm export'
            ) from error
        if provider not in self._session.get_providers():  # then onnxruntime silently uses the CPU
            raise unusable
        self.meta = _meta(self._session.get_modelmeta().custom_metadata_map)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [[value.name for value in values] for values in (inputs, outputs)]
        frames = inputs[0].shape[1] if inputs and len(inputs[0].shape) == 5 else None
        if names != [[INPUT], [OUTPUT]] or not isinstance(frames, int) or not self.meta:
            raise UserError(
                f'{path}: was not written by dblrgan-mm export (its inputs are {names[0]}, its '
                f'outputs {names[1]}); export the network with that tool'
            )
        self.num_frames: int = frames
        self.halo: int | None = self.meta['halo']
        self.multiple: int = self.meta.get('multiple', 1)
        # with 256, the two widest layers of the default DBLRNet need 435 MB
        tile = 256 if self.multiple == 1 else 1024
        self.default_tile = None if self.halo is None else tile
        expected = torch.tensor(self.meta.pop('probe', []))
        found = self(probe(self.num_frames)).flatten() if len(expected) else expected
        if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-3):
            raise UserError(
                f'{path}: its output has changed since the export: it was quantised or edited, or '
                'is damaged; export it again with dblrgan-mm export'
            )

    def __call__(self, windows: torch.Tensor, tile: int | None = None) -> torch.Tensor:
        """Restore the centre frames.

        Args:
            windows: (n, t, 3, h, w), RGB, uint8 or uint16, or floating point in [0, 1].
            tile: rows and columns computed at once, not counting the halo. None: all.
                Must be None if frames are not divided.

        Returns:
            (n, 3, h, w), float32, RGB in [0, 1], not clamped.

        Raises:
            MemoryError: the tile is too large.
        """
        if self.halo is None:
            return self._run(unit_range(windows))
        count, _, _, height, width = windows.shape
        tile = -(-(tile or max(height, width)) // self.multiple) * self.multiple
        restored = torch.empty(count, 3, height, width)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                # no halo beyond the frame, where the network pads as it does for whole frames
                above, before = min(top, self.halo), min(left, self.halo)
                part = windows[
                    ...,
                    top - above : top + tile + self.halo,
                    left - before : left + tile + self.halo,
                ]
                out = self._run(unit_range(part))
                place = restored[..., top : top + tile, left : left + tile]
                place.copy_(
                    out[..., above : above + place.shape[-2], before : before + place.shape[-1]]
                )
        return restored

    def _run(self, windows: torch.Tensor) -> torch.Tensor:
        try:
            (out,) = self._session.run([OUTPUT], {INPUT: windows.contiguous().numpy()})
        except Exception as error:  # onnxruntime's errors have no common base class
            if 'allocate' in str(error) or 'out of memory' in str(error).lower():
                raise MemoryError(str(error)) from error
            raise
        return torch.from_numpy(out)


def import_onnxruntime() -> Any:
    """Import onnxruntime, or raise a UserError that says how to install it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            'ONNX files need onnxruntime: pip install "dblrgan_mm[onnx]", or pip install '
            'onnxruntime-gpu'
        ) from error
    return onnxruntime


def probe(num_frames: int) -> torch.Tensor:
    """Return a small test window.

    An ONNX file stores its output for this window, so that damage can be detected.
    """
    values = torch.arange(num_frames * 3 * 7 * 7) * 0.37 % 1
    return values.reshape(1, num_frames, 3, 7, 7)


def _meta(properties: dict[str, str]) -> dict[str, Any]:
    """Return the description in an ONNX file; {} if there is none or it is invalid."""
    try:
        meta = json.loads(properties['dblrgan_mm'])
        numbers = all(isinstance(value, float) for value in meta.get('probe', []))
        counts = [meta.get('multiple', 1) - 1]
        if meta['halo'] is not None:
            counts.append(meta['halo'])
        if numbers and all(isinstance(count, int) and count >= 0 for count in counts):
            return meta
    except (AttributeError, KeyError, ValueError, TypeError):
        pass
    return {}
