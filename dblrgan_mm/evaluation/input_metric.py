"""The score of the blurry input."""

from collections.abc import Sequence
from typing import Any

from mmagic.registry import METRICS
from mmengine.evaluator import BaseMetric


@METRICS.register_module()
class InputMetric:
    """Applies a metric to the blurry centre frame instead of the restored frame.

    The results are printed as 'input/<name>', next to those of the restored frames.

    Args:
        metric: config of an MMagic metric that compares ``pred_img`` with ``gt_img``, such as
            ``dict(type='PSNR')``.
    """

    def __init__(self, metric: dict) -> None:
        self._metric: BaseMetric = METRICS.build(dict(metric, prefix='input'))

    def __getattr__(self, name: str) -> Any:  # sampler mode, prepare, evaluate, ...
        if name == '_metric':  # not set yet, as during copying
            raise AttributeError(name)
        return getattr(self._metric, name)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Process one batch; ``input`` is (t, c, h, w) or (c, h, w), BGR in [0, 255].

        If there are as many sharp frames as blurry ones, as for a complete clip, all of them are
        compared.
        """
        samples = []
        for sample in data_samples:
            window = sample['input']
            all_of_it = window.shape == sample['gt_img'].shape
            frame = window if all_of_it else window[len(window) // 2]
            samples.append({**sample, 'output': dict(pred_img=frame)})
        self._metric.process(data_batch, samples)
