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

from dblrgan_mm.engine.visualizer import log_write_errors


@HOOKS.register_module()
class ClipVisualizationHook(Hook):
    """Draws one picture per clip, of its middle frame, in validation and testing.

    MMagic's ``BasicVisualizationHook`` draws every n-th batch instead. The meta keys of
    ``PackInputs`` must include ``middle_of_clip``, a key of ``VideoClipDataset``.

    Args:
        max_clips: maximum number of pictures per validation and process. A test draws every clip.
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
        # in a test, reading runner.iter would build the training loop and its data set
        step = 0 if mode == 'test' else runner.iter
        for sample in outputs or ():
            wanted = mode == 'test' or self._drawn < self.max_clips
            if wanted and sample.metainfo.get('middle_of_clip'):
                runner.visualizer.add_datasample(sample, step=step)
                self._drawn += 1


@HOOKS.register_module()
class CompileGeneratorHook(Hook):
    """Compiles the generator in place for training.

    MMEngine's ``compile`` option compiles a whole training step, which is not possible with a
    GAN's two optimisers. Names in checkpoints do not change. Validation runs the generator
    uncompiled, because each frame size would need another compilation. If compilation fails, the
    reason is logged and training continues uncompiled.

    Args:
        **kwargs: arguments of ``torch.compile``.
    """

    def __init__(self, **kwargs) -> None:
        self.arguments = kwargs
        self._call: Callable | None = None  # the compiled generator, with a fallback

    def before_train(self, runner: Runner) -> None:
        generator = self._generator(runner)
        generator.compile(**self.arguments)  # compilation happens at the first call
        compiled: Any = generator._compiled_call_impl

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return compiled(*args, **kwargs)
            except Exception as error:  # e.g. no compiler, or one that torch cannot use
                generator._compiled_call_impl = self._call = None
                runner.logger.warning(
                    'The generator cannot be compiled and runs uncompiled: '
                    f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
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
    """MMEngine's ``RuntimeInfoHook`` that reads losses only when they are needed.

    MMEngine's hook reads every loss after every iteration. Each read waits for the GPU, which then
    idles until the next iteration starts. This hook, our own design, reads the losses every
    ``every`` iterations, and before a validation, a checkpoint or the interval of any other hook.
    What is logged and stored is the same.

    Args:
        every: maximum number of iterations between two reads.
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
        """Pass the losses that were not read yet to MMEngine."""
        waiting, self._waiting = self._waiting, []
        for outputs in waiting:
            super().after_train_iter(runner, 0, None, outputs)


@HOOKS.register_module()
class TrainingCurvesHook(Hook):
    """Plots the logged values to ``curves.png`` in the work dir.

    The file is written after each validation and at the end of training, with one panel per
    quantity over the iterations. The curves of a resumed run include the iterations before the
    resume. The values come from the ``scalars.json`` files of ``LocalVisBackend``.
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
        with log_write_errors('The plot of the training curves'):
            return plot_curves(curves, work_dir / 'curves.png')
        return None


def read_scalars(work_dir: Path, skip: Sequence[str] = ()) -> dict[str, dict[int, float]]:
    """Return the logged values of all runs in a work dir, {name: {iteration: value}}.

    Values of an earlier run are dropped from the iteration at which a later run started. An
    incomplete line, as a killed run may leave it, is skipped.
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
    """Plot curves ({name: {iteration: value}}) to a PNG file, one panel per curve."""
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
