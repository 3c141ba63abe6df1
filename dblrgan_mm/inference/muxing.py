"""Encoded frames, and the sound and subtitles of their source, in one video file."""

import bisect
import contextlib
import heapq
import io
import os
from array import array
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from dblrgan_mm.clips.videos import RESTART, Format, open_container, video_stream
from dblrgan_mm.errors import UserError


def mux(
    segments: list[Path],
    given: Format,
    target: Path,
    source: Path | None,
    cut: bool,
    last_duration: int | None = None,
) -> list[str]:
    """Write a video file.

    Args:
        segments: encoded frames in order, as ``VideoParts`` names them.
        given: their format.
        target: the file; its suffix is the container.
        source: the video that sound, subtitles, chapters and titles are copied from.
        cut: whether the frames are a part of the source's. Time then begins at the first one, and
            sound is cut to them, to the nearest packet. Otherwise time begins where the source
            does.
        last_duration: how long the last frame stays, in units of the time base. None: as long as
            frames do on average.

    Returns:
        What of the source could not be taken over, a few words each.

    Raises:
        UserError: the segments are not of one encoder.
    """
    import av

    try:
        return _write(segments, given, target, source, cut, last_duration)
    except av.FFmpegError as error:
        if source is None or (isinstance(error, OSError) and error.errno):
            raise
        # the frames are ours and whole: it is a packet of the source, met at one of theirs
        left_out = _write(segments, given, target, source, cut, last_duration, streams=False)
        return [*left_out, f'its sound and subtitles, which are damaged ({error.strerror})']


def _write(
    segments: list[Path],
    given: Format,
    target: Path,
    source: Path | None,
    cut: bool,
    last_duration: int | None,
    streams: bool = True,
) -> list[str]:
    import av

    base = given.time_base
    interval = max(1, round(1 / given.rate / base))
    times = array('q', (packet.pts for packet in _packets(segments, base)))  # as decoded
    shown = array('q', sorted(times))
    first = shown[0] if cut else 0
    end = (shown[-1] + interval) * base if cut else None
    last_duration = interval if cut else last_duration or interval
    # frames are decoded before they are shown: by how many positions at most
    delay = max(i - bisect.bisect_left(shown, pts) for i, pts in enumerate(times))
    left_out: list[str] = []
    refused: Counter[str] = Counter()

    with contextlib.ExitStack() as stack:
        segment = stack.enter_context(av.open(os.path.abspath(segments[0])))
        out = stack.enter_context(av.open(os.path.abspath(target), 'w'))
        video = out.add_stream_from_template(segment.streams.video[0])
        video.time_base = base
        video.codec_context.framerate = given.rate
        codec = video.codec_context.name
        if codec == 'hevc' and target.suffix != '.mkv':
            video.codec_tag = 'hvc1'  # players of Apple ask for it
        if codec == 'ffv1':  # the others have them in their own data
            video.codec_context.color_primaries = given.tags['color_primaries']
            video.codec_context.color_trc = given.tags['color_trc']

        def pictures() -> Iterator[tuple[float, Any]]:
            for i, packet in enumerate(_packets(segments, base)):
                position = bisect.bisect_left(shown, packet.pts)
                after = shown[position + 1] if position + 1 < len(shown) else None
                packet.duration = last_duration if after is None else after - packet.pts
                back = delay - i
                packet.dts = shown[0] - back * interval if back > 0 else shown[-back]
                if i == len(times) - 1:  # in .mp4 the track ends with the one decoded last
                    length = shown[-1] + last_duration - shown[0]
                    decoded = packet.dts - (shown[0] - delay * interval)
                    packet.duration = max(1, length - decoded)
                packet.dts -= first
                packet.pts -= first
                packet.time_base = base
                packet.stream = video
                yield float(packet.dts * base), packet

        flows = [pictures()]
        if source is not None:
            original = stack.enter_context(open_container(source))
            copies, left_out = _copy_streams(original, source, out, video, streams)
            start = Fraction(original.start_time or 0, 1_000_000)
            # broadcasts begin anywhere; where sound begins before 0, that is its run-in
            if not cut and (start > 0 or shown[0] < 0):
                first = round(start / base)
            if not cut:
                out.set_chapters([_moved(chapter, first * base) for chapter in original.chapters()])
            flows.append(_copied(original, copies, first * base, end))
        for _, packet in heapq.merge(*flows, key=lambda item: item[0]):
            stream = packet.stream
            try:
                out.mux(packet)
            except av.FFmpegError as error:
                if stream is video or (isinstance(error, OSError) and error.errno):
                    raise
                refused[f'packets of its {stream.type} stream {stream.index}, damaged ones'] += 1
    return left_out + [f'{count} {what}' for what, count in refused.items()]


def _packets(segments: list[Path], base: Fraction) -> Iterator[Any]:
    """The encoded frames of all segments in order, times in units of ``base``."""
    import av

    extradata = None
    for path in segments:
        with av.open(os.path.abspath(path)) as container:
            stream = container.streams.video[0]
            if extradata is None:
                extradata = stream.codec_context.extradata
            if stream.codec_context.extradata != extradata:
                raise UserError(
                    f'{path.parent}: was begun with another version of the encoder; run '
                    'again with --overwrite in place of --resume'
                )
            packets = [packet for packet in container.demux(stream) if packet.size]
            # the muxer moves times so that none is negative
            shift = int(path.stem.split('_')[2]) - min(
                round(packet.pts * packet.time_base / base) for packet in packets
            )
            for packet in packets:
                packet.pts = round(packet.pts * packet.time_base / base) + shift
                yield packet


def _copy_streams(
    original: Any, source: Path, out: Any, video: Any, streams: bool
) -> tuple[dict[int, Any], list[str]]:
    """Make a stream for each of sound and subtitles, and take over titles and languages.

    Returns:
        The streams by the source's numbers, and what is left out, a few words each.
    """
    copies, left_out = {}, []
    pictures = video_stream(original, source)
    for stream in original.streams:
        if stream is pictures or (stream.type in ('audio', 'subtitle') and not streams):
            continue
        if stream.type not in ('audio', 'subtitle', 'attachment'):
            left_out.append(f'its {stream.type} stream {stream.index}')
        elif not _takes(out, stream):
            suffix = Path(out.name).suffix
            left_out.append(f'its {stream.type} stream {stream.index}, which {suffix} cannot hold')
        elif stream.type == 'attachment':  # fonts of subtitles
            out.add_attachment(stream.name, stream.mimetype, stream.data)
        else:
            copies[stream.index] = out.add_stream_from_template(stream)
            _describe(copies[stream.index], stream)
    _describe(video, pictures)
    technical = ('major_brand', 'minor_version', 'compatible_brands', 'encoder')
    out.metadata.update({k: v for k, v in original.metadata.items() if k.lower() not in technical})
    return copies, left_out


def _takes(container: Any, stream: Any) -> bool:
    """Whether an output container can hold a stream: it is tried, lists of FFmpeg tell less."""
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


def _moved(chapter: Any, begin: Fraction) -> Any:
    """A chapter whose time counts from ``begin``, in seconds."""
    shift = round(begin / chapter['time_base'])
    return {**chapter, 'start': chapter['start'] - shift, 'end': chapter['end'] - shift}


def _describe(copy: Any, stream: Any) -> None:
    """Take over the language, title and disposition of a stream."""
    wanted = ('language', 'title', 'handler_name')
    copy.metadata.update({k: v for k, v in stream.metadata.items() if k.lower() in wanted})
    copy.disposition = stream.disposition


def _copied(
    container: Any, copies: dict[int, Any], begin: Fraction, end: Fraction | None
) -> Iterator[tuple[float, Any]]:
    """The packets of a source's streams, with the time in seconds that they are sorted by.

    Where times fall back, as they do where files were joined, they go on from the last one.

    Args:
        container: the source.
        copies: the stream that each stream, by its number, goes to.
        begin: seconds that become 0.
        end: seconds at which it ends, and what lies before ``begin`` is left out; None: all.
    """
    import av

    if not copies:
        return
    last: dict[Any, int] = {}
    shifts: Counter[Any] = Counter()
    try:
        for packet in container.demux([container.streams[i] for i in copies]):
            if packet.dts is None or packet.time_base is None:
                continue
            packet.stream = copy = copies[packet.stream.index]
            fall = last.get(copy, packet.dts) - packet.dts - shifts[copy]
            if fall * packet.time_base > RESTART:
                shifts[copy] += fall + (packet.duration or 1)
            packet.dts += shifts[copy]
            if packet.pts is not None:
                packet.pts += shifts[copy]
            # containers take rising times alone; equal ones stand in Matroska, others in damage
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
    except av.FFmpegError:
        return  # the end of a damaged file, told when its frames were read
