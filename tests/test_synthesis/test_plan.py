"""Runs between soft frames; drawn heights and shutters."""

import numpy as np
import pytest

from dblrgan_mm.synthesis.plan import Shot, draw_height, hand_shutters, runs_in


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def shot_of(text):
    """Return a shot whose frames are soft where the text has a dot."""
    return Shot(0, np.array([letter != '.' for letter in text]), 0.01, np.zeros(len(text)))


class TestRuns:
    @pytest.mark.parametrize(
        ('text', 'stride', 'runs'),
        [
            ('#########', 1, [(1, 7)]),
            ('#########', 2, [(1, 4)]),
            ('####.####', 1, [(1, 3), (5, 3)]),
            ('####.####', 2, [(1, 4)]),  # the soft frame is not a middle frame
            ('###.#####', 2, [(1, 1), (4, 2)]),  # starts again after it
            ('.###', 1, [(1, 2)]),  # a soft frame may be next to a middle frame
            ('....', 1, []),
            ('##', 1, []),
        ],
    )
    def test_soft_frames_divide(self, text, stride, runs):
        assert list(runs_in(shot_of(text), stride, reach=1)) == runs

    def test_pairs_from_every_start(self):
        pairs = shot_of('####.####').pairs_from(stride=2, reach=1)
        assert pairs.tolist() == [0, 4, 1, 3, 0, 2, 1, 1, 0]


class TestHeight:
    @pytest.mark.parametrize(
        ('h', 'heights', 'drawn'),
        [
            (720, [240, 360, 480], {240, 360, 480}),
            (540, [240, 360, 480], {240, 360}),
            (480, [240, 360, 480], {240}),
            (300, [240, 360], {240}),  # all exceed 2/3: the smallest
            (300, [0], {300}),
            (300, [0, 480], {300}),
            (300, [0, 120], {120}),
        ],
    )
    def test_up_to_two_thirds_of_the_source(self, rng, h, heights, drawn):
        assert {draw_height(h, heights, rng) for _ in range(40)} == drawn


class TestHandShutters:
    def test_within_a_camera_and_alike_from_frame_to_frame(self, rng):
        shutters = np.array([hand_shutters(36, rng) for _ in range(50)])
        assert shutters.shape == (50, 36)
        assert shutters.min() >= 0.05
        assert shutters.max() <= 1
        assert 0.05 < (shutters < 0.2).mean() < 0.2
        assert (shutters > 0.8).mean() > 0.1
        steps = np.abs(np.diff(shutters, axis=1)).mean()
        assert 0.05 < steps < 0.8 * np.abs(shutters - rng.permuted(shutters, axis=1)).mean()
