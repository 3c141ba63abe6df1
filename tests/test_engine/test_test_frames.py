"""Frames that a test keeps for its page."""

from types import SimpleNamespace

import cv2
import pytest
import torch

from dblrgan_mm.engine import test_frames
from dblrgan_mm.engine.test_frames import TestFramesHook


def sample(key: str, level: float, sharp: bool = True) -> SimpleNamespace:
    """A sample whose restored frame is one level darker than the sharp one."""
    frame = torch.full((3, 12, 16), level)
    fields = dict(input=frame.expand(5, 3, 12, 16) - 4, output=SimpleNamespace(pred_img=frame - 1))
    fields |= dict(gt_img=frame[None]) if sharp else {}

    class Sample(SimpleNamespace):
        def __contains__(self, name: str) -> bool:
            return hasattr(self, name)

    return Sample(metainfo=dict(key=key), **fields)


def run(tmp_path, samples, hook: TestFramesHook, total: int | None = None) -> TestFramesHook:
    dataset = range(total or len(samples))
    loader = SimpleNamespace(dataset=dataset)
    runner = SimpleNamespace(test_dataloader=loader, log_dir=str(tmp_path))
    for i, item in enumerate(samples):
        hook.after_test_iter(runner, i, outputs=[item])
    hook.after_test_epoch(runner)
    return hook


def test_frames_and_scores(tmp_path):
    samples = [sample(f'{clip}/{i:03d}', 100.0 + i) for clip in ('b', 'a/c') for i in (1, 0)]
    clips = run(tmp_path, samples, TestFramesHook()).clips
    assert [(clip.name, clip.frames) for clip in clips] == [
        ('a/c', ['000', '001']), ('b', ['000', '001']),
    ]  # fmt: skip
    levels = {name: cv2.imread(str(paths[1])).mean() for name, paths in clips[0].images.items()}
    assert levels == dict(blurry=97, restored=100, sharp=101)
    assert clips[0].scores['restored'] == pytest.approx([48.13, 48.13], abs=0.01)
    assert clips[0].scores['sharp'] == [float('inf')] * 2


def test_without_sharp_frames(tmp_path):
    (clip,) = run(tmp_path, [sample('a/0', 9.0, sharp=False)], TestFramesHook()).clips
    assert list(clip.images) == ['blurry', 'restored']
    assert clip.scores == {}


def test_frames_are_in_numerical_order(tmp_path):
    (clip,) = run(tmp_path, [sample(f'a/{i}', 50.0) for i in (10, 2, 1)], TestFramesHook()).clips
    assert clip.frames == ['1', '2', '10']


def test_long_tests_keep_every_nth_frame(tmp_path):
    samples = [sample(f'a/{i}', 50.0) for i in range(7)]
    (clip,) = run(tmp_path, samples, TestFramesHook(max_frames=3)).clips
    assert clip.frames == ['0', '3', '6']


def test_frames_of_all_processes_once(tmp_path, monkeypatch):
    """Three frames on two processes: the sampler gives the first frame again to the second."""
    hooks = [TestFramesHook(), TestFramesHook()]
    monkeypatch.setattr(test_frames, 'get_world_size', lambda: 2)
    for rank, frames in enumerate(((0, 2), (1, 0))):
        monkeypatch.setattr(test_frames, 'get_rank', lambda rank=rank: rank)
        run(tmp_path, [sample(f'a/{i}', 50.0) for i in frames], hooks[rank], total=3)
    parts = [hook._written for hook in hooks]
    monkeypatch.setattr(test_frames, 'all_gather_object', lambda part: parts)
    hooks[0].after_test_epoch(SimpleNamespace())
    (clip,) = hooks[0].clips
    assert clip.frames == ['0', '1', '2']


def test_full_disk_does_not_end_the_test(tmp_path, caplog):
    (tmp_path / 'frames').write_text('a file')
    assert run(tmp_path, [sample('a/0', 9.0)], TestFramesHook()).clips == []
