"""The page that restores videos, in Chromium, with a real server."""

import contextlib
import errno
import http.client
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
import uvicorn
from playwright.sync_api import expect

from dblrgan_mm import files
from dblrgan_mm.cli import serve
from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.deblurrer import Deblurrer
from dblrgan_mm.inference.restore_clip import restore_clip
from dblrgan_mm.video.reading import open_clip
from dblrgan_mm.web import jobs as jobs_module
from dblrgan_mm.web.app import build_app
from dblrgan_mm.web.jobs import Jobs

WEIGHTS = ('dblrnet_plus', 'dblrgan_plus')
GATED = 'gated'  # weights that restore a frame only when the test lets them


@pytest.fixture(scope='module')
def deblurrers() -> dict[str, Deblurrer]:
    return {name: Deblurrer.from_checkpoint(name, 'cpu', 'float32') for name in WEIGHTS}


@pytest.fixture
def gate() -> threading.Semaphore:
    """Lets one frame pass per release."""
    return threading.Semaphore(0)


@pytest.fixture
def load(deblurrers, gate) -> Callable[[str], Deblurrer]:
    def load(name: str, dtype: str) -> Deblurrer:
        if name != GATED:
            return deblurrers[name]

        def network(windows, tile):
            gate.acquire()
            return windows[:, 1].float() / 255

        network.num_frames, network.default_tile = 3, 1
        return Deblurrer(network)

    return load


def wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def serving(folder: Path, load, max_bytes: int = 10**7) -> Iterator[SimpleNamespace]:
    folder.mkdir(exist_ok=True)
    jobs = Jobs(folder, load, keep=3600)
    app = build_app(jobs, [*WEIGHTS, GATED], max_bytes, serve._LOCAL)
    with serve._bound('127.0.0.1', 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level='error'))
        thread = threading.Thread(target=server.run, kwargs=dict(sockets=[listener]))
        thread.start()
        wait(lambda: server.started)
        port = listener.getsockname()[1]
        try:
            yield SimpleNamespace(url=f'http://127.0.0.1:{port}', jobs=jobs, folder=folder)
        finally:
            server.should_exit = True
            thread.join()
            jobs.close()


@pytest.fixture
def server(tmp_path, load) -> Iterator[SimpleNamespace]:
    with serving(tmp_path / 'served', load) as running:
        yield running


@pytest.fixture
def video(tmp_path, walk, write_video) -> Path:
    return write_video(tmp_path / 'a walk #1.mp4', walk, sound='aac')


def ask(server, method: str, path: str, body=b'', **headers: str) -> SimpleNamespace:
    """Send a request; return status and content."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    with contextlib.suppress(ValueError):
        content = json.loads(content)
    return SimpleNamespace(status=answer.status, content=content, headers=answer.headers)


def upload(server, path: Path, name: str = 'a.mp4', weights: str = WEIGHTS[0]) -> str:
    answer = ask(server, 'POST', f'/jobs?name={name}&weights={weights}', path.read_bytes())
    assert answer.status == 200, answer.content
    return answer.content['id']


def full(*arguments, **keywords) -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')


def full_disk(*arguments, **keywords) -> None:
    with files.report_write_errors(Path('x'), 'Free some space'):
        full()


def files_of(server) -> list[str]:
    return sorted(path.name for path in server.folder.iterdir() if path.name[0] != '.')


class TestPage:
    def test_from_upload_to_download(self, server, new_page, video, deblurrers, tmp_path):
        page = new_page(accept_downloads=True)
        page.goto(server.url)
        page.locator('#file').set_input_files(video)
        expect(page.locator('article h2')).to_have_text('a walk #1.mp4')
        state = page.get_by_role('status')
        expect(state).to_contain_text('12 frames, restoring all of them takes about', timeout=30000)
        preview = page.frame_locator('iframe')
        expect(preview.locator('#frame')).to_contain_text('(1 of 3)')
        preview.get_by_title('Next frame').click()
        expect(preview.locator('#frame')).to_contain_text('(2 of 3)')
        shown = 'image => image.complete && image.naturalWidth'
        assert preview.locator('#right-image').evaluate(shown) == 128
        assert preview.locator('#scores').is_hidden()

        page.get_by_role('button', name='Restore the whole video').click()
        expect(state).to_have_text('Done: 12 frames restored (dblrnet_plus)', timeout=30000)
        with page.expect_download() as download:
            page.get_by_role('link', name='Download').click()
        assert download.value.suggested_filename == 'a walk #1_deblurred.mp4'
        got, wanted = download.value.path(), tmp_path / 'wanted.mp4'
        restore_clip(video, wanted, deblurrers['dblrnet_plus'])
        for ours, theirs in zip(open_clip(got), open_clip(wanted), strict=True):
            assert np.array_equal(ours.image, theirs.image)
        assert b'soun' in Path(got).read_bytes()

        page.get_by_role('button', name='Remove').click()
        expect(page.locator('article')).to_have_count(0)
        assert files_of(server) == ['made_by_serve']

    def test_drop(self, server, new_page, video):
        page = new_page()
        page.goto(server.url)
        data = page.evaluate_handle(
            """bytes => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], 'dropped.mp4'));
                return data;
            }""",
            list(video.read_bytes()),
        )
        page.dispatch_event('#drop', 'drop', dict(dataTransfer=data))
        expect(page.locator('article h2')).to_have_text('dropped.mp4')

    def test_other_weights(self, server, new_page, video):
        page = new_page()
        page.goto(server.url)
        page.locator('#file').set_input_files(video)
        state = page.get_by_role('status')
        expect(state).to_contain_text('takes about', timeout=30000)
        again = page.get_by_role('button', name='Preview with the chosen weights')
        expect(again).to_be_hidden()
        page.get_by_label('Weights').select_option('dblrgan_plus')
        again.click()
        expect(state).to_have_text(
            re.compile(r'Preview: 12 frames, .* \(dblrgan_plus\)'), timeout=30000
        )
        heading = page.frame_locator('iframe').locator('h1')
        expect(heading).to_have_text('a walk #1.mp4, dblrgan_plus')

    def test_progress_and_cancel(self, server, new_page, video, gate):
        page = new_page()
        page.goto(server.url)
        page.get_by_label('Weights').select_option(GATED)
        page.locator('#file').set_input_files(video)
        gate.release(3)
        state = page.get_by_role('status')
        expect(state).to_contain_text('takes about')
        page.get_by_role('button', name='Restore the whole video').click()
        expect(state).to_contain_text('Restoring: 0 of 12 frames')
        gate.release(6)
        expect(state).to_have_text(re.compile(r'Restoring: [3-6] of 12 frames, \d+ s left .*'))
        assert 0.2 < page.locator('article progress').evaluate('bar => bar.value') < 0.6
        expect(page.get_by_role('button', name='Remove')).to_be_hidden()
        page.get_by_role('button', name='Cancel').click()
        gate.release(6)
        expect(state).to_have_text('Cancelled (gated)')
        (job,) = server.jobs.all()
        names = {path.name for path in (server.folder / job.id).iterdir()}
        assert names == {'job.json', 'source.mp4', 'preview'}

    def test_file_that_is_no_video(self, server, new_page, tmp_path):
        page = new_page()
        page.goto(server.url)
        (tmp_path / 'notes.mp4').write_text('no video')
        page.locator('#file').set_input_files(tmp_path / 'notes.mp4')
        expect(page.get_by_role('alert')).to_contain_text('notes.mp4: not a video')
        expect(page.locator('article')).to_have_count(0)
        assert files_of(server) == ['made_by_serve']

    def test_file_chosen_before_the_weights_are_known(self, server, new_page, tmp_path):
        page = new_page()
        held, holding = [], [True]

        def answer(route):
            held.append(route) if holding else route.continue_()

        page.route('**/jobs', answer)
        page.goto(server.url)
        (tmp_path / 'notes.mp4').write_text('no video')
        page.locator('#file').set_input_files(tmp_path / 'notes.mp4')
        page.wait_for_timeout(300)
        holding.clear()
        for route in held:
            route.continue_()
        expect(page.get_by_role('alert')).to_contain_text('notes.mp4: not a video')

    def test_file_that_is_too_large(self, tmp_path, load, new_page, video):
        with serving(tmp_path / 'served', load, max_bytes=1000) as small:
            page = new_page()
            page.goto(small.url)
            page.locator('#file').set_input_files(video)
            expect(page.get_by_role('alert')).to_have_text(
                'a walk #1.mp4: is larger than 0.000001 GB, the limit of this server'
            )

    def test_fits_a_phone(self, server, new_page, video):
        page = new_page(viewport=dict(width=390, height=844), is_mobile=True, has_touch=True)
        page.goto(server.url)
        page.locator('#file').set_input_files(video)
        expect(page.get_by_role('status')).to_contain_text('takes about', timeout=30000)
        assert page.evaluate('document.documentElement.scrollWidth') <= 390

    def test_server_that_stops_is_named(self, tmp_path, load, new_page):
        page = new_page()
        with serving(tmp_path / 'served', load) as running:
            page.goto(running.url)
        expect(page.get_by_role('alert')).to_have_text('The server does not answer.')


class TestQueue:
    def test_one_at_a_time(self, server, video, gate):
        first, second = upload(server, video, weights=GATED), upload(server, video)
        wait(lambda: server.jobs.get(first).state == 'running')
        assert server.jobs.get(second).state == 'waiting'
        assert ask(server, 'POST', f'/jobs/{first}/restore?weights={GATED}').content == dict(
            detail='a.mp4: is already being restored; cancel that first'
        )
        assert ask(server, 'DELETE', f'/jobs/{first}').status == 400
        gate.release(3)
        wait(lambda: server.jobs.get(second).state == 'ready')
        assert server.jobs.get(first).state == 'ready'

    def test_number_of_videos_before_one(self, server, video, gate, new_page):
        ready = upload(server, video)
        wait(lambda: server.jobs.get(ready).state == 'ready')
        upload(server, video, name='second.mp4', weights=GATED)
        ask(server, 'POST', f'/jobs/{ready}/restore?weights=dblrnet_plus')
        page = new_page()
        page.goto(server.url)
        card = page.locator('article', has_text='a.mp4')
        expect(card.get_by_role('status')).to_have_text('Waiting for 1 before it (dblrnet_plus)')
        gate.release(3)

    def test_streams_that_are_not_copied_are_named(self, server, video, monkeypatch):
        def restore(source, *arguments, **keywords) -> tuple[int, list[str]]:
            jobs_module.logger.warning('%s: not copied: telemetry', source)
            return 12, []

        monkeypatch.setattr(jobs_module, 'restore_clip', restore)
        key = upload(server, video)
        wait(lambda: server.jobs.get(key).state == 'ready')
        ask(server, 'POST', f'/jobs/{key}/restore?weights=dblrnet_plus')
        wait(lambda: server.jobs.get(key).state == 'done')
        assert server.jobs.get(key).message == ('12 frames restored; a.mp4: not copied: telemetry')

    def test_waiting_task_is_cancelled(self, server, video, gate):
        first, second = upload(server, video, weights=GATED), upload(server, video)
        wait(lambda: server.jobs.get(first).state == 'running')
        ask(server, 'DELETE', f'/jobs/{second}/task')
        gate.release(3)
        wait(lambda: server.jobs.get(first).state == 'ready')
        assert server.jobs.get(second).state == 'cancelled'

    def test_restored_video_is_kept(self, server, video):
        key = upload(server, video)
        wait(lambda: server.jobs.get(key).state == 'ready')
        ask(server, 'POST', f'/jobs/{key}/restore?weights=dblrnet_plus')
        wait(lambda: server.jobs.get(key).state == 'done')
        for task in ('restore', 'preview'):
            answer = ask(server, 'POST', f'/jobs/{key}/{task}?weights=dblrgan_plus')
            assert answer.content == dict(detail='a.mp4: is already restored; upload it again')
        assert ask(server, 'GET', f'/jobs/{key}/result').status == 200

    def test_full_disk_while_restoring(self, server, video, monkeypatch):
        key = upload(server, video)
        wait(lambda: server.jobs.get(key).state == 'ready')
        with monkeypatch.context() as patch:
            patch.setattr(jobs_module, 'restore_clip', full_disk)
            ask(server, 'POST', f'/jobs/{key}/restore?weights=dblrnet_plus')
            wait(lambda: server.jobs.get(key).state == 'failed')
        assert server.jobs.get(key).message == (
            'cannot be written (No space left on device); finished frames are kept: free some '
            'space, then restore the video again'
        )

    def test_full_disk_while_a_job_is_stored(self, server, video, monkeypatch):
        key = upload(server, video)
        wait(lambda: server.jobs.get(key).state == 'ready')
        with monkeypatch.context() as patch:
            patch.setattr(jobs_module.files, 'write_whole', full)
            answer = ask(server, 'POST', f'/jobs/{key}/restore?weights=dblrnet_plus')
            assert answer.status == 507
            refused = ask(
                server, 'POST', '/jobs?name=b.mp4&weights=dblrnet_plus', video.read_bytes()
            )
            assert refused.status == 400
        assert [job.state for job in server.jobs.all()] == ['ready']
        assert files_of(server) == sorted([key, 'made_by_serve'])


class TestRestart:
    def test_results_are_kept(self, tmp_path, load, video):
        with serving(tmp_path / 'served', load) as before:
            key = upload(before, video, name='w%C3%A4lk.mp4')
            wait(lambda: before.jobs.get(key).state == 'ready')
            ask(before, 'POST', f'/jobs/{key}/restore?weights=dblrnet_plus')
            wait(lambda: before.jobs.get(key).state == 'done')
        with serving(tmp_path / 'served', load) as after:
            assert after.jobs.get(key).name == 'wälk.mp4'
            assert ask(after, 'GET', f'/jobs/{key}/result').status == 200
            assert ask(after, 'GET', f'/jobs/{key}/preview/index.html').status == 200

    def test_unfinished_task_is_resumed(self, tmp_path, load, video, gate):
        with serving(tmp_path / 'served', load) as before:
            key = upload(before, video, weights=GATED)
            gate.release(3)
            wait(lambda: before.jobs.get(key).state == 'ready')
            ask(before, 'POST', f'/jobs/{key}/restore?weights={GATED}')
            gate.release(6)
            wait(lambda: before.jobs.get(key).finished >= 3)
            before.jobs._closed = True  # the server stops, then the next frames are finished
            gate.release(20)
        with serving(tmp_path / 'served', load) as after:
            gate.release(20)
            wait(lambda: after.jobs.get(key).state == 'done')
            restored = list(open_clip(after.jobs.result(after.jobs.get(key))))
            assert len(restored) == 12

    def test_cut_off_uploads_are_removed(self, tmp_path, load):
        with serving(tmp_path / 'served', load):
            pass
        served = tmp_path / 'served'
        (served / f'{0:016x}.part').write_bytes(b'half')
        (served / f'{1:016x}').mkdir()  # stopped before job.json was written
        (served / f'{1:016x}' / 'source.mp4').write_bytes(b'whole')
        (served / 'of a user').mkdir()
        (served / 'out.mp4.part').mkdir()
        with serving(served, load) as after:
            assert files_of(after) == ['made_by_serve', 'of a user', 'out.mp4.part']

    def test_old_jobs_are_removed(self, server, video):
        old, new = upload(server, video), upload(server, video)
        wait(lambda: all(job.state == 'ready' for job in server.jobs.all()))
        server.jobs._jobs[old] = replace(server.jobs.get(old), created=time.time() - 4000)
        server.jobs.clean()
        assert [job.id for job in server.jobs.all()] == [new]
        assert files_of(server) == sorted([new, 'made_by_serve'])

    def test_folder_with_other_files_is_refused(self, tmp_path, load):
        (tmp_path / 'mine.txt').touch()
        with pytest.raises(UserError, match='has other files; choose an empty folder'):
            Jobs(tmp_path, load, keep=1)


class TestBadUploads:
    @pytest.mark.parametrize('name', ['../../evil.mp4', '..%5C..%5Cevil.mp4', '%2Fetc%2Fevil.mp4'])
    def test_path_in_the_name(self, server, video, tmp_path, name):
        key = upload(server, video, name=name)
        assert server.jobs.get(key).name == 'evil.mp4'
        assert not list(tmp_path.rglob('*evil*'))

    def test_strange_suffix(self, server, video):
        key = upload(server, video, name='a.%E2%82%AC%00')
        assert server.jobs.source(server.jobs.get(key)).name == 'source.mp4'

    @pytest.mark.parametrize('stated', [True, False])
    def test_too_large(self, tmp_path, load, video, stated):
        with serving(tmp_path / 'served', load, max_bytes=1000) as small:
            body = video.read_bytes()
            given = body if stated else io.BytesIO(body)  # chunked: without a stated length
            answer = ask(small, 'POST', '/jobs?name=a.mp4&weights=dblrnet_plus', given)
            assert answer.status == 400
            assert answer.content['detail'].startswith('a.mp4: is larger than 1e-06 GB')
            assert files_of(small) == ['made_by_serve']

    def test_cut_off(self, server, video):
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        connection.putrequest('POST', '/jobs?name=a.mp4&weights=dblrnet_plus')
        connection.putheader('Content-Length', '100000')
        connection.endheaders(video.read_bytes()[:5000])
        wait(lambda: any(name.endswith('.part') for name in files_of(server)))
        connection.close()
        wait(lambda: files_of(server) == ['made_by_serve'])
        assert server.jobs.all() == []

    def test_full_disk(self, server, video, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(Path, 'mkdir', full)
            answer = ask(
                server, 'POST', '/jobs?name=a.mp4&weights=dblrnet_plus', video.read_bytes()
            )
        assert answer.status == 400
        assert answer.content['detail'] == (
            'a.mp4: cannot be stored on the server (No space left on device); remove some videos'
        )
        assert files_of(server) == ['made_by_serve']

    def test_image(self, server, sample_root):
        (image, *_) = (sample_root / 'train' / 'gopro_walk_a' / 'blur').iterdir()
        answer = ask(server, 'POST', '/jobs?name=a.png&weights=dblrnet_plus', image.read_bytes())
        assert answer.content['detail'] == 'a.png: an image; give a video'

    def test_unknown_weights(self, server, video):
        answer = ask(server, 'POST', '/jobs?name=a.mp4&weights=x', video.read_bytes())
        assert answer.content['detail'].startswith("no weights 'x'; choose one of dblrnet_plus")

    def test_damaged_video_fails_with_a_message(self, server, video):
        content = bytearray(video.read_bytes())
        place = content.index(b'mdat')
        content[place + 4 : place + 4 + 30000] = bytes(30000)
        answer = ask(server, 'POST', '/jobs?name=a.mp4&weights=dblrnet_plus', bytes(content))
        assert answer.status == 400
        assert answer.content['detail'].startswith('a.mp4: not a video that can be read')


class TestAccess:
    def test_files_outside_a_preview(self, server, video):
        key = upload(server, video)
        wait(lambda: server.jobs.get(key).state == 'ready')
        assert ask(server, 'GET', f'/jobs/{key}/preview/index.html').status == 200
        for path in ('../job.json', '%2E%2E/job.json', '..%2Fsource.mp4', '/etc/passwd', 'x'):
            assert ask(server, 'GET', f'/jobs/{key}/preview/{path}').status == 404
        for path in (f'/jobs/{key}/result', '/jobs/x/result', '/page.html', '/page.py'):
            assert ask(server, 'GET', path).status == 404

    def test_other_names_and_sites(self, server):
        assert ask(server, 'GET', '/jobs', Host='evil.example').status == 403
        assert ask(server, 'GET', '/jobs', Host='localhost:80').status == 200
        path = '/jobs?name=a.mp4&weights=dblrnet_plus'
        assert ask(server, 'POST', path, Origin='http://evil.example').status == 403
        assert ask(server, 'POST', path, Origin=server.url).status == 400, 'an empty video'

    @pytest.mark.parametrize('host', ['0.0.0.0', '192.168.1.5', '::', 'example.org'])  # noqa: S104
    def test_public_address_must_be_asked_for(self, host):
        with pytest.raises(UserError, match='without a password; use --public if you want this'):
            serve.check_address(host, public=False)
        assert not serve.check_address(host, public=True)

    @pytest.mark.parametrize('host', ['127.0.0.1', '127.0.0.2', 'localhost', '::1', '[::1]'])
    def test_local_addresses(self, host):
        assert serve.check_address(host, public=False)

    @pytest.mark.parametrize(
        'arguments', ['--port 65536', '--port -1', '--max-size 0', '--max-size inf', '--keep nan']
    )
    def test_values_out_of_range(self, arguments, capsys):
        with pytest.raises(SystemExit):
            serve.parse_args(arguments.split())
        assert arguments.split()[0] in capsys.readouterr().err

    def test_port_that_is_taken(self):
        with serve._bound('127.0.0.1', 0) as listener:
            listener.listen()
            port = listener.getsockname()[1]
            with pytest.raises(UserError, match=f'cannot serve on 127.0.0.1 port {port} '):
                serve._bound('127.0.0.1', port)
