"""Frames in a notebook."""

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from playwright.sync_api import expect

from dblrgan_mm.viewer import show


@pytest.mark.slow
def test_in_a_notebook(sample_root, tmp_path, new_page):
    """The example of docs/deblur.md, run by Jupyter; the output is opened in a browser."""
    folder = sample_root / 'train' / 'gopro_walk_a' / 'blur'
    code = f"""
from pathlib import Path
import cv2
from dblrgan_mm.inference import Deblurrer
from dblrgan_mm.viewer import show
frames = [cv2.imread(str(path))[..., ::-1] for path in sorted(Path({str(folder)!r}).iterdir())[:3]]
show(blurry=frames, restored=list(Deblurrer.from_checkpoint('dblrnet_plus')(frames)))
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120).execute()
    (output,) = (o for o in notebook.cells[0].outputs if o.output_type == 'execute_result')
    (tmp_path / 'notebook.html').write_text(output.data['text/html'], encoding='utf-8')
    page = new_page()
    page.goto((tmp_path / 'notebook.html').as_uri())
    inside = page.frame_locator('iframe')
    expect(inside.locator('#frame')).to_have_text('0 (1 of 3)')
    inside.get_by_title('Next frame').click()
    expect(inside.locator('#frame')).to_have_text('1 (2 of 3)')
    for side in ('left', 'right'):
        image = inside.locator(f'#{side}-image')
        assert image.evaluate('image => image.complete && image.naturalWidth') == 254
    expect(inside.locator('#clip')).to_be_hidden()


def test_tensors_and_arrays():
    array = np.zeros((4, 6, 3), np.uint8)
    array[..., 0] = 255
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    page = show(a=[array], b=[tensor])._repr_html_()
    urls = {part.split('&#34;')[0].split('&quot;')[0] for part in page.split('data:image/png')[1:]}
    assert len(urls) == 1


@pytest.mark.parametrize('counts', [(2,), (2, 3), (0, 0)])
def test_bad_frames(counts):
    frame = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match='give two or more methods with equally many frames'):
        show(**{f'm{i}': [frame] * count for i, count in enumerate(counts)})
