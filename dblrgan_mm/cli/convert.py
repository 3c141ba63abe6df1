"""Convert a data set into a clip store: raw frames, one memory-mapped file per clip.

To resume an interrupted conversion, run the same command again.
"""

from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from dblrgan_mm import files, launch
from dblrgan_mm.clips import clip_store, layouts
from dblrgan_mm.clips.clip import Clip
from dblrgan_mm.errors import UserError


def main() -> None:
    parser = launch.layout_parser(__doc__.split('\n\n')[0])
    parser.add_argument('store', metavar='STORE', type=Path, help='folder of the clip store')
    args = parser.parse_args()
    splits = args.split or layouts.LAYOUTS[args.layout].splits or ['']
    if clip_store.is_store(args.root):
        raise UserError(f'{args.root} is a clip store; give the data set it was made from')

    clips = {}
    for split in splits:
        clips[split] = layouts.load_clips(
            args.layout, args.root, split, not args.unpaired, **args.layout_args
        )
    with files.sole_writer(args.store), files.report_full_disk(args.store):
        index = open_index(args.store, args.layout, args.layout_args)
        convert(args.store, index, clips, args.workers)


def open_index(store: Path, layout: str, layout_args: dict[str, str]) -> dict:
    """Return the index of an existing store, or a new index."""
    if not clip_store.is_store(store):
        if any(path.name[0] != '.' for path in store.iterdir()):
            raise UserError(
                f'{store.resolve()} is neither empty nor a clip store; choose another folder'
            )
        return clip_store.new_index(layout, layout_args)
    index = clip_store.read_index(store)
    clip_store.require_source(store, index, layout, layout_args)
    return index


def convert(store: Path, index: dict, clips: dict[str, list[Clip]], workers: int) -> None:
    """Write the clips missing from the store; update its index after each clip."""
    from tqdm import tqdm

    todo = []
    for split, found in clips.items():
        part = index['splits'].setdefault(split, dict(complete=False, clips={}))
        part['complete'] = False
        unknown = part['clips'].keys() - {clip.name for clip in found}
        if unknown:
            raise UserError(
                f'{store.resolve()} holds a clip {min(unknown)} in split {split!r} that this '
                'data set does not have; choose another folder'
            )
        for clip in found:
            entry = part['clips'].get(clip.name)
            if entry and entry['shape'][0] == 2 and not clip.sharp:
                raise UserError(
                    f'{store.resolve()} holds the sharp frames of clip {clip.name}, which would be '
                    'lost; choose another folder, or omit --unpaired'
                )
        todo += [(split, clip) for clip in found if not is_done(store, part, clip)]
    done = sum(map(len, clips.values())) - len(todo)
    files.require_space(store, sum(clip_store.stored_bytes(clip) for _, clip in todo))
    clip_store.write_index(store, index)
    frames = sum(len(clip.frames) * (2 if clip.sharp else 1) for _, clip in todo)
    with tqdm(total=frames, unit='frame') as bar, ThreadPoolExecutor(workers) as pool:
        jobs = {}
        for split, clip in todo:
            file = Path(split) / f'{clip.name}.npy'
            jobs[pool.submit(clip_store.write_clip, clip, store / file, bar.update)] = (
                split,
                clip,
                file,
            )
        try:
            for job in as_completed(jobs):
                split, clip, file = jobs[job]
                entry = dict(file=file.as_posix(), **job.result())
                index['splits'][split]['clips'][clip.name] = entry
                clip_store.write_index(store, index)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for split, found in clips.items():
        part = index['splits'][split]
        part['clips'] = {clip.name: part['clips'][clip.name] for clip in found}
        part['complete'] = True
    clip_store.write_index(store, index)
    print(f'{len(todo)} clips converted, {done} already existed: {store}')


def is_done(store: Path, part: dict, clip: Clip) -> bool:
    """Return whether the store has the clip with these frames, in a complete file."""
    entry = part['clips'].get(clip.name)
    if entry is None or entry['frames'] != list(clip.frames):
        return False
    if clip.sharp and entry['shape'][0] == 1:
        return False
    try:
        clip_store.map_frame(f'{store / entry["file"]}#blurry.0', tuple(entry['shape']))
    except ValueError:
        return False
    return True
