"""The page of `gantk app` in Gradio, whose queue, upload limits, API and file addresses it uses; and
the call `/translate` for programs.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from fastapi.middleware import Middleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse
from jinja2 import Environment, FileSystemLoader

from gantk import score_table
from gantk.errors import GantkError, UserError, machine_failure
from gantk.inference.frame import fit_words
from gantk.runs.models import card
from gantk.runs.schemas import read_results
from gantk_serve.app.service import LOOPBACK, Service
from gantk_serve.trust import PICTURES, page_file, page_text

HERE = Path(__file__).parent
USER = "gantk"  # whose password is the token
MAX_WAITING = 16  # translations that wait; a further one is refused
FILES = "/gradio_api/file="  # Gradio's address of a file that it may serve
HEARTBEAT = "/gradio_api/heartbeat/"  # Gradio's address of a session that is open
PARTS_FILES = Environment(loader=FileSystemLoader(HERE), autoescape=True)
PARTS_FILES.globals.update(fit_words=fit_words, files=FILES)
PARTS = PARTS_FILES.get_template("parts.html.j2").module
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


def serve_page(service: Service, host: str, port: int, token: str = "") -> gr.Blocks:
    """Start the server in a thread; `local_url` and `close()` of the page are its address and end.

    Port 0 is a free port. With a `token`, the page and the API ask for it, as the password of the
    user "gantk". OSError where it cannot listen.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(service.folder.resolve())
    niivue = HERE / "niivue.umd.js"
    middleware = [Middleware(Guard, service=service)]
    if host in LOOPBACK:  # else a page of another site could reach it under that site's name
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK]))
    page = build_page(service)
    page.launch(
        server_name=host,
        server_port=port or None,
        auth=(USER, token) if token else None,
        max_file_size=service.max_bytes,
        allowed_paths=[str(path) for path in (niivue, *map(page_file, PICTURES))],
        app_kwargs={"middleware": middleware},
        head=PARTS.head(niivue, (HERE / "viewer.js").read_text("utf-8")),
        css_paths=HERE / "page.css",
        theme=gr.themes.Base(
            primary_hue="teal", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=[]
        ),
        i18n=gr.I18n(en={"common.complete": "Done"}),  # Gradio lacks the word
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inline=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
    )
    return page


class Guard:
    """ASGI middleware: refuses pages of other sites, adds HEADERS to every answer, and tells the
    service which sessions are open.
    """

    def __init__(self, app: Any, service: Service):
        self.app = app
        self.service = service

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False
        path = scope["path"]
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}

        async def answer(message):
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            elif path.startswith(HEARTBEAT):
                self.service.touch(path.removeprefix(HEARTBEAT))
            await send(message)

        try:
            origin = urlsplit(headers.get(b"origin", ""))
            if origin.netloc not in ("", headers.get(b"host", "")):
                what = "Pages of other sites cannot use this server."
                await JSONResponse({"detail": what}, 403)(scope, receive, answer)
            else:
                await self.app(scope, receive, answer)
        except (
            Exception
        ):  # Gradio fails on what its page never sends, and on uploads that break off
            if not begun:
                what = "The page never sends such a request."
                await JSONResponse({"detail": what}, 400)(scope, receive, answer)


class Page(gr.Blocks):
    """Gradio's page, without tracebacks for values that its controls never send."""

    async def preprocess_data(self, *given, **options):
        try:
            return await super().preprocess_data(*given, **options)
        except (LookupError, TypeError, ValueError, gr.Error):
            what = "The values of this request do not fit the page. Load the page again."
            raise gr.Error(what, print_exception=False) from None


def build_page(service: Service) -> gr.Blocks:
    """Build what a user sees: upload, direction, result, viewer, and what is known of the model."""
    events = Events(service)
    classes = service.model.classes()
    ways = [(f"{source} → {target}", target) for target, source in service.directions.items()]
    with Page(title="gantk", analytics_enabled=False) as page:
        limits = service.model.identity().get("limits", "")
        gr.HTML(PARTS.top(service.run, limits), elem_id="top")
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                sent = gr.File(
                    label="Scan (NIfTI, PNG or zipped DICOM)", elem_id="scan", height=160
                )
                way = gr.Radio(ways, value=ways[0][1], label="Direction", elem_id="way")
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
                gr.HTML("<div id='viewer' hidden></div>")
        with gr.Accordion("Can I trust it for my patient?", open=False, elem_id="trust"):
            gr.Markdown(page_text(FILES))
        with gr.Accordion("About this model: scores and limits", open=False, elem_id="about"):
            gr.Markdown(about_model(service))

        upload = gr.State()  # where the scan is that the page shows
        views = gr.JSON(visible=False)  # what the viewer shows
        sent.change(
            events.take,
            sent,
            [upload, start, way, status],
            show_progress_on=status,
            api_visibility="private",
            concurrency_limit=None,
        )
        translated = start.click(
            events.translate_shown,
            [upload, way, label],
            [status, views],
            show_progress_on=status,
            api_visibility="private",
            concurrency_id="translate",
        )
        translated.then(None, views, None, js="(views) => window.gantkShow(views)")
        page.unload(events.forget)

        # the API has components of its own, since those of the page have values for the eye
        file = gr.File(visible=False)
        target = gr.Textbox(visible=False)
        kind = gr.Textbox(visible=False)
        answer = gr.File(visible=False)
        notes = gr.JSON(visible=False)
        gr.Button(visible=False).click(
            events.translate_file,
            [file, target, kind],
            [answer, notes],
            api_name="translate",
            concurrency_id="translate",
        )
        page.queue(max_size=MAX_WAITING, default_concurrency_limit=1, api_open=False)

    # Otherwise Gradio downloads any address that a client sends in place of a file, and copies what
    # is deleted with its session.
    for each in (sent, file, answer):
        each.async_move_resource_to_block_cache = lambda path: asyncio.sleep(0, path)
    for each in (sent, file):
        each.preprocess = lambda given: given and given.path
    return page


class Events:
    """What the page and the API call; each gets the values of its components in their order."""

    def __init__(self, service: Service):
        self.service = service

    def take(self, sent: str | None, request: gr.Request) -> tuple[Any, gr.Button, Any, str]:
        """Take an upload, choose its direction, and say whether it fits the training data."""
        self.forget(request)
        if not sent:
            return None, gr.Button(interactive=False), gr.skip(), PARTS.start()
        upload = self._take_file(sent, request)
        try:
            to, answer = self.service.look(upload)
        except Exception as error:
            return None, gr.Button(interactive=False), gr.skip(), PARTS.wrong(failure_of(error))
        ready = PARTS.ready(answer, self.service.directions[to], to)
        return upload, gr.Button(interactive=True), to, ready

    def translate_shown(
        self,
        upload: Path | None,
        to: str,
        label: str | None,
        progress=gr.Progress(),  # noqa: B008
    ) -> tuple[str, Any]:
        """Translate the upload that the page shows; returns its status and what the viewer shows."""
        if upload is None or not upload.exists():
            return PARTS.wrong("The scan was deleted. Upload it again."), None
        try:
            result = self.service.translate(
                upload,
                to,
                label=label,
                show=True,
                tell=lambda share, what: progress(share, desc=what),
            )
        except Exception as error:
            return PARTS.wrong(failure_of(error)), None
        size = result.file.stat().st_size
        about = {"source": self.service.directions[to], "to": to}
        shown = about | {"base": f"{FILES}{result.file.parent}/", "views": result.views}
        return PARTS.result(result, size, **about), shown

    def translate_file(self, file: str | None, to: str, label: str, request: gr.Request):
        """Translate a file (NIfTI, picture or zip of a DICOM series) to the domain `to`. `label` is
        the class of its images, for a model that was trained with classes. Returns a file of the
        same kind, and the warnings and notes about the scan.
        """
        if not file:
            raise gr.Error("The request has no file.", print_exception=False)
        upload = self._take_file(file, request)
        try:
            to = to or next(iter(self.service.directions))
            result = self.service.translate(upload, to, label=label)
        except Exception as error:
            raise gr.Error(failure_of(error), print_exception=False) from error
        finally:
            self.service.forget_input(upload)
        return str(result.file), [": ".join(note) for note in result.notes]

    def forget(self, request: gr.Request) -> None:
        """Delete what a session has uploaded and what was made of it."""
        self.service.forget(request.session_hash)

    def _take_file(self, sent: str, request: gr.Request) -> Path:
        """Move an upload to its session; gr.Error for a file that was not uploaded here."""
        path = Path(sent)
        if path.parent.parent != self.service.folder.resolve() or not path.is_file():
            raise gr.Error("This file was not uploaded here.", print_exception=False)
        upload = path.rename(self.service.place(request.session_hash, path.name))
        with suppress(OSError):  # another session has sent the same file
            path.parent.rmdir()
        return upload


def about_model(service: Service) -> str:
    """The card of a packed model, or the scores of a run, in Markdown."""
    run = service.model.run
    if run is None:
        return "An exported file has no scores."
    try:
        return card(run.path) or score_table(read_results(run.path))
    except UserError:
        return "This model was never scored."


def failure_of(error: Exception) -> str:
    """The message of an error for the sender of a file; an unexpected error is printed with its
    traceback.
    """
    if message := str(error) if isinstance(error, GantkError) else machine_failure(error):
        return message
    traceback.print_exception(error)
    return "An unexpected error occurred. The terminal that runs gantk app shows it."
