"""The shell scripts start two processes without a GPU."""

import os
import subprocess
import sys

import pytest

SMALL = [
    'train_dataloader.num_workers=0',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'train_dataloader.persistent_workers=False',
    'train_dataloader.batch_size=1',
    'model.generator.mid_channels=8',
    'model.generator.num_blocks=1',
    'model.train_cfg.gen_init_steps=1',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.checkpoint.save_best=None',
    'train_cfg.val_interval=4',
]


@pytest.mark.slow
def test_resumed_training_keeps_the_weights(repo, tmp_path):
    def train(iterations: int, *options: str) -> str:
        done = subprocess.run(
            [repo / 'tools' / 'dist_train.sh', repo / 'configs' / 'dblrgan_sample.py', '2',
             '--work-dir', tmp_path, *options,
             '--cfg-options', *SMALL, f'train_cfg.max_iters={iterations}'],
            env={**os.environ, 'PYTHON': sys.executable, 'MASTER_PORT': '29571'},
            capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    train(2)
    assert (tmp_path / 'last_checkpoint').read_text().endswith('iter_2.pth')
    log = train(4, '--resume')
    assert 'Iter(val) [10/10]' in log  # 20 frames shared by two processes
    assert 'unexpected key' not in log
    assert 'missing keys' not in log
    assert (tmp_path / 'iter_4.pth').is_file()


def test_usage(repo):
    for script in ('dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'):
        done = subprocess.run([repo / 'tools' / script], capture_output=True, text=True)
        assert done.returncode == 2
        assert f'tools/{script}' in done.stderr
