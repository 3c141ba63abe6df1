"""Encoded frames, and the sound and subtitles of their source, in one video file."""

import bisect
import contextlib
import heapq
from array import array
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from dblrgan_mm.clips.videos import Format, open_container, video_stream
from dblrgan_mm.errors import UserError


def mux(
    segments: list[Path], given: Format, target: Path, source: Path | None, cut: bool
) -> list[str]:
    """Write a video file.

    Args:
        segments: encoded frames in order, as ``VideoParts`` names them.
        given: their format.
        target: the file; its suffix is the container.
        source: the video that sound, subtitles, chapters and titles are copied from.
        cut: whether the frames are a part of the source's. Time then begins at the first one, and
            sound is cut to them, to the nearest packet.

    Returns:
        What of the source could not be taken over, a few words each.

    Raises:
        UserError: the segments are not of one encoder.
    """
    import av

    try:
        return _write(segments, given, target, source, cut)
    except av.FFmpegError as error:
        if source is None or (isinstance(error, OSError) and error.errno):
            raise
        # the frames are ours and whole: it is a packet of the source, met at one of theirs
        left_out = _write(segments, given, target, source, cut, streams=False)
        return [*left_out, f'its sound and subtitles, which are damaged ({error.strerror})']


def _write(
    segments: list[Path],
    given: Format,
    target: Path,
    source: Path | None,
    cut: bool,
    streams: bool = True,
) -> list[str]:
    import av

    base = given.time_base
    interval = max(1, round(1 / given.rate / base))
    times = array('q', (packet.pts for packet in _packets(segments, base)))  # as decoded
    shown = array('q', sorted(times))
    first = shown[0] if cut else 0
    end = (shown[-1] + interval) * base
    # frames are decoded before they are shown: by how many positions at most
    delay = max(i - bisect.bisect_left(shown, pts) for i, pts in enumerate(times))
    left_out: list[str] = []
    refused: Counter[str] = Counter()

    with contextlib.ExitStack() as stack:
        segment = stack.enter_context(av.open(str(segments[0])))
        out = stack.enter_context(av.open(str(target), 'w'))
        video = out.add_stream_from_template(segment.streams.video[0])
        video.time_base = base
        video.codec_context.framerate = given.rate
        if video.codec_context.name == 'hevc' and target.suffix != '.mkv':
            video.codec_tag = 'hvc1'  # players of Apple ask for it

        def pictures() -> Iterator[tuple[float, Any]]:
            for i, packet in enumerate(_packets(segments, base)):
                position = bisect.bisect_left(shown, packet.pts)
                after = shown[position + 1] if position + 1 < len(shown) else None
                packet.duration = (after or packet.pts + interval) - packet.pts
                back = delay - i
                packet.dts = (shown[0] - back * interval if back > 0 else shown[-back]) - first
                packet.pts -= first
                packet.time_base = base
                packet.stream = video
                yield float(packet.dts * base), packet

        flows = [pictures()]
        if source is not None:
            original = stack.enter_context(open_container(source))
            copies, left_out = _copy_streams(original, source, out, video, streams)
            if not cut:
                out.set_chapters(original.chapters())
            flows.append(_copied(original, copies, (first * base, end) if cut else None))
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
        with av.open(str(path)) as container:
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
        if stream.type not in ('audio', 'subtitle'):
            if stream is not pictures:
                left_out.append(f'its {stream.type} stream {stream.index}')
            continue
        if not streams:
            continue
        if stream.codec_context is None or not _takes(out, stream):
            left_out.append(
                f'its {stream.type} stream {stream.index}, which {Path(out.name).suffix} cannot '
                'hold'
            )
            continue
        copies[stream.index] = out.add_stream_from_template(stream)
        _describe(copies[stream.index], stream)
    _describe(video, pictures)
    technical = ('major_brand', 'minor_version', 'compatible_brands', 'encoder')
    out.metadata.update({k: v for k, v in original.metadata.items() if k.lower() not in technical})
    return copies, left_out


def _takes(container: Any, stream: Any) -> bool:
    """Whether an output container can hold the codec of a stream."""
    return stream.codec_context.codec.canonical_name in container.supported_codecs


def _describe(copy: Any, stream: Any) -> None:
    """Take over the language, title and disposition of a stream."""
    wanted = ('language', 'title', 'handler_name')
    copy.metadata.update({k: v for k, v in stream.metadata.items() if k.lower() in wanted})
    copy.disposition = stream.disposition


def _copied(
    container: Any, copies: dict[int, Any], span: tuple[Fraction, Fraction] | None
) -> Iterator[tuple[float, Any]]:
    """The packets of a source's streams, with the time in seconds that they are sorted by.

    Args:
        container: the source.
        copies: the stream that each stream, by its number, goes to.
        span: seconds that are taken, moved to begin at 0; None: all, where they are.
    """
    import av

    if not copies:
        return
    last: dict[Any, int] = {}
    try:
        for packet in container.demux([container.streams[i] for i in copies]):
            if packet.dts is None or packet.time_base is None:
                continue
            if span is not None:
                time = (packet.dts if packet.pts is None else packet.pts) * packet.time_base
                if not span[0] <= time < span[1]:
                    continue
                shift = round(span[0] / packet.time_base)
                packet.dts -= shift
                if packet.pts is not None:
                    packet.pts -= shift
            packet.stream = copy = copies[packet.stream.index]
            # containers take rising times alone; equal ones stand in Matroska, others in damage
            if packet.dts <= last.get(copy, packet.dts - 1):
                packet.dts = last[copy] + 1
                packet.pts = None if packet.pts is None else max(packet.pts, packet.dts)
            last[copy] = packet.dts
            yield float(packet.dts * packet.time_base), packet
    except av.FFmpegError:
        return  # the end of a damaged file, told when its frames were read
