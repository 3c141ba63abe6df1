"""Plan all sources of a run, then make their clips."""

import itertools
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dblrgan_mm import files
from dblrgan_mm.errors import UserError
from dblrgan_mm.synthesis.clip import SynthesizedClip, make_clip
from dblrgan_mm.synthesis.pairs import Footage, bytes_held
from dblrgan_mm.synthesis.plan import Recipe, plan
from dblrgan_mm.synthesis.workers import Workers
from dblrgan_mm.video.sources import expand

NEARLY_SHARP = 35  # dB, PSNR between the blurry and the sharp frame
MEMORY = 1e9  # bytes, limit for the frames and flows that several clips share


def convert(sources: Sequence[Path], recipe: Recipe, pool: Workers) -> None:
    """Plan all sources, then make their clips; a source that fails does not stop the others."""
    from tqdm import tqdm

    errors: list[UserError] = []
    counts: Counter[str] = Counter()
    taken: dict[Path, Path] = {}
    total = len(sources)

    def attempt(step: Callable, *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except UserError as error:
            errors.append(error)
            if total > 1:
                tqdm.write(f'error: {error}', file=sys.stderr)

    def prepare(source: Path) -> list[SynthesizedClip]:
        clips, found = plan(source, recipe, pool, taken)
        todo = [clip for clip in clips if not clip.is_finished()]
        counts.update(found)
        counts.update(there=len(clips) - len(todo))
        return todo

    def make(clips: list[SynthesizedClip]) -> None:
        for footage, group in footage_groups(clips, pool):
            for clip in group:
                try:
                    psnrs = make_clip(clip, footage, pool, bar)
                except UserError:
                    shutil.rmtree(clip.partial, ignore_errors=True)
                    raise
                sharp = sum(psnr >= NEARLY_SHARP for psnr in psnrs)
                counts.update(made=1, pairs=len(psnrs), sharp=sharp)

    sources = [source for given in sources for source in attempt(expand, given) or ()]
    total = len(sources) + len(errors)
    if recipe.name and total > 1:
        raise UserError(f'--name is for a single source, but there are {total}; omit it')
    todo = [clips for clips in (attempt(prepare, source) for source in sources) if clips]
    settings = [clip.settings for clips in todo for clip in clips]
    pixels = sum(s['pairs'] * s['width'] * s['height'] for s in settings)
    files.require_space(recipe.out_dir, int(2 * 3 * pixels * 0.7))  # PNG needs 0.3 to 0.7 of it
    with tqdm(total=sum(s['pairs'] for s in settings), unit='pair') as bar:
        for clips in todo:
            attempt(make, clips)
    if errors and total == 1:
        raise errors[0]
    print(summary(counts, recipe))
    if errors:
        raise UserError(f'{len(errors)} of {total} sources failed; see the errors above')


def footage_groups(
    clips: list[SynthesizedClip], pool: Workers
) -> Iterator[tuple[Footage, list[SynthesizedClip]]]:
    """Yield the footage of a source and the clips that use it, one group per frame size."""
    order = sorted(clips, key=lambda clip: (clip.size, clip.settings['first_frame']))
    for size, alike in itertools.groupby(order, lambda clip: clip.size):
        group = list(alike)
        spans = [(s['first_frame'], s['stride'], s['pairs']) for s in (c.settings for c in group)]
        first = max(0, min(first - stride for first, stride, _ in spans))
        frames = max(first + stride * pairs for first, stride, pairs in spans) - first + 1
        shared = sum(stride * pairs for _, stride, pairs in spans) > frames
        keep = shared and frames * bytes_held(size) < MEMORY
        yield Footage(group[0].source, size, pool, first if keep else None), group


def summary(counts: Counter, recipe: Recipe) -> str:
    """Return a one-line summary of what was made."""
    text = (
        f'{counts["made"]} clips made, {counts["there"]} already existed, {counts["short"]} shots '
        'were too short'
    )
    if counts['still']:
        text += f'; {counts["still"]} shots with little motion have only one variant'
    if recipe.max_softness < 1:
        text += f'; {counts["soft"]} of {counts["frames"]} source frames were too soft to use'
    if counts['pairs']:
        share = counts['sharp'] / counts['pairs']
        text += f'; {share:.1%} of the new pairs are nearly sharp ({NEARLY_SHARP} dB or more)'
    return text
