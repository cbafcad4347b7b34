"""The HTTP server: uploads become jobs, whose results are fetched; DICOM instances come by STOW-RS.
Every call carries a token.
"""

import hmac
import secrets
import shutil
import ssl
import threading
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from queue import Full
from typing import TYPE_CHECKING, Annotated, Any

import python_multipart  # noqa: F401 (FastAPI reads forms with it)
import uvicorn
from fastapi import BackgroundTasks, Depends, FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer

from gantk import __version__
from gantk.files import make_folder, write_file
from gantk.formats.files import formats, suffix_of
from gantk_serve.addresses import listen
from gantk_serve.dicom import tls_context
from gantk_serve.inbox import Refused
from gantk_serve.journal import secret_of
from gantk_serve.page import SHOWN_JOBS, status_page
from gantk_serve.store import Job, now
from gantk_serve.worker import UPLOADS

if TYPE_CHECKING:
    from gantk_serve.service import Service

STOW = "STOW-RS"  # the sender of instances that come by HTTP
PUBLIC = (
    "job",
    "target",
    "state",
    "progress",
    "reason",
    "attempts",
    "sends",
    "created",
    "begun",
    "ended",
)
MAX_DIGITS = 20  # of Content-Length
RESEARCH = "For research only. Every result is synthetic and must not be used for diagnosis."


class Web:
    """The HTTP server of a service, in a thread."""

    def __init__(self, service: "Service"):
        self.service = service
        self.table = service.rules.http
        self.token = _token(service.folder / self.table.token)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Begin to listen; returns the address. UserError where that is impossible."""
        listener = listen(self.table.host, self.table.port, "http.host, http.port")
        options: dict[str, Any] = {"log_level": "critical", "access_log": False}
        tls = self.table.tls
        if tls is not None:
            tls_context(tls, ssl.Purpose.CLIENT_AUTH)  # a file that is wrong is an error here
            options |= {"ssl_certfile": tls.certificate, "ssl_keyfile": tls.key}
            if tls.authorities:
                options |= {"ssl_ca_certs": tls.authorities, "ssl_cert_reqs": ssl.CERT_REQUIRED}
        self._server = uvicorn.Server(uvicorn.Config(application(self), **options))
        self._server.install_signal_handlers = lambda: None
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="http", daemon=True
        )
        self._thread.start()
        scheme = "http" if tls is None else "https"
        return f"{scheme}://{self.table.host}:{listener.getsockname()[1]}"

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.should_exit = True
            self._thread.join()

    def models(self) -> list[str]:
        """The models that an upload may name."""
        used = [rule.model for rule in self.service.rules.rules]
        return list(dict.fromkeys([*self.table.models, *used]))

    def model(self, name: str) -> str | None:
        """The model that an upload names, a run folder by its last word; "" is the first model."""
        allowed = self.models()
        return next((each for each in allowed if name in ("", each, Path(each).name)), None)


class Api:
    """The calls of the HTTP server."""

    def __init__(self, web: Web):
        self.web = web
        self.service = web.service
        self.store = web.service.store

    def translate(
        self,
        file: UploadFile,
        model: Annotated[str, Form()] = "",
        to: Annotated[str, Form()] = "",
        label: Annotated[str, Form()] = "",
    ) -> dict[str, str]:
        """Add a translation of `file` (NIfTI, NRRD, a picture, or a zip of DICOM series) to the
        queue; returns its job.
        """
        chosen = self.web.model(model)
        if chosen is None:
            shown = ", ".join(Path(name).name for name in self.web.models())
            raise HTTPException(400, f"This service has no such model. Allowed: {shown}.")
        suffix = suffix_of(Path(file.filename or ""))
        if suffix not in (*formats(), ".zip"):
            raise HTTPException(400, "The file is no image that gantk reads, and no zip.")
        number = secrets.token_hex(16)
        path = self._keep_upload(file, number, suffix)
        job = Job(number, None, [path.as_posix()], chosen, to, label, created=now())
        try:
            self.store.enqueue(job, self.service.rules.service.max_waiting)
        except Full as error:
            shutil.rmtree(self.service.folder / path.parent, ignore_errors=True)
            raise HTTPException(503, str(error)) from None
        self.service.journal.say("waiting", job=number, model=job.model_name)
        return {"job": number}

    def _keep_upload(self, file: UploadFile, number: str, suffix: str) -> Path:
        """Write an upload to the disk; returns its path, relative to the service's folder."""
        path = Path(UPLOADS, number, f"input{suffix}")
        folder = self.service.folder
        try:
            make_folder(folder / path.parent, private=True)
            content = iter(lambda: file.file.read(2**20), b"")
            write_file(folder / path, content, private=True)
        except OSError as error:
            shutil.rmtree(folder / path.parent, ignore_errors=True)
            raise HTTPException(507, f"The upload cannot be kept: {error.strerror}.") from None
        return path

    def _job_or_404(self, number: str) -> Job:
        job = self.store.job(number)
        if job is None:
            raise HTTPException(404, "There is no such job. Its result may have been fetched.")
        return job

    def job(self, number: str) -> dict[str, Any]:
        """The state of a job: waiting, running, done, sent, failed or cancelled."""
        return _public_view(self._job_or_404(number))

    def result(self, number: str, background: BackgroundTasks) -> FileResponse:
        """The result of a job: a file, or a zip of several. That of an upload is deleted once it is
        fetched.
        """
        found = self._job_or_404(number)
        if found.state not in ("done", "sent"):
            raise HTTPException(409, f"The job is {found.state}. {found.reason}".strip())

        folder = self.service.folder / found.result
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if len(files) == 1:
            path = files[0]
        else:
            packed = self.service.folder / UPLOADS / f"{number}-{secrets.token_hex(4)}"
            path = Path(shutil.make_archive(str(packed), "zip", folder))
            background.add_task(path.unlink, missing_ok=True)
        if found.study is None:
            background.add_task(self.service.forget, found)
        name = f"synthetic{suffix_of(path) or path.suffix}"
        return FileResponse(path, filename=name, background=background)

    def cancel(self, number: str) -> dict[str, Any]:
        """Cancel a job that has not ended, and delete its upload."""
        found = self._job_or_404(number)
        if not self.store.cancel(number, now()):
            raise HTTPException(409, f"The job is {found.state} and cannot be cancelled.")
        shutil.rmtree(self.service.folder / UPLOADS / number, ignore_errors=True)
        return _public_view(self._job_or_404(number))

    def retry(self, number: str) -> dict[str, Any]:
        """Let a failed job start again."""
        found = self._job_or_404(number)
        if not self.store.retry(number, now()):
            raise HTTPException(409, f"The job is {found.state} and cannot be retried.")
        return _public_view(self._job_or_404(number))

    async def stow(self, request: Request) -> JSONResponse:
        """Take DICOM instances, as STOW-RS does (PS3.18, 10.5): multipart/related with parts of
        application/dicom.
        """
        stored = []
        failed = 0
        for content in await _parts(request):
            try:
                new = await run_in_threadpool(self.service.inbox.take, content, STOW)
            except Refused:
                failed += 1
            except OSError as error:
                raise HTTPException(507, f"No room: {error.strerror}.") from None
            else:
                stored.append(new.instance)

        answer: dict[str, Any] = {}
        if stored:
            items = [{"00081155": {"vr": "UI", "Value": [each]}} for each in stored]
            answer["00081199"] = {"vr": "SQ", "Value": items}
        if failed:
            reason = {"00081197": {"vr": "US", "Value": [0xC000]}}
            answer["00081198"] = {"vr": "SQ", "Value": [reason] * failed}
        status = 200
        if failed:
            status = 202 if stored else 409
        return JSONResponse(answer, status, media_type="application/dicom+json")

    def status(self) -> dict[str, Any]:
        """The numbers of studies and jobs by state, and the newest jobs."""
        jobs = [_public_view(each) for each in self.store.jobs(newest=SHOWN_JOBS)]
        return {"counts": self.store.counts(), "jobs": jobs, "version": __version__}

    def metrics(self) -> PlainTextResponse:
        """The same numbers for Prometheus."""
        from gantk_serve.metrics import exposition

        text, kind = exposition(self.service)
        return PlainTextResponse(text, media_type=kind)

    def page(self) -> HTMLResponse:
        """A small page with the state of the queue."""
        return HTMLResponse(status_page(self.service))


def application(web: Web) -> FastAPI:
    """Build the web application."""
    api = Api(web)
    app = FastAPI(
        title="gantk serve",
        version=__version__,
        description=RESEARCH,
        dependencies=[Depends(HTTPBearer(auto_error=False))],  # for /openapi.json alone
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Guard, token=web.token, most=web.service.rules.service.max_mb << 20)
    app.post("/translate", status_code=202)(api.translate)
    app.get("/jobs/{number}")(api.job)
    app.get("/jobs/{number}/result", response_class=FileResponse)(api.result)
    app.delete("/jobs/{number}")(api.cancel)
    app.post("/jobs/{number}/retry")(api.retry)
    app.post("/dicom-web/studies")(api.stow)
    app.get("/status")(api.status)
    app.get("/metrics", response_class=PlainTextResponse)(api.metrics)
    app.get("/", response_class=HTMLResponse)(api.page)
    return app


class Guard:
    """ASGI middleware: refuses requests without the token, and bodies without a length or larger
    than allowed, before any of the body is read.
    """

    def __init__(self, app: Any, token: bytes, most: int):
        self.app = app
        self.token = token
        self.most = most

    async def __call__(self, scope, receive, send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            status, text = refusal
            await JSONResponse({"detail": text}, status)(scope, receive, send)

    def _refusal(self, scope) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(given, self.token):
            return 401, "The request has no valid token."
        if scope["method"] in ("GET", "HEAD", "DELETE"):
            return None

        # a request with neither header has no content (RFC 9112, 6.3)
        length = headers.get(b"content-length", b"0").decode("latin-1")
        if b"transfer-encoding" in headers or not length.isdecimal():
            return 411, "The request does not state its length. Send Content-Length."
        if len(length) > MAX_DIGITS or int(length) > self.most + 2**20:
            return 413, f"The upload is larger than {self.most >> 20} MB."
        return None


async def _parts(request: Request) -> list[bytes]:
    """The parts of a multipart/related body; HTTPException where it is none."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/related"):
        raise HTTPException(415, "Send multipart/related with parts of application/dicom.")
    body = await request.body()
    head = f"Content-Type: {kind}\r\n\r\n".encode("latin-1", "ignore")
    message = BytesParser(policy=HTTP).parsebytes(head + body)
    if not message.is_multipart():
        raise HTTPException(400, "The body has no parts.")
    return [part.get_payload(decode=True) or b"" for part in message.iter_parts()]


def _public_view(job: Job) -> dict[str, Any]:
    """What is told of a job: no paths, no UIDs. Notes may quote a header: only of an upload, whose
    sender has the file.
    """
    found = {name: getattr(job, name) for name in PUBLIC}
    if job.study is None:
        found["notes"] = job.notes
    return found | {"model": job.model_name, "peers": job.peers}


def _token(path: Path) -> bytes:
    return secret_of(path, lambda: secrets.token_urlsafe(32).encode()).strip()
