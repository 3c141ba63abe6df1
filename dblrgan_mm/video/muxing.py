"""Mux encoded frames with the sound and subtitles of their source into one video file."""

import bisect
import contextlib
import functools
import heapq
import io
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from dblrgan_mm.errors import UserError
from dblrgan_mm.video.decoding import RESTART, Format, open_container, video_stream

# Layouts for sound that states only its number of channels, as in AVI; .mp4 needs a layout
LAYOUTS = {'1 channels': 'mono', '2 channels': 'stereo'}


def mux(
    segments: list[Path],
    frame_format: Format,
    target: Path,
    source: Path | None,
    cut: bool,
    last_duration: int | None = None,
) -> list[str]:
    """Write a video file.

    Args:
        segments: files of encoded frames, in order, named as by ``VideoParts``.
        frame_format: format of the frames.
        target: path of the file; its suffix selects the container.
        source: video to copy sound, subtitles, chapters and titles from; None: copy nothing.
        cut: True if the frames are only a part of the source: time 0 is then the first frame, and
            sound is cut to the frames, at the nearest packet. False: time 0 is the start of the
            source.
        last_duration: duration of the last frame, in units of the time base. None: the average
            duration of a frame. Ignored if ``cut``.

    Returns:
        Descriptions of what could not be copied from the source, a few words each.

    Raises:
        UserError: the segments were written by different encoders.
    """
    import av

    write = functools.partial(_write, segments, frame_format, target, source, cut, last_duration)
    try:
        return write({})
    except av.FFmpegError as error:
        if source is None or _is_io(error):
            raise
    # some errors appear only when the file is closed, so try each stream alone to find the bad ones
    with open_container(source) as original:
        copied = [s.index for s in original.streams if s.type in ('audio', 'subtitle')]
    refused: dict[int, str] = {}
    for index in copied:
        try:
            write({other: '' for other in copied if other != index})
        except av.FFmpegError as error:
            if _is_io(error):
                raise
            refused[index] = error.strerror or str(error)
    return write(refused)


def _is_io(error: Exception) -> bool:
    """Return whether a PyAV error comes from the file system, such as a full disk."""
    return isinstance(error, OSError) and bool(error.errno)


def _write(
    segments: list[Path],
    frame_format: Format,
    target: Path,
    source: Path | None,
    cut: bool,
    last_duration: int | None,
    refused: dict[int, str],
) -> list[str]:
    """Do the work of :func:`mux`.

    Args:
        refused: reasons why streams of the source are left out, by stream index.
    """
    import av

    base = frame_format.time_base
    interval = max(1, round(1 / frame_format.rate / base))
    decode_pts = array('q', (packet.pts for packet in _packets(segments, base)))  # decoding order
    display_pts = array('q', sorted(decode_pts))
    origin = display_pts[0] if cut else 0
    end = (display_pts[-1] + interval) * base if cut else None
    last_duration = interval if cut else last_duration or interval
    # the largest number of positions by which a frame is decoded before it is displayed
    delay = max(i - bisect.bisect_left(display_pts, pts) for i, pts in enumerate(decode_pts))
    left_out: list[str] = []
    damaged: Counter[str] = Counter()

    with contextlib.ExitStack() as stack:
        segment = stack.enter_context(av.open(os.path.abspath(segments[0])))
        out = stack.enter_context(av.open(os.path.abspath(target), 'w'))
        video = out.add_stream_from_template(segment.streams.video[0])
        video.time_base = base
        video.codec_context.framerate = frame_format.rate
        codec = segment.streams.video[0].codec_context.name
        if codec == 'hevc' and out.format.name != 'matroska':
            video.codec_tag = 'hvc1'  # required by Apple's players
        if codec == 'ffv1':  # other codecs store these in the bitstream
            video.codec_context.color_primaries = frame_format.tags['color_primaries']
            video.codec_context.color_trc = frame_format.tags['color_trc']

        def pictures() -> Iterator[tuple[float, Any]]:
            for i, packet in enumerate(_packets(segments, base)):
                position = bisect.bisect_left(display_pts, packet.pts)
                after = display_pts[position + 1] if position + 1 < len(display_pts) else None
                packet.duration = last_duration if after is None else after - packet.pts
                # the first frames are decoded before the first one is displayed; each later frame
                # when the frame `delay` positions earlier is displayed
                back = delay - i
                packet.dts = display_pts[0] - back * interval if back > 0 else display_pts[-back]
                if i == len(decode_pts) - 1:  # in .mp4 the track ends with the last decoded frame
                    length = display_pts[-1] + last_duration - display_pts[0]
                    decoded = packet.dts - (display_pts[0] - delay * interval)
                    packet.duration = max(1, length - decoded)
                packet.dts -= origin
                packet.pts -= origin
                packet.time_base = base
                packet.stream = video
                yield float(packet.dts * base), packet

        flows = [pictures()]
        if source is not None:
            original = stack.enter_context(open_container(source))
            copies, left_out = _copy_streams(original, source, out, video, refused)
            start = Fraction(original.start_time or 0, 1_000_000)
            # The time stamps of broadcasts start anywhere. A start before 0, with all frames at 0
            # or later, is only the priming of the sound and is not shifted.
            if not cut and (start > 0 or display_pts[0] < 0):
                origin = round(start / base)
            if not cut:
                chapters = original.chapters()
                out.set_chapters([_shifted(chapter, origin * base) for chapter in chapters])
            # .mp4 and .mov can hide packets before time 0, as the source did
            hide = out.format.name != 'matroska'
            flows.append(_copied_packets(original, copies, origin * base, end, hide, left_out))
        for _, packet in heapq.merge(*flows, key=lambda item: item[0]):
            stream = packet.stream
            try:
                out.mux(packet)
            except av.FFmpegError as error:
                if stream is video or _is_io(error):
                    raise
                damaged[f'damaged packets of {stream.type} stream {stream.index}'] += 1
    return left_out + [f'{count} {what}' for what, count in damaged.items()]


def _packets(segments: list[Path], base: Fraction) -> Iterator[Any]:
    """Yield the encoded frames of all segments in order, with times in units of ``base``."""
    import av

    extradata = None
    for path in segments:
        with av.open(os.path.abspath(path)) as container:
            stream = container.streams.video[0]
            if extradata is None:
                extradata = stream.codec_context.extradata
            if stream.codec_context.extradata != extradata:
                raise UserError(
                    f'{path.parent}: was started with another version of the encoder; run again '
                    'with --overwrite instead of --resume'
                )
            # Any, because all packets of a segment have times, unlike those of other files
            packets: list[Any] = [packet for packet in container.demux(stream) if packet.size]
            # the muxer shifts times so that none is negative; undo that
            shift = int(path.stem.split('_')[2]) - min(
                round(packet.pts * packet.time_base / base) for packet in packets
            )
            for packet in packets:
                packet.pts = round(packet.pts * packet.time_base / base) + shift
                yield packet


def _copy_streams(
    original: Any, source: Path, out: Any, video: Any, refused: dict[int, str]
) -> tuple[dict[int, Any], list[str]]:
    """Add output streams for sound and subtitles, and copy fonts, titles and languages.

    Returns:
        The output streams by stream index in the source, and descriptions of what is left out, a
        few words each.
    """
    copies, left_out = {}, []
    pictures = video_stream(original, source)
    for stream in original.streams:
        if stream is pictures:
            continue
        name = f'{stream.type} stream {stream.index}'
        if stream.codec_context is not None:
            name += f' ({stream.codec_context.name})'
        refusal = f'{name}, which PyAV cannot write to {Path(out.name).suffix}'
        if stream.type not in ('audio', 'subtitle', 'attachment'):
            left_out.append(name)
        elif stream.index in refused:
            left_out.append(f'{refusal} ({refused[stream.index]})')
        elif not _can_hold(out, stream):
            left_out.append(refusal)
        elif stream.type == 'attachment':  # fonts of subtitles
            out.add_attachment(stream.name, stream.mimetype, stream.data)
        else:
            copies[stream.index] = copy = out.add_stream_from_template(stream)
            if stream.type == 'audio' and stream.layout.name in LAYOUTS:
                copy.codec_context.layout = LAYOUTS[stream.layout.name]
            _describe(copy, stream)
    _describe(video, pictures)
    technical = ('major_brand', 'minor_version', 'compatible_brands', 'encoder')
    out.metadata.update({k: v for k, v in original.metadata.items() if k.lower() not in technical})
    return copies, left_out


def _can_hold(container: Any, stream: Any) -> bool:
    """Return whether PyAV can write a stream to an output container.

    The only way to know is to try. FFmpeg's lists of supported codecs contain codecs that it then
    refuses. PyAV also refuses codecs that are not in these lists, though FFmpeg can write some of
    them (such as G.711 in Matroska).
    """
    import av

    if stream.type == 'attachment':
        return container.format.name == 'matroska' and hasattr(container, 'add_attachment')
    if stream.codec_context is None:
        return False
    try:
        with av.open(io.BytesIO(), 'w', format=container.format.name) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def _shifted(chapter: Any, begin: Fraction) -> Any:
    """Return a chapter with its times counted from ``begin``, in seconds."""
    shift = round(begin / chapter['time_base'])
    return {**chapter, 'start': chapter['start'] - shift, 'end': chapter['end'] - shift}


def _describe(copy: Any, stream: Any) -> None:
    """Copy the language, title and disposition of a stream."""
    wanted = ('language', 'title', 'handler_name')
    copy.metadata.update({k: v for k, v in stream.metadata.items() if k.lower() in wanted})
    copy.disposition = stream.disposition


def _copied_packets(
    container: Any,
    copies: dict[int, Any],
    begin: Fraction,
    end: Fraction | None,
    hide: bool,
    left_out: list[str],
) -> Iterator[tuple[float, Any]]:
    """Yield the packets to copy from a source, with the time in seconds to sort them by.

    Where times jump back, as in files that were joined, they continue from the last time. Packets
    that an edit list of the source hides are left out.

    Args:
        container: the source.
        copies: output streams by stream index in the source.
        begin: time in the source, in seconds, that becomes 0.
        end: time in seconds; copy only the packets from ``begin`` to ``end``. None: copy all.
        hide: copy packets before time 0 that the source hides. Only for outputs that can hide them.
            The first audible packet cannot be decoded exactly without the one before it.
        left_out: gets a description of what cannot be read.
    """
    import av

    if not copies:
        return
    time = begin
    last: dict[Any, int] = {}
    shifts: Counter[Any] = Counter()
    try:
        for packet in container.demux([container.streams[i] for i in copies]):
            if packet.dts is None or packet.time_base is None:
                continue
            if packet.is_discard and not (hide and packet.pts is not None and packet.pts < 0):
                continue
            packet.stream = copy = copies[packet.stream.index]
            fall = last.get(copy, packet.dts) - packet.dts - shifts[copy]
            if fall * packet.time_base > RESTART:
                shifts[copy] += fall + (packet.duration or 1)
            packet.dts += shifts[copy]
            if packet.pts is not None:
                packet.pts += shifts[copy]
            # Containers require increasing times, but Matroska files may contain equal times, and
            # damaged files decreasing ones.
            if packet.dts <= last.get(copy, packet.dts - 1):
                packet.dts = last[copy] + 1
                packet.pts = None if packet.pts is None else max(packet.pts, packet.dts)
            last[copy] = packet.dts
            time = (packet.dts if packet.pts is None else packet.pts) * packet.time_base
            if end is not None and not begin <= time < end:
                continue
            shift = round(begin / packet.time_base)
            packet.dts -= shift
            if packet.pts is not None:
                packet.pts -= shift
            yield float(packet.dts * packet.time_base), packet
    except av.FFmpegError as error:
        left_out.append(f'sound and subtitles after {float(time - begin):.1f} s ({error.strerror})')
