"""The messages of each command for bad input, as a user reads them.

``tests/data/messages/COMMAND.txt`` has the command lines and their messages. After a change, run
this test with ``UPDATE_MESSAGES=1``: it writes the files again, and fails if they change. Then read
the difference. Other tests compare the error class and what a message names, not all of its text.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import cv2
import pytest
import torch

from dblrgan_mm import cli
from dblrgan_mm.clips.frames import read_frame, write_png

ROOT = Path(__file__).parents[2]
MESSAGES = ROOT / 'tests' / 'data' / 'messages'


@pytest.fixture
def place(tmp_path, sample_root, monkeypatch) -> Path:
    """The current folder, with files that the command lines name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '100')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    clip = sample_root / 'train' / 'gopro_walk_a'
    for name in ('data', 'other', 'gaps'):
        shutil.copytree(clip, tmp_path / name / 'train' / 'walk')
    shutil.copytree(clip / 'blur', tmp_path / 'frames')
    (tmp_path / 'gaps' / 'train' / 'walk' / 'blur' / '000050.png').unlink()
    frame = read_frame(tmp_path / 'frames' / '000047.png')
    write_png(tmp_path / 'mixed' / '0.png', frame)
    write_png(tmp_path / 'mixed' / '1.png', frame[:100])
    (tmp_path / 'grey').mkdir()
    cv2.imwrite('grey/0.png', frame[..., 0])
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.mp4').write_text('not a video')
    (tmp_path / 'text.pth').write_text('not a checkpoint')
    torch.save({'weight': torch.zeros(3)}, 'other.pth')
    (tmp_path / 'wrong.py').write_text("_base_ = ['nowhere.py']")
    (tmp_path / 'typo.py').write_text('lr = 1e-4\nmodel = dict(lr=lrr)\n')
    (tmp_path / 'taken').write_text('')
    return tmp_path


@pytest.mark.parametrize('command', cli.COMMANDS)
def test_messages(command, place):
    file = MESSAGES / f'{command}.txt'
    expected = file.read_text(encoding='utf-8')
    calls = re.findall(r'^\$ dblrgan-mm (.*)$', expected, re.MULTILINE)
    assert calls
    found = '\n'.join(f'$ dblrgan-mm {line}\n{message_of(line, place)}' for line in calls)
    if os.environ.get('UPDATE_MESSAGES'):
        file.write_text(found, encoding='utf-8')
    assert found == expected


def message_of(line: str, place: Path) -> str:
    """Return the last line of stderr of a failing command, or its stdout if stderr is empty."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['dblrgan-mm', *shlex.split(line)])
        streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with streams[0], streams[1], pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code in (1, 2), line
    assert 'Traceback' not in err.getvalue()
    message = err.getvalue().splitlines()[-1] if err.getvalue() else out.getvalue().rstrip()
    message = message.replace(f'{place}/', '').replace(str(place), '.')
    return message.replace(f'{ROOT}/', '') + '\n'
