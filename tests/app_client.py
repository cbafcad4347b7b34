"""The web application of `gantk app`, served to a program that calls it."""

import socket
import threading
from contextlib import contextmanager


@contextmanager
def served(application):
    """The address of a web application that is served in a thread."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(application, log_level="error", timeout_graceful_shutdown=5)
    )
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    serving.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        serving.join()


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
