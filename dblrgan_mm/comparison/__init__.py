"""Compare several restorers in one table; the parts of ``tools/compare.py``."""

from pathlib import Path


def lpips_weights() -> Path:
    """Return the path of AlexNet's weights, which LPIPS needs, in torch's download cache.

    The file exists only if the weights have been downloaded before.
    """
    import torch  # imported late: tools/compare.py --help does not need it

    return Path(torch.hub.get_dir()) / 'checkpoints' / 'alexnet-owt-7be5be79.pth'
