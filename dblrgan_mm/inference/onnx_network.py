"""A generator as an ONNX file, run by onnxruntime."""

import json
from pathlib import Path
from typing import Any

import torch

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.layers import unit_range

INPUT, OUTPUT = 'windows', 'restored'


class OnnxDBLRNet:
    """Restores windows with a file that ``tools/export_onnx.py`` wrote, in float32.

    The frame is cut into square tiles, each computed with the :attr:`halo` that its result
    depends on, so that the tiles do not show. Tiles begin at multiples of :attr:`multiple`, where
    a network of several scales has whole pixels of all of them.

    Args:
        path: the ONNX file.
        device: a CPU, or a GPU, which needs the package onnxruntime-gpu. None: a GPU if there
            is one that onnxruntime can use.

    Attributes:
        num_frames: frames in a window.
        halo: pixels around a tile that are computed with it.
        multiple: the side of a tile is rounded up to a multiple of it.
        default_tile: the side of tiles, in pixels, that take about 400 MB.
        meta: what the file says of itself.

    Raises:
        UserError: the file is missing, damaged or none of ours; onnxruntime, or its part for the
            GPU, is missing.
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
            f'{path}: this onnxruntime cannot run on {device}; install onnxruntime-gpu, or give '
            '--device cpu'
        )
        if device.type not in ('cpu', 'cuda') or (device.type == 'cuda' and not usable):
            raise unusable
        options = onnxruntime.SessionOptions()
        options.enable_cpu_mem_arena = False  # which would keep the memory of the largest tile
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        where = [(provider, {'device_id': device.index or 0} if device.type == 'cuda' else {})]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=where)
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise UserError(
                f'{path}: not an ONNX file that can be run, or damaged ({type(error).__name__}); '
                'write it anew with tools/export_onnx.py'
            ) from error
        if provider not in self._session.get_providers():  # it goes on with the CPU in silence
            raise unusable
        self.meta = _meta(self._session.get_modelmeta().custom_metadata_map)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [[value.name for value in values] for values in (inputs, outputs)]
        frames = inputs[0].shape[1] if inputs and len(inputs[0].shape) == 5 else None
        if names != [[INPUT], [OUTPUT]] or not isinstance(frames, int) or not self.meta:
            raise UserError(
                f'{path}: was not written by tools/export_onnx.py (it takes {names[0]} and gives '
                f'{names[1]}); export the network with it'
            )
        self.num_frames: int = frames
        self.halo: int = self.meta['halo']
        self.multiple: int = self.meta.get('multiple', 1)
        # 256 for the default DBLRNet: 435 MB in the two widest layers
        self.default_tile = 256 if self.multiple == 1 else 1024
        expected = torch.tensor(self.meta.pop('probe', []))
        found = self(probe(self.num_frames)).flatten() if len(expected) else expected
        if found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-3):
            raise UserError(
                f'{path}: does not compute what it did when it was written: it is damaged; write '
                'it anew with tools/export_onnx.py'
            )

    def __call__(self, windows: torch.Tensor, tile: int | None = None) -> torch.Tensor:
        """Restore the centre frames.

        Args:
            windows: (n, t, 3, h, w), RGB, uint8 or uint16, or floating in [0, 1].
            tile: rows and columns that are computed at once, besides the halo. None: all.

        Returns:
            (n, 3, h, w), float32, RGB in [0, 1], not clamped.

        Raises:
            MemoryError: the tile is too large.
        """
        count, _, _, height, width = windows.shape
        tile = -(-(tile or max(height, width)) // self.multiple) * self.multiple
        restored = torch.empty(count, 3, height, width)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                # no halo beyond the frame: the network pads there, as for the whole frame
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
        except Exception as error:  # as above
            if 'allocate' in str(error) or 'out of memory' in str(error).lower():
                raise MemoryError(str(error)) from error
            raise
        return torch.from_numpy(out)


def import_onnxruntime() -> Any:
    """The package onnxruntime; a UserError that says how to get it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            'ONNX files need onnxruntime: pip install "dblrgan_mm[onnx]", or onnxruntime-gpu'
        ) from error
    return onnxruntime


def probe(num_frames: int) -> torch.Tensor:
    """A small window, for which an ONNX file says what it gives: its own test for damage."""
    values = torch.arange(num_frames * 3 * 7 * 7) * 0.37 % 1
    return values.reshape(1, num_frames, 3, 7, 7)


def _meta(properties: dict[str, str]) -> dict[str, Any]:
    """The description in an ONNX file; {} if there is none that can be read."""
    try:
        meta = json.loads(properties['dblrgan_mm'])
        numbers = all(isinstance(value, float) for value in meta.get('probe', []))
        counts = meta['halo'], meta.get('multiple', 1) - 1
        if numbers and all(isinstance(count, int) and count >= 0 for count in counts):
            return meta
    except (AttributeError, KeyError, ValueError, TypeError):
        pass
    return {}
