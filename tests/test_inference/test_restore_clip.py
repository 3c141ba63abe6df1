"""Restoring clips from file to file, with a network that returns the centre frame."""

import contextlib
import errno
import itertools
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from filelock import FileLock
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from dblrgan_mm import files
from dblrgan_mm.errors import UserError
from dblrgan_mm.files import sole_writer
from dblrgan_mm.inference import Deblurrer
from dblrgan_mm.inference import restore_clip as module
from dblrgan_mm.inference.restore_clip import Options, in_thread, restore_clip
from dblrgan_mm.video import muxing
from dblrgan_mm.video.decoding import EXACT, _pixel_aspect, open_container, to_array
from dblrgan_mm.video.reading import open_clip
from dblrgan_mm.video.writing import SEGMENT, VideoParts

MILLI = Fraction(1, 1000)


class Copy:
    """A network that returns the centre frame of a window of 5."""

    num_frames, default_tile = 5, 1

    def __call__(self, windows, tile):
        top = 255 if windows.element_size() == 1 else 65535
        return windows[:, 2].float() / top


def copier() -> Deblurrer:
    return Deblurrer(Copy())


class Mean(Copy):
    """A network that returns the mean of a window, so that wrong neighbours show."""

    def __call__(self, windows, tile):
        return windows.float().mean(1) / 255


def chunks(png: bytes) -> dict[str, bytes]:
    """Return the chunks of a PNG by name, after checking their sums."""
    found, place = {}, 8
    while place < len(png):
        length = int.from_bytes(png[place : place + 4], 'big')
        body = png[place + 4 : place + 8 + length]
        assert png[place + 8 + length : place + 12 + length] == zlib.crc32(body).to_bytes(4, 'big')
        found[body[:4].decode()] = body[4:]
        place += 12 + length
    return found


def decoded(path, pixels='rgb24'):
    """Return the frames of a video and their times in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [f.to_ndarray(format=pixels, interpolation=EXACT) for f in frames], [
        f.time for f in frames
    ]


def packets(path, kind):
    """Return payloads, times in seconds, codec and language of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        found = [p for p in container.demux(stream) if p.size]
        base = stream.time_base
        return (
            [bytes(p) for p in found],
            [float(p.pts * base) for p in found],
            stream.codec_context.name,
            stream.language,
        )


def psnr(a, b) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((np.float64(a) - b) ** 2))))


def join(path, first, second):
    """Copy all streams of one video and the sound of another into a file."""
    with av.open(str(first)) as a, av.open(str(second)) as b, av.open(str(path), 'w') as out:
        streams = {s: out.add_stream_from_template(s) for s in (*a.streams, b.streams.audio[0])}
        for packet in [*a.demux(), *b.demux(audio=0)]:
            if packet.size:
                packet.stream = streams[packet.stream]
                out.mux(packet)
    return path


def insert_box(path, where, box):
    """Insert a box at the end of the boxes named in ``where``; moov must be the last box."""
    content = bytearray(path.read_bytes())
    position = 0
    for name in where:
        position = content.index(name, position)
        size = int.from_bytes(content[position - 4 : position], 'big')
        content[position - 4 : position] = (size + len(box)).to_bytes(4, 'big')
    end = position - 4 + size
    path.write_bytes(content[:end] + box + content[end:])


def box(name, content):
    return (8 + len(content)).to_bytes(4, 'big') + name + content


def assert_same_pictures(found, expected, least=40):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert psnr(a, b) > least


class TestVideo:
    @pytest.mark.parametrize('suffix', ['.mp4', '.mov', '.mkv'])
    @pytest.mark.parametrize('codec', ['h264', 'h265', 'ffv1'])
    def test_frames_and_times_are_preserved(self, tmp_path, write_video, walk, suffix, codec):
        if codec == 'ffv1' and suffix != '.mkv':
            pytest.skip('ffv1 goes into mkv')
        source = write_video(tmp_path / 'in.mp4', walk)
        target = tmp_path / f'out{suffix}'
        assert restore_clip(source, target, copier(), Options(codec=codec)) == (12, [])
        frames, times = decoded(target)
        expected, expected_times = decoded(source)
        assert_same_pictures(frames, expected, 90 if codec == 'ffv1' else 33)
        # Matroska rounds times to milliseconds
        assert np.allclose(times, expected_times, atol=6e-4 if suffix == '.mkv' else 1e-9)
        with av.open(str(target)) as a, av.open(str(source)) as b:
            assert abs(a.streams.video[0].average_rate - b.streams.video[0].average_rate) < 0.01
            assert abs(a.duration - b.duration) <= 1000
            assert a.metadata['title'] == 'A walk'
        assert {path.name for path in tmp_path.iterdir()} == {'in.mp4', f'out{suffix}'}

    @pytest.mark.parametrize('count', [1, 2, SEGMENT + 2])
    def test_undefined_decoding_times(self, tmp_path, write_video, walk, count, monkeypatch):
        # libx265 returns arbitrary times for one or two frames; use an impossible one here
        mux = VideoParts._mux

        def spoiled(container, packets, decoding):
            for packet in packets:
                packet.dts = 2**60
            return mux(container, packets, decoding)

        monkeypatch.setattr(VideoParts, '_mux', staticmethod(spoiled))
        frames = [walk[i % 12] for i in range(count)]
        source, target = write_video(tmp_path / 'in.mp4', frames), tmp_path / 'out.mp4'
        assert restore_clip(source, target, copier(), Options(codec='h265')) == (count, [])
        found, times = decoded(target)
        assert times == decoded(source)[1]
        assert_same_pictures(found, frames, 33)

    def test_variable_time_stamps_across_segments(self, tmp_path, write_video, walk):
        steps = np.random.default_rng(0).integers(1, 3000, 3 * SEGMENT - 5)
        times = (np.cumsum(steps) - steps[0]).tolist()
        frames = [walk[i % 12] for i in range(len(times))]
        source = write_video(tmp_path / 'in.mp4', frames, times=times)
        count, faults = restore_clip(source, tmp_path / 'out.mp4', copier())
        assert (count, faults) == (len(times), [])
        found, at = decoded(tmp_path / 'out.mp4')
        expected, expected_at = decoded(source)
        assert at == expected_at
        assert np.allclose(at, np.array(times) / 30000)
        assert_same_pictures(found, expected, 33)

    @pytest.mark.parametrize(
        ('suffix', 'sound', 'subtitles'),
        [
            ('.mp4', 'aac', 'mov_text'),
            ('.mkv', 'libopus', 'subrip'),
            ('.mov', 'pcm_s16le', None),
            ('.mkv', 'flac', None),
        ],
    )
    def test_sound_and_subtitles_bit_for_bit(
        self, tmp_path, write_video, walk, suffix, sound, subtitles
    ):
        source = write_video(tmp_path / f'in{suffix}', walk, sound=sound, subtitles=subtitles)
        restore_clip(source, tmp_path / f'out{suffix}', copier())
        for kind in ['audio'] + ['subtitle'] * bool(subtitles):
            found = packets(tmp_path / f'out{suffix}', kind)
            expected = packets(source, kind)
            assert found[0] == expected[0]
            assert np.allclose(found[1], expected[1], atol=1.1e-3)
            assert found[2:] == expected[2:]
            assert expected[3] == {'audio': 'fin', 'subtitle': 'deu'}[kind]

    def test_streams_that_the_container_cannot_hold_are_named(
        self, tmp_path, write_video, walk, caplog
    ):
        source = write_video(tmp_path / 'in.mkv', walk, sound='aac', subtitles='subrip')
        restore_clip(source, tmp_path / 'out.mp4', copier())
        assert packets(tmp_path / 'out.mp4', 'audio')[0] == packets(source, 'audio')[0]
        assert 'subtitle stream 2 (srt), which PyAV cannot write to .mp4' in caplog.text

    def test_sound_without_a_layout(self, tmp_path, write_video, walk, caplog):
        # AVI stores two channels without saying that they are left and right
        source = write_video(
            tmp_path / 'in.avi', walk, 'mjpeg', 'yuvj420p', sound='pcm_s16le', options={}
        )
        restore_clip(source, tmp_path / 'out.mp4', copier())
        assert 'not copied' not in caplog.text
        found, expected = (packets(tmp_path / 'out.mp4', 'audio'), packets(source, 'audio'))
        assert b''.join(found[0]) == b''.join(expected[0])

    def test_other_sound_is_kept_if_one_stream_fails_at_the_end(
        self, tmp_path, write_video, walk, caplog, monkeypatch
    ):
        monkeypatch.setattr(muxing, 'LAYOUTS', {})
        first = write_video(tmp_path / 'first.mkv', walk, sound='aac')
        second = write_video(tmp_path / 'second.mkv', walk, sound='pcm_s16le')
        source = join(tmp_path / 'in.mkv', first, second)
        restore_clip(source, tmp_path / 'out.mp4', copier())
        reason = 'audio stream 2 (pcm_s16le), which PyAV cannot write to .mp4 (Invalid argument)'
        assert f'not copied: {reason}\n' in caplog.text
        assert packets(tmp_path / 'out.mp4', 'audio')[0] == packets(first, 'audio')[0]

    def test_sound_that_only_pyav_cannot_write_is_named(self, tmp_path, write_video, walk, caplog):
        source = write_video(tmp_path / 'in.mov', walk, sound='pcm_mulaw')
        restore_clip(source, tmp_path / 'out.mkv', copier())
        reason = 'audio stream 1 (pcm_mulaw), which PyAV cannot write to .mkv'
        assert f'not copied: {reason}\n' in caplog.text

    def test_sound_that_cannot_be_read_to_its_end_is_named(
        self, tmp_path, write_video, walk, caplog, monkeypatch
    ):
        source = write_video(tmp_path / 'in.mkv', walk, sound='libopus')

        class Failing:
            def __init__(self, path):
                self.container = open_container(path)

            def __getattr__(self, name):
                return getattr(self.container, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.container.close()

            def demux(self, streams):
                yield from itertools.islice(self.container.demux(streams), 11)
                raise av.FFmpegError(errno.EIO, 'Input/output error')

        monkeypatch.setattr(muxing, 'open_container', Failing)
        restore_clip(source, tmp_path / 'out.mkv', copier())
        assert 'not copied: sound and subtitles after 0.2 s (Input/output error)' in caplog.text
        found, expected = (packets(p, 'audio')[0] for p in (tmp_path / 'out.mkv', source))
        assert found == expected[:11]

    @pytest.mark.parametrize('suffix', ['.mkv', '.mp4'])
    def test_sound_hidden_by_edit_lists_stays_hidden(self, tmp_path, write_video, walk, suffix):
        # as "ffmpeg -ss 1 -c copy": cut at no keyframe, so an edit list hides the first second
        frames = [walk[i % 12] for i in range(60)]
        whole = write_video(tmp_path / 'whole.mp4', frames, sound='aac', options={'g': '60'})
        source = tmp_path / 'in.mp4'
        with av.open(str(whole)) as given, av.open(str(source), 'w') as out:
            streams = {s: out.add_stream_from_template(s) for s in given.streams}
            for packet in given.demux():
                if packet.size:
                    shift = round(1 / packet.time_base)
                    packet.stream = streams[packet.stream]
                    packet.pts -= shift
                    packet.dts -= shift
                    out.mux(packet)
        target = tmp_path / f'out{suffix}'
        count, _ = restore_clip(source, target, copier())
        assert count == 30
        expected, expected_times = decoded(source)
        found, times = decoded(target)
        assert_same_pictures(found, expected, 33)
        assert np.allclose(times, expected_times, atol=0.023)  # one packet of sound
        with av.open(str(target)) as a, av.open(str(source)) as b:
            assert abs(a.duration - b.duration) < 40_000
            heard = [sum(f.samples for f in c.decode(audio=0) if f.pts >= 0) for c in (a, b)]
        assert abs(heard[0] - heard[1]) <= 2048

    def test_part_of_a_clip_with_its_sound(self, tmp_path, write_video, walk):
        frames = [walk[i % 12] for i in range(90)]
        source = write_video(tmp_path / 'in.mp4', frames, sound='aac')
        count, _ = restore_clip(source, tmp_path / 'out.mp4', copier(), Options(start=30, end=75))
        assert count == 45
        found, times = decoded(tmp_path / 'out.mp4')
        assert_same_pictures(found, decoded(source)[0][30:75], 33)
        assert times[0] == 0
        payloads, at, *_ = packets(tmp_path / 'out.mp4', 'audio')
        assert set(payloads) < set(packets(source, 'audio')[0])
        assert 0 <= at[0] < 0.03
        assert abs(at[-1] - 45 * 1001 / 30000) < 0.05

    @pytest.mark.parametrize('matrix', [1, 5, 6, 9, 2])
    @pytest.mark.parametrize('range_', [1, 2])
    def test_colours_and_their_tags(self, tmp_path, write_video, walk, matrix, range_):
        tags = dict(colorspace=matrix, color_range=range_, color_primaries=1, color_trc=1)
        source = write_video(tmp_path / 'in.mp4', walk, tags=tags)
        restore_clip(source, tmp_path / 'out.mp4', copier(), Options(crf=1))
        before, after = open_clip(source).format, open_clip(tmp_path / 'out.mp4').format
        assert before.tags == after.tags
        assert after.tags['color_range'] == range_
        assert_same_pictures(decoded(tmp_path / 'out.mp4')[0], decoded(source)[0], 42)

    @pytest.mark.parametrize('pixels', ['yuv422p', 'yuv444p', 'yuv420p10le', 'yuv422p10le'])
    def test_chroma_sampling_and_bit_depth_are_preserved(self, tmp_path, write_video, walk, pixels):
        fine = [np.uint16(frame) * 257 for frame in walk]
        source = write_video(tmp_path / 'in.mp4', fine, codec='libx265', pixels=pixels)
        restore_clip(source, tmp_path / 'out.mp4', copier(), Options(crf=1))
        with av.open(str(tmp_path / 'out.mp4')) as container:
            assert container.streams.video[0].pix_fmt == pixels
            codec = 'hevc' if '10' in pixels else 'h264'
            assert container.streams.video[0].codec_context.name == codec
        assert_same_pictures(decoded(tmp_path / 'out.mp4')[0], decoded(source)[0], 40)

    def test_ten_bits_are_not_cut_to_eight(self, tmp_path, write_video, walk):
        ramp = np.broadcast_to(np.linspace(20000, 24000, 128)[None, :, None], (96, 128, 3))
        source = write_video(
            tmp_path / 'in.mp4', [ramp.astype(np.uint16)] * 6, codec='libx265', pixels='yuv420p10le'
        )
        restore_clip(source, tmp_path / 'out.mp4', copier(), Options(crf=1))
        frames, _ = decoded(tmp_path / 'out.mp4', 'gray16le')
        assert len(np.unique(frames[3][48] >> 6)) > 40  # the ramp has only 15 levels in 8 bits

    def test_more_bits_without_loss(self, tmp_path, write_video, walk):
        fine = [np.uint16(frame) * 257 for frame in walk]
        source = write_video(
            tmp_path / 'in.mkv', fine, codec='ffv1', pixels='gbrp12le', options={'level': '3'}
        )
        with pytest.raises(UserError, match='12 bits per colour, but h265'):
            restore_clip(source, tmp_path / 'out.mp4', copier())
        restore_clip(source, tmp_path / 'out.mkv', copier(), Options(codec='ffv1'))
        found, _ = decoded(tmp_path / 'out.mkv', 'rgb48le')
        expected, _ = decoded(source, 'rgb48le')
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))

    @pytest.mark.parametrize('rotation', [90, 180, 270])
    def test_rotated_clips_are_written_upright(self, tmp_path, write_video, walk, rotation):
        source = write_video(tmp_path / 'in.mp4', walk, rotation=rotation, aspect=Fraction(4, 3))
        restore_clip(source, tmp_path / 'out.mp4', copier())
        raw, _ = decoded(source)
        with av.open(str(source)) as container:
            turn = next(container.decode(video=0)).rotation
        assert turn % 360 in (rotation, 360 - rotation)
        with av.open(str(tmp_path / 'out.mp4')) as container:
            assert next(container.decode(video=0)).rotation == 0
            aspect = container.streams.video[0].sample_aspect_ratio
        assert aspect == (Fraction(4, 3) if rotation == 180 else Fraction(3, 4))
        expected = [np.rot90(frame, turn // 90) for frame in raw]
        assert_same_pictures(decoded(tmp_path / 'out.mp4')[0], expected, 33)

    @pytest.mark.parametrize(
        ('matrix', 'show'),
        [
            ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
            ((1, 0, 0, -1), lambda image: image[::-1]),
            ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
            ((0, -1, -1, 0), lambda image: image[::-1, ::-1].transpose(1, 0, 2)),
            ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ],
    )
    def test_mirrored_clips_are_shown_as_displayed(self, tmp_path, write_video, walk, matrix, show):
        source = write_video(tmp_path / 'in.mp4', walk)
        raw, _ = decoded(source)
        a, b, c, d = (value << 16 for value in matrix)
        content = bytearray(source.read_bytes())
        place = content.index(b'tkhd') + 44
        values = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
        content[place : place + 36] = np.array(values, '>i4').tobytes()
        source.write_bytes(content)
        restore_clip(source, tmp_path / 'out.mp4', copier())
        assert_same_pictures(decoded(tmp_path / 'out.mp4')[0], [show(image) for image in raw], 33)

    @pytest.mark.parametrize('name', ['out.mp4', 'out.MP4', 'out.mov'])
    def test_h265_has_the_tag_that_apple_needs(self, tmp_path, write_video, walk, name):
        source = write_video(tmp_path / 'in.mp4', walk)
        restore_clip(source, tmp_path / name, copier(), Options(codec='h265'))
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].codec_context.codec_tag == 'hvc1'

    def test_spherical_projection_is_named(self, tmp_path, write_video, walk, caplog):
        source = write_video(tmp_path / 'in.mp4', walk)
        projection = box(b'proj', box(b'prhd', bytes(16)) + box(b'equi', bytes(20)))
        spherical = box(b'sv3d', box(b'svhd', bytes(4) + b'x\0') + projection)
        where = (b'moov', b'trak', b'mdia', b'minf', b'stbl', b'stsd', b'avc1')
        insert_box(source, where, spherical)
        restore_clip(source, tmp_path / 'out.mp4', copier())
        assert 'not copied: spherical (360 degree) projection' in caplog.text

    @pytest.mark.parametrize('codec', ['h264', 'h265', 'ffv1'])
    def test_hdr10(self, tmp_path, write_video, walk, codec, caplog):
        display = 'G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)'
        source = write_video(
            tmp_path / 'in.mp4',
            [np.uint16(frame) * 257 for frame in walk],
            codec='libx265',
            pixels='yuv420p10le',
            options={'x265-params': f'log-level=error:master-display={display}:max-cll=1000,400'},
        )
        target = tmp_path / 'out.mkv'
        restore_clip(source, target, copier(), Options(codec=codec))
        found = []
        for path in (source, target):
            with av.open(str(path)) as container:
                data = next(container.decode(video=0)).side_data
                kinds = ('MASTERING_DISPLAY_METADATA', 'CONTENT_LIGHT_LEVEL')
                found.append([bytes(data[kind]) for kind in kinds if kind in data])
        assert len(found[0]) == 2
        if codec == 'ffv1':
            assert 'not copied: HDR10 metadata, which ffv1 does not store' in caplog.text
        else:
            assert found[0] == found[1]
            assert 'not copied' not in caplog.text

    @pytest.mark.parametrize('size', [(1, 1), (7, 5), (128, 95), (127, 96), (2, 2)])
    def test_odd_sizes(self, tmp_path, walk, write_video, size):
        width, height = size
        frames = [np.ascontiguousarray(frame[:height, :width]) for frame in walk]
        source = write_video(
            tmp_path / 'in.mkv', frames, codec='ffv1', pixels='bgr0', options={'level': '3'}
        )
        restore_clip(source, tmp_path / 'out.mp4', copier(), Options(crf=1))
        found, _ = decoded(tmp_path / 'out.mp4')
        assert_same_pictures(found, frames, 30)

    def test_side_by_side(self, tmp_path, write_video, walk):
        source = write_video(tmp_path / 'in.mp4', walk)
        restore_clip(
            source, tmp_path / 'out.mkv', copier(), Options(side_by_side=True, codec='ffv1')
        )
        found, _ = decoded(tmp_path / 'out.mkv')
        expected, _ = decoded(source)
        for a, b in zip(found, expected, strict=True):
            assert np.array_equal(a, np.concatenate([b, b], axis=1))

    @pytest.mark.parametrize('length', [1, 2, 3, 4])
    def test_clips_shorter_than_a_window(self, tmp_path, write_video, walk, length):
        source = write_video(tmp_path / 'in.mp4', walk[:length])
        assert restore_clip(source, tmp_path / 'out.mp4', copier()) == (length, [])
        assert len(decoded(tmp_path / 'out.mp4')[0]) == length

    def test_transparency_is_named(self, tmp_path, write_video, walk, caplog):
        source = write_video(
            tmp_path / 'in.mkv', walk, codec='ffv1', pixels='bgra', options={'level': '3'}
        )
        restore_clip(source, tmp_path / 'out.mp4', copier())
        assert 'transparency is ignored' in caplog.text

    def test_interlaced_video_gives_a_warning(self, tmp_path, write_video, walk, caplog):
        options = {'flags': '+ildct+ilme', 'x264-params': 'tff=1'}
        source = write_video(tmp_path / 'in.mp4', walk, options=options)
        restore_clip(source, tmp_path / 'out.mp4', copier())
        assert 'is interlaced, but the network was not trained on' in caplog.text

    @pytest.mark.parametrize('suffix', ['.ts', '.mkv', '.mp4'])
    def test_time_begins_where_the_source_does(self, tmp_path, write_video, walk, suffix):
        times = [90 * 3600 * 1000 + 1001 * i for i in range(12)]  # broadcasts start at any time
        source = write_video(tmp_path / f'in{suffix}', walk, times=times, time_base=MILLI)
        restore_clip(source, tmp_path / 'out.mp4', copier())
        _, at = decoded(tmp_path / 'out.mp4')
        assert np.allclose(at, np.arange(12) * 1.001, atol=0.12)

    @pytest.mark.parametrize('late', [0.4, 10])
    def test_pictures_that_begin_after_the_sound(self, tmp_path, write_video, walk, late):
        times = [round(30000 * late) + 1001 * i for i in range(12)]
        source = write_video(tmp_path / 'in.mkv', walk, times=times, sound='libopus')
        assert restore_clip(source, tmp_path / 'out.mkv', copier()) == (12, [])
        assert np.allclose(decoded(tmp_path / 'out.mkv')[1], decoded(source)[1], atol=1.1e-3)
        assert np.allclose(
            packets(tmp_path / 'out.mkv', 'audio')[1], packets(source, 'audio')[1], atol=1.1e-3
        )

    def test_times_of_joined_files_continue(self, tmp_path, write_video, walk):
        frames = [walk[i % 12] for i in range(45)]
        part = write_video(tmp_path / 'part.ts', frames, sound='aac')
        source = tmp_path / 'in.ts'
        source.write_bytes(2 * part.read_bytes())
        count, faults = restore_clip(source, tmp_path / 'out.mp4', copier())
        assert (count, faults) == (90, [])
        _, at = decoded(tmp_path / 'out.mp4')
        assert np.allclose(np.diff(at), 1001 / 30000, atol=1e-3)
        payloads, sound_at, *_ = packets(tmp_path / 'out.mp4', 'audio')
        assert len(payloads) == 2 * len(packets(part, 'audio')[0])
        assert np.allclose(np.diff(sound_at), 1024 / 48000, atol=2e-3)

    def test_duration_of_the_last_frame_is_kept(self, tmp_path, write_video, walk):
        plain = write_video(tmp_path / 'plain.mp4', walk, options={'crf': '1', 'bf': '0'})
        source = tmp_path / 'in.mp4'
        with av.open(str(plain)) as given, av.open(str(source), 'w') as out:
            stream = out.add_stream_from_template(given.streams.video[0])
            for number, packet in enumerate(p for p in given.demux() if p.size):
                packet.stream = stream
                packet.duration = 90000 if number == 11 else packet.duration
                out.mux(packet)
        restore_clip(source, tmp_path / 'out.mp4', copier())
        with av.open(str(source)) as given, av.open(str(tmp_path / 'out.mp4')) as out:
            assert abs(given.duration - out.duration) <= 1000
            assert out.duration > 3_000_000

    def test_ffv1_keeps_transfer_and_primaries(self, tmp_path, write_video, walk):
        tags = dict(colorspace=9, color_range=1, color_primaries=9, color_trc=16)
        source = write_video(tmp_path / 'in.mp4', walk, tags=tags)
        restore_clip(source, tmp_path / 'out.mkv', copier(), Options(codec='ffv1'))
        found = open_clip(tmp_path / 'out.mkv').format
        assert (found.tags['color_primaries'], found.tags['color_trc']) == (9, 16)

    @pytest.mark.parametrize(
        ('size', 'matrix'), [((128, 96), 6), ((1024, 576), 6), ((1280, 720), 1), ((704, 592), 1)]
    )
    def test_untagged_colours_are_read_as_players_do(
        self, tmp_path, write_video, walk, size, matrix
    ):
        frames = [cv2.resize(frame, size) for frame in walk[:2]]
        source = write_video(tmp_path / 'in.mp4', frames)
        assert restore_clip(source, tmp_path / 'out.mp4', copier(), Options(crf=1)) == (2, [])
        with av.open(str(source)) as given, av.open(str(tmp_path / 'out.mp4')) as out:
            for before, after in zip(given.decode(video=0), out.decode(video=0), strict=True):
                assert (before.colorspace, after.colorspace) == (2, matrix)
                assert psnr(before.to_ndarray(), after.to_ndarray()) > 45, 'the stored values'
                before.colorspace = matrix
                rgb = to_array(before, 'rgb24', EXACT)
        restore_clip(source, tmp_path / 'out', copier())
        image = cv2.imread(str(tmp_path / 'out' / '000001.png'))[..., ::-1]
        assert np.array_equal(image, rgb)

    @pytest.mark.parametrize(('given', 'found'), [((2, 2), (1, 1, 1)), ((9, 16), (9, 9, 16))])
    def test_rgb_is_stored_as_ycbcr_of_its_primaries(self, tmp_path, write_video, given, found):
        red = np.full((720, 1280, 3), (0xC0, 0x20, 0x20), np.uint8)
        tags = dict(color_primaries=given[0], color_trc=given[1])
        source = write_video(tmp_path / 'in.mkv', [red] * 2, 'libx264rgb', 'rgb24', tags=tags)
        restore_clip(source, tmp_path / 'out.mp4', copier())
        with av.open(str(tmp_path / 'out.mp4')) as container:
            frame = next(container.decode(video=0))
        names = ('colorspace', 'color_primaries', 'color_trc')
        assert tuple(getattr(frame, name) for name in names) == found
        assert frame.color_range == 1
        colour = to_array(frame, 'rgb24', EXACT).reshape(-1, 3).mean(0)
        assert np.abs(colour - red[0, 0]).max() <= 2

    def test_a_palette_is_rgb(self, tmp_path, walk):
        source = tmp_path / 'in.avi'
        with av.open(str(source), 'w') as container:
            stream = container.add_stream('rawvideo', rate=25)
            stream.width, stream.height, stream.pix_fmt = 128, 96, 'pal8'
            for image in walk[:2]:
                frame = av.VideoFrame.from_ndarray(image, format='rgb24').reformat(format='rgb8')
                palette = np.arange(256, dtype=np.uint8)
                planes = frame.to_ndarray(), np.repeat(palette[:, None], 4, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format='pal8')))
        given = open_clip(source).format
        assert (given.chroma, given.tags['colorspace']) == ('444', 1)

    def test_hdr_as_images_states_its_colours(self, tmp_path, write_video, walk, caplog):
        tags = dict(colorspace=9, color_range=1, color_primaries=9, color_trc=16)
        light = 'master-display=G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10,1)'
        source = write_video(
            tmp_path / 'in.mkv', walk[:3], 'libx265', 'yuv420p10le', tags=tags,
            options={'x265-params': light},
        )  # fmt: skip
        restore_clip(source, tmp_path / 'out', copier())
        assert 'not copied: HDR10 metadata' in caplog.text
        content = (tmp_path / 'out' / '000002.png').read_bytes()
        assert chunks(content)['cICP'] == bytes([9, 16, 0, 1])
        assert next(iter(chunks(content))) == 'IHDR'
        image = cv2.imread(str(tmp_path / 'out' / '000002.png'), cv2.IMREAD_UNCHANGED)
        assert (image.dtype, image.shape) == (np.uint16, (96, 128, 3))

    def test_sdr_as_images_states_nothing(self, tmp_path, write_video, walk):
        tags = dict(colorspace=1, color_range=1, color_primaries=1, color_trc=1)
        source = write_video(tmp_path / 'in.mp4', walk[:3], tags=tags)
        restore_clip(source, tmp_path / 'out', copier())
        assert 'cICP' not in chunks((tmp_path / 'out' / '000002.png').read_bytes())

    def test_ffv1_keeps_the_shape_of_pixels(self, tmp_path, write_video, walk):
        source = write_video(tmp_path / 'in.mp4', walk, aspect=Fraction(64, 45))
        restore_clip(source, tmp_path / 'out.mkv', copier(), Options(codec='ffv1'))
        with av.open(str(tmp_path / 'out.mkv')) as container:
            assert [_pixel_aspect(f) for f in container.decode(video=0)] == [Fraction(64, 45)] * 12
        assert_same_pictures(decoded(tmp_path / 'out.mkv')[0], decoded(source)[0], 90)

    def test_shape_of_pixels_survives_two_passes(self, tmp_path, write_video, walk):
        source = write_video(tmp_path / 'in.mp4', walk, aspect=Fraction(4, 3))
        restore_clip(source, tmp_path / 'once.mkv', copier(), Options(codec='ffv1'))
        restore_clip(tmp_path / 'once.mkv', tmp_path / 'twice.mp4', copier())
        assert open_clip(tmp_path / 'once.mkv').format.aspect == Fraction(4, 3)
        assert open_clip(tmp_path / 'twice.mp4').format.aspect == Fraction(4, 3)

    @pytest.mark.parametrize('suffix', ['.mkv', '.mp4'])
    def test_fonts_are_copied_to_mkv_only(self, tmp_path, write_video, walk, suffix, caplog):
        plain = write_video(tmp_path / 'plain.mkv', walk)
        source = tmp_path / 'in.mkv'
        with av.open(str(plain)) as given, av.open(str(source), 'w') as out:
            if not hasattr(out, 'add_attachment'):
                pytest.skip('an older PyAV')
            stream = out.add_stream_from_template(given.streams.video[0])
            out.add_attachment('fine.ttf', 'application/x-truetype-font', b'\0a font')
            for packet in given.demux():
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
        restore_clip(source, tmp_path / f'out{suffix}', copier())
        with av.open(str(tmp_path / f'out{suffix}')) as container:
            fonts = [s for s in container.streams if s.type == 'attachment']
            if suffix == '.mkv':
                assert [(f.name, f.mimetype, f.data) for f in fonts] == [
                    ('fine.ttf', 'application/x-truetype-font', b'\0a font')
                ]
            else:
                assert fonts == []
                assert 'attachment stream 1, which PyAV cannot write to .mp4' in caplog.text

    def test_chapters_move_with_the_beginning(self, tmp_path, write_video, walk):
        plain = write_video(
            tmp_path / 'plain.mkv', walk, times=[60000 + 1001 * i for i in range(12)]
        )
        source = tmp_path / 'in.mkv'
        with av.open(str(plain)) as given, av.open(str(source), 'w') as out:
            stream = out.add_stream_from_template(given.streams.video[0])
            out.set_chapters(
                [dict(id=1, start=2000, end=2200, time_base=MILLI, metadata=dict(title='Hedge'))]
            )
            for packet in given.demux():
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
        restore_clip(source, tmp_path / 'out.mkv', copier())
        with av.open(str(tmp_path / 'out.mkv')) as container:
            (chapter,) = container.chapters()
        assert chapter['start'] * chapter['time_base'] == 0
        assert chapter['end'] * chapter['time_base'] == Fraction(1, 5)
        assert chapter['metadata']['title'] == 'Hedge'

    def test_other_sound_is_kept_if_the_container_refuses_one_stream(
        self, tmp_path, write_video, walk, caplog
    ):
        # FFmpeg lists Opus as supported in .mov, but then refuses it
        first = write_video(tmp_path / 'first.mkv', walk, sound='aac')
        second = write_video(tmp_path / 'second.mkv', walk, sound='libopus')
        source = join(tmp_path / 'in.mkv', first, second)
        restore_clip(source, tmp_path / 'out.mov', copier())
        assert 'not copied: audio stream 2 (opus), which PyAV cannot write to .mov' in caplog.text
        assert packets(tmp_path / 'out.mov', 'audio')[0] == packets(first, 'audio')[0]

    def test_name_with_a_colon(self, tmp_path, write_video, walk, monkeypatch):
        source = write_video(tmp_path / 'in.mp4', walk).rename(tmp_path / '12:30.mp4')
        monkeypatch.chdir(tmp_path)
        restore_clip(Path(source.name), Path('out:1.mp4'), copier())
        assert len(decoded(tmp_path / 'out:1.mp4')[0]) == 12

    def test_titles_in_another_encoding(self, tmp_path, write_video, walk):
        source = write_video(tmp_path / 'in.avi', walk, codec='mpeg4', options={'b': '2000000'})
        content = source.read_bytes()
        assert content.count(b'A walk') == 1
        source.write_bytes(content.replace(b'A walk', b'A w\xe9lk'))
        restore_clip(source, tmp_path / 'out.mp4', copier())
        with av.open(str(tmp_path / 'out.mp4')) as container:
            assert container.metadata['title'] == 'A w\N{REPLACEMENT CHARACTER}lk'

    def test_fewer_than_eight_bits(self, tmp_path, write_video, walk):
        source = write_video(
            tmp_path / 'in.avi', walk, codec='rawvideo', pixels='rgb555le', options={}
        )
        restore_clip(source, tmp_path / 'out.mp4', copier())
        with av.open(str(tmp_path / 'out.mp4')) as container:
            assert container.streams.video[0].codec_context.name == 'h264'
        assert_same_pictures(decoded(tmp_path / 'out.mp4')[0], decoded(source)[0], 31)


class TestImages:
    @pytest.fixture
    def folder(self, tmp_path, walk) -> Path:
        folder = tmp_path / 'frames'
        folder.mkdir()
        for i, frame in enumerate(walk):
            cv2.imwrite(str(folder / f'shot{i + 95}.png'), frame[..., ::-1])
        return folder

    def test_folder_to_folder_keeps_names_and_order(self, tmp_path, folder, walk):
        assert restore_clip(folder, tmp_path / 'out', copier()) == (12, [])
        assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == sorted(
            f'shot{i + 95}.png' for i in range(12)
        )
        for i, frame in enumerate(walk):
            image = cv2.imread(str(tmp_path / 'out' / f'shot{i + 95}.png'))[..., ::-1]
            assert np.array_equal(image, frame)

    def test_folder_to_video_and_back(self, tmp_path, folder, walk):
        options = Options(codec='ffv1', fps=Fraction(30000, 1001))
        restore_clip(folder, tmp_path / 'out.mkv', copier(), options)
        with av.open(str(tmp_path / 'out.mkv')) as container:
            assert abs(container.streams.video[0].average_rate - 30000 / 1001) < 0.01
        restore_clip(tmp_path / 'out.mkv', tmp_path / 'back', copier())
        names = sorted(p.name for p in (tmp_path / 'back').iterdir())
        assert names == [f'{i:06d}.png' for i in range(12)]
        for name, frame in zip(names, walk, strict=True):
            image = cv2.imread(str(tmp_path / 'back' / name))[..., ::-1]
            assert np.array_equal(image, frame)

    @pytest.mark.parametrize('suffix', ['.png', '.jpg'])
    def test_one_image(self, tmp_path, folder, walk, suffix):
        source = folder / 'shot95.png'
        assert restore_clip(source, tmp_path / f'out{suffix}', copier()) == (1, [])
        image = cv2.imread(str(tmp_path / f'out{suffix}'))[..., ::-1]
        assert psnr(image, walk[0]) > (90 if suffix == '.png' else 34)

    def test_transparency_is_named(self, tmp_path, walk, caplog):
        image = np.dstack([walk[0], walk[0][..., 0]])
        cv2.imwrite(str(tmp_path / 'in.png'), image)
        restore_clip(tmp_path / 'in.png', tmp_path / 'out.png', copier())
        assert 'in.png: transparency is ignored' in caplog.text

    @staticmethod
    def described(path: Path, image: np.ndarray, orientation: int = 6) -> Path:
        """Write an image with all kinds of metadata that an image file can have."""
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = orientation, 'Camera'
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.01
        space = ImageCms.createProfile('LAB' if path.stem == 'lab' else 'sRGB')
        kept = dict(
            exif=exif.tobytes(),
            dpi=(300, 300),
            icc_profile=ImageCms.ImageCmsProfile(space).tobytes(),
        )
        info = PngInfo()
        info.add_text('Title', 'A walk')
        info.add_itxt('XML:com.adobe.xmp', '<x:xmpmeta/>')
        png = path.suffix == '.png'
        kept |= dict(pnginfo=info) if png else dict(xmp=b'<x:xmpmeta/>', comment=b'A walk')
        Image.fromarray(image).save(path, **kept)
        return path

    @pytest.mark.parametrize('source', ['in.png', 'in.jpg'])
    @pytest.mark.parametrize('target', ['out.png', 'out.jpg', 'out'])
    def test_metadata(self, tmp_path, walk, caplog, source, target):
        (tmp_path / 'in').mkdir()
        given = self.described(tmp_path / 'in' / source, walk[0])
        target = tmp_path / target
        restore_clip(given if target.suffix else given.parent, target, copier())
        with (
            Image.open(given) as before,
            Image.open(target if target.suffix else target / 'in.png') as after,
        ):
            after.load()
            assert after.size == before.size[::-1], 'upright'
            for key in ('icc_profile', 'xmp'):
                assert after.info[key] == before.info[key]
            assert np.allclose(after.info['dpi'], 300, atol=0.1)
            exif = after.getexif()
            assert exif[ExifTags.Base.Orientation] == 1
            assert exif[ExifTags.Base.Make] == 'Camera'
            assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] == 0.01
            word = 'comment' if after.format == 'JPEG' else 'Title'
            kept = after.info.get(word) in ('A walk', b'A walk')
        lost = 'comment' if source == 'in.jpg' else 'text'
        assert kept != (f'not copied: {lost}' in caplog.text)

    def test_metadata_of_images_is_named_for_a_video(self, tmp_path, walk, caplog):
        (tmp_path / 'in').mkdir()
        self.described(tmp_path / 'in' / '1.png', walk[0], 1)
        restore_clip(tmp_path / 'in', tmp_path / 'out.mp4', copier())
        assert 'not copied: ICC profile of the images; EXIF of the images' in caplog.text

    def test_metadata_that_cannot_be_read_is_named(self, tmp_path, walk, caplog, monkeypatch):
        source = self.described(tmp_path / 'in.png', walk[0], 1)
        monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
        restore_clip(source, tmp_path / 'out.png', copier())
        assert 'not copied: metadata, which cannot be read' in caplog.text

    def test_profile_of_other_colours_is_named(self, tmp_path, walk, caplog):
        source = self.described(tmp_path / 'lab.png', walk[0], 1)
        restore_clip(source, tmp_path / 'out.png', copier())
        assert 'not copied: profile of other colours' in caplog.text
        with Image.open(tmp_path / 'out.png') as image:
            assert 'icc_profile' not in image.info

    def test_two_images_of_one_name(self, tmp_path, folder, walk):
        cv2.imwrite(str(folder / 'shot95.jpg'), walk[0])
        with pytest.raises(UserError, match=r'shot95.jpg and shot95.png are the same frame'):
            restore_clip(folder, tmp_path / 'out', copier())

    def test_overwrite_replaces_the_whole_folder(self, tmp_path, folder, walk):
        target = tmp_path / 'out'
        target.mkdir()
        cv2.imwrite(str(target / 'old.png'), walk[0])
        restore_clip(folder, target, copier(), overwrite=True)
        assert len(list(target.iterdir())) == 12
        assert not (target / 'old.png').exists()
        assert not (tmp_path / 'out.part').exists()

    def test_image_of_another_size(self, tmp_path, folder):
        cv2.imwrite(str(folder / 'shot999.png'), np.zeros((9, 9, 3), np.uint8))
        with pytest.raises(
            UserError, match=r'shot999.png: 9x9, but the images before it are 128x96'
        ):
            restore_clip(folder, tmp_path / 'out', copier())
        assert not (tmp_path / 'out').exists()


class TestStopped:
    """An interrupted run continues where it stopped."""

    @staticmethod
    def stop_after(monkeypatch, count, error=KeyboardInterrupt):
        original = module.restored_frames

        def stopping(*arguments):
            for i, frame in enumerate(original(*arguments)):
                if i == count:
                    raise error
                yield frame

        monkeypatch.setattr(module, 'restored_frames', stopping)

    @pytest.mark.slow
    @pytest.mark.parametrize('name', ['out.mp4', 'out.mkv', 'out'])
    @pytest.mark.parametrize('options', [Options(), Options(start=20, end=180, side_by_side=True)])
    def test_resumed_result_is_the_same(
        self, tmp_path, write_video, walk, monkeypatch, name, options
    ):
        frames = [walk[i % 12] for i in range(3 * SEGMENT + 10)]
        source = write_video(tmp_path / 'in.mp4', frames, sound='aac')
        whole = tmp_path / f'whole{Path(name).suffix}'
        restore_clip(source, whole, Deblurrer(Mean()), options)
        target = tmp_path / name
        with monkeypatch.context() as patch:
            self.stop_after(patch, SEGMENT + 20)
            with pytest.raises(KeyboardInterrupt):
                restore_clip(source, target, Deblurrer(Mean()), options)
        assert not target.exists()
        with pytest.raises(UserError, match='the frames of an unfinished run; use --resume'):
            restore_clip(source, target, Deblurrer(Mean()), options)
        begun = []
        count, _ = restore_clip(
            source,
            target,
            Deblurrer(Mean()),
            options,
            resume=True,
            progress=lambda total, done: begun.append((total, done)) or (lambda: None),
        )
        length = 160 if options.end else 3 * SEGMENT + 10
        assert count == length
        assert begun == [(length, SEGMENT + 20 if name == 'out' else SEGMENT)]
        if name == 'out':
            found = {p.name: p.read_bytes() for p in target.iterdir()}
            assert found == {p.name: p.read_bytes() for p in whole.iterdir()}
        else:
            assert target.read_bytes() == whole.read_bytes() or name.endswith('mkv')
            assert packets(target, 'video')[:2] == packets(whole, 'video')[:2]
            assert packets(target, 'audio')[:2] == packets(whole, 'audio')[:2]
        assert not target.with_name(f'{name}.part').exists()

    def test_other_arguments_cannot_resume(self, tmp_path, write_video, walk, monkeypatch):
        frames = [walk[i % 12] for i in range(SEGMENT + 5)]
        source = write_video(tmp_path / 'in.mp4', frames)
        with monkeypatch.context() as patch:
            self.stop_after(patch, SEGMENT + 2)
            with pytest.raises(KeyboardInterrupt):
                restore_clip(source, tmp_path / 'out.mp4', copier())
        other = Options(crf=30, start=2)
        with pytest.raises(UserError, match='cannot resume, because start and options changed'):
            restore_clip(source, tmp_path / 'out.mp4', copier(), other, resume=True)
        restore_clip(source, tmp_path / 'out.mp4', copier(), other, overwrite=True)
        assert len(decoded(tmp_path / 'out.mp4')[0]) == SEGMENT + 3

    @pytest.mark.parametrize('left', [0, 0.5, 0.99])
    def test_segment_damaged_by_a_power_cut_is_written_again(
        self, tmp_path, write_video, walk, monkeypatch, left
    ):
        frames = [walk[i % 12] for i in range(3 * SEGMENT)]
        source = write_video(tmp_path / 'in.mp4', frames)
        target = tmp_path / 'out.mp4'
        with monkeypatch.context() as patch:
            self.stop_after(patch, 3 * SEGMENT - 1)
            with pytest.raises(KeyboardInterrupt):
                restore_clip(source, target, copier())
        first = next((tmp_path / 'out.mp4.part').glob('000000*.nut'))
        first.write_bytes(first.read_bytes()[: int(left * first.stat().st_size)])
        begun = []
        restore_clip(
            source,
            target,
            copier(),
            resume=True,
            progress=lambda total, done: begun.append(done) or (lambda: None),
        )
        assert begun == [0]
        assert_same_pictures(decoded(target)[0], frames, 33)

    def test_changed_images_cannot_resume(self, tmp_path, walk, monkeypatch):
        folder = tmp_path / 'frames'
        folder.mkdir()
        for i, frame in enumerate(walk):
            cv2.imwrite(str(folder / f'{i}.png'), frame)
        with monkeypatch.context() as patch:
            self.stop_after(patch, 5)
            with pytest.raises(KeyboardInterrupt):
                restore_clip(folder, tmp_path / 'out', copier())
        before = folder.stat()
        (folder / '0.png').write_bytes((folder / '1.png').read_bytes())
        assert folder.stat().st_mtime_ns == before.st_mtime_ns
        with pytest.raises(UserError, match='cannot resume, because images changed'):
            restore_clip(folder, tmp_path / 'out', copier(), resume=True)

    def test_resume_without_an_unfinished_run_starts(self, tmp_path, write_video, walk):
        source = write_video(tmp_path / 'in.mp4', walk)
        assert restore_clip(source, tmp_path / 'out.mp4', copier(), resume=True) == (12, [])


class TestDamaged:
    @pytest.mark.parametrize('part', [0.5, 0.9])
    def test_readable_frames_are_restored(self, tmp_path, write_video, walk, part):
        frames = [walk[i % 12] for i in range(60)]
        source = write_video(tmp_path / 'in.mkv', frames, sound='libopus', options={'g': '10'})
        content = source.read_bytes()
        source.write_bytes(content[: int(part * len(content))])
        count, faults = restore_clip(source, tmp_path / 'out.mkv', copier())
        assert part * 60 - 8 <= count <= part * 60 + 8
        assert len(faults) >= 1
        assert str(source) in faults[0]
        assert len(decoded(tmp_path / 'out.mkv')[0]) == count

    def test_size_that_changes_ends_the_clip(self, tmp_path, write_video, walk):
        small = [np.ascontiguousarray(frame[::2, ::2]) for frame in walk]
        parts = [
            write_video(tmp_path / f'{i}.ts', frames, options={'crf': '1', 'bf': '0'})
            for i, frames in enumerate((walk, small))
        ]
        source = tmp_path / 'in.ts'
        source.write_bytes(b''.join(part.read_bytes() for part in parts))
        count, faults = restore_clip(source, tmp_path / 'out.mp4', copier())
        assert count == 12
        assert 'frame 12 is 64x48, but the frames before it are 128x96' in faults[0]


class TestRefused:
    @pytest.fixture
    def source(self, tmp_path, write_video, walk) -> Path:
        return write_video(tmp_path / 'in.mp4', walk, sound='aac')

    @pytest.mark.parametrize(
        ('name', 'content', 'message'),
        [
            ('none.mp4', None, 'no such file or folder'),
            ('empty.mp4', b'', 'not a video that can be read'),
            ('text.mp4', b'words, words, words\n' * 99, 'not a video'),
            ('text.txt', b'words, words, words\n' * 99, 'not a video'),
            ('noise.mp4', np.random.default_rng(0).bytes(9999), 'not a video'),
            ('list.m3u8', b'#EXTM3U\n#EXTINF:1,\nin.mp4\n', 'not a video'),
            ('picture.png', b'no picture', 'cannot be decoded'),
        ],
    )
    def test_no_video(self, tmp_path, source, name, content, message):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            restore_clip(path, tmp_path / ('out.png' if '.png' in name else 'out.mp4'), copier())
        assert str(path) in str(caught.value)

    def test_sound_alone(self, tmp_path, source):
        with av.open(str(source)) as given, av.open(str(tmp_path / 'sound.mp4'), 'w') as out:
            stream = out.add_stream_from_template(given.streams.audio[0])
            for packet in given.demux(given.streams.audio[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
        with pytest.raises(UserError, match=r'sound.mp4: has no video stream; give a video'):
            restore_clip(tmp_path / 'sound.mp4', tmp_path / 'out.mp4', copier())

    def test_no_frame(self, tmp_path, source):
        with av.open(str(tmp_path / 'none.mkv'), 'w') as out:
            stream = out.add_stream('libx264', rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 64, 'yuv420p'
            out.start_encoding()
        with pytest.raises(UserError, match=r'no frame can be decoded|not a video'):
            restore_clip(tmp_path / 'none.mkv', tmp_path / 'out.mp4', copier())

    @pytest.mark.parametrize(
        ('target', 'message'),
        [
            ('in.mp4', 'is the input'),
            ('nowhere/out.mp4', 'nowhere does not exist; create it first'),
            ('there.mp4', 'already exists; use --overwrite to replace it'),
            ('folder.mp4', 'is a folder'),
            ('out.avi', 'videos can only be written as .mp4, .mkv, .mov'),
            ('out.png', 'a clip cannot be written to one image'),
        ],
    )
    def test_target(self, tmp_path, source, target, message):
        (tmp_path / 'there.mp4').write_bytes(b'precious')
        (tmp_path / 'folder.mp4').mkdir()
        with pytest.raises(UserError, match=message):
            restore_clip(source, tmp_path / target, copier())
        assert (tmp_path / 'there.mp4').read_bytes() == b'precious'

    def test_folder_with_other_files_is_not_replaced(self, tmp_path, source):
        (tmp_path / 'papers').mkdir()
        (tmp_path / 'papers' / 'thesis.tex').touch()
        with pytest.raises(UserError, match='contains files other than images'):
            restore_clip(source, tmp_path / 'papers', copier(), overwrite=True)
        assert (tmp_path / 'papers' / 'thesis.tex').exists()

    @pytest.mark.parametrize('above', ['photos', '.'])
    def test_folder_of_the_input_is_not_replaced(self, tmp_path, walk, above):
        (tmp_path / 'photos').mkdir()
        for i in range(3):
            cv2.imwrite(str(tmp_path / 'photos' / f'{i}.png'), walk[i])
        target = tmp_path / above
        with pytest.raises(UserError, match='is the folder that contains the input'):
            restore_clip(tmp_path / 'photos' / '0.png', target, copier(), overwrite=True)
        assert len(list((tmp_path / 'photos').iterdir())) == 3

    def test_folder_named_part_with_other_files_is_not_emptied(self, tmp_path, source):
        papers = tmp_path / 'out.mp4.part'
        papers.mkdir()
        (papers / 'thesis.tex').touch()
        for overwrite in (False, True):
            with pytest.raises(UserError, match='is not an unfinished run of this command'):
                restore_clip(source, tmp_path / 'out.mp4', copier(), overwrite=overwrite)
        assert (papers / 'thesis.tex').exists()

    def test_link_to_a_folder(self, tmp_path, source):
        (tmp_path / 'far').mkdir()
        (tmp_path / 'link').symlink_to(tmp_path / 'far')
        with pytest.raises(UserError, match='is a link to a folder; use that folder itself'):
            restore_clip(source, tmp_path / 'link', copier(), overwrite=True)

    def test_second_run_for_the_same_target(self, tmp_path, source):
        with (
            sole_writer(tmp_path / 'out.mp4.part'),
            pytest.raises(UserError, match='another process is writing to'),
        ):
            restore_clip(source, tmp_path / 'out.mp4', copier())

    def test_run_that_starts_when_the_first_ends_keeps_the_lock(
        self, tmp_path, source, monkeypatch
    ):
        """It gets the folder as soon as the lock is released, and keeps the lock."""
        part, release = tmp_path / 'out.mp4.part', FileLock.release
        with contextlib.ExitStack() as stack:

            def released(lock, *arguments, **keywords) -> None:
                release(lock, *arguments, **keywords)
                monkeypatch.undo()
                stack.enter_context(sole_writer(part))

            monkeypatch.setattr(FileLock, 'release', released)
            restore_clip(source, tmp_path / 'out.mp4', copier())
            with pytest.raises(UserError, match='another process'), sole_writer(part):
                pass

    def test_link_to_a_file(self, tmp_path, source):
        (tmp_path / 'far').mkdir()
        (tmp_path / 'link.mp4').symlink_to(tmp_path / 'far' / 'out.mp4')
        restore_clip(source, tmp_path / 'link.mp4', copier())
        assert (tmp_path / 'link.mp4').is_symlink()
        assert [path.name for path in (tmp_path / 'far').iterdir()] == ['out.mp4']

    @pytest.mark.parametrize('name', ['out.mp4', 'out'])
    def test_full_disk(self, tmp_path, source, monkeypatch, name):
        def full(*_):
            raise OSError(errno.ENOSPC, 'No space left on device')

        with monkeypatch.context() as patch:
            patch.setattr(files, 'put_in_place', full)
            with pytest.raises(UserError, match=r'is full\. Finished frames are kept; free some'):
                restore_clip(source, tmp_path / name, copier(), overwrite=True)
        assert not (tmp_path / name).exists()
        restore_clip(source, tmp_path / name, copier(), resume=True)

    def test_unsupported_colour_matrix(self):
        frame = av.VideoFrame(64, 48, 'yuv444p')
        frame.colorspace = 8  # YCgCo
        with pytest.raises(UserError, match='colour matrix 8 cannot be converted to RGB'):
            to_array(frame, 'rgb24', EXACT)

    def test_start_beyond_the_end(self, tmp_path, source):
        with pytest.raises(UserError, match=r'has only 12 frames, .* --start 12 is too large'):
            restore_clip(source, tmp_path / 'out.mp4', copier(), Options(start=12))

    def test_ffv1_in_mp4(self, tmp_path, source):
        with pytest.raises(UserError, match=r'ffv1 can only be stored in .mkv'):
            restore_clip(source, tmp_path / 'out.mp4', copier(), Options(codec='ffv1'))

    def test_h265_of_a_tiny_frame(self, tmp_path, write_video, walk):
        source = write_video(tmp_path / 'tiny.mp4', [np.ascontiguousarray(walk[0][:8, :8])])
        with pytest.raises(UserError, match='8x8 is too small for h265'):
            restore_clip(source, tmp_path / 'out.mp4', copier(), Options(codec='h265'))


class TestInThread:
    def test_items_in_order(self):
        assert list(in_thread(range(100))) == list(range(100))

    def test_error_is_raised_in_the_caller(self):
        def items():
            yield 1
            raise UserError('damaged')

        stream = in_thread(items())
        assert next(stream) == 1
        with pytest.raises(UserError, match='damaged'):
            next(stream)

    def test_closing_ends_the_thread_and_the_source(self):
        closed = []

        def items():
            try:
                while True:
                    yield 1
            finally:
                closed.append(True)

        stream = in_thread(items())
        next(stream)
        stream.close()
        assert closed == [True]
