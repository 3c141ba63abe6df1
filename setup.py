"""Copies configs, scripts, pages and the model index into the wheel; pyproject.toml has the rest.

They go where MMagic has its own, into ``dblrgan_mm/.mim``.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class BuildWithConfigs(build_py):
    """Adds ``.mim`` to a wheel; an editable installation uses the files of the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / 'dblrgan_mm' / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        for folder, skipped in (
            ('configs', ()),
            ('tools', ('benchmark*', 'soak.py', 'gpu')),  # for the checkout
            ('docs', ('images',)),
        ):
            skip = shutil.ignore_patterns('__pycache__', *skipped)
            shutil.copytree(HERE / folder, target / folder, ignore=skip)
        shutil.copy(HERE / 'model-index.yml', target)


setup(cmdclass={'build_py': BuildWithConfigs})
