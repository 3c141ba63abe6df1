import re
import shutil
from pathlib import Path

import pytest

from dblrgan_mm.clips.clip import Clip, Fault
from dblrgan_mm.clips.layouts import DVD_TEST_CLIPS, LAYOUTS, dbn_frames, find_clips, load_clips
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

    def test_other_files_are_ignored(self, write_clip, tmp_path):
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
    """Each message names the faulty place and what to do."""

    def message(self, root, split='train', **arguments) -> str:
        with pytest.raises(DatasetError) as caught:
            gopro(root, split, **arguments)
        return str(caught.value)

    def test_no_root(self, tmp_path):
        message = self.message(tmp_path / 'nowhere')
        assert f'no folder {tmp_path / "nowhere"}.' in message
        assert 'docs/gopro.md' in message

    def test_message_has_the_absolute_path_of_a_relative_root(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert f'no folder {tmp_path / "data"}.' in self.message(Path('data'))

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
        assert 'one folder for its blurry frames and one for its sharp frames' in message

    def test_no_frame_in_a_folder(self, real_copy):
        folder = real_copy / 'train' / 'gopro_walk_a' / 'blur'
        for path in folder.iterdir():
            path.unlink()
        assert self.message(real_copy) == f'clip gopro_walk_a: no numbered image in {folder}'

    @pytest.mark.parametrize(('short', 'counts'), [('sharp', (12, 4)), ('blur', (4, 12))])
    def test_missing_partners_are_counted(self, real_copy, short, counts):
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

    def test_duplicate_number(self, real_copy):
        folder = real_copy / 'train' / 'gopro_walk_a' / 'blur'
        shutil.copy(folder / '000050.png', folder / '50.png')
        message = self.message(real_copy)
        assert 'clip gopro_walk_a: ' in message
        assert '000050.png' in message
        assert ' 50.png' in message
        assert f'in {folder} have the same number; keep one' in message


def names_of(clips) -> list[str]:
    return [clip.name for clip in clips]


def below(root, paths) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in paths]


class TestDVD:
    TRAIN = ('720p_240fps_1', 'GOPR9633', 'IMG_0001', 'IMG_0300')

    @pytest.fixture
    def root(self, tmp_path, lay_out) -> Path:
        for number, clip in enumerate((*self.TRAIN, *DVD_TEST_CLIPS)):
            lay_out(tmp_path, 'dvd', clip, range(3 + number))
        (tmp_path / '.DS_Store').touch()
        (tmp_path / 'IMG_0001' / 'input' / '.DS_Store').touch()
        (tmp_path / 'IMG_0001' / 'GT' / '._00001.jpg').touch()
        return tmp_path

    def test_split_by_name(self, root):
        test = load_clips('dvd', root, 'test')
        assert names_of(test) == [
            '720p_240fps_2', 'IMG_0003', 'IMG_0021', 'IMG_0030', 'IMG_0031', 'IMG_0032',
            'IMG_0033', 'IMG_0037', 'IMG_0039', 'IMG_0049',
        ]  # fmt: skip
        assert names_of(load_clips('dvd', root, 'train')) == sorted(self.TRAIN)

    def test_frames(self, root):
        clip = load_clips('dvd', root, 'train')[2]
        assert clip.name == 'IMG_0001'
        assert clip.frames == ('00000', '00001', '00002', '00003', '00004')
        assert below(root, clip.blurry) == [f'IMG_0001/input/{n:05d}.jpg' for n in range(5)]
        assert below(root, clip.sharp) == [f'IMG_0001/GT/{n:05d}.jpg' for n in range(5)]

    def test_missing_test_clip_is_named(self, root):
        shutil.rmtree(root / 'IMG_0031')
        assert len(load_clips('dvd', root, 'train')) == 4
        with pytest.raises(DatasetError, match=f'nothing at {root}/IMG_0031. See docs/dvd.md'):
            load_clips('dvd', root, 'test')

    @pytest.mark.parametrize('split', ['train', 'test'])
    def test_message_suggests_the_folder_below(self, tmp_path, lay_out, split):
        """The archive contains quantitative_datasets/ and qualitative_datasets/."""
        above = tmp_path / 'DVD'
        below = above / 'quantitative_datasets'
        for clip in ('IMG_0001', *DVD_TEST_CLIPS):
            lay_out(below, 'dvd', clip, range(3))
        lay_out(above / 'qualitative_datasets', 'dvd', 'alley', range(3), sharp=False)
        with pytest.raises(DatasetError, match=rf'Did you mean the folder {below}\?'):
            load_clips('dvd', above, split)

    def test_qualitative_clips_have_no_sharp_frames(self, tmp_path, lay_out):
        lay_out(tmp_path, 'dvd', 'alley', range(7, 10), sharp=False)
        (clip,) = load_clips('dvd', tmp_path, 'train', paired=False)
        assert (clip.frames, clip.sharp) == (('00007', '00008', '00009'), None)


class TestBSD:
    @pytest.fixture
    def root(self, tmp_path, lay_out) -> Path:
        lengths = {'1ms8ms': 3, '2ms16ms': 4, '3ms24ms': 5}
        for exposure, length in lengths.items():
            for split, clips in (('train', '012'), ('valid', '34'), ('test', '5')):
                for clip in clips:
                    lay_out(
                        tmp_path, 'bsd', f'00{clip}', range(length), exposure=exposure, split=split
                    )
        (tmp_path / 'BSD_2ms16ms' / 'train' / '.DS_Store').mkdir()
        return tmp_path

    @pytest.mark.parametrize(
        ('exposure', 'length'), [('1ms8ms', 3), ('2ms16ms', 4), ('3ms24ms', 5)]
    )
    def test_exposures(self, root, exposure, length):
        found = {
            split: load_clips('bsd', root, split, exposure=exposure)
            for split in ('train', 'valid', 'test')
        }
        assert {split: names_of(clips) for split, clips in found.items()} == dict(
            train=['000', '001', '002'], valid=['003', '004'], test=['005']
        )
        (clip,) = found['test']
        folder = f'BSD_{exposure}/test/005'
        numbers = [f'{n:08d}' for n in range(length)]
        assert list(clip.frames) == numbers
        assert below(root, clip.blurry) == [f'{folder}/Blur/RGB/{n}.png' for n in numbers]
        assert below(root, clip.sharp) == [f'{folder}/Sharp/RGB/{n}.png' for n in numbers]

    def test_default_exposure(self, root):
        assert 'BSD_2ms16ms' in load_clips('bsd', root, 'test')[0].blurry[0]

    def test_unknown_exposure(self, root):
        message = "exposure must be one of 1ms8ms, 2ms16ms, 3ms24ms, got '2ms'"
        with pytest.raises(DatasetError, match=message):
            load_clips('bsd', root, 'test', exposure='2ms')

    def test_unpaired(self, root):
        shutil.rmtree(root / 'BSD_2ms16ms' / 'test' / '005' / 'Sharp')
        (clip,) = load_clips('bsd', root, 'test', paired=False)
        assert (len(clip.blurry), clip.sharp) == (4, None)
        with pytest.raises(
            DatasetError, match=r'clip 005: no folder .*/005/Sharp/RGB\. .* gt=None'
        ):
            load_clips('bsd', root, 'test')


class TestREDS:
    @pytest.fixture
    def root(self, tmp_path, lay_out) -> Path:
        for blur in ('blur', 'blur_comp'):
            for clip in ('000', '001', '010'):
                lay_out(tmp_path, 'reds', clip, range(3), blur=blur, split='train')
            lay_out(tmp_path, 'reds', '000', range(4), blur=blur, split='val')
            lay_out(tmp_path, 'reds', '000', range(5), blur=blur, split='test', sharp=False)
        (tmp_path / 'train' / 'train_blur' / '.DS_Store').touch()
        return tmp_path

    @pytest.mark.parametrize('blur', ['blur', 'blur_comp'])
    def test_clips(self, root, blur):
        clips = load_clips('reds', root, 'train', blur=blur)
        assert names_of(clips) == ['000', '001', '010']
        numbers = ['00000000', '00000001', '00000002']
        assert [list(clip.frames) for clip in clips] == [numbers] * 3
        assert below(root, clips[2].blurry) == [f'train/train_{blur}/010/{n}.png' for n in numbers]
        assert below(root, clips[2].sharp) == [f'train/train_sharp/010/{n}.png' for n in numbers]
        (val,) = load_clips('reds', root, 'val', blur=blur)
        assert below(root, val.sharp)[3] == 'val/val_sharp/000/00000003.png'

    def test_sharp_test_frames_were_never_released(self, root):
        (clip,) = load_clips('reds', root, 'test', paired=False)
        assert below(root, clip.blurry)[0] == 'test/test_blur/000/00000000.png'
        assert (len(clip.blurry), clip.sharp) == (5, None)
        with pytest.raises(
            DatasetError, match=r'clip 000: no folder .*test_sharp/000\. .* gt=None'
        ):
            load_clips('reds', root, 'test')

    def test_sharp_archive_lacks_a_clip(self, root):
        shutil.rmtree(root / 'train' / 'train_sharp' / '001')
        with pytest.raises(DatasetError, match=f'clip 001: no folder {root}/train/train_sharp/001'):
            load_clips('reds', root, 'train')


class TestKITTI:
    """The sharp folder is the original one of KITTI 2015: frames 00 to 20 of each scene."""

    @pytest.fixture
    def root(self, tmp_path, lay_out) -> Path:
        for camera in ('image_2', 'image_3'):
            for scene in ('000000', '000001', '000198'):
                lay_out(tmp_path, 'kitti', scene, range(21), camera=camera)
                for n in (*range(9), *range(12, 21)):
                    (tmp_path / 'blur image' / camera / f'{scene}_{n:02d}.png').unlink()
            (tmp_path / 'blur image' / camera / '.DS_Store').touch()
        return tmp_path

    def test_three_frames_of_each_scene_and_camera(self, root):
        clips = load_clips('kitti', root, 'test')
        assert names_of(clips) == [
            f'{scene}_{camera}'
            for scene in ('000000', '000001', '000198')
            for camera in ('left', 'right')
        ]
        for clip in clips:
            scene, camera = clip.name.split('_')
            files = [f'{dict(left="image_2", right="image_3")[camera]}/{scene}_{n}.png' for n in
                     ('09', '10', '11')]  # fmt: skip
            assert below(root / 'blur image', clip.blurry) == files
            assert below(root / 'clean image', clip.sharp) == files

    def test_other_folders(self, root, tmp_path):
        (root / 'blur image').rename(root / 'blurred')
        kitti = tmp_path / 'KITTI2015' / 'training'
        kitti.parent.mkdir()
        (root / 'clean image').rename(kitti)
        clips = load_clips('kitti', root, 'test', blur='blurred', sharp=str(kitti))
        assert len(clips) == 6
        assert below(root, clips[0].blurry)[0] == 'blurred/image_2/000000_09.png'
        assert below(kitti, clips[0].sharp)[0] == 'image_2/000000_09.png'

    def test_missing_frame(self, root):
        (root / 'blur image' / 'image_3' / '000001_10.png').unlink()
        message = (
            'clip 000001_right: 2 blurry frames but 3 sharp ones '
            rf'\(no frame 000001_10 in {root}/blur image/image_3\)'
        )
        with pytest.raises(DatasetError, match=message):
            load_clips('kitti', root, 'test')

    def test_missing_camera(self, root):
        shutil.rmtree(root / 'clean image' / 'image_3')
        message = f'no folder {root}/clean image/image_3. See docs/kitti.md'
        with pytest.raises(DatasetError, match=message):
            load_clips('kitti', root, 'test')
        assert len(load_clips('kitti', root, 'test', paired=False)) == 6

    def test_no_frame(self, root):
        for image in (root / 'blur image').rglob('*.png'):
            image.rename(image.with_name(f'{image.stem}_blur.png'))
        shutil.rmtree(root / 'clean image')
        with pytest.raises(DatasetError, match='no frame NNNNNN_09, _10 or _11 in'):
            load_clips('kitti', root, 'test', paired=False)


class TestPatterns:
    PLAIN = dict(blurry='{split}/{clip}/blurry/{frame}.*', sharp='{split}/{clip}/sharp/{frame}.*')

    def write(self, root, *paths) -> None:
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()

    def test_split_and_clip(self, tmp_path, lay_out):
        for split, clip in (('train', 'b'), ('train', 'a'), ('test', 'c')):
            lay_out(tmp_path, 'patterns', clip, range(8, 12), split=split)
        self.write(
            tmp_path, 'train/a/blurry/.DS_Store', 'train/a/blurry/notes1.txt', 'train/x1.png'
        )
        clips = load_clips('patterns', tmp_path, 'train', **self.PLAIN)
        assert names_of(clips) == ['a', 'b']
        assert clips[0].frames == ('00008', '00009', '00010', '00011')
        assert below(tmp_path, clips[0].blurry)[2] == 'train/a/blurry/00010.png'
        assert below(tmp_path, clips[0].sharp)[2] == 'train/a/sharp/00010.png'
        assert names_of(load_clips('patterns', tmp_path, 'test', **self.PLAIN)) == ['c']

    def test_clip_occurs_twice_in_a_pattern(self, tmp_path):
        for clip in ('walk', 'walk2'):
            for n in range(9, 12):
                self.write(
                    tmp_path, f'{clip}/{clip}_b{n}.png', f'gt/{clip}/s_{n:04d}.jpg',
                    f'{clip}/other_b{n}.png',
                )  # fmt: skip
        clips = load_clips(
            'patterns',
            tmp_path,
            '',
            blurry='{clip}/{clip}_b{frame}.png',
            sharp='gt/{clip}/s_{frame}.*',
        )
        assert names_of(clips) == ['walk', 'walk2']
        assert below(tmp_path, clips[0].blurry) == [f'walk/walk_b{n}.png' for n in (9, 10, 11)]
        assert below(tmp_path, clips[0].sharp) == [
            f'gt/walk/s_{n}.jpg' for n in ('0009', '0010', '0011')
        ]

    def test_star_stands_for_anything_within_a_name(self, tmp_path):
        self.write(
            tmp_path, 'day1/a/f1.PNG', 'day2/b/f1.tif', 'day2/b/f2.tif', 'day2/b/more/f9.tif',
            'a/f5.png',
        )  # fmt: skip
        clips = load_clips('patterns', tmp_path, 'x', paired=False, blurry='day*/{clip}/f{frame}.*')
        assert [(clip.name, clip.frames) for clip in clips] == [('a', ('f1',)), ('b', ('f1', 'f2'))]

    def test_pattern_without_clip_gives_one_clip(self, tmp_path):
        self.write(tmp_path, *(f'{split}_{n}.png' for split in ('train', 'test') for n in range(4)))
        (clip,) = load_clips(
            'patterns', tmp_path, 'test', paired=False, blurry='{split}_{frame}.png'
        )
        assert clip.name == 'test'
        assert below(tmp_path, clip.blurry) == [f'test_{n}.png' for n in range(4)]

    @pytest.mark.parametrize(
        ('split', 'blurry'), [('a[1]', '{split}/(x)+{frame}.png'), ('x', 'a[1]/(x)+{frame}.png')]
    )
    def test_special_characters_in_names(self, tmp_path, split, blurry):
        self.write(tmp_path, 'a[1]/(x)+1.png', 'a[1]/(x)+2.png', 'a1/(x)+1.png')
        (clip,) = load_clips('patterns', tmp_path, split, paired=False, blurry=blurry)
        assert below(tmp_path, clip.blurry) == ['a[1]/(x)+1.png', 'a[1]/(x)+2.png']

    def test_sharp_frames_of_a_clip_missing(self, tmp_path, lay_out):
        lay_out(tmp_path, 'patterns', 'a', range(3))
        lay_out(tmp_path, 'patterns', 'b', range(3), sharp=False)
        pattern = tmp_path / 'train' / 'b' / 'sharp' / '{frame}.*'
        with pytest.raises(DatasetError) as caught:
            load_clips('patterns', tmp_path, 'train', **self.PLAIN)
        assert str(caught.value) == f'clip b: no numbered image in {pattern}'

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (
                dict(blurry='{clip}/*.png', sharp='{clip}/{frame}.png'),
                r"'{clip}/\*\.png' needs {frame}",
            ),
            (dict(blurry='{clip}/{frame}.png', sharp='s/*.png'), r"'s/\*\.png' needs {frame}"),
            (dict(blurry='{clip}/{frame}.png'), 'a pattern for the sharp frames: sharp='),
            (dict(sharp='{clip}/{frame}.png'), 'It accepts: blurry, sharp. See docs/own_data.md'),
            (dict(PLAIN, blur='x'), "unexpected keyword argument 'blur'.* accepts: blurry, sharp"),
            (PLAIN, r'nothing at .*/nowhere/{clip}/blurry/{frame}\.\*. See docs/own_data.md'),
        ],
    )
    def test_refused(self, tmp_path, lay_out, arguments, message):
        lay_out(tmp_path, 'patterns', 'a', range(3))
        with pytest.raises(DatasetError, match=message):
            load_clips('patterns', tmp_path, 'nowhere', **arguments)


class TestAnyLayout:
    ARGUMENTS = dict(patterns=TestPatterns.PLAIN)
    SPLITS = {
        layout: known.splits[0] if known.splits else 'train' for layout, known in LAYOUTS.items()
    }

    @pytest.fixture(params=LAYOUTS)
    def layout(self, request) -> str:
        return request.param

    @pytest.fixture
    def root(self, tmp_path, lay_out, layout) -> Path:
        """A data set of one clip; tests may damage its frame 10."""
        root = tmp_path / 'downloads' / 'data'
        split = self.SPLITS[layout]
        for camera in ('image_2', 'image_3') if layout == 'kitti' else ('',):
            lay_out(root, layout, '000001', range(9, 12), split=split, camera=camera)
        return root

    def load(self, layout, root, **arguments) -> list[Clip]:
        return load_clips(
            layout, root, self.SPLITS[layout], **self.ARGUMENTS.get(layout, {}), **arguments
        )

    def message(self, layout, root) -> str:
        with pytest.raises(DatasetError) as caught:
            self.load(layout, root)
        return str(caught.value)

    def frame(self, root, side: int) -> Path:
        """Return frame 10 of the (left) clip: blurry (0) or sharp (1)."""
        found = [path for path in root.rglob('*10.*') if 'image_3' not in path.parts]
        blurry = [
            path for path in found if re.search('blur|input', str(path.relative_to(root)), re.I)
        ]
        (path,) = set(found) - set(blurry) if side else blurry
        return path

    def test_unpaired(self, layout, root):
        assert self.load(layout, root)[0].sharp is not None
        for path in sorted(root.rglob('*.*')):
            if re.search('sharp|GT|clean', str(path.relative_to(root)), re.I):
                path.unlink()
        for clip in self.load(layout, root, paired=False):
            assert (len(clip.blurry), clip.sharp) == (3, None)

    def test_published_counts_name_known_splits(self, layout):
        assert set(LAYOUTS[layout].published) <= set(LAYOUTS[layout].splits)

    @pytest.mark.parametrize('layout', sorted(LAYOUTS.keys() - {'patterns'}), indirect=True)
    def test_unknown_split(self, layout, root):
        splits = ', '.join(LAYOUTS[layout].splits)
        with pytest.raises(DatasetError) as caught:
            load_clips(layout, root, 'validation')
        assert str(caught.value) == f"the {layout} layout has no split 'validation', only {splits}"

    def test_unknown_argument(self, layout, root):
        with pytest.raises(
            DatasetError, match=f'the {layout} layout does not accept these layout_args'
        ):
            self.load(layout, root, colour='red')

    def test_root_too_high(self, layout, root):
        message = self.message(layout, root.parent)
        assert f'Did you mean the folder {root}?' in message
        assert LAYOUTS[layout].page in message

    def test_root_too_deep(self, layout, root):
        (below,) = {path.relative_to(root).parts[0] for path in root.rglob('*10.*')} - {
            'clean image'
        }
        message = self.message(layout, root / below)
        assert f'Did you mean the folder {root}?' in message
        assert LAYOUTS[layout].page in message

    @pytest.mark.parametrize('archive', ['data.zip', 'data.tar.gz', 'DATA.ZIP'])
    def test_archive_not_unpacked(self, layout, tmp_path, archive):
        (tmp_path / archive).write_bytes(b'PK')
        message = self.message(layout, tmp_path)
        assert f'Unpack {archive} first. See {LAYOUTS[layout].page}.' in message
        assert str(tmp_path) in message

    @pytest.mark.parametrize('layout', sorted(LAYOUTS.keys() - {'kitti'}), indirect=True)
    def test_other_padding(self, layout, root):
        for side in (0, 1):
            path = self.frame(root, side)
            path.rename(path.with_stem('10'))
        message = self.message(layout, root)
        assert 'mixed numbering in ' in message
        assert '10' in message
        assert 'naming patterns, so their order is unclear. Rename the frames' in message

    def test_missing_partner(self, layout, root):
        path = self.frame(root, 1)
        path.unlink()
        message = self.message(layout, root)
        assert '3 blurry frames but 2 sharp ones' in message
        assert f'(no frame {path.stem} in ' in message


class TestNumbering:
    def rename(self, root, folder, numbers, stem) -> None:
        folder = root / 'test' / 'clip' / folder
        for number in numbers:
            (folder / f'{number:06d}.png').rename(folder / stem.format(number))

    def message(self, root) -> str:
        with pytest.raises(DatasetError) as caught:
            gopro(root, 'test')
        return str(caught.value)

    @pytest.mark.parametrize(
        ('stem', 'pair'),
        [
            ('b_{:06d}.png', '000000.png and b_000004.png'),
            ('{:08d}.png', '000000.png and 00000004.png'),
            ('{:06d}_x.png', '000000.png and 000004_x.png'),
            ('{}.png', '4.png and 000000.png'),
        ],
    )
    @pytest.mark.parametrize('folder', ['blur', 'sharp'])
    def test_mixed(self, write_clip, tmp_path, stem, pair, folder):
        clip = write_clip('clip', range(6))
        self.rename(tmp_path, folder, (4, 5), stem)
        assert self.message(tmp_path) == (
            f'clip clip: mixed numbering in {clip / folder}: {pair} follow different naming '
            'patterns, so their order is unclear. Rename the frames, or split the clip into two '
            'folders.'
        )

    def test_line_break_in_names(self, write_clip, tmp_path):
        write_clip('clip', range(3))
        for folder in ('blur', 'sharp'):
            self.rename(tmp_path, folder, range(3), 'a\n{:06d}.png')
        (clip,) = gopro(tmp_path, 'test')
        assert clip.frames == ('a\n000000', 'a\n000001', 'a\n000002')

    def test_sharp_frames_start_at_another_number(self, write_clip, tmp_path):
        """The counts are equal, but pairing by number would match other moments, or nothing."""
        clip = write_clip('clip', range(5))
        for number in range(4, -1, -1):
            self.rename(tmp_path, 'sharp', [number], f'{number + 1:06d}.png')
        assert self.message(tmp_path) == (
            'clip clip: blurry frames are numbered 000000 to 000004, sharp frames 000001 to '
            f'000005 (no frame 000000 in {clip / "sharp"}). Copy the missing frame, or remove its '
            'partner.'
        )

    def test_numbers_as_large_as_time_stamps(self, write_clip, tmp_path):
        write_clip('clip', range(1_700_000_000_000_000, 1_700_000_000_000_100, 33), stem='{}')
        assert len(only_clip(tmp_path).frames) == 4


class TestFaults:
    """All faults of a clip, for check_dataset; loading stops at the first one."""

    def faults(self, root) -> list[Fault]:
        (files,) = find_clips('gopro', root, 'test')
        return list(files.faults())

    def test_none(self, write_clip, tmp_path):
        write_clip('clip', range(5))
        assert self.faults(tmp_path) == []

    def test_every_missing_frame(self, write_clip, tmp_path):
        clip = write_clip('clip', range(9))
        missing = dict(blur=(2, 7), sharp=(1, 4, 5))
        for folder, numbers in missing.items():
            for number in numbers:
                (clip / folder / f'{number:06d}.png').unlink()
        faults = [fault for fault in self.faults(tmp_path) if 'no frame' in fault.message]
        assert [fault.frame for fault in faults] == [f'{n:06d}' for n in (1, 2, 4, 5, 7)]
        for fault in faults:
            folder = 'blur' if int(fault.frame) in missing['blur'] else 'sharp'
            assert fault.clip == 'clip'
            assert f'(no frame {fault.frame} in {clip / folder})' in fault.message
            assert '7 blurry frames but 6 sharp ones' in fault.message

    def test_every_gap(self, write_clip, tmp_path):
        write_clip('clip', [0, 1, 2, 5, 6, 9, 10])
        assert [fault.frame for fault in self.faults(tmp_path)] == ['000002', '000006']

    def test_both_sides(self, write_clip, tmp_path):
        clip = write_clip('clip', range(3))
        shutil.rmtree(clip / 'blur')
        (clip / 'sharp' / '1.png').touch()
        (clip / 'sharp' / '02.png').touch()
        messages = [fault.message for fault in self.faults(tmp_path)]
        assert len(messages) == 4
        assert f'no folder {clip / "blur"}' in messages[0]
        assert sum('have the same number' in message for message in messages) == 2
        assert 'mixed numbering' in messages[3]


class TestDBNFrames:
    MATLAB = (
        2, 5, 8, 11, 15, 18, 21, 24, 28, 31, 34, 38, 41, 44, 47, 51, 54, 57, 60, 64, 67, 70, 74,
        77, 80, 83, 87, 90, 93, 97,
    )  # fmt: skip

    def test_counted_from_1(self):
        assert dbn_frames() == [number - 1 for number in self.MATLAB]

    def test_counted_from_0(self):
        assert dbn_frames(base=0) == list(self.MATLAB)
