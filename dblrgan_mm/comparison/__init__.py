"""One table for many restorers: what ``tools/compare.py`` is made of."""

from pathlib import Path


def lpips_weights() -> Path:
    """Where torch keeps AlexNet's weights, which LPIPS needs, if they were ever downloaded."""
    import torch  # late: tools/compare.py --help needs none

    return Path(torch.hub.get_dir()) / 'checkpoints' / 'alexnet-owt-7be5be79.pth'
