"""Locks, with a real second process, and full disks."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dblrgan_mm.errors import UserError
from dblrgan_mm.files import (
    put_in_place,
    report_full_disk,
    report_write_errors,
    require_space,
    sole_writer,
    write_whole,
)

HOLD = """
import sys
from pathlib import Path
from dblrgan_mm.files import sole_writer
with sole_writer(Path(sys.argv[1])):
    print('held', flush=True)
    sys.stdin.readline()
print('left', flush=True)
"""

# drops root, which may write anywhere
AS_NOBODY = """
import os
from pathlib import Path
from dblrgan_mm.files import UserError, sole_writer
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    with sole_writer(Path('.')):
        print('held')
except UserError as error:
    print(error)
"""


@pytest.fixture
def holder(tmp_path) -> Iterator[subprocess.Popen]:
    """Another process that holds tmp_path/'out' until it reads a line."""
    command = [sys.executable, '-c', HOLD, str(tmp_path / 'out')]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == 'held\n'
        yield process
        process.kill()


class TestSoleWriter:
    def refusal(self, folder) -> str:
        with pytest.raises(UserError) as caught, sole_writer(folder):
            pass
        return str(caught.value)

    def test_second_process_is_refused(self, holder, tmp_path):
        assert self.refusal(tmp_path / 'out') == (
            f'another process is writing to {tmp_path}/out: wait for it, or choose another folder'
        )
        assert holder.poll() is None, 'the first process keeps running'

    def test_lock_is_free_after_the_first_ends(self, holder, tmp_path):
        holder.stdin.write('\n')
        holder.stdin.flush()
        assert holder.stdout.readline() == 'left\n'
        with sole_writer(tmp_path / 'out'):
            pass

    def test_lock_is_free_after_a_kill(self, holder, tmp_path):
        holder.kill()
        assert holder.wait() == -9
        with sole_writer(tmp_path / 'out'):
            assert 'another process' in self.refusal(tmp_path / 'out')

    def test_lock_is_free_after_an_error(self, tmp_path):
        with pytest.raises(ZeroDivisionError), sole_writer(tmp_path / 'out'):
            raise ZeroDivisionError
        with sole_writer(tmp_path / 'out'):
            pass

    def test_makes_the_folder(self, tmp_path):
        with sole_writer(tmp_path / 'a' / 'b'):
            assert (tmp_path / 'a' / 'b').is_dir()

    def test_other_folders_are_not_locked(self, holder, tmp_path):
        with sole_writer(tmp_path / 'other'):
            pass

    @pytest.mark.parametrize('name', [None, 'file'])
    def test_temporary_folder(self, tmp_path, name):
        """It is removed, unless it has a file."""
        out = tmp_path / 'out'
        with sole_writer(out, temporary=True):
            if name:
                (out / name).touch()
        assert out.is_dir() == bool(name)

    def test_temporary_folder_after_an_error(self, tmp_path):
        with pytest.raises(ZeroDivisionError), sole_writer(tmp_path / 'out', temporary=True):
            raise ZeroDivisionError
        assert (tmp_path / 'out').is_dir()

    def test_file_in_place_of_the_folder(self, tmp_path):
        (tmp_path / 'out').write_text('x')
        assert self.refusal(tmp_path / 'out') == (
            f'cannot write to {tmp_path}/out (it is not a folder); choose another folder'
        )

    def test_folder_without_the_right_to_write(self, tmp_path):
        folder = tmp_path / 'out'
        folder.mkdir(mode=0o555)
        done = subprocess.run(
            [sys.executable, '-c', AS_NOBODY],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == (
            f'cannot write to {folder} (Permission denied); choose another folder\n'
        )


class TestRequireSpace:
    @pytest.fixture(autouse=True)
    def _free(self, monkeypatch):
        monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=2_000_000_000))

    def test_enough(self, tmp_path):
        require_space(tmp_path, 2_000_000_000)

    def test_one_byte_too_few(self, tmp_path):
        with pytest.raises(UserError) as caught:
            require_space(tmp_path, 2_000_000_001)
        assert str(caught.value) == (
            f'2,000 MB are needed in {tmp_path}, but its disk has 2,000 MB free: free some space, '
            'or choose a folder on another disk'
        )


class TestReportFullDisk:
    @pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
    def test_message(self, tmp_path, number):
        with pytest.raises(UserError) as caught, report_full_disk(tmp_path):
            raise OSError(number, os.strerror(number))
        assert str(caught.value) == (
            f'the disk of {tmp_path} is full. Finished files are kept; free some space and run the '
            'same command again to continue'
        )

    def test_message_with_other_advice(self, tmp_path):
        with pytest.raises(UserError) as caught, report_full_disk(tmp_path, 'Make room.'):
            raise OSError(errno.ENOSPC, 'No space left on device')
        assert str(caught.value) == f'the disk of {tmp_path} is full. Make room.'

    @pytest.mark.parametrize('error', [OSError(errno.EIO, 'Input/output error'), ValueError('x')])
    def test_other_errors_are_not_changed(self, tmp_path, error):
        with pytest.raises(type(error)) as caught, report_full_disk(tmp_path):
            raise error
        assert caught.value is error


class TestReportWriteErrors:
    def test_full_disk(self, tmp_path):
        with (
            pytest.raises(UserError, match=r'is full\. Make room\.'),
            report_write_errors(tmp_path / 'out', 'Make room.'),
        ):
            raise OSError(errno.ENOSPC, 'No space left on device')

    def test_other_write_errors(self, tmp_path):
        target = tmp_path / 'nowhere' / 'out'
        with pytest.raises(UserError) as caught, report_write_errors(target, ''):
            target.write_bytes(b'')
        assert str(caught.value) == (
            f'{target}: No such file or directory; {target} was not written'
        )


class TestLinks:
    """A link that is given as output is followed, as by a plain write."""

    @pytest.fixture(params=[b'old', None], ids=['file', 'nothing'])
    def link(self, tmp_path, request):
        (tmp_path / 'far').mkdir()
        if request.param is not None:
            (tmp_path / 'far' / 'file').write_bytes(request.param)
        link = tmp_path / 'link'
        link.symlink_to(Path('far') / 'file')
        return link

    def test_write_whole(self, link):
        write_whole(link, b'new')
        assert link.is_symlink()
        assert [path.name for path in link.parent.iterdir() if path != link] == ['far']
        assert [path.read_bytes() for path in (link.parent / 'far').iterdir()] == [b'new']

    def test_put_in_place(self, link, tmp_path):
        (tmp_path / 'part').write_bytes(b'new')
        put_in_place(tmp_path / 'part', link)
        assert link.is_symlink()
        assert (tmp_path / 'far' / 'file').read_bytes() == b'new'


def test_put_in_place(tmp_path):
    (tmp_path / 'part').write_bytes(b'new')
    (tmp_path / 'final').write_bytes(b'old')
    put_in_place(tmp_path / 'part', tmp_path / 'final')
    assert (tmp_path / 'final').read_bytes() == b'new'
    assert not (tmp_path / 'part').exists()
