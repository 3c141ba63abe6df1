import shutil
from pathlib import Path

import pytest

from dblrgan_mm.clips.clip import Clip
from dblrgan_mm.clips.layouts import load_clips
from dblrgan_mm.errors import DatasetError


def gopro(root, split, **arguments) -> list[Clip]:
    return load_clips('gopro', root, split, **arguments)


def names(paths) -> list[str]:
    return [Path(path).name for path in paths]


def only_clip(root, split='test', **arguments) -> Clip:
    (clip,) = gopro(root, split, **arguments)
    return clip


class TestGoPro:
    def test_bundled_clips(self, sample_root):
        clips = {clip.name: clip for clip in gopro(sample_root, 'train')}
        assert list(clips) == ['gopro_walk_a', 'gopro_walk_b', 'sam2_juggle_a']
        assert [len(clip.blurry) for clip in clips.values()] == [12, 10, 10]
        walk = clips['gopro_walk_a']
        assert names(walk.blurry) == names(walk.sharp) == [f'{n:06d}.png' for n in range(47, 59)]
        for path, folder in ((walk.blurry[3], 'blur'), (walk.sharp[3], 'sharp')):
            assert Path(path) == sample_root / 'train' / 'gopro_walk_a' / folder / '000050.png'

    @pytest.mark.parametrize(
        ('numbers', 'stem'),
        [
            (range(12), '{}'),  # 10 after 9, not after 1
            (range(98, 104), '{:02d}'),
            (range(3, 40, 9), '{:08d}'),
            (range(7, 12), 'frame_{:04d}'),
            (range(8, 12), '2017_take2_{}'),
        ],
    )
    @pytest.mark.parametrize('suffix', ['.png', '.jpg', '.JPEG', '.bmp', '.tif'])
    def test_any_numbering_and_type(self, write_clip, tmp_path, numbers, stem, suffix):
        write_clip('clip', numbers, stem=stem, suffixes=(suffix, suffix))
        clip = only_clip(tmp_path)
        expected = [stem.format(n) + suffix for n in numbers]
        assert names(clip.blurry) == names(clip.sharp) == expected

    def test_blurry_and_sharp_of_different_type(self, write_clip, tmp_path):
        write_clip('clip', range(3), suffixes=('.jpg', '.png'))
        clip = only_clip(tmp_path)
        assert names(clip.blurry) == ['000000.jpg', '000001.jpg', '000002.jpg']
        assert names(clip.sharp) == ['000000.png', '000001.png', '000002.png']

    def test_what_is_no_frame_is_left_out(self, write_clip, tmp_path):
        folder = write_clip('clip', range(3)) / 'blur'
        for name in ('.DS_Store', '._000001.png', 'Thumbs.db', 'notes2.txt', 'cover.png'):
            (folder / name).write_bytes(b'no frame')
        (folder / '000007.png').mkdir()
        (tmp_path / 'test' / 'readme.txt').write_text('no clip')
        assert names(only_clip(tmp_path).blurry) == ['000000.png', '000001.png', '000002.png']

    def test_other_folder_of_blurry_frames(self, write_clip, tmp_path):
        clip = write_clip('clip', range(3))
        shutil.copytree(clip / 'blur', clip / 'blur_gamma')
        blurry = only_clip(tmp_path, blur='blur_gamma').blurry
        assert [Path(path).parent.name for path in blurry] == ['blur_gamma'] * 3
        assert [Path(path).parent.name for path in only_clip(tmp_path).blurry] == ['blur'] * 3


class TestErrors:
    """Each names the place at fault and the way out."""

    def message(self, root, split='train', **arguments) -> str:
        with pytest.raises(DatasetError) as caught:
            gopro(root, split, **arguments)
        return str(caught.value)

    def test_no_root(self, tmp_path):
        message = self.message(tmp_path / 'nowhere')
        assert f'no folder {tmp_path / "nowhere" / "train"}.' in message
        assert 'docs/gopro.md' in message

    def test_relative_root_is_told_in_full(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert str(tmp_path / 'data' / 'train') in self.message(Path('data'))

    def test_no_clip(self, tmp_path):
        (tmp_path / 'train').mkdir()
        message = self.message(tmp_path)
        assert f'no clip in {tmp_path / "train"}' in message
        assert 'docs/gopro.md' in message

    def test_no_sharp_folder(self, real_copy):
        folder = real_copy / 'train' / 'gopro_walk_a' / 'sharp'
        shutil.rmtree(folder)
        message = self.message(real_copy)
        assert message.startswith(f'clip gopro_walk_a: no folder {folder}. ')
        assert 'a folder for its blurry and one for its sharp frames' in message

    def test_no_frame_in_a_folder(self, real_copy):
        folder = real_copy / 'train' / 'gopro_walk_a' / 'blur'
        for path in folder.iterdir():
            path.unlink()
        assert self.message(real_copy) == f'clip gopro_walk_a: no numbered image in {folder}'

    @pytest.mark.parametrize(('short', 'counts'), [('sharp', (12, 4)), ('blur', (4, 12))])
    def test_partners_missing(self, real_copy, short, counts):
        folder = real_copy / 'train' / 'gopro_walk_a' / short
        for number in range(51, 59):
            (folder / f'{number:06d}.png').unlink()
        message = self.message(real_copy)
        assert f'clip gopro_walk_a: {counts[0]} blurry frames but {counts[1]} sharp' in message
        assert f'no frame 000051 in {folder}' in message, 'the first missing frame, every time'
        assert 'Copy the missing frame, or remove its partner' in message

    def test_partner_missing_in_the_middle(self, real_copy):
        folder = real_copy / 'train' / 'gopro_walk_a' / 'sharp'
        (folder / '000050.png').unlink()
        assert self.message(real_copy) == (
            'clip gopro_walk_a: 12 blurry frames but 11 sharp ones (no frame 000050 in '
            f'{folder}). Copy the missing frame, or remove its partner.'
        )

    def test_gap(self, real_copy):
        for folder in ('blur', 'sharp'):
            (real_copy / 'train' / 'gopro_walk_a' / folder / '000050.png').unlink()
        message = self.message(real_copy)
        assert 'clip gopro_walk_a: a gap in the numbering' in message
        assert '000049 is followed by 000051' in message
        assert 'Copy the missing frames, or split the clip' in message

    def test_number_twice(self, real_copy):
        folder = real_copy / 'train' / 'gopro_walk_a' / 'blur'
        shutil.copy(folder / '000050.png', folder / '50.png')
        message = self.message(real_copy)
        assert 'clip gopro_walk_a: ' in message
        assert '000050.png' in message
        assert ' 50.png' in message
        assert f'in {folder} have the same number; keep one' in message
