"""Hooks for training and testing video deblurring."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmagic.registry import HOOKS
from mmengine.dist import master_only
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.runner import Runner
from torch import nn

from dblrgan_mm.engine.visualizer import lost_output_told


@HOOKS.register_module()
class ClipVisualizationHook(Hook):
    """Draws one picture a clip, of its middle frame, in validation and test.

    MMagic's ``BasicVisualizationHook`` draws every n-th batch. Needs the key
    ``middle_of_clip`` of ``VideoClipDataset`` among the meta keys of ``PackInputs``.

    Args:
        max_clips: pictures a validation, at most (on each process). A test draws every clip.
    """

    def __init__(self, max_clips: int = 4) -> None:
        self.max_clips = max_clips
        self._drawn = 0

    def before_val_epoch(self, runner: Runner) -> None:
        self._drawn = 0

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence | dict | None = None,
        mode: str = 'train',
    ) -> None:
        if mode == 'train':
            return
        # in a test MMEngine would build the training, data and all, to say its iteration
        step = 0 if mode == 'test' else runner.iter
        for sample in outputs:
            wanted = mode == 'test' or self._drawn < self.max_clips
            if wanted and sample.metainfo.get('middle_of_clip'):
                runner.visualizer.add_datasample(sample, step=step)
                self._drawn += 1


@HOOKS.register_module()
class CompileGeneratorHook(Hook):
    """Compiles the generator where it is, for training.

    MMEngine's ``compile`` compiles a whole training step, which for a GAN's two optimisers cannot
    be done. Names in checkpoints stay as they are. In a validation the generator runs uncompiled,
    since each size of frames would take another compilation. Where it cannot be compiled, the log
    says why, and the training runs without.

    Args:
        **kwargs: arguments of ``torch.compile``.
    """

    def __init__(self, **kwargs) -> None:
        self.arguments = kwargs
        self._call: Callable | None = None  # the compiled generator, and what guards it

    def before_train(self, runner: Runner) -> None:
        generator = self._generator(runner)
        generator.compile(**self.arguments)  # at the first call
        compiled = generator._compiled_call_impl

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return compiled(*args, **kwargs)
            except Exception as error:  # no compiler, or one that torch does not get along with
                generator._compiled_call_impl = self._call = None
                runner.logger.warning(
                    f'The generator cannot be compiled and runs without: {type(error).__name__}: '
                    f'{" ".join(str(error).split())[:300]}'
                )
            return generator(*args, **kwargs)

        self._call = generator._compiled_call_impl = call

    def before_val_epoch(self, runner: Runner) -> None:
        self._generator(runner)._compiled_call_impl = None

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._generator(runner)._compiled_call_impl = self._call

    @staticmethod
    def _generator(runner: Runner) -> nn.Module:
        generator = getattr(runner.model, 'module', runner.model).generator
        return getattr(generator, 'module', generator)


@HOOKS.register_module()
class DeferredLossesHook(RuntimeInfoHook):
    """MMEngine's ``RuntimeInfoHook``, which reads losses when they are needed. Ours.

    MMEngine's reads each loss after each iteration, for which it waits for the GPU, and the GPU
    then waits for the next iteration to begin. Here the losses are read after every tenth
    iteration, and before a hook with an interval that is due, a validation or a checkpoint. What
    is logged and stored is the same.

    Args:
        every: iterations after which they are read at the latest.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self._waiting: list[dict] = []

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        values = (outputs or {}).items()
        self._waiting.append({k: v.detach() if hasattr(v, 'detach') else v for k, v in values})
        done = runner.iter + 1
        intervals = [self.every, *(getattr(hook, 'interval', 0) for hook in runner.hooks)]
        due = any(isinstance(n, int) and n > 0 and done % n == 0 for n in intervals)
        if due or done == runner.max_iters or self.end_of_epoch(runner.train_dataloader, batch_idx):
            self.read(runner)

    def before_val(self, runner: Runner) -> None:
        self.read(runner)
        super().before_val(runner)

    def read(self, runner: Runner) -> None:
        """Hand over the losses that wait."""
        waiting, self._waiting = self._waiting, []
        for outputs in waiting:
            super().after_train_iter(runner, 0, None, outputs)


@HOOKS.register_module()
class TrainingCurvesHook(Hook):
    """Draws what the log recorded as ``curves.png`` in the work dir, at the end and on the way.

    One panel a quantity against the iterations; a resumed run is drawn whole. Reads the
    ``scalars.json`` of ``LocalVisBackend``.
    """

    priority = 'VERY_LOW'
    _SKIPPED = ('time', 'data_time', 'iter', 'step', 'memory')

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._draw(runner)

    @master_only
    def after_train(self, runner: Runner) -> None:
        path = self._draw(runner)
        if path is not None:
            runner.logger.info(f'Training curves: {path}')

    def _draw(self, runner: Runner) -> Path | None:
        work_dir = Path(runner.work_dir)
        curves = read_scalars(work_dir, skip=self._SKIPPED)
        if not curves:
            return None
        with lost_output_told('The picture of the curves'):
            return plot_curves(curves, work_dir / 'curves.png')
        return None


def read_scalars(work_dir: Path, skip: Sequence[str] = ()) -> dict[str, dict[int, float]]:
    """Logged values of the runs in a work dir, {name: {iteration: value}}.

    What an earlier run logged from where a later one started is void. A run that was killed may
    have left half a line; it is skipped.
    """
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        records = [record for line in file.read_text().splitlines() if (record := _parse(line))]
        start = min((record['step'] for record in records), default=float('inf'))
        for name in curves:
            curves[name] = {step: v for step, v in curves[name].items() if step < start}
        for record in records:
            for name, value in record.items():
                if name not in skip and isinstance(value, (int, float)):
                    curves[name][record['step']] = value
    return {name: points for name, points in curves.items() if points}


def _parse(line: str) -> dict | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if 'step' in record else None


def plot_curves(curves: dict[str, dict[int, float]], path: Path) -> Path:
    """Draw curves ({name: {iteration: value}}) into a PNG, one panel each."""
    from matplotlib.figure import Figure

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows), layout='constrained')
    for i, (name, points) in enumerate(sorted(curves.items())):
        axes = figure.add_subplot(rows, columns, i + 1)
        steps = sorted(points)
        values = [points[s] for s in steps]
        axes.plot(steps, values, marker='.' if len(steps) < 30 else None)
        if 0 < 10 * min(values) < max(values):
            axes.set_yscale('log')
        axes.set_title(name, fontsize=10)
        axes.set_xlabel('iteration', fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return path
