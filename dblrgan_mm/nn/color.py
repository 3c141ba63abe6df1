"""Luma as in ITU-R BT.601 with full range: the Y of JPEG and of OpenCV's YCrCb."""

import torch

_KR, _KG, _KB = 0.299, 0.587, 0.114


def rgb_to_luma(rgb: torch.Tensor) -> torch.Tensor:
    """Compute the luma Y of RGB frames.

    In full-range BT.601, Y = 0.299 R + 0.587 G + 0.114 B, and the differences of R, G and B from Y
    depend only on the chroma (Cb, Cr). A frame with new luma Y' and unchanged chroma is therefore
    ``rgb + (Y' - Y)``, with the same offset for all three channels. DBLRNet combines them this way.

    Args:
        rgb: (..., 3, h, w), RGB order, any linear range ([0, 1] in this project).

    Returns:
        (..., 1, h, w), in the same range.

    Raises:
        ValueError: if the third axis from the right is not 3.

    Example:
        >>> rgb_to_luma(torch.ones(5, 3, 4, 4)).shape
        torch.Size([5, 1, 4, 4])
    """
    if rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise ValueError(f'rgb_to_luma takes RGB frames (..., 3, h, w), got {tuple(rgb.shape)}')
    red, green, blue = rgb.unbind(-3)
    return (_KR * red + _KG * green + _KB * blue).unsqueeze(-3)


def unit_luma(rgb: torch.Tensor) -> torch.Tensor:
    """Compute the luma of stored frames, in few passes over memory and without gradients.

    Args:
        rgb: (..., 3, h, w), RGB order, uint8, uint16 or floating point in [0, 1].

    Returns:
        (..., 1, h, w), float32, in [0, 1].
    """
    top = 1.0 if rgb.is_floating_point() else torch.iinfo(rgb.dtype).max
    red, green, blue = (channel.float() for channel in rgb.unbind(-3))
    luma = (_KR / top) * red
    luma = luma.add_(green, alpha=_KG / top).add_(blue, alpha=_KB / top)
    return luma.unsqueeze(-3)
