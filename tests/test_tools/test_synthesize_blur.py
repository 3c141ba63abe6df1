"""Behaviour of tools/dataset_converters/synthesize_blur.py on a real frame that moves as told."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SHARP = ROOT / 'tests/data/gopro/train/gopro_walk_a/sharp/000050.png'
OTHER = ROOT / 'tests/data/gopro/test/sam2_blocks_carry/sharp/000032.png'
SPEED = 4  # pixels a frame
WIDTH, MARGIN = 160, 16


def load_tool():
    """Import the script from its path: tools/ is no package."""
    path = ROOT / 'tools/dataset_converters/synthesize_blur.py'
    spec = importlib.util.spec_from_file_location('synthesize_blur', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


def moving_frames(count, picture=SHARP):
    """Frames (144, 160, 3) of a window that moves SPEED pixels to the right a frame."""
    image = cv2.imread(str(picture))
    return [image[:, SPEED * i : SPEED * i + WIDTH] for i in range(count)]


def true_blur(time, exposure):
    """What a camera sees of moving_frames around `time` in `exposure` intervals."""
    linear = tool.srgb_to_linear(cv2.imread(str(SHARP)))
    total = 0
    for t in time + exposure * ((np.arange(64) + 0.5) / 64 - 0.5):
        shift = np.float64([[1, 0, -SPEED * t], [0, 1, 0]])
        total = total + cv2.warpAffine(linear, shift, (WIDTH, 144), flags=cv2.INTER_CUBIC)
    return tool.linear_to_srgb(total / 64)


def write_frames(folder, frames):
    """Write frames as folder/<i>.png without leading zeros, and return the folder."""
    folder.mkdir()
    for i, frame in enumerate(frames):
        cv2.imwrite(str(folder / f'{i}.png'), frame)
    return folder


def files_of(root):
    """Path relative to root -> bytes, for all files below it."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def inner_psnr(a, b):
    """PSNR in dB away from the picture's borders, where the flow lacks half of what it needs."""
    inner = (slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    return cv2.PSNR(np.ascontiguousarray(a[inner]), np.ascontiguousarray(b[inner]))


class TestSynthesizeClip:
    @pytest.mark.parametrize(('stride', 'shutter'), [(1, 1.0), (1, 0.5), (2, 0.75), (3, 1.0)])
    def test_exposure_is_physical(self, stride, shutter):
        frames = moving_frames(2 * stride + 2)
        blur, sharp = next(tool.synthesize_clip(frames, stride, shutter))
        middle = (stride + 1) // 2
        assert np.array_equal(sharp, frames[middle])
        assert inner_psnr(blur, true_blur(middle, shutter * stride)) > 50
        assert inner_psnr(blur, true_blur(middle, 2 * shutter * stride)) < 35

    def test_tiny_shutter_gives_the_sharp_frame(self):
        blur, sharp = next(tool.synthesize_clip(moving_frames(3), 1, 0.01))
        assert inner_psnr(blur, sharp) > 45

    def test_still_picture_stays_as_it_is(self):
        blur, sharp = next(tool.synthesize_clip([moving_frames(1)[0]] * 3, 1, 1.0))
        assert np.array_equal(blur, sharp)

    def test_input_frames_are_left_alone(self):
        frames = moving_frames(3)
        list(tool.synthesize_clip(frames, 1, 1.0))
        assert all(np.array_equal(a, b) for a, b in zip(frames, moving_frames(3), strict=True))

    @pytest.mark.parametrize('shutter', [0, -0.5, 1.01, float('nan')])
    def test_shutter_outside_one_interval_is_refused(self, shutter):
        with pytest.raises(ValueError, match=r'outside \(0, 1\]'):
            next(tool.synthesize_clip(moving_frames(3), 1, shutter))

    @pytest.mark.parametrize(('stride', 'shutter'), [(1, 1.0), (4, 0.1)])
    def test_cut_is_refused_even_outside_the_exposures(self, stride, shutter):
        frames = moving_frames(7) + moving_frames(6, OTHER)
        with pytest.raises(ValueError, match=r'scene cut .* between frames 26 and 27'):
            list(tool.synthesize_clip(frames, stride, shutter, start=20))


class TestCommand:
    @pytest.mark.parametrize(('count', 'stride', 'pairs'), [(0, 1, 10), (0, 2, 5), (3, 2, 3)])
    def test_number_of_pairs_and_their_names(self, tmp_path, count, stride, pairs):
        source = write_frames(tmp_path / 'walk', moving_frames(12))
        args = f'--count {count} --stride {stride} --height 72 --first-number 213 --split test'
        tool.main([str(tmp_path / 'out'), str(source), *args.split()])
        names = [f'{213 + i:06d}.png' for i in range(pairs)]
        expected = {f'test/walk/{kind}/{name}' for kind in ('blur', 'sharp') for name in names}
        assert set(files_of(tmp_path / 'out')) == expected
        assert cv2.imread(str(tmp_path / 'out/test/walk/blur' / names[0])).shape == (72, 80, 3)

    def test_frames_are_taken_in_numerical_order(self, tmp_path):
        source = write_frames(tmp_path / 'walk', moving_frames(12))
        tool.main([str(tmp_path / 'out'), str(source), '--shutter', '0.3', '0.3'])
        sharp = cv2.imread(str(tmp_path / 'out/train/walk/sharp/000056.png'))
        assert np.array_equal(sharp, moving_frames(11)[10])

    def test_video_is_read_from_start(self, tmp_path):
        av = pytest.importorskip('av')
        with av.open(str(tmp_path / 'walk.avi'), 'w') as container:
            stream = container.add_stream('ffv1', rate=25, width=160, height=144, pix_fmt='bgr0')
            for frame in moving_frames(8):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='bgr24')))
            container.mux(stream.encode())
        args = ['--start', '2', '--count', '4', '--name', 'lossless']
        tool.main([str(tmp_path), str(tmp_path / 'walk.avi'), *args])
        sharp = [cv2.imread(str(p)) for p in sorted((tmp_path / 'train/lossless/sharp').iterdir())]
        assert np.array_equal(sharp, moving_frames(7)[3:])

    def test_same_seed_same_files(self, tmp_path):
        source = write_frames(tmp_path / 'walk', moving_frames(4))
        for out, seed in (('a', 1), ('b', 1), ('c', 2)):
            tool.main([str(tmp_path / out), str(source), '--seed', str(seed)])
        a, b, c = (files_of(tmp_path / out) for out in 'abc')
        assert a == b
        assert a != c

    def test_cut_is_refused_and_leaves_nothing(self, tmp_path):
        source = write_frames(tmp_path / 'cut', moving_frames(6) + moving_frames(3, OTHER))
        with pytest.raises(
            SystemExit, match=r'cut: scene cut .* between frames 5 and 6; .*--start'
        ):
            tool.main([str(tmp_path / 'out'), str(source), '--start', '1'])
        assert files_of(tmp_path / 'out') == {}
        tool.main([str(tmp_path / 'out'), str(source), '--count', '4'])

    @pytest.mark.parametrize(
        ('source', 'options', 'message'),
        [
            ('gone.mp4', [], 'gone.mp4: no such file or folder'),
            ('notes.mp4', [], 'notes.mp4: not a readable video'),
            ('empty', [], 'empty: no images in this folder'),
            ('mixed', [], 'mixed: frames differ in size'),
            ('short', ['--count', '5'], '4 frames .* but 5 pairs at --stride 1 need 7'),
            ('short', ['--height', '200'], 'smaller than --height 200'),
        ],
    )
    def test_bad_source_is_named(self, tmp_path, source, options, message):
        (tmp_path / 'notes.mp4').write_text('no video')
        write_frames(tmp_path / 'empty', [])
        write_frames(tmp_path / 'short', moving_frames(4))
        write_frames(tmp_path / 'mixed', [*moving_frames(3), cv2.imread(str(OTHER))])
        with pytest.raises(SystemExit, match=message):
            tool.main([str(tmp_path / 'out'), str(tmp_path / source), *options])
        assert not (tmp_path / 'out').exists()

    def test_existing_clip_is_kept(self, tmp_path):
        source = write_frames(tmp_path / 'walk', moving_frames(4))
        tool.main([str(tmp_path / 'out'), str(source)])
        before = files_of(tmp_path / 'out')
        with pytest.raises(SystemExit, match='walk: exists and is not empty'):
            tool.main([str(tmp_path / 'out'), str(source)])
        assert files_of(tmp_path / 'out') == before

    @pytest.mark.parametrize('shutter', [['0', '0.5'], ['0.5', '1.2'], ['0.8', '0.4']])
    def test_shutter_range_is_checked(self, tmp_path, capsys, shutter):
        with pytest.raises(SystemExit):
            tool.main([str(tmp_path), str(tmp_path), '--shutter', *shutter])
        assert 'need 0 < MIN <= MAX <= 1' in capsys.readouterr().err
