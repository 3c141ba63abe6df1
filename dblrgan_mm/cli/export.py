"""Export a trained generator to ONNX, and verify its output in onnxruntime against torch.

The input of the ONNX file is 'windows' (n, t, 3, h, w), RGB in [0, 1], its output 'restored'
(n, 3, h, w), for any n, h and w.
"""

import argparse
import contextlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dblrgan_mm import files, launch
from dblrgan_mm.errors import UserError

LIMIT = 1e-4  # largest accepted difference to torch, colours in [0, 1]
SIZES = ((1, 64, 48), (2, 33, 70), (1, 128, 128))  # (n, h, w)


def export(generator: Any, path: Path) -> None:
    """Write the network to an ONNX file."""
    import torch

    from dblrgan_mm.inference.architectures import build_network
    from dblrgan_mm.inference.networks.onnx_network import INPUT, OUTPUT

    network = build_network(generator.state_dict, generator.architecture).eval()
    frames = generator.architecture['num_frames']
    axes = {3: 'height', 4: 'width'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            network,
            (torch.rand(1, frames, 3, 64, 64),),
            str(path),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={
                INPUT: {0: 'windows', **axes},
                OUTPUT: {0: 'windows', 2: 'height', 3: 'width'},
            },
            opset_version=17,
            # the newer exporter fixes the height and takes 15 times as long
            dynamo=False,
        )


def describe(generator: Any, path: Path, **more: Any) -> None:
    """Add the description of the network to an ONNX file."""
    try:
        import onnx
    except ImportError as error:
        raise UserError('the export needs onnx: pip install "dblrgan_mm[onnx]"') from error

    from dblrgan_mm.inference.architectures import build_network

    network = build_network(generator.state_dict, generator.architecture)
    model = onnx.load(str(path))
    meta = {key: value for key, value in generator.meta.items() if key not in ('cfg', 'config')}
    halo = None if network.aligned else network.halo
    meta |= dict(architecture=generator.architecture, halo=halo)
    meta |= dict(multiple=network.multiple, **more)
    onnx.helper.set_model_props(model, dict(dblrgan_mm=json.dumps(meta, default=str)))
    onnx.save(model, str(path))


def largest_difference(generator: Any, path: Path) -> float:
    """Return the largest difference between torch and onnxruntime, over all SIZES."""
    import torch

    from dblrgan_mm.inference.architectures import build_network
    from dblrgan_mm.inference.networks.onnx_network import OnnxNetwork

    network = build_network(generator.state_dict, generator.architecture)
    onnx_network = OnnxNetwork(path, torch.device('cpu'))
    differences = []
    for count, height, width in SIZES:
        windows = torch.rand(count, network.num_frames, 3, height, width)
        with torch.inference_mode():
            differences.append((network(windows) - onnx_network(windows)).abs().max().item())
    return max(differences)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        help='published weights, training checkpoint or state dict; or weights that come with '
        'the package, by name',
    )
    parser.add_argument('target', metavar='OUT.onnx', type=Path, help='ONNX file to write')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing file')
    args = parser.parse_args(argv)
    target = args.target
    launch.require_target(target, '.onnx')
    if target.is_dir():
        raise UserError(f'{target}: is a folder; choose another output')
    if target.exists() and not args.overwrite:
        raise UserError(f'{target}: already exists; use --overwrite to replace it')

    from dblrgan_mm.inference.checkpoint import load_generator
    from dblrgan_mm.inference.deblurrer import find_weights
    from dblrgan_mm.inference.networks.onnx_network import OnnxNetwork, probe

    generator = load_generator(find_weights(args.checkpoint))
    place = files.resolve_link(target)
    part = place.with_name(f'.{place.stem}.part.onnx')
    with files.report_write_errors(target, 'Free some space and run the same command again'):
        try:
            export(generator, part)
            describe(generator, part)
            difference = largest_difference(generator, part)
            if not difference <= LIMIT:
                raise UserError(
                    f'{target}: not written: the output of onnxruntime differs from torch by '
                    f'{difference:.1e}, which is more than {LIMIT:.0e}; try another version of '
                    'onnxruntime'
                )
            network = OnnxNetwork(part)
            describe(generator, part, probe=network(probe(network.num_frames)).flatten().tolist())
            files.put_in_place(part, target)
        finally:
            with contextlib.suppress(OSError):  # another error would hide the first one
                part.unlink(missing_ok=True)
    print(f'{target}: differs from torch by at most {difference:.1e}, over {len(SIZES)} sizes')
