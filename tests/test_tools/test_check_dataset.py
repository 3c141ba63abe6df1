"""tools/dataset_converters/check_dataset.py on good and on damaged data sets."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.color import rgb2gray
from skimage.metrics import peak_signal_noise_ratio

from dblrgan_mm.clips.layouts import DVD_TEST_CLIPS


@pytest.fixture
def check(call_tool):
    """Call the tool with two threads."""
    return lambda *arguments: call_tool(
        'dataset_converters/check_dataset', *arguments, '--workers', 2
    )


def tables(out: str) -> list[list[str]]:
    """Return the cells of the table rows."""
    rows = (line for line in out.splitlines() if line.startswith('│'))
    return [[cell.strip() for cell in row.split('│')[1:-1]] for row in rows]


def faults(done) -> list[str]:
    """Return the lines that report faults; check their count in the last line and the exit code."""
    *lines, last = done.out.splitlines()
    found = [line for line in lines if line and line[0] not in '┏┡│└┃']
    assert last == f'faults: {len(found)}'
    assert done.code == (1 if found else 0)
    assert done.err.count('error') == 0
    return found


def image(path: Path) -> np.ndarray:
    return cv2.imread(str(path))


class TestCounts:
    def test_sample_as_own_clips(self, check, sample_root):
        done = check('gopro', sample_root, '--own')
        assert faults(done) == []
        assert tables(done.out) == [
            ['train', '3', '', '32', '', '254x144, 256x144', '0'],
            ['test', '2', '', '20', '', '256x144', '0'],
        ]

    def test_sample_differs_from_the_published_counts(self, check, sample_root):
        done = check('gopro', sample_root)
        assert tables(done.out) == [
            ['train', '3', '22', '32', '2103', '254x144, 256x144', '1'],
            ['test', '2', '11', '20', '1111', '256x144', '1'],
        ]
        assert faults(done) == [
            'train: 3 clips with 32 frames, but the published data set has 22 with 2103. Check '
            'that it is complete. For your own clips, use --own',
            'test: 2 clips with 20 frames, but the published data set has 11 with 1111. Check '
            'that it is complete. For your own clips, use --own',
        ]

    def test_one_split(self, check, sample_root):
        done = check('gopro', sample_root, '--own', '--split', 'test')
        assert [row[0] for row in tables(done.out)] == ['test']

    def test_whole_data_set(self, check, tmp_path, lay_out, sample_root):
        """The KITTI test set, with 9x7 pixels of a real frame as each frame."""
        small = image(sample_root / 'train/gopro_walk_a/sharp/000050.png')[60:67, 100:109]
        for camera in ('image_2', 'image_3'):
            for scene in range(199):
                lay_out(
                    tmp_path, 'kitti', f'{scene:06d}', (9, 10, 11), [(small, small)], camera=camera
                )
        done = check('kitti', tmp_path)
        assert faults(done) == []
        assert tables(done.out) == [['test', '398', '398', '1194', '1194', '9x7', '0']]

    def test_own_clips_by_patterns(self, check, tmp_path, lay_out, sample_root):
        frame = image(sample_root / 'train/gopro_walk_a/sharp/000050.png')
        lay_out(tmp_path, 'patterns', 'a', range(3), [(frame, frame)])
        patterns = (
            'blurry={split}/{clip}/blurry/{frame}.*',
            'sharp={split}/{clip}/sharp/{frame}.*',
        )
        done = check('patterns', tmp_path, '--split', 'train', '--layout-args', *patterns)
        assert faults(done) == []
        assert tables(done.out) == [['train', '1', '', '3', '', '254x144', '0']]

    def test_unpaired(self, check, real_copy):
        shutil.rmtree(real_copy / 'train' / 'gopro_walk_a' / 'sharp')
        arguments = ('gopro', real_copy, '--own', '--split', 'train')
        assert faults(check(*arguments, '--unpaired')) == []
        assert 'no folder' in faults(check(*arguments))[0]


class TestFaults:
    def check(self, check, root) -> list[str]:
        return faults(check('gopro', root, '--own', '--split', 'train'))

    def truncated(self, path):
        path.write_bytes(path.read_bytes()[:20_000])
        return f'{path} cannot be decoded: truncated, or not an image. Copy it again.'

    def empty(self, path):
        path.write_bytes(b'')
        return f'{path} cannot be decoded: truncated, or not an image. Copy it again.'

    def grey(self, path):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
        return f'{path} is a grey image; frames must be in colour. Convert the clip to RGB images.'

    def deep(self, path):
        cv2.imwrite(str(path), image(path).astype(np.uint16) * 257)
        return (
            f'{path} has 16 bits per channel; frames must have 8. Convert the clip to 8-bit images.'
        )

    def lower(self, path):
        cv2.imwrite(str(path), image(path)[:100])
        return '254x100 pixels, but the first frame of its clip has 254x144'

    def narrower(self, path):
        cv2.imwrite(str(path), image(path)[:, :200])
        return '200x144 pixels, but the first frame of its clip has 254x144'

    @pytest.mark.parametrize('kind', ['truncated', 'empty', 'grey', 'deep', 'lower', 'narrower'])
    @pytest.mark.parametrize('folder', ['blur', 'sharp'])
    def test_image(self, check, real_copy, kind, folder):
        message = getattr(self, kind)(real_copy / 'train' / 'gopro_walk_a' / folder / '000051.png')
        assert self.check(check, real_copy) == [f'train/gopro_walk_a, frame 000051: {message}']

    def test_missing_partner(self, check, real_copy):
        folder = real_copy / 'train' / 'gopro_walk_a' / 'sharp'
        (folder / '000051.png').unlink()
        assert self.check(check, real_copy) == [
            'train/gopro_walk_a, frame 000051: 12 blurry frames but 11 sharp ones (no frame 000051 '
            f'in {folder}). Copy the missing frame, or remove its partner.'
        ]

    def test_all_faults_are_reported(self, check, real_copy, sample_root):
        for clip in ('gopro_walk_b', 'sam2_juggle_a'):
            shutil.copytree(sample_root / 'train' / clip, real_copy / 'train' / clip)
        spoilt = (
            ('000048', 'blur', 'grey'),
            ('000052', 'sharp', 'truncated'),
            ('000055', 'blur', 'lower'),
            ('000055', 'sharp', 'deep'),
        )
        expected = set()
        for frame, folder, kind in spoilt:
            path = real_copy / 'train' / 'gopro_walk_a' / folder / f'{frame}.png'
            expected.add(f'train/gopro_walk_a, frame {frame}: {getattr(self, kind)(path)}')
        lost = sorted((real_copy / 'train' / 'gopro_walk_b' / 'blur').iterdir())[3:5]
        for path in lost:
            path.unlink()
        found = self.check(check, real_copy)
        others = [line for line in found if line not in expected]
        assert len(found) == len(expected) + len(others)
        for path, line in zip(lost, others, strict=False):
            assert line.startswith(f'train/gopro_walk_b, frame {path.stem}: ')
            assert f'(no frame {path.stem} in {path.parent})' in line
        (gap,) = others[2:]
        assert gap.startswith('train/gopro_walk_b, frame ')
        assert 'a gap in the numbering' in gap

    def test_clip_without_sharp_folder(self, check, real_copy):
        shutil.rmtree(real_copy / 'train' / 'gopro_walk_a' / 'sharp')
        (line,) = self.check(check, real_copy)
        assert line.startswith('train/gopro_walk_a: no folder ')

    def test_wrong_root(self, check, sample_root):
        found = faults(check('gopro', sample_root.parent))
        assert [line.split(':')[0] for line in found] == ['train', 'test']
        for line in found:
            assert f'Did you mean the folder {sample_root}?' in line

    def test_half_downloaded_archive(self, check, tmp_path, lay_out, sample_root):
        pair = [
            image(sample_root / f'train/gopro_walk_a/{f}/000050.png') for f in ('blur', 'sharp')
        ]
        for clip in ('IMG_0001', *sorted(DVD_TEST_CLIPS)[:4]):
            lay_out(tmp_path, 'dvd', clip, range(2), [pair])
        train, test = faults(check('dvd', tmp_path))
        assert train.startswith(
            'train: 1 clips with 2 frames, but the published data set has 61 with 5'
        )
        assert test.startswith(f'test: nothing at {tmp_path}/{sorted(DVD_TEST_CLIPS)[4]}.')

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (('--split', 'val'), "the gopro layout has no split 'val', only train, test"),
            (('--layout-args', 'blurred=x'), 'It accepts: blur.'),
        ],
    )
    def test_arguments_are_not_faults_of_the_data(self, check, sample_root, arguments, message):
        done = check('gopro', sample_root, *arguments)
        assert (done.code, done.out) == (1, '')
        assert message in done.err

    def test_layout_argument_without_value(self, check, sample_root):
        done = check('gopro', sample_root, '--layout-args', 'blur')
        assert done.code == 2
        assert "--layout-args takes KEY=VALUE, got 'blur'" in done.err


class TestClipStore:
    @pytest.fixture
    def file(self, real_store) -> Path:
        return real_store / 'train' / 'gopro_walk_a.npy'

    def check(self, check, store) -> list[str]:
        return faults(check('gopro', store, '--own', '--split', 'train'))

    def test_store_names_the_arguments_that_it_was_made_with(self, check, real_store):
        (line,) = faults(
            check('gopro', real_store, '--own', '--split', 'train', '--layout-args', 'blue=x')
        )
        assert 'was made from the gopro layout with no layout_args' in line

    def test_whole(self, check, sample_store):
        done = check('gopro', sample_store, '--own')
        assert faults(done) == []
        assert tables(done.out) == [
            ['train', '3', '', '32', '', '254x144, 256x144', '0'],
            ['test', '2', '', '20', '', '256x144', '0'],
        ]

    def test_flipped_byte(self, check, real_store, file):
        content = bytearray(file.read_bytes())
        content[1_000_000] ^= 0xFF
        file.write_bytes(content)
        assert self.check(check, real_store) == [
            f'train/gopro_walk_a: {file} is damaged: its checksum differs from that in the index. '
            'Delete it and run the conversion again.'
        ]

    def test_truncated(self, check, real_store, file):
        file.write_bytes(file.read_bytes()[:-1])
        (line,) = self.check(check, real_store)
        assert line.startswith('train')
        assert f'gopro_walk_a: {file} has ' in line
        assert 'Copy it again' in line

    def test_all_damaged_files_are_reported(self, check, sample_store, tmp_path):
        store = tmp_path / 'store'
        shutil.copytree(sample_store, store)
        files = [store / 'train' / f'{clip}.npy' for clip in ('gopro_walk_a', 'sam2_juggle_a')]
        for file in files:
            file.write_bytes(file.read_bytes()[:-1])
        found = self.check(check, store)
        for file in files:
            assert any(str(file) in line for line in found)


class TestStatistics:
    def test_against_independent_figures(self, check, real_copy):
        done = check('gopro', real_copy, '--own', '--split', 'train', '--statistics')
        assert faults(done) == []
        psnr, energy = tables(done.out)[1:]
        clip = real_copy / 'train' / 'gopro_walk_a'
        psnrs, ratios = [], []
        for path in sorted((clip / 'blur').iterdir()):
            blurry, sharp = (image(clip / f / path.name)[..., ::-1] for f in ('blur', 'sharp'))
            psnrs.append(peak_signal_noise_ratio(sharp, blurry))
            ratios.append(np.divide(*(
                (np.diff(rgb2gray(frame), axis=0) ** 2).sum()
                + (np.diff(rgb2gray(frame), axis=1) ** 2).sum()
                for frame in (blurry, sharp)
            )))  # fmt: skip
        assert psnr[:2] == ['train', 'PSNR, dB']
        assert energy[:2] == ['train', 'gradient energy']
        quantiles = (0, 0.25, 0.5, 0.75, 1)
        found = [float(cell) for cell in psnr[2:]]
        assert found == pytest.approx(np.quantile(psnrs, quantiles), abs=0.006)
        # skimage's luma has other weights than BT.601 and is not rounded
        found = [float(cell) for cell in energy[2:]]
        assert found == pytest.approx(np.quantile(ratios, quantiles), rel=0.05)
        assert found[-1] < 0.9, 'the blurry frames are blurry'

    def test_from_a_store(self, check, real_copy, real_store):
        arguments = ('--own', '--split', 'train', '--statistics')
        images, store = (check('gopro', root, *arguments) for root in (real_copy, real_store))
        assert tables(store.out) == tables(images.out)

    def test_sharp_frames_are_as_sharp_as_themselves(self, check, real_copy):
        clip = real_copy / 'train' / 'gopro_walk_a'
        shutil.rmtree(clip / 'blur')
        shutil.copytree(clip / 'sharp', clip / 'blur')
        done = check('gopro', real_copy, '--own', '--split', 'train', '--statistics')
        assert tables(done.out)[2][2:] == ['1.000'] * 5

    def test_unpaired_clips_have_none(self, check, real_copy):
        done = check('gopro', real_copy, '--own', '--split', 'train', '--statistics', '--unpaired')
        assert faults(done) == []
        assert not re.search('PSNR|gradient', done.out)
