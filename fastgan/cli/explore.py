"""``fastgan explore``."""

import threading
from typing import Annotated

import typer

from fastgan.cli.options import Device, Model, Run, load_trained
from fastgan.extras import require_gradio
from fastgan.training.config import SettingsError


def explore(
    run: Run,
    model: Model = None,
    host: Annotated[
        str, typer.Option(help="Address to serve on; by default only this machine can open the page.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")] = 7860,
    device: Device = "auto",
) -> int:
    """Serve a web page with sliders for seed, latent, class, styles and truncation, until Ctrl-C."""
    require_gradio()

    from fastgan import explorer

    trained = load_trained(run, device, model)
    title = run.resolve().name + ("" if trained.step is None else f", step {trained.step}")
    page = explorer.build_page(explorer.Explorer(trained.generator), title, str(run), model)
    try:
        address = explorer.serve(page, host, port)
    except OSError:
        raise SettingsError(
            f"cannot serve on port {port} of {host!r}: the port is taken, or the address belongs to another machine"
        ) from None
    trained.say(f"{title}: {address} (Ctrl-C ends it)")
    try:
        threading.Event().wait()
    finally:
        page.close()
    return 0
