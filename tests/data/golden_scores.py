"""Write golden_scores.csv: scores of the test clips' blurry frames, computed by scikit-image only.

python tests/data/golden_scores.py
"""

import csv
from pathlib import Path

import numpy as np
from skimage.io import imread
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

HERE = Path(__file__).parent


def luma(frame: np.ndarray) -> np.ndarray:
    """Return BT.601 luma in limited range, as in MATLAB's rgb2ycbcr, which defines PSNR Y."""
    return 16 + frame @ np.array([65.481, 128.553, 24.966]) / 255


def main() -> None:
    with (HERE / 'golden_scores.csv').open('w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['clip', 'frame', 'psnr', 'psnr_y', 'ssim'])
        for clip in sorted((HERE / 'gopro' / 'test').iterdir()):
            for path in sorted((clip / 'blur').iterdir()):
                blurry, sharp = imread(path), imread(clip / 'sharp' / path.name)
                ssim = structural_similarity(
                    blurry,
                    sharp,
                    channel_axis=2,
                    data_range=255,
                    gaussian_weights=True,
                    sigma=1.5,
                    use_sample_covariance=False,
                )
                scores = (
                    peak_signal_noise_ratio(sharp, blurry),
                    peak_signal_noise_ratio(luma(sharp), luma(blurry), data_range=255),
                    ssim,
                )
                writer.writerow([clip.name, path.stem, *(f'{score:.5f}' for score in scores)])


if __name__ == '__main__':
    main()
