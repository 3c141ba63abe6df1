"""The web application: a page and its requests."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.preview import duration
from dblrgan_mm.web.jobs import Job, Jobs

_HERE = Path(__file__).parent


def build_app(
    jobs: Jobs, weights: Sequence[str], max_bytes: int, hosts: Sequence[str] | None
) -> FastAPI:
    """Return the application.

    Args:
        jobs: the videos.
        weights: names of weights to choose from; the first one is preselected.
        max_bytes: size of the largest upload.
        hosts: names by which the server may be addressed, None: any. Other names are refused, so
            that a web page cannot reach a local server by a name of its own.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware('http')
    async def only_from_its_own_page(request: Request, call_next: Any) -> Response:
        host = request.headers.get('host', '')
        if hosts is not None and host.rpartition(':')[0] not in hosts and host not in hosts:
            return _refusal(403, f'unknown host name {host}; open the address that serve printed')
        origin = request.headers.get('origin')
        if request.method != 'GET' and origin not in (None, f'http://{host}', f'https://{host}'):
            return _refusal(403, f'{origin} is another site')
        return await call_next(request)

    @app.exception_handler(UserError)
    async def say(request: Request, error: UserError) -> Response:
        return _refusal(400, str(error))

    @app.exception_handler(OSError)
    async def say_full(request: Request, error: OSError) -> Response:
        return _refusal(507, f'cannot be stored on the server ({error.strerror})')

    @app.get('/')
    def page() -> HTMLResponse:
        return HTMLResponse((_HERE / 'page.html').read_text(encoding='utf-8'))

    @app.get('/page.{suffix}')
    def asset(suffix: str) -> FileResponse:
        if suffix not in ('js', 'css'):
            raise HTTPException(404)
        return FileResponse(_HERE / f'page.{suffix}')

    @app.get('/jobs')
    def state() -> dict[str, Any]:
        found = [
            asdict(job) | dict(left=job.seconds_left and duration(job.seconds_left))
            for job in jobs.all()
        ]
        return dict(jobs=found, weights=list(weights), max_bytes=max_bytes)

    @app.post('/jobs')
    async def upload(request: Request, name: str, weights: str) -> Response:
        weights = known(weights)
        stated = int(request.headers.get('content-length', 0))
        path = jobs.new_upload()
        try:
            if stated > max_bytes:
                raise UserError(_too_large(name, max_bytes))
            size = 0
            with path.open('wb') as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > max_bytes:
                        raise UserError(_too_large(name, max_bytes))
                    file.write(chunk)
            job = await run_in_threadpool(jobs.add, path, name, weights)
            return JSONResponse(asdict(job))
        except ClientDisconnect:
            raise UserError(f'{name}: the upload was cut off; try again') from None
        except OSError as error:
            raise UserError(
                f'{name}: cannot be stored on the server ({error.strerror}); remove some videos'
            ) from error
        finally:
            path.unlink(missing_ok=True)  # unless it was added

    @app.post('/jobs/{key}/{task}')
    def start(key: str, task: str, weights: str) -> Response:
        if task not in ('preview', 'restore'):
            raise HTTPException(404)
        jobs.start(find(key).id, task, known(weights))
        return Response(status_code=204)

    @app.delete('/jobs/{key}/task')
    def cancel(key: str) -> Response:
        jobs.cancel(find(key).id)
        return Response(status_code=204)

    @app.delete('/jobs/{key}')
    def remove(key: str) -> Response:
        jobs.remove(find(key).id)
        return Response(status_code=204)

    @app.get('/jobs/{key}/result')
    def result(key: str) -> FileResponse:
        job = find(key)
        path = jobs.result(job)
        if job.state != 'done' or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, filename=f'{Path(job.name).stem}_deblurred{path.suffix}')

    @app.get('/jobs/{key}/preview/{place:path}')
    def preview(key: str, place: str) -> FileResponse:
        folder = jobs.preview(find(key)).resolve()
        path = (folder / (place or 'index.html')).resolve()
        if folder not in path.parents or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, headers={'Cache-Control': 'no-store'})

    def find(key: str) -> Job:
        try:
            return jobs.get(key)
        except KeyError:
            raise HTTPException(404) from None

    def known(name: str) -> str:
        if name not in weights:
            raise UserError(f'no weights {name!r}; choose one of {", ".join(weights)}')
        return name

    return app


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse(dict(detail=message), status)


def _too_large(name: str, max_bytes: int) -> str:
    return f'{name}: is larger than {max_bytes / 1e9:g} GB, the limit of this server'
