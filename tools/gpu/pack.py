"""Pack what ``make gpu`` needs on a machine to which files can only be copied; print the sizes.

Writes ``CARRY/wheels`` and, with ``--data``, ``CARRY/data_1.tar``, ``CARRY/data_2.tar`` and so on:
JPEG files in GoPro's layout. What is copied with one command stays below the limit: the
repository and one data part, the first part together with the wheels. See docs/gpu.md for its use.
"""

import argparse
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from dblrgan_mm import launch
from dblrgan_mm.clips.frames import encode_image
from dblrgan_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
SPARE = 1 * MIB  # for file names and the padding of archives
PYTHON = '3.12'
PLATFORMS = ('manylinux_2_28', 'manylinux_2_27', 'manylinux_2_17', 'manylinux2014', 'manylinux1')
# what MMagic imports besides torch; versions are taken from requirements/lock.txt
PACKAGES = """
    mmengine mmcv-lite mmagic diffusers transformers tokenizers huggingface-hub addict yapf
    termcolor platformdirs albumentations albucore simsimd stringzilla pydantic pydantic-core
    annotated-types typing-inspection typing-extensions lpips resize-right setuptools
""".split()  # noqa: SIM905

# a clip's name and its (blurry, sharp) frames as JPEG files
Encoded = tuple[str, list[tuple[bytes, bytes]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    add = parser.add_argument
    add('carry', metavar='CARRY', type=Path, help='output folder')
    add('--data', type=Path, help='data set with blurry and sharp frames, or a clip store of it')
    add('--layout', default='gopro', help='layout of the data set (default: gopro)')
    add('--rows', type=launch.positive, default=240,
        help='height that frames are shrunk to (default: 240)')  # fmt: skip
    add('--quality', type=int, default=95, help='quality of the JPEG files (default: 95)')
    add('--limit-mib', type=float, default=64,
        help='largest size to copy with one command, in MiB (default: 64)')  # fmt: skip
    add('--parts', type=launch.positive, default=2,
        help='largest number of data parts (default: 2)')  # fmt: skip
    add('--test-frames', type=launch.positive, default=40,
        help='approximate number of frames for validation (default: 40)')  # fmt: skip
    add('--no-wheels', action='store_true', help='keep the existing wheels')
    args = parser.parse_args()
    args.carry.mkdir(parents=True, exist_ok=True)
    wheels = args.carry / 'wheels'
    if not args.no_wheels:
        download(wheels)
    limit = int(args.limit_mib * MIB) - SPARE
    sizes = dict(repository=tree_size(), wheels=sum(f.stat().st_size for f in wheels.glob('*.whl')))
    for name, size in sizes.items():
        print(f'{name}: {size / MIB:.1f} MiB')
    room = [limit - sizes['repository'] - sizes['wheels'] * (i == 0) for i in range(args.parts)]
    if room[0] < 0:
        raise UserError(
            f'repository and wheels have {sum(sizes.values()) / MIB:.1f} MiB, more than '
            f'--limit-mib {args.limit_mib:g}; remove large files from the repository'
        )
    if args.data:
        pack_data(args, room)


def download(folder: Path) -> None:
    """Download the wheels for the target machine's Python."""
    wanted = locked(ROOT / 'requirements' / 'lock.txt')
    platforms = [f'--platform={name}_x86_64' for name in PLATFORMS]
    folder.mkdir(exist_ok=True)
    for file in folder.glob('*.whl'):
        file.unlink()  # two versions of a package would fail the installation
    command = [
        sys.executable, '-m', 'pip', 'download', '--quiet', '--disable-pip-version-check',
        '--no-deps', '--only-binary=:all:', '--python-version', PYTHON, '--implementation', 'cp',
        *platforms, '--dest', str(folder), *wanted,
    ]  # fmt: skip
    if subprocess.run(command, check=False).returncode:
        raise UserError('downloading the wheels failed, see above; check the network')


def locked(lock: Path) -> list[str]:
    """Return the packages with their versions in a lock file for the target machine."""
    from packaging.requirements import Requirement

    there = dict(
        python_version=PYTHON, python_full_version=f'{PYTHON}.3', sys_platform='linux',
        platform_system='Linux', platform_machine='x86_64', implementation_name='cpython',
    )  # fmt: skip
    versions = {}
    for line in lock.read_text().splitlines():
        entry = Requirement(line) if line.strip() and line[0] != '#' else None
        if entry and (entry.marker is None or entry.marker.evaluate(there)):
            versions[entry.name.lower().replace('_', '-')] = f'{entry.name}{entry.specifier}'
    missing = [name for name in PACKAGES if name not in versions]
    if missing:
        raise UserError(f'{lock} lacks {", ".join(missing)}; add them there, or correct PACKAGES')
    return [versions[name] for name in PACKAGES]


def tree_size() -> int:
    """Return the total size in bytes of the repository's files that git does not ignore."""
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],  # noqa: S607
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split('\0')  # fmt: skip
    files = [ROOT / name for name in dict.fromkeys(listed) if name]
    return sum(file.stat().st_size for file in files if file.is_file())


def pack_data(args: argparse.Namespace, room: list[int]) -> None:
    """Write the data parts; if the clips do not fit, keep only the beginning of each."""
    train, test = encoded_clips(args)
    total = sum(size_of(clip) for clip in train)
    held = sum(size_of(clip) for clip in test)
    if held > room[0]:
        raise UserError(
            f'the test frames need {held / MIB:.1f} MiB and do not fit into the first part; lower '
            '--test-frames'
        )
    share = min(1.0, (sum(room) - held) / max(1, total))
    pieces = [('test', *clip) for clip in test]
    for name, frames in train:
        pieces.append(('train', name, frames[: max(5, int(len(frames) * share))]))
    for old in args.carry.glob('data_*.tar'):
        old.unlink()
    kept = 0
    for number, left in enumerate(room, 1):
        file = args.carry / f'data_{number}.tar'
        with tarfile.open(file, 'w') as archive:
            count = 0
            while pieces:
                split, name, frames = pieces[0]
                fitting = fit(frames, left)
                # the rest of a split clip becomes another clip; both need five frames, a window
                if fitting < len(frames) and (fitting < 5 or len(frames) - fitting < 5):
                    break
                write(archive, split, f'{name}_{number}', frames[:fitting])
                left -= size_of((name, frames[:fitting]))
                count += fitting if split == 'train' else 0
                pieces.pop(0)
                if fitting < len(frames):
                    pieces.insert(0, (split, name, frames[fitting:]))
                    break
        kept += count
        print(f'{file}: {file.stat().st_size / MIB:.1f} MiB, {count} training pairs')
        if not pieces:
            break
    print(
        f'{kept} of {sum(len(frames) for _, frames in train)} training pairs, '
        f'{sum(len(frames) for _, frames in test)} test pairs, {args.rows} rows'
    )


def encoded_clips(args: argparse.Namespace) -> tuple[list[Encoded], list[Encoded]]:
    """Return the training clips, and some frames from the middle of each test clip."""
    from dblrgan_mm.clips import clip_store, layouts

    if clip_store.is_store(args.data):
        splits = list(clip_store.read_index(args.data)['splits'])
    else:
        if args.layout not in layouts.LAYOUTS:
            raise UserError(f'--layout must be one of {", ".join(layouts.LAYOUTS)}')
        splits = list(layouts.LAYOUTS[args.layout].splits)
    others = [name for name in splits if name != 'train']
    if 'train' not in splits or not others:
        raise UserError(f'{args.data} needs the splits train and test; it has {", ".join(splits)}')
    train = clip_store.load_any(args.layout, args.data, 'train')
    test = clip_store.load_any(args.layout, args.data, others[-1])[: max(1, args.test_frames // 5)]
    each = max(5, args.test_frames // len(test))

    def middle(clip) -> slice:
        begin = max(0, (len(clip.frames) - each) // 2)
        return slice(begin, begin + each)

    return (
        [(clip.name, list(encoded(clip, slice(None), args))) for clip in train],
        [(clip.name, list(encoded(clip, middle(clip), args))) for clip in test],
    )


def encoded(clip, which: slice, args: argparse.Namespace) -> Iterator[tuple[bytes, bytes]]:
    """Yield the frame pairs of a clip as JPEG files of at most ``args.rows`` rows."""
    import cv2

    from dblrgan_mm.clips import clip_store

    for pair in zip(clip.blurry[which], clip.sharp[which], strict=True):
        files = []
        for path in pair:
            frame = clip_store.read_any(path)
            height, width = frame.shape[:2]
            if height > args.rows:
                size = (2 * round(width * args.rows / height / 2), args.rows)
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            quality = [cv2.IMWRITE_JPEG_QUALITY, args.quality]
            files.append(encode_image(frame[..., ::-1], '.jpg', quality))
        yield files[0], files[1]


def blocks(content: bytes) -> int:
    """Return the bytes that a file takes in an archive."""
    return 512 + -(-len(content) // 512) * 512


def size_of(clip: Encoded) -> int:
    return sum(blocks(content) for pair in clip[1] for content in pair)


def fit(frames: list[tuple[bytes, bytes]], room: int) -> int:
    """Return how many of the frames fit into ``room`` bytes."""
    for count, pair in enumerate(frames):
        room -= sum(map(blocks, pair))
        if room < 0:
            return count
    return len(frames)


def write(archive: tarfile.TarFile, split: str, clip: str, frames: list) -> None:
    for number, pair in enumerate(frames):
        for side, content in zip(('blur', 'sharp'), pair, strict=True):
            entry = tarfile.TarInfo(f'{split}/{clip}/{side}/{number:06d}.jpg')
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


if __name__ == '__main__':
    launch.run(main)
