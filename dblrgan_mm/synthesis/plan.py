"""Decide which clips to make from a source: shots, strides, exposures and names."""

import itertools
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dblrgan_mm.errors import UserError
from dblrgan_mm.synthesis.clip import SynthesizedClip
from dblrgan_mm.synthesis.scan import Scan, output_size, scan
from dblrgan_mm.synthesis.workers import Workers

SUB_FRAME_MOTION = 2  # pixels; motion of fast objects between the sub-frames of a variant, at most
STILL = 0.02  # picture heights; a shot with less motion at its largest stride has one variant


@dataclass
class Recipe:
    """What to make from each source; the options of `synthesize_blur.py` explain more.

    Attributes:
        heights: Heights in pixels, 0 for the source's own; one is drawn per clip.
        count: Maximum number of pairs per source (with variants, per variant); 0 for all.
        stride: Source frames per blurry frame, or 'auto'.
        max_stride: The largest stride that 'auto' chooses.
        motion: Motion between blurry frames in picture heights: the target of 'auto' or, with
            variants, its upper bound.
        shutter: Range of the exposure, in intervals of the blurry clip.
        window: Range of the number of source frames to average, odd; None for interpolation.
        variants: Number of clips per shot.
        hand: Fraction of clips whose shutter changes from frame to frame.
        lights: Range of the factor by which clipped pixels are made brighter.
        max_softness: As in `find_soft`.
    """

    out_dir: Path
    split: str
    name: str | None
    heights: Sequence[int]
    start: int
    count: int
    min_pairs: int
    max_pairs: int
    first_number: int
    stride: int | Literal['auto']
    max_stride: int
    motion: float
    shutter: tuple[float, float]
    window: tuple[int, int] | None
    sub_frames: int
    light: str
    seed: int
    variants: int
    hand: float
    lights: tuple[float, float]
    max_softness: float

    @property
    def least_pairs(self) -> int:
        """The minimum number of pairs in a clip."""
        return min(self.min_pairs, self.count or self.min_pairs)

    @property
    def strides(self) -> list[int]:
        """The strides to choose from, in ascending order."""
        return [*range(1, self.max_stride + 1)] if self.stride == 'auto' else [self.stride]

    def reach(self, stride: int) -> int:
        """Return how many frames an exposure may need on either side of its middle."""
        return self.window[1] // 2 if self.window else (stride + 1) // 2

    def frames_for(self, pairs: int, stride: int) -> int:
        """Return how many consecutive frames a clip needs."""
        return 2 * self.reach(stride) + 1 + stride * (pairs - 1)


@dataclass
class Shot:
    """Frames between two cuts.

    Attributes:
        first: First frame, counted from the start of the source.
        sharp: bool (n,), whether each frame may be ground truth.
        motion: Median motion between neighbouring frames, in picture heights.
        peaks: (n - 1,) or (1,), peak motion between neighbouring frames, in picture heights.
    """

    first: int
    sharp: np.ndarray
    motion: float
    peaks: np.ndarray

    def pairs_from(self, stride: int, reach: int) -> np.ndarray:
        """Count, for each frame, the pairs of the longest clip that starts with it.

        The frame is the ground truth of the first pair, and no ground truth is a soft frame.

        Returns:
            int (n,), one count per frame.
        """
        frames = len(self.sharp)
        pairs = np.zeros(frames + stride, int)
        for i in range(frames - 1 - reach, reach - 1, -1):
            pairs[i] = pairs[i + stride] + 1 if self.sharp[i] else 0
        return pairs[:frames]


@dataclass
class Take:
    """A part of a shot.

    Attributes:
        first: Ground truth of the first pair, counted from the start of the source.
        peak: Motion of the fastest objects between source frames, in picture heights; None if not
            used.
    """

    first: int
    stride: int
    pairs: int
    peak: float | None = None


def plan(
    source: Path, recipe: Recipe, pool: Workers, taken: dict[Path, Path]
) -> tuple[list[SynthesizedClip], Counter]:
    """Divide a source into clips; `taken` maps each clip's folder to its source.

    Returns:
        The clips, and counts: shots that are too `short` for a clip, `still` shots, `frames`, and
        `soft` frames.
    """
    largest = recipe.strides[-1]
    stop = recipe.start + recipe.frames_for(recipe.count, largest) if recipe.count else None
    found = scan(source, recipe.start, stop, recipe.heights, recipe.max_softness, pool)
    shots = find_shots(found, recipe.start)
    here = Path(os.path.abspath(source))
    stem = recipe.name or (here.name if here.is_dir() else here.stem)
    make = takes_of_variants if recipe.variants > 1 else takes_of_shots
    takes, counts = make(shots, recipe, stem)
    if not takes:
        least, stride = recipe.least_pairs, recipe.strides[0]
        soft = found.soft.sum()
        raise UserError(
            f'{source}: too short: {found.frames} frames from --start {recipe.start} on, at most '
            f'{max(len(shot.sharp) for shot in shots)} between two cuts, but {least} pairs need '
            f'{recipe.frames_for(least, stride)} frames at a stride of {stride}; lower '
            '--min-pairs, --stride or --start'
            + (f'. {soft} frames are soft; a higher --max-softness allows them' if soft else '')
        )
    clips = [
        SynthesizedClip(
            source,
            recipe.out_dir / recipe.split / name,
            dict(source=here.name, seed=recipe.seed, light=recipe.light)
            | draw(recipe, take, found.size, rng),
        )
        for name, take, rng in takes
    ]
    for clip in clips:
        if clip.folder in taken:
            raise UserError(
                f'{source}: its clip {clip.folder.name} has the same name as a clip of '
                f'{taken[clip.folder]}; run the command once per source, with --name'
            )
    taken.update((clip.folder, source) for clip in clips)
    counts.update(frames=found.frames, soft=int(found.soft.sum()))
    return clips, counts


def find_shots(found: Scan, start: int) -> list[Shot]:
    """Divide the scanned frames at the cuts; the first of them is frame `start`."""
    ends = [0, *(np.flatnonzero(found.cut) + 1).tolist(), found.frames]
    shots = []
    for first, end in itertools.pairwise(ends):
        motion, peaks = (
            each[first : end - 1] if end - first > 1 else np.zeros(1)
            for each in (found.motion, found.peak)
        )
        sharp = ~found.soft[first:end]
        shots.append(Shot(start + first, sharp, float(np.median(motion)), peaks))
    return shots


Named = tuple[str, Take, np.random.Generator]


def rng_of(recipe: Recipe, name: str) -> np.random.Generator:
    """Return the random number generator of a clip."""
    return np.random.default_rng([recipe.seed, zlib.crc32(name.encode())])


def takes_of_shots(shots: list[Shot], recipe: Recipe, stem: str) -> tuple[list[Named], Counter]:
    """Use every shot once, in parts of at most `max_pairs` pairs.

    Returns:
        Names, parts and random number generators; and how many shots are too `short`.
    """
    least = recipe.least_pairs
    takes, short, left = [], 0, recipe.count or sum(len(shot.sharp) for shot in shots)
    for shot in shots:
        runs = {s: list(runs_in(shot, s, recipe.reach(s))) for s in recipe.strides}
        most = {s: max((pairs for _, pairs in found), default=0) for s, found in runs.items()}
        # a short shot gets a smaller stride, so that it still gives enough pairs
        fit = [s for s in recipe.strides if most[s] >= least] or recipe.strides[:1]
        stride = next((s for s in fit if s * shot.motion >= recipe.motion), fit[-1])
        short += most[stride] < least
        for first, pairs in runs[stride]:
            for k in range(0, pairs, recipe.max_pairs):
                size = min(recipe.max_pairs, pairs - k, left)
                if size >= least:
                    takes.append(Take(shot.first + first + k * stride, stride, size))
                    left -= size
    names = [stem] if len(takes) == 1 else [f'{stem}_{k:03d}' for k in range(len(takes))]
    named = zip(names, takes, strict=True)
    return [(name, take, rng_of(recipe, name)) for name, take in named], Counter(short=short)


def runs_in(shot: Shot, stride: int, reach: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of pairs without soft ground truth: first ground truth, number of pairs."""
    pairs = shot.pairs_from(stride, reach)
    i = reach
    while i < len(pairs):
        if pairs[i]:
            yield i, int(pairs[i])
        i += max(1, int(pairs[i]) * stride)


def takes_of_variants(shots: list[Shot], recipe: Recipe, stem: str) -> tuple[list[Named], Counter]:
    """Use every shot `variants` times, each time for one clip of at most `max_pairs` pairs.

    Stride and start are random. The stride is drawn between half of the largest stride that fits
    and that stride. The start is drawn among those that give the most pairs. A stride fits if the
    motion between blurry frames does not exceed `recipe.motion` and its peak does not exceed twice
    that. The smallest stride always fits. A shot with little motion has only one variant, so that
    nearly sharp pairs remain a small fraction of all pairs.

    Returns:
        Names, parts and random number generators; and how many shots are too `short`, and how many
        are `still`.
    """
    least = recipe.least_pairs
    usable: list[tuple[Shot, dict[int, np.ndarray]]] = []
    still = set()
    for shot in shots:
        pairs = {s: shot.pairs_from(s, recipe.reach(s)) for s in recipe.strides}
        pairs = {s: each for s, each in pairs.items() if each.max(initial=0) >= least}
        if pairs:
            motion = max(shot.motion, float(np.median(shot.peaks)) / 2)
            slow = {s: each for s, each in pairs.items() if s * motion <= recipe.motion}
            pairs = slow or {min(pairs): pairs[min(pairs)]}
            if max(pairs) * motion < STILL:
                still.add(len(usable))
            usable.append((shot, pairs))
    takes = []
    for v in range(recipe.variants):
        left = recipe.count or np.inf
        for k, (shot, pairs) in enumerate(usable):
            if v and k in still:
                continue
            name = stem if len(usable) == 1 else f'{stem}_{k:03d}'
            name = f'{name}_v{v}'
            rng = rng_of(recipe, name)
            stride = int(rng.choice([s for s in pairs if 2 * s >= max(pairs)]))
            most = int(min(pairs[stride].max(), recipe.max_pairs, left))
            if most >= least:
                first = int(rng.choice(np.flatnonzero(pairs[stride] >= most)))
                seen = shot.peaks[first - recipe.reach(stride) :][: recipe.frames_for(most, stride)]
                peak = float(np.percentile(seen, 95))
                takes.append((name, Take(shot.first + first, stride, most, peak), rng))
                left -= most
    return takes, Counter(short=len(shots) - len(usable), still=len(still))


def draw(
    recipe: Recipe, take: Take, size: tuple[int, int], rng: np.random.Generator
) -> dict[str, Any]:
    """Draw the exposure, height and lights of a clip, and return its settings."""
    if recipe.window:
        low, high = recipe.window
        exposure: dict[str, Any] = dict(window=low + 2 * int(rng.integers((high - low) // 2 + 1)))
    else:
        if recipe.hand and rng.uniform() < recipe.hand:
            exposure = dict(shutters=hand_shutters(take.pairs, rng))
        else:
            exposure = dict(shutter=round(rng.uniform(*recipe.shutter), 4))
        exposure |= dict(sub_frames=recipe.sub_frames)
    w, h = output_size(*size, draw_height(size[1], recipe.heights, rng))
    if take.peak is not None and not recipe.window:  # slow objects need fewer; at least 3 in total
        needed = math.ceil(take.peak * h / SUB_FRAME_MOTION)
        least = math.ceil(2 / (exposure.get('shutter', 1) * take.stride))
        exposure['sub_frames'] = max(least, min(recipe.sub_frames, max(2, needed)))
    if recipe.lights[1] > 1:
        exposure |= dict(lights=round(rng.uniform(*recipe.lights), 4))
    settings = exposure | dict(stride=take.stride, height=h, width=w)
    return settings | dict(
        first_number=recipe.first_number, first_frame=take.first, pairs=take.pairs
    )


def hand_shutters(pairs: int, rng: np.random.Generator) -> list[float]:
    """Draw shutters as if the camera moved alternately fast and slowly: 0.05 to 1 interval.

    This method is our own. It applies the logistic function to a random walk with noise:
    neighbouring shutters are similar, and nearly sharp frames occur next to blurry ones. The offset
    makes about a tenth of the shutters shorter than 0.2 intervals.
    """
    walk = np.cumsum(rng.normal(0, 0.5, pairs)) + rng.normal(0, 0.5, pairs)
    shutters = 0.05 + 0.95 / (1 + np.exp(-1.6 * (walk - walk.mean()) - 0.8))
    return shutters.round(4).tolist()


def draw_height(h: int, heights: Sequence[int], rng: np.random.Generator) -> int:
    """Draw a height of at most 2/3 of h, the source's height, where compression artefacts vanish.

    If there is none, return the smallest height that does not exceed h. 0 stands for h.
    """
    fit = sorted({height or h for height in heights if height <= h})
    fit = [height for height in fit if 3 * height <= 2 * h] or fit[:1]
    return fit[0] if len(fit) == 1 else int(rng.choice(fit))
