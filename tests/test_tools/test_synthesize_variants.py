"""synthesize_blur.py with --variants, soft frames and lights, on real frames."""

import itertools
import json

import cv2
import numpy as np
import pytest

from dblrgan_mm.clips.motion_blur import decode_light
from dblrgan_mm.errors import UserError


@pytest.fixture
def convert(call_tool, tmp_path):
    """Run the tool on tmp_path/walk; returns the folder of clips. `run.output` is its output."""

    def run(options, out='out'):
        words = [tmp_path / out, tmp_path / 'walk', *options.split()]
        result = call_tool('dataset_converters/synthesize_blur', *words)
        if result.code:
            raise UserError(result.err)
        run.output = result.out
        return tmp_path / out / 'train'

    return run


@pytest.fixture
def pan(sample_root, tmp_path):
    """Write frames (72, 112, 3) of a window that moves over a real picture by `speed` pixels."""

    def write(count=40, speed=2, change=lambda frames: None):
        image = cv2.imread(str(sample_root / 'train/gopro_walk_a/sharp/000050.png'))
        frames = [image[36:108, speed * i : speed * i + 112].copy() for i in range(count)]
        change(frames)
        (tmp_path / 'walk').mkdir()
        for i, frame in enumerate(frames):
            cv2.imwrite(str(tmp_path / f'walk/{i}.png'), frame)
        return frames

    return write


def settings_of(folder):
    """Map each clip name to the content of its synthesis.json."""
    found = sorted(folder.glob('*/synthesis.json'))
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def images_of(folder):
    return [cv2.imread(str(path)) for path in sorted(folder.iterdir())]


def bytes_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob('*.*')) if path.is_file()}


class TestVariants:
    def test_every_variant_is_a_clip_of_its_own(self, convert, pan):
        pan()
        out = convert('--variants 6 --max-pairs 8 --hand 0.5 --height 24 36')
        clips = settings_of(out)
        assert list(clips) == [f'walk_v{v}' for v in range(6)]
        assert all(5 <= clip['pairs'] <= 8 for clip in clips.values())
        assert {clip['height'] for clip in clips.values()} == {24, 36}
        assert len({clip['first_frame'] for clip in clips.values()}) > 2
        assert {'shutter' in clip for clip in clips.values()} == {True, False}
        for name, clip in clips.items():
            assert len(images_of(out / name / 'blur')) == clip['pairs']
            assert len(clip.get('shutters', range(clip['pairs']))) == clip['pairs']

    def test_strides_stay_within_the_motion(self, convert, pan):
        pan(speed=1)  # 0.014 of the 72 rows
        clips = settings_of(convert('--variants 8 --max-pairs 5 --motion 0.06'))
        assert {clip['stride'] for clip in clips.values()} == {2, 3, 4}
        clips = settings_of(convert('--variants 8 --max-pairs 5 --motion 0.03', out='slower'))
        assert {clip['stride'] for clip in clips.values()} == {1, 2}
        clips = settings_of(convert('--variants 8 --max-pairs 5 --max-stride 6', out='faster'))
        assert {clip['stride'] for clip in clips.values()} == {3, 4, 5, 6}

    def test_shots_and_variants(self, convert, pan, sample_root):
        def cut(frames):
            other = cv2.imread(str(sample_root / 'test/sam2_blocks_carry/sharp/000032.png'))
            frames[20:24] = [other[36:108, i : i + 112] for i in range(4)]  # too short for a clip

        pan(change=cut)
        clips = settings_of(convert('--variants 2'))
        assert list(clips) == ['walk_000_v0', 'walk_000_v1', 'walk_001_v0', 'walk_001_v1']
        for name, clip in clips.items():
            first, last = (0, 19) if '_000_' in name else (24, 39)
            reach = (clip['stride'] + 1) // 2
            assert clip['first_frame'] - reach >= first
            assert clip['first_frame'] + (clip['pairs'] - 1) * clip['stride'] + reach <= last

    def test_same_command_same_files(self, convert, pan, monkeypatch):
        """For any number of threads, and with or without sharing frames in memory."""
        pan()
        options = '--variants 3 --max-pairs 6 --hand 0.5 --lights 1 2'
        first = bytes_of(convert(f'{options} --workers 1'))
        monkeypatch.setattr('dblrgan_mm.synthesis.convert.MEMORY', 0)
        again = bytes_of(convert(f'{options} --workers 3', out='again'))
        assert [*first.values()] == [*again.values()]

    def test_more_variants_keep_existing_clips(self, convert, pan):
        pan()
        before = bytes_of(convert('--variants 2 --max-pairs 6'))
        after = bytes_of(convert('--variants 3 --max-pairs 6'))
        assert '1 clips made, 2 already existed' in convert.output
        assert before.items() < after.items()

    def test_other_settings_are_refused(self, convert, pan):
        pan()
        convert('--variants 2 --max-pairs 6')
        with pytest.raises(UserError, match=r'made with shutter 0\..*asks for no shutter'):
            convert('--variants 2 --max-pairs 6 --hand 1')
        with pytest.raises(UserError, match='no lights, but this command asks for lights'):
            convert('--variants 2 --max-pairs 6 --lights 2 2')

    def test_a_still_shot_has_one_variant(self, convert, pan):
        pan(speed=0, count=16)
        assert list(settings_of(convert('--variants 3'))) == ['walk_v0']
        assert '1 shots with little motion have only one variant' in convert.output

    def test_every_exposure_has_three_sub_frames(self, convert, pan):
        pan(count=16)
        out = convert('--variants 2 --stride 1 --shutter 0.1 0.1')
        for name in settings_of(out):
            pairs = zip(
                images_of(out / name / 'blur'), images_of(out / name / 'sharp'), strict=True
            )
            assert all(30 < cv2.PSNR(*pair) < 70 for pair in pairs)

    def test_count_is_for_each_variant(self, convert, pan):
        pan()
        clips = settings_of(convert('--variants 3 --count 7'))
        assert [clip['pairs'] for clip in clips.values()] == [7, 7, 7]

    def test_window_with_variants(self, convert, pan):
        frames = pan()
        out = convert('--variants 6 --window 1 5 --max-pairs 5')
        clips = settings_of(out)
        assert {clip['window'] for clip in clips.values()} == {1, 3, 5}
        assert len({clip['first_frame'] for clip in clips.values()}) > 2
        for name, clip in clips.items():
            middles = frames[clip['first_frame'] :: clip['stride']][:5]
            assert np.array_equal(images_of(out / name / 'sharp'), middles)

    def test_moving_hand(self, convert, pan):
        pan()
        out = convert('--hand 1 --stride 2')
        shutters = settings_of(out)['walk']['shutters']
        pairs = zip(images_of(out / 'walk/blur'), images_of(out / 'walk/sharp'), strict=True)
        psnrs = [cv2.PSNR(*pair) for pair in pairs]
        assert np.corrcoef(np.log(shutters), psnrs)[0, 1] < -0.95


class TestSoftFrames:
    def test_soft_frame_is_not_ground_truth(self, convert, pan):
        def soften(frames):
            frames[17] = cv2.GaussianBlur(frames[17], (0, 0), 0.7)

        frames = pan(change=soften)
        out = convert('--stride 1 --max-softness 0.15')
        clips = settings_of(out)
        spans = [(clip['first_frame'], clip['pairs']) for clip in clips.values()]
        assert spans == [(1, 16), (18, 21)]
        sharp = [image for name in clips for image in images_of(out / name / 'sharp')]
        assert np.array_equal(sharp, frames[1:17] + frames[18:39])
        assert '1 of 40 source frames were too soft to use' in convert.output

    def test_variants_reject_soft_frames_by_default(self, convert, pan):
        def soften(frames):
            frames[20] = cv2.GaussianBlur(frames[20], (0, 0), 0.7)

        pan(change=soften)
        clips = settings_of(convert('--variants 6'))
        for clip in clips.values():
            middles = range(clip['first_frame'], 40, clip['stride'])[: clip['pairs']]
            assert 20 not in middles
        assert '1 of 40 source frames were too soft to use' in convert.output

    def test_without_variants_soft_frames_are_used_by_default(self, convert, pan):
        pan(change=lambda frames: frames.__setitem__(17, cv2.blur(frames[17], (5, 5))))
        clips = settings_of(convert('--stride 1'))
        assert [clip['pairs'] for clip in clips.values()] == [38]
        assert ' soft' not in convert.output, 'no message; the path has the word'

    def test_too_many_soft_frames_are_reported(self, convert, pan):
        def soften(frames):
            frames[1::5] = [cv2.GaussianBlur(frame, (0, 0), 0.7) for frame in frames[1::5]]

        pan(change=soften)
        with pytest.raises(UserError, match='8 frames are soft; a higher --max-softness allows'):
            convert('--stride 1 --variants 2')


class TestLights:
    def test_streaks_of_lights_are_brighter(self, convert, pan):
        def light_up(frames):
            for i, frame in enumerate(frames):
                cv2.circle(frame, (60 - 2 * i, 34), 2, (255, 255, 255), -1)

        pan(count=12, speed=2, change=light_up)
        options = '--stride 2 --shutter 1 1'
        plain, bright = convert(options), convert(f'{options} --lights 4 4', out='bright')
        assert settings_of(bright)['walk']['lights'] == 4
        kinds = itertools.product((plain, bright), ('sharp', 'blur'))
        sharp, blur, sharp_too, blur_too = (images_of(out / 'walk' / kind) for out, kind in kinds)
        assert np.array_equal(sharp, sharp_too)
        streak = [image[32:37, 40:64].astype(int).sum() for image in (blur[2], blur_too[2])]
        assert streak[1] > 1.03 * streak[0]
        dark = [image[44:, 10:] for image in (sharp[2], blur[2], blur_too[2])]
        assert np.array_equal(dark[1][dark[0] < 200], dark[2][dark[0] < 200])

    def test_only_near_white_is_brighter(self):
        values = np.arange(256, dtype=np.uint8)
        plain, bright = decode_light(values), decode_light(values, lights=3)
        assert np.array_equal(plain[:251], bright[:251])
        assert bright[255] == pytest.approx(3)
        assert np.all(np.diff(bright) > 0)
