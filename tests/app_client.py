"""The page of `gantk app`, served to a program that calls it."""

from contextlib import contextmanager


@contextmanager
def served(service, folder, password=""):
    """The address of a page whose files are in a folder."""
    from gantk_serve.app.page import serve_page

    page = serve_page(service, folder, "127.0.0.1", 0, password)
    try:
        yield page.local_url.rstrip("/")
    finally:
        page.close(verbose=False)


@contextmanager
def program(address, folder, **options):
    """`call(file, to, label)` as a program does it with Gradio's client: (result, notes)."""
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, download_files=folder, **options)
    try:
        yield lambda file, to="", label="": client.predict(
            handle_file(file), to, label, api_name="/translate"
        )
    finally:
        client.close()
