"""Tables and plots of the measurements."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.inference import PLAIN

_OPERATIONS = 8  # the longest ones of each way, listed in a profile


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table()
    for i, name in enumerate(columns):
        table.add_column(name, justify='right' if i else 'left', no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)


def spread(values: list[float], digits: int = 3) -> str:
    return f'{min(values):.{digits}f} to {max(values):.{digits}f}'


def megabytes(count: int | None) -> str:
    return '' if count is None else f'{count / 1e6:.0f}'


def print_inference(result: dict) -> None:
    print(
        f'{result["frames"]} frames {result["width"]}x{result["height"]} on {result["device"]}, '
        f'medians; differences and PSNR over {result["scored"]}.'
    )
    limits = {name: statistics.median(values) for name, values in result['ceilings'].items()}
    first = statistics.median(result['seconds'][PLAIN])
    rows: list[tuple[str, ...]] = []
    for name, values in result['seconds'].items():
        middle = statistics.median(values)
        speed = 2 * result['macs'][name] / middle
        rows.append((
            name,
            f'{middle:.3f}',
            spread(values),
            f'{first / middle:.2f}',
            f'{result["macs"][name] / 1e9:.0f}',
            f'{100 * speed / limits[result["dtype"][name]]:.0f} %',
            megabytes(result['memory'][name]),
            difference(result, name),
            f'{result["psnr"][name]:.3f}' if name in result['psnr'] else '',
        ))  # fmt: skip
    if result['psnr']:
        rows.append(('blurry', *[''] * 7, f'{result["psnr"]["blurry"]:.3f}'))
    columns = ('', 's/frame', 'range', 'ratio', 'GMAC', 'of the limit', 'MB', 'differs', 'PSNR')
    print_table(columns, rows)
    print(
        "differs: from the plain loop's 8-bit values; largest difference, share of values that "
        'differ, PSNR. of the limit: operations/s relative to a large matrix product in the same '
        'dtype.'
    )
    print_limits(limits)
    print_profiles(result, 'per frame')
    print(result['machine'])


def difference(result: dict, name: str) -> str:
    """Format the difference from the plain loop; '' if there is no comparison."""
    if name not in result['difference_psnr']:
        return ''
    apart = result['difference_psnr'][name]
    if apart is None:
        return 'none'
    share = 100 * result['differing'][name]
    return f'{result["largest_difference"][name]}; {share:.3g} %; {apart:.1f} dB'


def print_profiles(result: dict, what: str) -> None:
    """Print which operations take the time in each way."""
    profiles = result['profiles']
    names = dict.fromkeys(name for found in profiles.values() for name in list(found)[:_OPERATIONS])
    rows = [
        (name, *(f'{1e3 * found.get(name, 0):.1f}' for found in profiles.values()))
        for name in names
    ]
    rest = (sum(value for name, value in found.items() if name not in names)
            for found in profiles.values())  # fmt: skip
    rows.append(('all others', *(f'{1e3 * value:.1f}' for value in rest)))
    print(f'Milliseconds {what} by operation, from one more run under the profiler:')
    print_table(('', *profiles), rows)


def print_limits(limits: dict[str, float]) -> None:
    said = [
        f'copies {value / 1e9:.1f} GB/s' if name == 'copy' else f'{name} {value / 1e9:.0f} GOP/s'
        for name, value in limits.items()
    ]
    print(f'Limits measured in the same run: {", ".join(said)}.')


def print_growth(result: dict) -> None:
    print(f'Deblurrer, {result["dtype"]} on {result["device"]}, medians.')
    rows = []
    for part in ('sizes', 'lengths'):
        for point in result[part]:
            width, height = point['size']
            middle = statistics.median(point['seconds'])
            rows.append((
                f'{width}x{height}',
                str(point['frames']),
                f'{middle:.3f}',
                f'{1e6 * middle / (width * height):.2f}',
                megabytes(point['memory']),
            ))  # fmt: skip
    print_table(('size', 'frames', 's/frame', 'µs/pixel', 'MB'), rows)
    print(result['machine'])


def plot_growth(result: dict, path: Path) -> None:
    """Plot frames per second and memory against frame size and clip length."""
    figure = Figure(figsize=(9, 6), layout='constrained')
    panels = figure.subplots(2, 2)
    for column, (part, label) in enumerate(
        (('sizes', 'megapixels per frame'), ('lengths', 'frames per clip'))
    ):
        points = result[part]
        across = [
            point['size'][0] * point['size'][1] / 1e6 if part == 'sizes' else point['frames']
            for point in points
        ]
        speed = [1 / statistics.median(point['seconds']) for point in points]
        memory = [(point['memory'] or 0) / 1e6 for point in points]
        for axes, values, name in zip(
            panels[:, column], (speed, memory), ('frames per second', 'memory, MB'), strict=True
        ):
            axes.plot(across, values, marker='o')
            axes.set_xlabel(label)
            axes.set_ylabel(name)
            axes.grid(alpha=0.3)
            if part == 'sizes':
                axes.set_xscale('log')
                axes.set_yscale('log')
            else:
                axes.set_ylim(0, 1.1 * max(values))
    figure.savefig(path, dpi=110)


def print_training(result: dict) -> None:
    first = statistics.median(next(iter(result['seconds'].values())))
    rows = []
    for name, values in result['seconds'].items():
        about, middle = result['about'][name], statistics.median(values)
        limit = statistics.median(result['ceilings'][name])
        rows.append((
            name,
            f'{about["windows"]} of {about["crop"][1]}x{about["crop"][0]}',
            f'{middle:.3f}',
            spread(values),
            f'{first / middle:.2f}',
            f'{about["macs"] / 1e9:.0f}',
            f'{100 * 2 * about["macs"] / middle / limit:.0f} %',
            megabytes(about['memory']),
            f'{100 * result["waiting"][name]:.1f} %',
            f'{about["parameters"] / 1e6:.2f}',
        ))  # fmt: skip
    columns = (
        '', 'windows', 's/step', 'range', 'ratio', 'GMAC', 'of the limit', 'MB', 'waits for data',
        'parameters, M',
    )  # fmt: skip
    print_table(columns, rows)
    print_profiles(result, 'per step')
    print(result['machine'])
    print(
        'of the limit: operations/s relative to a large matrix product in the same dtype, measured '
        'alternately. plain: float32, default layout, Adam weight by weight.'
    )


def print_loading(result: dict) -> None:
    first = statistics.median(result['warm']['image files'])
    print(
        f'One sample: {result["num_frames"]} blurry and {result["sharp_frames"]} sharp frames of '
        f'{result["width"]}x{result["height"]}, cropped to {result["crop"]}. {result["pairs"]} '
        f'pairs, {result["workers"]} worker(s), medians of {len(result["warm"]["LMDB"])} runs.'
    )
    rows = []
    for name, values in result['warm'].items():
        middle = statistics.median(values)
        cold, size = result['cold'].get(name), result['gigabytes'].get(name)
        rows.append((
            name,
            f'{middle:.1f}',
            spread(values, 1),
            f'{middle / first:.1f}',
            '' if cold is None else f'{statistics.median(cold):.1f}',
            '' if size is None else f'{size:.2f}',
        ))  # fmt: skip
    print_table(('', 'samples/s', 'range', 'ratio', 'cold', 'GB'), rows)
    print(result['machine'])
    print('samples/s: frames in the page cache. cold: dropped from the cache first, one pass.')
