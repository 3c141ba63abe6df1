"""Write the generator of a training's checkpoint, or of the plain loop's, as a small file.

``OUT/generator-<8 digits>.pth`` describes itself where the package knows the network, as one by
``tools/publish_model.py``. Otherwise it is ``OUT/generator.pth``, with the weights alone.
"""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('out', type=Path, help='folder')
    parser.add_argument('--trained-on', required=True)
    parser.add_argument('--metric', required=True)
    args = parser.parse_args()
    outdated = list(args.out.glob('generator*.pth'))
    try:
        from dblrgan_mm.inference.checkpoint import load_generator, publish

        generator = load_generator(args.checkpoint)
        for file in outdated:
            file.unlink()
        written = publish(generator, args.out / 'generator.pth', args.trained_on, args.metric)
    except Exception as error:  # an architecture that load_generator does not know
        print(f'without a description ({error})')
        written = write_bare(args.checkpoint, args.out / 'generator.pth', args.trained_on)
        for file in outdated:
            if file != written:
                file.unlink(missing_ok=True)
    print(f'{written}: {written.stat().st_size / 2**20:.2f} MiB')


def write_bare(checkpoint: Path, target: Path, trained_on: str) -> Path:
    """Write the entries ``generator.*`` of a checkpoint, on the CPU.

    The checkpoints of a training with an average of the weights hold the average there.
    """
    import torch

    content = torch.load(checkpoint, map_location='cpu', weights_only=True)
    stored = content.get('state_dict', content)
    weights = {
        name: value.detach().contiguous().clone()
        for name, value in stored.items()
        if name.startswith('generator.')
    }
    part = target.with_suffix('.part')
    torch.save(dict(meta=dict(training_data=trained_on), state_dict=weights), part)
    part.replace(target)
    return target


if __name__ == '__main__':
    main()
