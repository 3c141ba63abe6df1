"""Tables and plot of a comparison."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dblrgan_mm.viewer import Table

INPUT, SHARP = 'input', 'sharp'  # rows without a restorer

_SCORES = {  # name, unit, digits
    'psnr': ('PSNR', 'dB', 2),
    'psnr_y': ('PSNR Y', 'dB', 2),
    'ssim': ('SSIM (MMagic)', '', 4),
    'ssim_skimage': ('SSIM (scikit-image)', '', 4),
    'lpips': ('LPIPS', '', 4),
    'blur_effect': ('blur effect', '', 4),
    'niqe': ('NIQE', '', 3),
    'warping_error': ('warping error', '1e-3', 3),
}
COSTS = {
    'parameters': ('parameters, M', 1e-6, 3),
    'macs': ('GMAC per frame', 1e-9, 2),
    'fps': ('frames per second', 1.0, 2),
    'memory': ('memory, MB', 1e-6, 0),
}


def mean_scores(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return the mean of each score over the frames where it exists and is finite."""
    rows = list(rows)
    means = {}
    for score in _SCORES:
        values = [row[score] for row in rows if row.get(score) is not None]
        values = [value for value in values if math.isfinite(value)]
        if values:
            means[score] = sum(values) / len(values)
    return means


def main_score(rows: Iterable[dict[str, Any]]) -> str:
    """Return the score to plot: 'psnr', or 'blur_effect' if the clips have no sharp frames."""
    return 'psnr' if any('psnr' in row for row in rows) else 'blur_effect'


def name_and_unit(score: str) -> tuple[str, str]:
    """Return the name of a score and its unit, which may be empty."""
    return _SCORES[score][:2]


def _head(score: str, what: str = '') -> str:
    name, unit, _ = _SCORES[score]
    return f'{name}{what}, {unit}' if unit else f'{name}{what}'


def summary(results: dict[str, dict], data: Sequence[str]) -> dict[str, dict]:
    """Return each method's ``cost``, or why it ``failed``, and its mean ``scores`` per data set."""
    found = {}
    for method, result in results.items():
        rows = result.get('rows', ())
        scores = {name: mean_scores(r for r in rows if r['data'] == name) for name in data}
        found[method] = {k: v for k, v in result.items() if k != 'rows'} | dict(scores=scores)
    return found


def tables(results: dict[str, dict], data: Sequence[str]) -> list[Table]:
    """Return two tables per data set: means and costs of each method, and its main score per clip.

    Args:
        results: for each method, in order, either ``rows`` (scores per frame, with 'data', 'clip'
            and 'frame') and ``cost`` as ``restoring.restore`` returns it, or ``failed``, the
            reason. Must contain the rows of the input.
        data: names of the data sets.
    """
    return [table for name in data for table in _tables_of(results, name)]


def _tables_of(results: dict[str, dict], name: str) -> tuple[Table, Table]:
    rows = {
        method: [row for row in result['rows'] if row['data'] == name]
        for method, result in results.items()
        if 'failed' not in result
    }
    means = {method: mean_scores(given) for method, given in rows.items()}
    scores = [score for score in _SCORES if any(score in mean for mean in means.values())]
    costs = [result['cost']['data'][name] for result in results.values() if result.get('cost')]
    sizes = {'x'.join(map(str, cost['size'])) for cost in costs if 'size' in cost}
    clips = sorted({row['clip'] for row in rows[INPUT]})
    title = f'{name}: {len(rows[INPUT])} frames of {len(clips)} clip{"s" if len(clips) > 1 else ""}'
    title += f', {", ".join(sizes)}' if sizes else ''
    lines = []
    for method, result in results.items():
        if 'failed' in result:
            lines.append([method, f'failed: {result["failed"]}'])
            continue
        cells = [_number(means[method].get(score), _SCORES[score][2]) for score in scores]
        cost = result['cost'] or dict(parameters=None, data={name: {}})
        given = cost['data'][name] | dict(parameters=cost['parameters'])
        cells += [
            _number(None if given.get(key) is None else given[key] * factor, digits)
            for key, (_, factor, digits) in COSTS.items()
        ]
        lines.append([method, *cells])
    main = main_score(rows[INPUT])
    by_clip = []
    for method, scored in rows.items():
        found = [mean_scores(r for r in scored if r['clip'] == clip).get(main) for clip in clips]
        by_clip.append([method, *(_number(value, _SCORES[main][2]) for value in found)])
    heads = ['', *map(_head, scores), *(cost[0] for cost in COSTS.values())]
    by_clip_title = f'{name}: {_head(main, " per clip")}'
    return Table(title, heads, lines), Table(by_clip_title, ['', *clips], by_clip)


def _number(value: float | None, digits: int) -> str:
    return '' if value is None else f'{value:.{digits}f}'


def markdown(tables: Iterable[Table]) -> str:
    """Return tables as Markdown."""
    return '\n\n'.join(f'{table.title}\n\n{_markdown_table(table)}' for table in tables) + '\n'


def _markdown_table(table: Table) -> str:
    lines = [table.heads, ['---', *['---:'] * (len(table.heads) - 1)]]
    for row in table.rows:
        cells = [cell.replace('|', r'\|') for cell in row]
        lines.append([*cells, *[''] * (len(table.heads) - len(row))])
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def write_csv(results: dict[str, dict], path: Path) -> None:
    """Write the scores as CSV, one line per method and frame."""
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, ['method', 'data', 'clip', 'frame', *_SCORES])
        writer.writeheader()
        for method, result in results.items():
            for row in result.get('rows', ()):
                numbers = {k: round(row[k], 6) for k in _SCORES if row.get(k) is not None}
                writer.writerow({'method': method, **row, **numbers})


def plot(results: dict[str, dict], data: Sequence[str], path: Path) -> None:
    """Plot the main score against multiply-accumulates per frame, one panel per data set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(data), 3.8), layout='constrained')
    for i, name in enumerate(data):
        axes = figure.add_subplot(1, len(data), i + 1)
        main = main_score(row for row in results[INPUT]['rows'] if row['data'] == name)
        costs = []
        for method, result in results.items():
            if 'failed' in result:
                continue
            mean = mean_scores(row for row in result['rows'] if row['data'] == name)
            cost = result['cost']
            if main not in mean:  # every frame is restored perfectly: PSNR is infinite
                continue
            macs = cost['data'][name].get('macs') if cost else None
            if macs is None:  # the input, or a method of unknown cost
                color = 'grey' if method == INPUT else None
                axes.axhline(mean[main], color=color, linestyle='--', linewidth=1, label=method)
            else:
                axes.plot(macs * 1e-9, mean[main], marker='o', linestyle='', label=method)
                costs.append(macs)
        if costs and max(costs) > 5 * min(costs):
            axes.set_xscale('log')
        axes.margins(0.2)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel('GMAC per frame')
        axes.set_ylabel(_head(main))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def largest_difference(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Return how much frames, uint8 (h, w, 3), differ from each other per pixel: float (h, w)."""
    stack = np.stack(frames).astype(np.float32)
    return stack.std(axis=0).mean(axis=2)
