"""Restoring frames with a Deblurrer."""

import logging

import numpy as np
import pytest
import torch
import yaml
from test_strip_network import strip_network, trained

from dblrgan_mm import devices
from dblrgan_mm.clips.frames import read_frame
from dblrgan_mm.datasets import VideoClipDataset
from dblrgan_mm.devices import is_out_of_memory
from dblrgan_mm.errors import UserError
from dblrgan_mm.inference import Deblurrer
from dblrgan_mm.inference import deblurrer as module
from dblrgan_mm.inference.checkpoint import Generator, load_generator
from dblrgan_mm.inference.deblurrer import DEFAULT, released
from dblrgan_mm.inference.networks.int8 import has_int8
from dblrgan_mm.inference.networks.strip_network import StripDBLRNet


@pytest.fixture(scope='module')
def clip(sample_root) -> list[np.ndarray]:
    """Ten blurry frames (144, 256, 3)."""
    folder = sample_root / 'test' / 'sam2_blocks_two_hands' / 'blur'
    return [read_frame(path) for path in sorted(folder.iterdir())]


@pytest.fixture(scope='module')
def sharp(sample_root) -> list[np.ndarray]:
    folder = sample_root / 'test' / 'sam2_blocks_two_hands' / 'sharp'
    return [read_frame(path) for path in sorted(folder.iterdir())]


def psnr(a, b) -> float:
    return float(10 * np.log10(255**2 / np.mean((np.float64(a) - b) ** 2)))


class Recording:
    """A network that returns the centre frame and records the pixel values of its windows."""

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames
        self.windows = []

    def __call__(self, windows, tile):
        self.windows += windows[:, :, 0, 0, 0].tolist()
        return windows[:, self.num_frames // 2].float() / 255

    default_tile = 8


class TestWindows:
    @pytest.mark.parametrize('num_frames', [1, 3, 5, 7])
    @pytest.mark.parametrize('length', [0, 1, 2, 3, 4, 5, 12])
    def test_one_output_per_frame_from_the_windows_of_the_data_set(
        self, write_clip, tmp_path, num_frames, length
    ):
        network = Recording(num_frames)
        frames = [np.full((2, 3, 3), i, np.uint8) for i in range(length)]
        restored = list(Deblurrer(network)(frames))
        assert [frame[0, 0, 0] for frame in restored] == list(range(length))
        if length:
            write_clip('clip', range(length))
            data = VideoClipDataset(str(tmp_path), 'test', num_frames=num_frames, test_mode=True)
            expected = [
                [int(path[-10:-4]) for path in data[i]['img_path']] for i in range(len(data))
            ]
            assert network.windows == expected

    def test_frames_are_read_lazily(self):
        read = []

        def frames():
            for i in range(100):
                read.append(i)
                yield np.zeros((2, 2, 3), np.uint8)

        stream = Deblurrer(Recording(5))(frames())
        next(stream)
        assert len(read) <= 6
        next(stream)
        assert len(read) <= 7


class TestFrames:
    def test_arrays_and_tensors_give_the_same(self, clip):
        deblurrer = Deblurrer(strip_network(trained()))
        arrays = list(deblurrer(clip[:6]))
        tensors = [torch.from_numpy(frame).permute(2, 0, 1) for frame in clip[:6]]
        restored = list(deblurrer(tensors))
        for array, tensor in zip(arrays, restored, strict=True):
            assert array.dtype == np.uint8
            assert array.shape == (144, 256, 3)
            assert tensor.dtype == torch.uint8
            assert np.array_equal(array, tensor.permute(1, 2, 0).numpy())

    def test_caller_may_reuse_the_frame_buffer(self, clip):
        deblurrer = Deblurrer(strip_network(trained()))

        def frames():
            for frame in clip[:6]:
                buffer[:] = frame
                yield buffer

        buffer = np.empty_like(clip[0])
        found = list(deblurrer(frames()))
        assert all(np.array_equal(a, b) for a, b in zip(found, deblurrer(clip[:6]), strict=True))

    @pytest.mark.parametrize('value', [float('nan'), float('inf')])
    def test_non_finite_output_raises(self, clip, value):
        class Broken(Recording):
            def __call__(self, windows, tile):
                return super().__call__(windows, tile) * value

        with pytest.raises(UserError, match='outputs NaN or infinite values'):
            list(Deblurrer(Broken(5))(clip))

    def test_input_is_not_changed(self, clip):
        given = [frame.copy() for frame in clip[:5]]
        list(Deblurrer(strip_network(trained()))(given))
        assert all(np.array_equal(a, b) for a, b in zip(given, clip[:5], strict=True))

    def test_16_bit_output_is_more_precise(self, clip):
        network = strip_network(trained(residual=True))
        fine = list(Deblurrer(network)([np.uint16(frame) * 257 for frame in clip[:5]]))
        coarse = list(Deblurrer(network)(clip[:5]))
        assert fine[2].dtype == np.uint16
        assert np.abs(fine[2] / 257 - coarse[2]).max() < 0.51
        assert (fine[2] % 257 != 0).mean() > 0.5

    def test_result_is_clamped(self, clip):
        class Bright(Recording):
            def __call__(self, windows, tile):
                return super().__call__(windows, tile) * 4 - 1

        restored = next(iter(Deblurrer(Bright(5))(clip)))
        expected = np.clip(np.float32(clip[0]) * 4 - 255, 0, 255)
        assert np.abs(restored - expected).max() <= 1

    @pytest.mark.parametrize(
        'frame',
        [
            np.zeros((4, 4), np.uint8),
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((4, 4, 3), np.float32),
            torch.zeros(4, 4, 3, dtype=torch.uint8),
            [[1, 2, 3]],
        ],
        ids=['grey', 'alpha', 'float', 'tensor of arrays order', 'list'],
    )
    def test_other_frames_are_refused(self, frame):
        with pytest.raises(ValueError, match='takes RGB frames of uint8 or uint16'):
            list(Deblurrer(Recording(3))([frame]))

    def test_size_must_not_change(self):
        frames = [np.zeros((4, 4, 3), np.uint8)] * 3 + [np.zeros((4, 5, 3), np.uint8)]
        with pytest.raises(ValueError, match=r'frame 3 is \(4, 5, 3\)'):
            list(Deblurrer(Recording(3))(frames))


class TestPackageWeights:
    @pytest.mark.parametrize('name', sorted(released()))
    def test_sharpen_a_clip_that_was_not_trained_on(self, clip, sharp, name):
        restored = list(Deblurrer.from_checkpoint(name, device='cpu')(clip))
        gains = [psnr(r, s) - psnr(b, s) for r, b, s in zip(restored, clip, sharp, strict=True)]
        assert np.mean(gains) > 0.3

    @pytest.mark.parametrize('name', sorted(released()))
    def test_psnr_hardly_depends_on_the_dtype(self, clip, sharp, name):
        dtypes = ['float32', 'bfloat16']
        if has_int8() and name != 'dblrnet_ms':  # int8 does not support its network
            dtypes.append('int8')
        scores = {
            dtype: np.mean(
                [
                    psnr(r, s)
                    for r, s in zip(
                        Deblurrer.from_checkpoint(name, device='cpu', dtype=dtype)(clip),
                        sharp,
                        strict=True,
                    )
                ]
            )
            for dtype in dtypes
        }
        assert max(scores.values()) - min(scores.values()) < 0.05

    def test_description_of_the_weights(self):
        deblurrer = Deblurrer.from_checkpoint(device=torch.device('cpu'), dtype=torch.float32)
        assert deblurrer.meta['architecture']['type'] == 'MultiScaleDBLRNet'
        assert deblurrer.meta['averaged'] is True
        assert 'DAVIS' in deblurrer.meta['training_data']
        assert deblurrer.identity.endswith('float32')

    def test_default(self):
        assert Deblurrer.from_checkpoint().identity == Deblurrer.from_checkpoint(DEFAULT).identity

    def test_described_in_the_model_index(self, repo):
        index = yaml.safe_load((repo / 'model-index.yml').read_text())
        by_name = {model['Name']: model for model in index['Models']}
        assert by_name.keys() == released().keys()
        for name, path in released().items():
            assert path.stat().st_size <= 8e6
            assert repo / by_name[name]['Weights'] == path
            assert (repo / by_name[name]['Config']).is_file()
            weights = load_generator(path).state_dict
            parameters = sum(w.numel() for name, w in weights.items() if name != 'alignment')
            assert by_name[name]['Metadata']['Parameters'] == parameters
            assert by_name[name]['In Collection'] == index['Collections'][0]['Name']


class TestTiles:
    def test_result_does_not_depend_on_them(self, clip):
        generator = trained()
        expected = list(Deblurrer(strip_network(generator))(clip[:5]))
        for tile in (1, 10, 500):
            for a, b in zip(
                Deblurrer(strip_network(generator), tile=tile)(clip[:5]), expected, strict=True
            ):
                assert np.abs(np.int16(a) - b).max() <= 1  # rounding of values near .5

    def test_tile_below_1_is_refused(self):
        with pytest.raises(UserError, match='at least 1 row, got 0'):
            Deblurrer(Recording(5), tile=0)

    def test_no_memory_before_torch_2_5(self, monkeypatch):
        monkeypatch.delattr(torch, 'OutOfMemoryError', raising=False)
        assert is_out_of_memory(MemoryError())
        assert not is_out_of_memory(RuntimeError('another error'))

    @pytest.mark.parametrize(
        'error',
        [
            torch.cuda.OutOfMemoryError('CUDA out of memory'),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            MemoryError(),
        ],
        ids=['gpu', 'cpu', 'python'],
    )
    def test_tile_is_halved_when_memory_runs_out(self, clip, caplog, error):
        class Greedy(Recording):
            tried = []

            def __call__(self, windows, tile):
                self.tried.append(tile)
                if tile > 20:
                    raise error
                return super().__call__(windows, tile)

        Greedy.tried = []
        with caplog.at_level(logging.WARNING, logger='dblrgan_mm'):
            restored = list(Deblurrer(Greedy(5), tile=100)(clip))
        assert all(np.array_equal(a, b) for a, b in zip(restored, clip, strict=True))
        assert Greedy.tried == [100, 50, 25] + [12] * 10
        assert [r.getMessage() for r in caplog.records] == [
            'out of memory with 100 rows at once; retrying with 50',
            'out of memory with 50 rows at once; retrying with 25',
            'out of memory with 25 rows at once; retrying with 12',
        ]

    def test_out_of_memory_with_one_row_is_raised(self, clip):
        class Hopeless(Recording):
            def __call__(self, windows, tile):
                raise torch.cuda.OutOfMemoryError('CUDA out of memory')

        with pytest.raises(torch.cuda.OutOfMemoryError):
            list(Deblurrer(Hopeless(5), tile=4)(clip))

    def test_other_errors_are_not_treated_as_out_of_memory(self, clip):
        class Broken(Recording):
            def __call__(self, windows, tile):
                raise RuntimeError('shape mismatch')

        with pytest.raises(RuntimeError, match='shape mismatch'):
            list(Deblurrer(Broken(5), tile=4)(clip))

    def test_each_clip_chooses_its_own_tile(self, clip):
        tiles = []

        class Watched(StripDBLRNet):
            def forward(self, windows, tile=None):
                tiles.append(tile)
                return super().forward(windows, tile)

        net = trained()
        architecture = dict(num_frames=5, color='luma', residual=False)
        deblurrer = Deblurrer(Watched(net.state_dict(), architecture))
        dot = [np.zeros((1, 1, 3), np.uint8)] * 3
        together = list(zip(deblurrer(dot), deblurrer(clip[:3]), strict=True))
        assert tiles == [1, 144] * 3
        assert [b.shape for _, b in together] == [(144, 256, 3)] * 3
        assert deblurrer.tile is None

    def test_on_a_cpu_a_strip_fits_the_cache(self):
        network = strip_network(trained(mid_channels=64, num_blocks=1))
        wide = Deblurrer(network)._choose_tile(torch.zeros(1, 5, 3, 2160, 3840, dtype=torch.uint8))
        small = Deblurrer(network)._choose_tile(torch.zeros(1, 5, 3, 36, 64, dtype=torch.uint8))
        assert 6 <= wide <= 24
        assert wide % 6 == 0
        assert small == 36


class TestCompile:
    @pytest.mark.parametrize('faster', [True, False])
    def test_compiled_network_is_kept_only_if_faster(self, clip, caplog, monkeypatch, faster):
        calls = []

        def compile_(step, dynamic):
            def compiled(*arguments):
                calls.append(len(arguments))
                return step(*arguments)

            return compiled

        clock = iter([0, 2] * 3 + [0, 9] + [0, 1 if faster else 3] * 3)
        monkeypatch.setattr(torch, 'compile', compile_)
        monkeypatch.setattr(module.time, 'perf_counter', lambda: next(clock))
        network = strip_network(trained())
        expected = list(Deblurrer(network)(clip[:5]))
        with caplog.at_level(logging.INFO, logger='dblrgan_mm'):
            restored = list(Deblurrer(network, compile=True)(clip[:5]))
        assert all(np.array_equal(a, b) for a, b in zip(restored, expected, strict=True))
        message = 'pays off after 9 frames' if faster else 'but only 0.67x as fast'
        assert message in caplog.text
        assert len(calls) == (4 + 5 if faster else 4)

    def test_failed_compilation_runs_uncompiled(self, clip, caplog, monkeypatch):
        def compile_(step, dynamic):
            def compiled(*_):
                raise RuntimeError('no C++ compiler\nand a page of text')

            return compiled

        monkeypatch.setattr(torch, 'compile', compile_)
        network = strip_network(trained())
        expected = list(Deblurrer(network)(clip[:5]))
        restored = list(Deblurrer(network, compile=True)(clip[:5]))
        assert all(np.array_equal(a, b) for a, b in zip(restored, expected, strict=True))
        assert 'compilation failed, running uncompiled: no C++ compiler' in caplog.text


class TestDevice:
    @pytest.mark.parametrize(
        ('name', 'message'),
        [
            ('cuda:99', r'no device cuda:99: torch sees .* GPU'),
            ('gpu', "'gpu' is not a device; use auto, cpu, cuda or cuda:1"),
            ('meta', "'meta' is not a supported device"),
        ],
    )
    def test_missing_device(self, name, message):
        with pytest.raises(UserError, match=message):
            Deblurrer.from_checkpoint(device=name)

    @pytest.mark.parametrize(
        ('capabilities', 'seconds', 'dtype'),
        [
            (dict(amx_bf16=True), 1, torch.bfloat16),
            (dict(avx512_bf16=True), 2.9, torch.float32),
            (dict(avx512_f=True), 1, torch.float32),
        ],
    )
    def test_bfloat16_where_it_is_faster(self, monkeypatch, capabilities, seconds, dtype):
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: capabilities, raising=False)
        monkeypatch.setattr(devices, '_seconds', {torch.bfloat16: seconds, torch.float32: 3}.get)
        assert devices.fastest_dtype(torch.device('cpu')) is dtype

    def test_unknown_dtype(self):
        with pytest.raises(UserError, match=r"dtype must be one of auto, .*; got 'int4'"):
            Deblurrer.from_checkpoint(device='cpu', dtype='int4')

    @pytest.mark.skipif(not has_int8(), reason='needs a CPU with VNNI, or is refused for that')
    @pytest.mark.parametrize('arguments', [dict(compile=True), dict(device='cuda')])
    def test_int8_on_a_gpu_or_compiled_is_refused(self, monkeypatch, arguments):
        monkeypatch.setattr(module, 'find_device', torch.device)
        with pytest.raises(UserError, match='int8 runs only on a CPU and without compile'):
            Deblurrer.from_checkpoint(
                'dblrnet_plus', **dict(device='cpu', dtype='int8') | arguments
            )


def test_only_the_command_changes_the_allocator(monkeypatch, call_tool, sample_root, tmp_path):
    calls = []
    monkeypatch.setattr(devices, 'keep_freed_memory', lambda: calls.append('mallopt'))
    Deblurrer.from_checkpoint('dblrnet_plus', 'cpu')
    assert calls == []
    frame = next((sample_root / 'train' / 'gopro_walk_a' / 'blur').iterdir())
    done = call_tool('deblur', frame, tmp_path / 'out.png', '--device', 'cpu')
    assert done.code == 0, done.err
    assert calls == ['mallopt']


def test_from_generator(clip):
    net = trained()
    architecture = dict(type='DBLRNet', num_frames=5, color='luma', residual=False)
    deblurrer = Deblurrer.from_generator(Generator(architecture, net.state_dict()))
    with torch.inference_mode():
        window = torch.from_numpy(np.stack(clip[:5])).permute(0, 3, 1, 2)[None].float() / 255
        expected = (net(window)[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    restored = list(deblurrer(clip[:5]))[2]
    assert np.abs(restored - expected).max() <= 1
