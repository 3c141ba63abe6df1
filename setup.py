"""Packaging. Requirements are loose: whatever torch and mmcv are there stay there."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def requirements() -> list[str]:
    lines = (HERE / 'requirements' / 'runtime.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def version() -> str:
    text = (HERE / 'dblrgan_mm' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '(.+)'$", text, re.MULTILINE).group(1)


setup(
    name='dblrgan_mm',
    version=version(),
    description='Video deblurring with DBLRNet and DBLRGAN as a plugin for MMagic',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['dblrgan_mm', 'dblrgan_mm.*']),
    package_data={'dblrgan_mm.inference': ['weights/*.pth']},
    python_requires='>=3.10',
    install_requires=requirements(),
    # mmcv-lite is no requirement: it would overwrite a compiled mmcv, which has the same files
    extras_require={
        'lite': ['mmcv-lite>=2.1,<2.2'],
        'onnx': ['onnx', 'onnxruntime'],
    },
)
