"""tools/dataset_converters/synthesize_blur.py on a real frame with known motion."""

import errno
import importlib.util
import json
import re
import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from dblrgan_mm import files
from dblrgan_mm.clips.motion_blur import (
    blur_by_average,
    blur_by_flow,
    decode_light,
    encode_light,
    estimate_flows,
    sub_frame_times,
)
from dblrgan_mm.errors import UserError
from dblrgan_mm.synthesis.clip import SynthesizedClip

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools/dataset_converters/synthesize_blur.py'
SHARP = ROOT / 'tests/data/gopro/train/gopro_walk_a/sharp/000050.png'
OTHER = ROOT / 'tests/data/gopro/test/sam2_blocks_carry/sharp/000032.png'
SPEED = 4  # pixels per frame
WIDTH, MARGIN = 160, 16


def load_tool():
    """Import the script from its path: tools/ is not a package."""
    spec = importlib.util.spec_from_file_location('synthesize_blur', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules['synthesize_blur'] = module  # needed by its dataclasses
    spec.loader.exec_module(module)
    return module


tool = load_tool()


def moving_frames(count, picture=SHARP, speed=SPEED):
    """Return frames (144, 160, 3) of a window that moves right by `speed` pixels per frame."""
    image = cv2.imread(str(picture))
    return [image[:, speed * i : speed * i + WIDTH] for i in range(count)]


def true_blur(time, exposure):
    """Return what a camera sees around `time` with an exposure of `exposure` intervals."""
    linear = decode_light(cv2.imread(str(SHARP)))
    total = 0
    for t in time + exposure * ((np.arange(64) + 0.5) / 64 - 0.5):
        shift = np.float64([[1, 0, -SPEED * t], [0, 1, 0]])
        total = total + cv2.warpAffine(linear, shift, (WIDTH, 144), flags=cv2.INTER_CUBIC)
    return encode_light(total / 64)


def flow_blur(frames, stride, shutter):
    """Blur the middle one of an odd number of frames by their flow."""
    flows = [estimate_flows(*frames[i : i + 2]) for i in range(len(frames) - 1)]
    return blur_by_flow(frames, flows, sub_frame_times(stride, shutter) + len(flows) // 2)


def write_frames(folder, frames):
    """Write frames as folder/<i>.png without leading zeros, and return the folder."""
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        cv2.imwrite(str(folder / f'{i}.png'), frame)
    return folder


def write_video(path, frames, times=None, options=None, color_trc=None):
    """Write frames, at `times` in milliseconds, as a video; .avi and .mkv are lossless."""
    codec, pixels = ('mpeg4', 'yuv420p') if path.suffix == '.mp4' else ('ffv1', 'bgr0')
    with av.open(str(path), 'w', options=options or {}) as container:
        h, w = frames[0].shape[:2]
        stream = container.add_stream(codec, rate=25, width=w, height=h, pix_fmt=pixels)
        stream.bit_rate = 4_000_000
        if color_trc is not None:
            stream.codec_context.color_trc = color_trc
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='bgr24')
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def rotate_video(path):
    """Mark an mp4 to be rotated by 90 degrees clockwise, as phones do."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b'tkhd') + 44
    assert content[matrix : matrix + 4] == struct.pack('>i', 1 << 16)
    rows = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]  # x' = -y, y' = x
    content[matrix : matrix + 36] = struct.pack('>9i', *rows)
    path.write_bytes(content)


def files_of(root):
    """Map the relative path to the bytes of each file below root, except the lock."""
    found = (p for p in root.rglob('*') if p.is_file() and p.name != '.lock')
    return {str(p.relative_to(root)): p.read_bytes() for p in found}


def clips_of(root):
    """Map the relative path of each clip below root to the content of its synthesis.json."""
    found = sorted(root.rglob('synthesis.json'))
    return {str(p.parent.relative_to(root)): json.loads(p.read_text()) for p in found}


def images_of(folder):
    return [cv2.imread(str(path)) for path in sorted(folder.iterdir())]


def inner_psnr(a, b):
    """Return the PSNR in dB without the borders, where the flow sees only half of its input."""
    inner = (slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    return cv2.PSNR(np.ascontiguousarray(a[inner]), np.ascontiguousarray(b[inner]))


def convert(out, *arguments):
    tool.main([str(argument) for argument in (out, *arguments)])
    return out


def stop_at(monkeypatch, error, count):
    """Make the writing of file number `count` fail."""
    write = files.write_whole
    seen = []

    def failing(path, content):
        seen.append(path)
        if len(seen) == count:
            raise error
        write(path, content)

    monkeypatch.setattr(files, 'write_whole', failing)


class TestLight:
    @pytest.mark.parametrize('light', ['linear', 'gamma', 'encoded'])
    def test_decode_and_encode_are_inverse(self, light):
        values = np.arange(256, dtype=np.uint8)
        amounts = decode_light(values, light)
        assert amounts.dtype == np.float32
        assert (amounts[0], amounts[-1]) == (0, 1)
        assert np.array_equal(encode_light(amounts, light), values)

    @pytest.mark.parametrize(
        ('light', 'value'), [('linear', 188), ('gamma', 186), ('encoded', 128)]
    )
    def test_half_the_light(self, light, value):
        black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
        assert np.all(blur_by_average([black, white], light) == value)


class TestBlurByFlow:
    @pytest.mark.parametrize(('stride', 'shutter'), [(1, 1.0), (1, 0.5), (2, 0.75), (3, 1.0)])
    def test_exposure_is_physical(self, stride, shutter):
        middle = (stride + 1) // 2
        blur = flow_blur(moving_frames(2 * middle + 1), stride, shutter)
        assert inner_psnr(blur, true_blur(middle, shutter * stride)) > 50
        assert inner_psnr(blur, true_blur(middle, 2 * shutter * stride)) < 35

    def test_tiny_shutter_gives_the_sharp_frame(self):
        frames = moving_frames(3)
        assert inner_psnr(flow_blur(frames, 1, 0.01), frames[1]) > 45

    def test_still_clip_is_unchanged(self):
        still = moving_frames(1)[0]
        assert np.array_equal(flow_blur([still] * 3, 1, 1.0), still)

    def test_input_frames_are_not_changed(self):
        frames = [frame.copy() for frame in moving_frames(3)]
        flow_blur(frames, 1, 1.0)
        assert all(np.array_equal(a, b) for a, b in zip(frames, moving_frames(3), strict=True))

    @pytest.mark.parametrize('stride', [1, 2, 3, 4])
    def test_sub_frames_lie_evenly_within_the_exposure(self, stride):
        times = sub_frame_times(stride, 0.5)
        assert 0 in times
        assert np.allclose(times, -times[::-1])
        assert np.ptp(times) * len(times) / (len(times) - 1) == pytest.approx(0.5 * stride)


class TestPairs:
    @pytest.mark.parametrize(('count', 'stride', 'pairs'), [(0, 1, 10), (0, 2, 5), (3, 2, 3)])
    def test_number_of_pairs_and_their_names(self, tmp_path, count, stride, pairs):
        source = write_frames(tmp_path / 'walk', moving_frames(12))
        options = f'--count {count} --stride {stride} --height 72 --first-number 213 --split test'
        convert(tmp_path / 'out', source, *options.split())
        names = [f'{213 + i:06d}.png' for i in range(pairs)]
        expected = {f'test/walk/{kind}/{name}' for kind in ('blur', 'sharp') for name in names}
        assert set(files_of(tmp_path / 'out')) == {*expected, 'test/walk/synthesis.json'}
        assert images_of(tmp_path / 'out/test/walk/blur')[0].shape == (72, 80, 3)

    def test_sharp_frames_are_the_sources_in_numerical_order(self, tmp_path):
        source = write_frames(tmp_path / 'walk', moving_frames(12))
        convert(tmp_path, source, '--stride', 1)
        sharp = images_of(tmp_path / 'train/walk/sharp')
        assert np.array_equal(sharp, moving_frames(11)[1:])

    def test_blurry_frames_are_those_of_a_camera(self, tmp_path):
        source = write_frames(tmp_path / 'walk', moving_frames(13))
        convert(tmp_path, source, '--stride', 2, '--shutter', 0.75, 0.75)
        blur = images_of(tmp_path / 'train/walk/blur')
        assert inner_psnr(blur[2], true_blur(5, 1.5)) > 50

    def test_window_averages_whole_frames(self, tmp_path):
        source = write_frames(tmp_path / 'walk', moving_frames(13))
        options = ['--window', 3, 3, '--stride', 4, '--light', 'encoded', '--min-pairs', 3]
        convert(tmp_path, source, *options)
        clip = tmp_path / 'train/walk'
        frames = np.float32(moving_frames(13))
        expected = [np.rint(frames[i - 1 : i + 2].mean(0)) for i in (1, 5, 9)]
        assert np.abs(images_of(clip / 'blur') - np.array(expected)).max() <= 1  # rounded halves
        assert np.array_equal(images_of(clip / 'sharp'), frames[[1, 5, 9]])

    def test_window_is_drawn_from_the_odd_numbers(self, tmp_path):
        source = write_frames(tmp_path / 'walk', moving_frames(6))
        options = ['--window', 1, 5, '--count', 1]
        for seed in range(12):
            convert(tmp_path, source, *options, '--seed', seed, '--name', seed)
        clips = clips_of(tmp_path).values()
        assert {clip['window'] for clip in clips} == {1, 3, 5}
        assert {clip['stride'] for clip in clips} == {5}

    @pytest.mark.parametrize(
        ('speed', 'options', 'stride'),
        [(4, [], 2), (8, [], 1), (1, [], 4), (4, ['--motion', '0.01'], 1), (4, ['--motion', 1], 4)],
    )
    def test_auto_stride_is_larger_for_slow_clips(self, tmp_path, speed, options, stride):
        source = write_frames(tmp_path / 'walk', moving_frames(11, speed=speed))
        convert(tmp_path, source, '--min-pairs', 1, *options)
        assert clips_of(tmp_path)['train/walk']['stride'] == stride

    @pytest.mark.parametrize(
        ('pairs', 'stride'), [(1, 4), (2, 4), (3, 3), (4, 2), (5, 2), (6, 1), (9, 1)]
    )
    def test_short_shot_gets_a_smaller_stride(self, tmp_path, pairs, stride):
        """Eleven frames make two pairs at stride 4, three at 3, five at 2 and nine at 1."""
        source = write_frames(tmp_path / 'walk', moving_frames(11, speed=1))
        convert(tmp_path, source, '--min-pairs', pairs)
        clip = clips_of(tmp_path)['train/walk']
        assert clip['stride'] == stride
        assert clip['pairs'] >= pairs

    def test_settings_are_stored_and_printed(self, tmp_path, capsys):
        source = write_frames(tmp_path / 'walk', moving_frames(12))
        convert(tmp_path, source, '--stride', 2, '--start', 1, '--shutter', 0.5, 0.5, '--seed', 7)
        clip = clips_of(tmp_path)['train/walk']
        pairs = zip(
            *(images_of(tmp_path / 'train/walk' / k) for k in ('blur', 'sharp')), strict=True
        )
        assert clip.pop('input_psnr') == pytest.approx(
            np.mean([cv2.PSNR(*pair) for pair in pairs]), abs=0.01
        )
        assert clip.pop('version')
        assert clip == dict(
            source='walk', seed=7, light='linear', height=144, width=160, first_number=47,
            first_frame=2, stride=2, shutter=0.5, sub_frames=8, pairs=5,
        )  # fmt: skip
        assert 'walk: 5 pairs 160x144, stride 2, shutter 0.5, input PSNR' in capsys.readouterr().out

    def test_same_seed_gives_same_files_with_any_number_of_workers(self, tmp_path):
        source = write_frames(tmp_path / 'walk', moving_frames(8))
        for out, seed, workers in (('a', 1, 1), ('b', 1, 3), ('c', 2, 1)):
            convert(tmp_path / out, source, '--seed', seed, '--workers', workers, '--stride', 1)
        a, b, c = (files_of(tmp_path / out) for out in 'abc')
        assert a == b
        assert a != c


class TestShots:
    def test_cuts_divide_a_source(self, tmp_path, capsys):
        frames = [*moving_frames(8), *moving_frames(4, OTHER), *moving_frames(9)]
        source = write_frames(tmp_path / 'film', frames)
        convert(tmp_path, source, '--stride', 1)
        clips = clips_of(tmp_path)
        assert {name: (clip['first_frame'], clip['pairs']) for name, clip in clips.items()} == {
            'train/film_000': (1, 6),
            'train/film_001': (13, 7),
        }
        assert '1 shots were too short' in capsys.readouterr().out
        assert np.array_equal(images_of(tmp_path / 'train/film_001/sharp'), moving_frames(8)[1:])

    def test_long_shots_are_divided(self, tmp_path):
        source = write_frames(tmp_path / 'walk', moving_frames(20))
        options = ['--stride', 1, '--max-pairs', 8, '--min-pairs', 3]
        convert(tmp_path, source, *options)
        clips = clips_of(tmp_path).values()
        assert [(clip['first_frame'], clip['pairs']) for clip in clips] == [(1, 8), (9, 8)]
        shutters = {clip['shutter'] for clip in clips}
        assert len(shutters) == 2
        assert all(0.3 <= shutter <= 1 for shutter in shutters)

    def test_count_bounds_the_pairs_of_a_source(self, tmp_path):
        source = write_frames(tmp_path / 'film', moving_frames(8) + moving_frames(9, OTHER))
        convert(tmp_path, source, '--stride', 1, '--count', 9, '--min-pairs', 1)
        assert [clip['pairs'] for clip in clips_of(tmp_path).values()] == [6, 1]

    def test_dropped_frames_are_a_cut(self, tmp_path):
        times = [40 * i + (80 if i > 7 else 0) for i in range(16)]
        video = write_video(tmp_path / 'walk.mkv', moving_frames(16, speed=2), times)
        convert(tmp_path, video, '--stride', 1)
        clips = clips_of(tmp_path).values()
        assert [(clip['first_frame'], clip['pairs']) for clip in clips] == [(1, 6), (9, 6)]


class TestSources:
    def test_video_is_read_from_start(self, tmp_path):
        video = write_video(tmp_path / 'walk.avi', moving_frames(9))
        options = ['--start', 2, '--count', 4, '--name', 'lossless', '--stride', 1]
        convert(tmp_path, video, *options)
        sharp = images_of(tmp_path / 'train/lossless/sharp')
        assert np.array_equal(sharp, moving_frames(7)[3:])

    def test_rotated_video_is_turned_upright(self, tmp_path):
        video = write_video(tmp_path / 'phone.mp4', moving_frames(7))
        rotate_video(video)
        convert(tmp_path, video, '--stride', 1)
        sharp = images_of(tmp_path / 'train/phone/sharp')[0]
        upright = cv2.rotate(moving_frames(2)[1], cv2.ROTATE_90_CLOCKWISE)
        assert sharp.shape == (160, 144, 3)
        assert cv2.PSNR(sharp, upright) > 25

    def test_folder_of_sources_is_expanded(self, tmp_path):
        for name in ('b', 'a'):
            write_frames(tmp_path / 'films' / name, moving_frames(7))
        write_video(tmp_path / 'films/c.avi', moving_frames(7))
        (tmp_path / 'films/notes.txt').write_text('none of them')
        convert(tmp_path / 'out', tmp_path / 'films', '--stride', 1)
        assert list(clips_of(tmp_path / 'out')) == ['train/a', 'train/b', 'train/c']

    @pytest.mark.parametrize(
        ('source', 'options', 'message'),
        [
            ('gone.mp4', [], r'gone.mp4: no such file or folder'),
            ('notes.mp4', [], r'notes.mp4: not a video'),
            ('sound.wav', [], r'sound.wav: has no video stream'),
            ('hdr.mkv', [], r'hdr.mkv: is HDR video .* convert it to BT.709 first'),
            ('empty', [], r'empty: no images or videos in this folder'),
            ('both', [], r'both: contains both images and videos'),
            ('mixed', [], r'mixed: frame 3 has 256x144 pixels, but the first one has 160x144'),
            ('grey', [], r'grey/1.png is a grey image'),
            ('deep', [], r'deep/1.png has 16 bits'),
            ('broken', [], r'broken/1.png cannot be decoded'),
            ('short', [], r'short: too short: 4 frames .* 5 pairs need 7 frames at a stride of 1'),
            ('short', ['--start', '9'], r'short: too short: 0 frames from --start 9'),
            ('short', ['--height', '200'], r'160x144 pixels, fewer rows than --height 200;'),
            ('short', ['--height', '200', '300'], r'pixels, fewer rows than --height 200 300;'),
        ],
    )
    def test_bad_source_is_named(self, tmp_path, source, options, message):
        (tmp_path / 'notes.mp4').write_text('no video')
        write_video(tmp_path / 'hdr.mkv', moving_frames(2), color_trc=16)
        with av.open(str(tmp_path / 'sound.wav'), 'w') as container:
            stream = container.add_stream('pcm_s16le', rate=8000, layout='mono')
            silence = np.zeros((1, 800), np.int16)
            sound = av.AudioFrame.from_ndarray(silence, format='s16', layout='mono')
            sound.rate = 8000
            container.mux(stream.encode(sound))
        first, other = moving_frames(1)[0], cv2.imread(str(OTHER))
        write_frames(tmp_path / 'empty', [])
        write_frames(tmp_path / 'short', moving_frames(4))
        write_frames(tmp_path / 'both', moving_frames(4))
        (tmp_path / 'both/preview.mp4').touch()
        write_frames(tmp_path / 'mixed', [*moving_frames(3), other])
        write_frames(tmp_path / 'grey', [first, first[..., 0]])
        write_frames(tmp_path / 'deep', [first, first.astype(np.uint16)])
        broken = write_frames(tmp_path / 'broken', [first, first]) / '1.png'
        broken.write_bytes(broken.read_bytes()[:5000])
        options = ['--stride', '1', *options]
        with pytest.raises(UserError, match=message):
            convert(tmp_path / 'out', tmp_path / source, *options)
        assert files_of(tmp_path / 'out') == {}

    @pytest.mark.parametrize('suffix', ['.mp4', '.mkv'])
    def test_missing_end_is_reported(self, tmp_path, suffix):
        options = {'movflags': 'faststart'} if suffix == '.mp4' else {}
        video = write_video(tmp_path / f'walk{suffix}', moving_frames(24), options=options)
        video.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
        with pytest.raises(UserError, match=r'(ends after|frame) 1\d (of 24|is damaged).*--count'):
            convert(tmp_path / 'out', video, '--stride', 1)
        convert(tmp_path / 'out', video, '--stride', 1, '--count', 6)

    def test_damage_is_reported(self, tmp_path):
        video = write_video(tmp_path / 'walk.mp4', moving_frames(24))
        content = bytearray(video.read_bytes())
        middle = content.index(b'mdat') + len(content) // 2
        content[middle : middle + 3000] = bytes(3000)
        video.write_bytes(content)
        with pytest.raises(UserError, match=r'walk.mp4: (frame \d+ is damaged|cannot be decoded)'):
            convert(tmp_path / 'out', video, '--stride', 1)
        assert files_of(tmp_path / 'out') == {}

    def test_one_bad_source_does_not_stop_the_others(self, tmp_path, capsys):
        good = write_frames(tmp_path / 'good', moving_frames(7))
        more = write_frames(tmp_path / 'more', moving_frames(7))
        with pytest.raises(UserError, match='2 of 4 sources failed'):
            convert(tmp_path / 'out', good, tmp_path / 'gone', good, more, '--stride', 1)
        assert list(clips_of(tmp_path / 'out')) == ['train/good', 'train/more']
        errors = [line for line in capsys.readouterr().err.splitlines() if 'error: ' in line]
        assert len(errors) == 2
        assert 'gone: no such file' in errors[0]
        assert 'its clip good has the same name as a clip of' in errors[1]

    def test_no_partial_clip_is_left_if_frames_disappear(self, tmp_path, monkeypatch):
        source = write_frames(tmp_path / 'walk', moving_frames(12))
        monkeypatch.setattr(
            SynthesizedClip, 'is_finished', lambda clip: (source / '9.png').unlink()
        )
        with pytest.raises(UserError, match='walk: became shorter during the run'):
            convert(tmp_path / 'out', source, '--stride', 1)
        assert files_of(tmp_path / 'out') == {}


class TestResume:
    @pytest.fixture
    def source(self, tmp_path):
        return write_frames(tmp_path / 'walk', moving_frames(12))

    @pytest.fixture
    def whole(self, tmp_path, source):
        """The output of an uninterrupted run."""
        return files_of(convert(tmp_path / 'whole', source, '--stride', 1))

    def test_finished_clips_are_not_changed(self, tmp_path, source, capsys):
        out = convert(tmp_path / 'out', source, '--stride', 1)
        made = sorted((out / 'train').rglob('*.*'))
        before = [path.stat().st_mtime_ns for path in made]
        assert len(made) == 2 * 10 + 1
        convert(out, source, '--stride', 1)
        assert [path.stat().st_mtime_ns for path in made] == before
        assert '0 clips made, 1 already existed' in capsys.readouterr().out

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            (['--seed', '3'], 'made with seed 0, but this command asks for seed 3'),
            (
                ['--shutter', '0.5', '0.5'],
                r'made with shutter 0\.\d+, but this command asks for shutter 0.5;',
            ),
            (['--height', '72'], 'made with height 144, .* asks for height 72'),
            (['--light', 'gamma'], 'made with light linear, .* asks for light gamma'),
            (['--window', '1', '1'], 'made with shutter .*, but this command asks for no shutter'),
        ],
    )
    def test_other_settings_are_refused(self, tmp_path, source, whole, options, message):
        with pytest.raises(UserError, match=message):
            convert(tmp_path / 'whole', source, '--stride', 1, *options)
        assert files_of(tmp_path / 'whole') == whole

    def test_folder_not_made_by_this_tool_is_refused(self, tmp_path, source):
        (tmp_path / 'out/train/walk/blur').mkdir(parents=True)
        with pytest.raises(UserError, match='walk: exists, but was not made by this tool'):
            convert(tmp_path / 'out', source)

    def test_interrupted_clip_is_resumed(self, tmp_path, monkeypatch, source, whole):
        out = tmp_path / 'out'
        with monkeypatch.context() as patch:
            stop_at(patch, KeyboardInterrupt(), 9)  # at the sharp frame of the fourth pair
            with pytest.raises(UserError, match='run the same command again'):
                convert(out, source, '--stride', 1)
        partial = out / '.train-walk.partial'
        assert sorted(path.name for path in (partial / 'sharp').iterdir()) == [
            f'0000{n}.png' for n in (47, 48, 49)
        ]
        assert not (out / 'train').exists()
        (partial / 'sharp/000050.png').write_bytes(b'')  # truncated by a power failure
        first = partial / 'blur/000047.png'
        stamp = first.stat().st_mtime_ns
        convert(out, source, '--stride', 1)
        assert files_of(out) == whole
        assert (out / 'train/walk/blur/000047.png').stat().st_mtime_ns == stamp

    def test_partial_clip_with_other_settings_is_restarted(
        self, tmp_path, monkeypatch, source, whole
    ):
        out = tmp_path / 'out'
        with monkeypatch.context() as patch:
            stop_at(patch, KeyboardInterrupt(), 9)
            with pytest.raises(UserError):
                convert(out, source, '--stride', 1, '--seed', 5)
        convert(out, source, '--stride', 1)
        assert files_of(out) == whole

    def test_full_disk_is_reported_and_finished_files_are_kept(
        self, tmp_path, monkeypatch, source, whole
    ):
        out = tmp_path / 'out'
        with monkeypatch.context() as patch:
            stop_at(patch, OSError(errno.ENOSPC, 'No space left on device'), 8)
            with pytest.raises(UserError, match='is full'):
                convert(out, source, '--stride', 1)
        assert len(files_of(out)) == 7
        convert(out, source, '--stride', 1)
        assert files_of(out) == whole

    def test_too_little_free_space_is_reported_at_the_start(self, tmp_path, monkeypatch, source):
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
        with pytest.raises(UserError, match=r'1 MB are needed in .*out'):
            convert(tmp_path / 'out', source, '--stride', 1)
        assert files_of(tmp_path / 'out') == {}

    def test_two_conversions_at_once_are_refused(self, tmp_path, source):
        with files.sole_writer(tmp_path), pytest.raises(UserError, match='another process'):
            convert(tmp_path, source)


class TestCommandLine:
    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ('--shutter 0 0.5', 'need 0 < MIN <= MAX <= 1'),
            ('--shutter 0.5 1.2', 'no camera has an exposure longer'),
            ('--shutter 0.8 0.4', 'need 0 < MIN <= MAX <= 1'),
            ('--window 3 4', 'need odd numbers'),
            ('--window 5 3', 'need odd numbers'),
            ('--window 7 9 --stride 8', r'--stride 8 is below .* no camera has'),
            ('--window 3 5 --shutter 0.5 0.5', 'not allowed with'),
            ('--stride 0', 'at least 1'),
            ('--name a/b', 'a plain name'),
            ('--min-pairs 9 --max-pairs 8', '--min-pairs must not exceed'),
            ('--variants 0', '--variants must be at least 1'),
            ('--max-stride 0', '--max-stride must be at least 1'),
            ('--height 240 -1', '--height must not be negative'),
            ('--hand 1.5', '--hand 1.5: must be between 0 and 1'),
            ('--hand 0.5 --window 3 5', '--hand .* cannot be combined with --window'),
            ('--lights 0.5 2', 'need 1 <= MIN <= MAX'),
            ('--lights 3 2', 'need 1 <= MIN <= MAX'),
            ('--max-softness 0', '--max-softness 0: must be above 0 and at most 1'),
        ],
    )
    def test_numbers_are_checked(self, tmp_path, capsys, options, message):
        with pytest.raises(SystemExit):
            convert(tmp_path, tmp_path, *options.split())
        assert re.search(message, capsys.readouterr().err)

    def test_help_and_errors_are_quick_and_short(self, tmp_path):
        code = (
            'import runpy, sys; sys.argv[0] = sys.argv[1]; del sys.argv[1]\n'
            'try: runpy.run_path(sys.argv[0], run_name="__main__")\n'
            'finally: assert not {"torch", "av", "dblrgan_mm.datasets"} & set(sys.modules)'
        )
        command = [sys.executable, '-c', code, str(SCRIPT)]
        shown = subprocess.run([*command, '--help'], capture_output=True, text=True, check=True)
        assert '--window' in shown.stdout
        failed = subprocess.run(
            [*command, tmp_path / 'out', tmp_path / 'gone'], capture_output=True, text=True
        )
        assert failed.returncode == 1
        assert failed.stderr.splitlines()[-1].startswith(f'error: {tmp_path / "gone"}: no such')
