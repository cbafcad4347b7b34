"""The page of `gantk app` in Gradio, whose queue, upload limits, sessions, API and file addresses it
uses; and the call `/translate` for programs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.middleware import Middleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from gradio.route_utils import MultiPartException
from jinja2 import Environment, FileSystemLoader

from gantk import score_table
from gantk.catalog.contrasts import usual_contrast
from gantk.errors import GantkError, UserError, machine_failure
from gantk.files import make_folder
from gantk.runs.models import card
from gantk.runs.schemas import read_results
from gantk_serve.app.service import Check, Service

HERE = Path(__file__).parent
EXAMPLE = HERE / "synthetic_head_t1.nii.gz"  # by the data source `phantom`
LOOPBACK = ("127.0.0.1", "localhost")
USER = "gantk"  # whose password is asked for
MAX_WAITING = 16  # translations that wait; a further one is refused
MAX_AGE_S = 3600  # of what a program has sent; Gradio also keeps what a closed window used so long
MAX_SESSION_S = 12 * 3600.0  # after which an open window has to upload its scan again
FILES = "/gradio_api/file="  # Gradio's address of a file that it may serve
PARTS_FILES = Environment(loader=FileSystemLoader(HERE), autoescape=True)
PARTS_FILES.globals.update(files=FILES)
PARTS = PARTS_FILES.get_template("parts.html.j2").module


def serve_page(service: Service, folder: Path, host: str, port: int, password: str) -> gr.Blocks:
    """Start the server in a thread; `local_url` and `close()` of the page are its address and end.

    All files are stored below `folder`. Port 0 is a free port. With a password, the page and the API
    ask for it and the user "gantk". OSError where it cannot listen.
    """
    served = make_folder(folder.resolve() / "served", private=True)
    os.environ["GRADIO_TEMP_DIR"] = str(served)
    niivue = HERE / "niivue.umd.js"
    # a page of another site could reach this machine under that site's name
    hosts = [*LOOPBACK] if host in LOOPBACK else ["*"]
    page = build_page(service, served)
    page.launch(
        server_name=host,
        server_port=port or None,
        auth=(USER, password) if password else None,
        max_file_size=service.max_bytes,
        allowed_paths=[str(niivue)],
        app_kwargs={
            "middleware": [
                Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
                Middleware(EndedUploads),
            ]
        },
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


class EndedUploads:
    """Middleware that makes an upload whose sender goes away an upload with an error: Gradio deletes
    the file of that, and prints nothing.
    """

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def receive_part() -> Any:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise MultiPartException("the sender has gone away")
            return message

        is_upload = scope.get("path", "").endswith("/upload")
        await self.app(scope, receive_part if is_upload else receive, send)


def build_page(service: Service, served: Path) -> gr.Blocks:
    """Build what a user sees: the verdict on the model, upload, direction, whether the scan fits,
    result, viewer, and what is known of the model.
    """
    events = Events(service, served)
    classes = [*service.model.classes()]
    ways = [(f"{source} → {target}", target) for target, source in service.directions.items()]
    takes_t1 = "t1" in map(usual_contrast, service.directions.values())
    with gr.Blocks(
        title="gantk", analytics_enabled=False, delete_cache=(MAX_AGE_S // 6, MAX_AGE_S)
    ) as page:
        limits = service.model.identity().get("limits", "")
        gr.HTML(PARTS.top(service.run, limits, *service.verdict()), elem_id="top")
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                sent = gr.File(
                    label="Scan (NIfTI, PNG or zipped DICOM)", elem_id="scan", height=160
                )
                if takes_t1:
                    gr.Examples([str(EXAMPLE)], sent, label="No scan at hand?", elem_id="example")
                way = gr.Radio(ways, value=ways[0][1], label="Direction", elem_id="way")
                label = gr.Radio(
                    classes,
                    value=classes[-1] if classes else None,
                    label="Class of the images",
                    visible=bool(classes),
                    elem_id="label",
                )
                start = gr.Button("Translate", variant="primary", interactive=False, elem_id="go")
            with gr.Column(scale=3, min_width=300):
                fit = gr.HTML(PARTS.start(), elem_id="fit")
                result = gr.HTML(elem_id="result")
                gr.HTML("<div id='viewer' hidden></div>")
        with gr.Accordion("About this model: scores and limits", open=False, elem_id="about"):
            gr.Markdown(about_model(service))

        # what is known of the upload that the page shows; its folder ends with it
        check = gr.State(time_to_live=MAX_SESSION_S, delete_callback=delete_folder_of)
        view = gr.JSON(visible=False)
        taken = sent.change(
            events.take,
            [sent, check],
            [check, start, way, fit, result, view],
            show_progress_on=fit,
            api_visibility="private",
            concurrency_limit=None,
        )
        way.input(events.check, [check, way], [check, fit], api_visibility="private")
        translated = start.click(
            events.translate_shown,
            [check, label],
            [result, view],
            show_progress_on=result,
            api_visibility="private",
            concurrency_id="translate",
        )
        for event in (taken, translated):
            event.then(None, view, None, js="(view) => window.gantkShow(view)")

        # the API has components of its own, since those of the page have values for the eye
        file = gr.File(visible=False)
        target = gr.Textbox(visible=False)
        kind = gr.Textbox(visible=False)
        answer = gr.File(visible=False)
        gr.Button(visible=False).click(
            events.translate_file,
            [file, target, kind],
            [answer, gr.JSON(visible=False)],
            api_name="translate",
            concurrency_id="translate",
        )
        page.queue(max_size=MAX_WAITING, default_concurrency_limit=1, api_open=False)
    return page


def delete_folder_of(check: Check | None) -> None:
    """Delete the folder of an image, with all that was made of it."""
    if check:
        shutil.rmtree(check.source.parent, ignore_errors=True)


class Events:
    """What the page and the API call; each gets the values of its components in their order."""

    def __init__(self, service: Service, served: Path):
        self.service = service
        self.served = served  # Gradio serves what is below it, and copies into it what is not

    def take(self, sent: str | None, before: Check | None) -> tuple[Any, ...]:
        """Take an upload in place of the one before, choose its direction, and say whether it fits the
        training data.
        """
        delete_folder_of(before)
        check = None
        said = PARTS.start()
        if sent:
            folder = Path(tempfile.mkdtemp(dir=self.served))  # a name that cannot be guessed
            try:
                check = self.service.check(self.service.take(Path(sent), folder))
                said = self._fit(check)
            except Exception as error:
                shutil.rmtree(folder, ignore_errors=True)
                check = None
                said = PARTS.wrong(failure_of(error, folder))
        way = check.to if check else gr.skip()
        return check, gr.Button(interactive=check is not None), way, said, "", None

    def check(self, before: Check | None, to: str) -> tuple[Check | None, str]:
        """Whether the upload that the page shows fits the training data of another direction."""
        if before is None or not before.source.exists():
            return None, PARTS.start()
        check = self.service.check(before.source, to)
        return check, self._fit(check)

    def _fit(self, check: Check) -> str:
        return PARTS.fit(check, self.service.directions[check.to], self.service.verdict()[0])

    def translate_shown(
        self,
        check: Check | None,
        label: str | None,
        progress=gr.Progress(),  # noqa: B008
    ) -> tuple[str, Any]:
        """Translate the upload that the page shows; returns its result and what the viewer shows."""
        if check is None or not check.source.exists():
            return PARTS.wrong("The scan was deleted. Upload it again."), None
        try:
            made = self.service.translate(
                check, label, lambda share, what: progress(share, desc=what)
            )
        except Exception as error:
            return PARTS.wrong(failure_of(error, check.source.parent)), None
        names = {"source": self.service.directions[check.to], "to": check.to}
        shown = names | made.view | {"base": f"{FILES}{made.view['folder']}/"}
        return PARTS.result(made, made.file.stat().st_size, **names), shown

    def translate_file(
        self, file: str | None, to: str, label: str
    ) -> Iterator[tuple[str, list[str]]]:
        """Translate a file (NIfTI, picture or zip of a DICOM series) to the domain `to`. `label` is
        the class of its images, for a model that was trained with classes. Returns a file of the
        same kind, and the warnings and notes about the scan.
        """
        if not file:
            raise gr.Error("The request has no file.", print_exception=False)
        folder = Path(tempfile.mkdtemp(dir=self.served.parent))
        try:
            image = self.service.take(Path(file), folder)
            check = self.service.check(image, to or next(iter(self.service.directions)))
            made = self.service.translate(check, label or None)
            # Gradio copies the file before it goes on
            yield str(made.file), [": ".join(note) for note in (*check.said, *made.notes)]
        except Exception as error:
            raise gr.Error(failure_of(error, folder), print_exception=False) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def about_model(service: Service) -> str:
    """The card of a packed model, or the scores of a run, in Markdown."""
    run = service.model.run
    if run is None:
        return "An exported file has no scores."
    try:
        return card(run.path) or score_table(read_results(run.path))
    except UserError:
        return "This model was never scored."


def failure_of(error: Exception, folder: Path) -> str:
    """The message of an error for the sender of a file, without the server's folder; an unexpected
    error is printed with its traceback.
    """
    message = str(error) if isinstance(error, GantkError) else machine_failure(error)
    if message:
        return message.replace(f"{folder}{os.sep}", "")
    traceback.print_exception(error)
    return "An unexpected error occurred. The terminal that runs gantk app shows it."
