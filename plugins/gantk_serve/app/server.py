"""The web server: Gradio's page and API, and result files, refused to other sites' pages and other
machines.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
import traceback
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from jinja2 import Environment, FileSystemLoader

from gantk.errors import GantkError, UserError, count_noun, machine_failure
from gantk.inference.frame import fit_words
from gantk.metrics.names import baseline_words, title_of
from gantk.metrics.rows import patients_are_known
from gantk.runs.models import scores_of
from gantk.runs.results import Results
from gantk.runs.schemas import read_results
from gantk_serve.app.service import LOOPBACK, TAKEN, Service
from gantk_serve.trust import PAGE, PLACES, page_file, page_html

HERE = Path(__file__).parent
SCRIPTS = {
    "niivue.js": HERE / "niivue.umd.js",
    "viewer.js": HERE / "viewer.js",
}
OWN = SCRIPTS | {name: page_file(name) for name in PLACES if name != PAGE}
WORDS = {"common.complete": "Done"}  # that Gradio's page lacks
PAGES = Environment(loader=FileSystemLoader(HERE), autoescape=True)
PAGES.globals.update(
    fit_words=fit_words,
    title_of=title_of,
    baseline_words=baseline_words,
    count_noun=count_noun,
    patients_are_known=patients_are_known,
)
PARTS = PAGES.get_template("parts.html.j2").module
# pages load from this server only; 'unsafe-eval' is for Gradio's scripts and NiiVue's WebAssembly
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:;"
    " object-src 'none'; style-src 'self' 'unsafe-inline'; base-uri 'self'; form-action 'self';"
    " frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# what neither the page nor Gradio's client needs: calls outside the queue, and other services
CLOSED = (
    "/gradio_api/api",
    "/gradio_api/call",
    "/gradio_api/component_server",
    "/gradio_api/deep_link",
    "/gradio_api/process_recording",
    "/gradio_api/proxy",
    "/gradio_api/run",
    "/gradio_api/stream",
    "/gradio_api/vibe",
)


USER = "gantk"  # whose password is the token
MAX_WAITING = 16  # translations that wait; a further one is refused
UNTAKEN_S = 300.0  # seconds: a page takes its upload at once, and one that no page took is removed


def remove_untaken(uploads: Path) -> None:
    """Remove uploads that no page has taken for `UNTAKEN_S` seconds."""
    with suppress(OSError):
        for folder in set(uploads.iterdir()) - {uploads / TAKEN}:
            with suppress(OSError):  # a page is taking it
                files_in = [folder, *folder.iterdir()]
                newest = max(path.stat().st_mtime for path in files_in)
                if time.time() - newest >= UNTAKEN_S:
                    shutil.rmtree(folder)


class Guard:
    """ASGI middleware: refuses other sites' pages and too large uploads, and adds HEADERS to every
    response. Uploads to the folder `uploads` that no page takes are removed.
    """

    def __init__(self, app, hosts: set[str], most: int, uploads: Path):
        self.app = app
        self.hosts = hosts
        self.most = most
        self.uploads = uploads

    async def __call__(self, scope, receive, send):
        async def answer(message):
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in HEADERS.items()),
                ]
            await send(message)

        wrong = scope["type"] == "http" and self._wrong(scope)
        if wrong:
            with suppress(Exception):  # the connection may be closed: its request was malformed
                await JSONResponse({"detail": wrong[1]}, wrong[0])(scope, receive, answer)
            return

        await self._answer_by_app(scope, receive, answer)

        if scope["type"] == "http" and scope["path"].endswith("/upload"):
            cleaning = threading.Timer(UNTAKEN_S, remove_untaken, [self.uploads])
            cleaning.daemon = True
            cleaning.start()

    async def _answer_by_app(self, scope, receive, answer) -> None:
        """Let the application answer. What gradio fails on is a request that its page never sends,
        such as one with half a character: 400 in place of 500 and a traceback.
        """
        if scope["type"] != "http" or not scope["path"].startswith("/gradio_api/"):
            await self.app(scope, receive, answer)
            return

        failure = []  # the messages of a 500

        async def answer_unless_failed(message):
            if failure or message.get("status") == 500:
                failure.append(message)
            else:
                await answer(message)

        try:
            await self.app(scope, receive, answer_unless_failed)
        except (LookupError, TypeError, ValueError):
            if not failure:  # the answer has begun
                raise
            refusal = JSONResponse({"detail": "The page never sends such a request."}, 400)
            await refusal(scope, receive, answer)
        else:
            for message in failure:
                await answer(message)

    def _wrong(self, scope) -> tuple[int, str] | None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = headers.get("host", "")
        length = headers.get("content-length", "0")
        try:
            asked = urlsplit(f"//{host}")
            page = urlsplit(headers.get("origin") or f"//{host}")
        except ValueError:  # such as an open bracket
            return 400, "The header Host or Origin is not an address."

        if self.hosts and asked.hostname not in self.hosts:
            return 403, f"This server only answers at {' and '.join(sorted(self.hosts))}."
        if page.netloc != host:
            return 403, "Pages of other sites cannot use this server."
        if scope["path"].startswith(CLOSED):
            return 404, "There is no page at this address."
        if "transfer-encoding" in headers or not length.isdecimal():
            return 411, "The request does not state its length. Send Content-Length."

        if int(length) > self.most + 2**20:
            return (
                413,
                (
                    f"The upload is larger than {self.most >> 20} MB. Start gantk app with a"
                    " larger --max-mb."
                ),
            )


class Page(gr.Blocks):
    """Gradio's page, without tracebacks for values that its controls never send."""

    async def preprocess_data(self, *given, **options):
        try:
            return await super().preprocess_data(*given, **options)
        except (LookupError, TypeError, ValueError, gr.Error):
            what = "The values of this request do not fit the page. Load the page again."
            raise gr.Error(what, print_exception=False) from None


def application(service: Service, host: str = "127.0.0.1", token: str = "") -> FastAPI:
    """Build the web application: the page at / with Gradio's API, and the files that it shows.

    With a `token`, the page and the API ask for it, as the password of the user "gantk".
    """
    limits = service.model.identity().get("limits", "")
    app = FastAPI(title=service.run, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(
        Guard,
        hosts=set(LOOPBACK) if host in LOOPBACK else set(),
        most=service.most,
        uploads=service.folder.resolve(),
    )

    @app.get("/files/{folder}/{name}", include_in_schema=False)
    def file(folder: str, name: str):
        if folder == "own":
            path = OWN.get(name, HERE)
        else:
            path = service.results_folder(folder) / name
        if ".." in (folder, name) or not path.is_file():
            raise HTTPException(404, "This result was deleted. Translate the scan again.")
        return FileResponse(str(path), filename=None if folder == "own" else name)

    @app.get("/trust", include_in_schema=False)
    def trust():
        return HTMLResponse(PARTS.page(page_html("/files/own/")))

    theme = gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=[]
    )
    options = {
        "theme": theme,
        "head": PARTS.head(SCRIPTS),
        "css": (HERE / "page.css").read_text("utf-8"),
    }
    options |= {
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "i18n": gr.I18n(en=WORDS),
    }
    return gr.mount_gradio_app(
        app,
        window(service, limits),
        "/",
        max_file_size=service.most,
        auth=(USER, token) if token else None,
        **options,
    )


def window(service: Service, limits: str) -> gr.Blocks:
    """Build the page that a user sees: upload, direction, result and viewer; and, for programs, the
    call `/translate` of Gradio's API.
    """
    # by browser session: all of its uploads, and the one that the page shows
    taken: dict[str, list[Path]] = defaultdict(list)
    shown: dict[str, Path] = {}
    results = Results()
    of_card: list[list[str]] = []
    cache = service.folder.resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(cache)
    run = service.model.run
    if run is not None:
        with suppress(UserError):  # the model was never scored
            results = read_results(run.path)
            of_card = scores_of(run.path)

    def take_file(given: str, session: str) -> Path:
        """Move an upload to a place of its session."""
        path = uploaded_file(given, cache)
        upload = path.rename(service.place(path.name))
        taken[session].append(upload)
        with suppress(OSError):
            path.parent.rmdir()
        return upload

    def forget(request: gr.Request) -> None:
        shown.pop(request.session_hash, None)
        for upload in taken.pop(request.session_hash, []):
            service.forget(upload)

    def take(given: str | None, request: gr.Request) -> tuple[gr.Button, Any, str]:
        """Take an upload, choose its direction, and say whether it fits the training data."""
        forget(request)
        if not given:
            return gr.Button(interactive=False), gr.skip(), PARTS.start()
        upload = take_file(given, request.session_hash)
        shown[request.session_hash] = upload
        try:
            to, answer = service.look(upload)
        except Exception as error:
            return gr.Button(interactive=False), gr.skip(), PARTS.wrong(failure_of(error))
        return gr.Button(interactive=True), to, PARTS.ready(answer, service.directions[to], to)

    def go(
        to: str,
        label: str | None,
        request: gr.Request,
        progress=gr.Progress(),  # noqa: B008
    ):
        upload = shown.get(request.session_hash)
        if upload is None:
            return PARTS.wrong("The scan was deleted. Upload it again."), None

        try:
            options = {
                "label": label,
                "show": True,
                "tell": lambda share, what: progress(share, desc=what),
            }
            result = service.translate(upload, to, **options)
        except Exception as error:
            return PARTS.wrong(failure_of(error)), None

        about = {"base": f"/files/{upload.parts[-3]}/", "source": service.directions[to], "to": to}
        return PARTS.result(result, result.file.stat().st_size, **about), about | {
            "views": result.views
        }

    def translate(file: str | None, to: str, label: str, request: gr.Request):
        """Translate a file (NIfTI, picture or zip of a DICOM series) to the domain `to`. `label` is
        the class of its images, for a model that was trained with classes. Returns a file of the
        same kind, and the warnings and notes about the scan.
        """
        if not file:
            raise gr.Error("The request has no file.", print_exception=False)
        upload = take_file(file, request.session_hash)
        try:
            result = service.translate(upload, to or next(iter(service.directions)), label=label)
        except Exception as error:
            raise gr.Error(failure_of(error), print_exception=False) from error
        return str(result.file), [": ".join(note) for note in result.notes]

    with Page(title="gantk", analytics_enabled=False) as blocks:
        gr.HTML(PARTS.top(service.run, limits), elem_id="top")
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                upload = gr.File(
                    label="Scan (NIfTI, PNG or zipped DICOM)", elem_id="scan", height=160
                )
                choices = [
                    (f"{source} → {target}", target)
                    for target, source in service.directions.items()
                ]
                way = gr.Radio(choices, value=choices[0][1], label="Direction", elem_id="way")
                classes = service.model.classes()
                label = gr.Radio(
                    list(classes),
                    value=classes[-1] if classes else None,
                    label="Class of the images",
                    visible=bool(classes),
                    elem_id="label",
                )
                start = gr.Button("Translate", variant="primary", interactive=False, elem_id="go")

            with gr.Column(scale=3, min_width=300):
                status = gr.HTML(PARTS.start(), elem_id="said")
                _ = gr.HTML("<div id='viewer' hidden></div>")
        gr.HTML(PARTS.scores(results, of_card), elem_id="scores")

        result_data = gr.JSON(visible=False)
        asked = {"api_visibility": "private", "concurrency_limit": None}
        one_at_a_time = {"concurrency_limit": 1, "concurrency_id": "translate"}
        upload.change(take, upload, [start, way, status], show_progress_on=status, **asked)
        done = start.click(
            go,
            [way, label],
            [status, result_data],
            show_progress_on=status,
            api_visibility="private",
            **one_at_a_time,
        )
        done.then(None, result_data, None, js="(shown) => window.gantkShow(shown)")
        blocks.unload(forget)
        sent = gr.File(visible=False)
        target = gr.Textbox(visible=False)
        kind = gr.Textbox(visible=False)
        answer = gr.File(visible=False)
        notes = gr.JSON(visible=False)
        call = gr.Button(visible=False)
        call.click(
            translate,
            [sent, target, kind],
            [answer, notes],
            api_name="translate",
            **one_at_a_time,
        )
        blocks.queue(max_size=MAX_WAITING)

    # Otherwise Gradio downloads any URL that a client sends in place of a file, and leaves an empty
    # file behind.
    for each in (upload, sent):
        each.async_move_resource_to_block_cache = lambda path: asyncio.sleep(0, path)
        each.preprocess = lambda given: given and given.path
    # a result stays where it is until its session ends
    answer.async_move_resource_to_block_cache = lambda path: asyncio.sleep(0, path)
    return blocks


def uploaded_file(given: str, cache: Path) -> Path:
    """The uploaded file that a client names; a mounted Gradio does not check this. gr.Error for any
    other file.
    """
    with suppress(OSError, RuntimeError, ValueError):  # it is no path, or links to itself
        path = Path(given).resolve()
        if path.parent.parent == cache and path.is_file():
            return path
    raise gr.Error("This file was not uploaded here.", print_exception=False)


def failure_of(error: Exception) -> str:
    """The message of an error for the sender of a file; an unexpected error is printed with its
    traceback.
    """
    if message := str(error) if isinstance(error, GantkError) else machine_failure(error):
        return message
    traceback.print_exception(error)
    return "An unexpected error occurred. The terminal that runs gantk app shows it."
