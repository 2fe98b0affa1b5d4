"""The web page of ``finegrain demo``. It needs gradio, which the rest of the package does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from finegrain.loading.batches import ImageArray
from finegrain.serving import demo

POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'"
"""Gradio's own scripts are inline; nothing may come from, or go to, another address."""
MAX_UPLOAD = "20mb"
UPLOAD_KEPT_SECONDS = 600
"""How long an uploaded photo stays in the temporary folder."""
CSS = """
footer {display: none !important}
.gradio-container {max-width: 68rem !important; width: 100%; margin: auto}
.grid-wrap {min-height: 0 !important; max-height: none !important}
label[data-testid="block-label"] {position: static !important; border: 0 !important}
.grid-container {grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)) !important}
.caption-label {left: .25rem !important; right: .25rem !important; bottom: .25rem !important}
.caption-label {max-width: none !important; padding: .1rem .3rem !important; border-radius: .3rem !important}
.caption-label {font-size: .7rem !important; line-height: 1.2 !important; white-space: normal !important}
@media (max-width: 40rem) { #examples .caption-label {display: none} }
"""


def build_page(load: demo.LoadModel, choices: dict[str, str], start: str | None) -> Any:
    """Build the Gradio page: a photo and a model on the left, the result on the right.

    Args:
        choices: result of ``demo.model_choices``.
        start: the model that is selected first.
    """
    _, dataset_photos = load(start)
    examples = dataset_photos.test_examples()

    def on_upload(file: str | None, model: str | None) -> list[Any]:
        return _clear_result() if file is None else _show_result(load, Path(file).read_bytes(), model)

    def on_example(model: str | None, event: gr.SelectData) -> list[Any]:
        return _show_result(load, demo.encode_png(examples[event.index][0]), model)

    with gr.Blocks(
        title="finegrain", analytics_enabled=False, delete_cache=(UPLOAD_KEPT_SECONDS, UPLOAD_KEPT_SECONDS)
    ) as page:
        gr.Markdown("# finegrain\nDrop a photo, or pick one below.")
        with gr.Row():
            with gr.Column(min_width=300):
                file, model, gallery = _input_widgets(choices, start, examples)
            with gr.Column(min_width=300):
                result = _result_widgets()
        gr.on([file.change, model.change], on_upload, [file, model], result, api_visibility="private")
        gallery.select(on_example, [model], result, api_visibility="private")
    return page.queue(max_size=8, default_concurrency_limit=1, api_open=False)


def _input_widgets(
    choices: dict[str, str], start: str | None, examples: list[tuple[ImageArray, str]]
) -> tuple[Any, Any, Any]:
    """Add the file upload, the model menu and the gallery of test photos."""
    # a file, not an image: Gradio would decode an image itself and report a bad one only as "Error"
    file = gr.File(label="Photo", file_types=["image"], type="filepath", height=140)
    model = gr.Dropdown(
        list(choices.items()), value=start, label="Model", visible=bool(choices), filterable=False
    )
    gallery = gr.Gallery(
        examples, label="Test photos", columns=4, height=None, allow_preview=False, visible=bool(examples),
        buttons=[], elem_id="examples",
    )  # fmt: skip
    return file, model, gallery


def _result_widgets() -> list[Any]:
    """Add the widgets that ``_show_result`` fills: text, probabilities, photo, Grad-CAM, training photos."""
    text = gr.Markdown(elem_id="result")
    top = gr.Label(label="Most probable classes", show_heading=False, visible=False, elem_id="top")
    with gr.Row():
        image = gr.Image(label="The photo as the model sees it", visible=False, buttons=[], min_width=120)
        gradcam = gr.Image(label="Grad-CAM: where the model looked", visible=False, buttons=[], min_width=120)
    nearest = gr.Gallery(
        label="Training photos of the nearest classes", columns=demo.PHOTOS_PER_CLASS, height=None,
        allow_preview=False, visible=False, buttons=[],
    )  # fmt: skip
    return [text, top, image, gradcam, nearest]


def _show_result(load: demo.LoadModel, photo: bytes, model: str | None) -> list[Any]:
    """Values of ``_result_widgets`` for a photo."""
    predictor, dataset_photos = load(model)
    result = demo.classify_photo(predictor, photo)
    nearest = dataset_photos.training_photos(list(result.top)[: demo.NEAREST_CLASSES])
    return [
        result.text,
        gr.Label(result.top, visible=bool(result.top)),
        gr.Image(result.image, visible=result.image is not None),
        gr.Image(result.gradcam, visible=result.gradcam is not None),
        gr.Gallery(nearest, visible=bool(nearest)),
    ]


def _clear_result() -> list[Any]:
    """Values of ``_result_widgets`` without a photo."""
    return ["", *(gr.update(visible=False) for _ in range(4))]


def build_app(page: Any) -> Any:
    """Build the web app: the page with the policy; requests from other hosts are rejected.

    A request must name this machine as its host, which prevents DNS rebinding.
    """
    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[demo.HOST, "localhost"])

    @app.middleware("http")
    async def add_policy(request: Request, call_next: Callable[[Request], Any]) -> Response:
        response: Response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return gr.mount_gradio_app(
        app, page, "/", server_name=demo.HOST, max_file_size=MAX_UPLOAD, theme=theme, css=CSS,
        footer_links=[], ssr_mode=False,
    )  # fmt: skip
