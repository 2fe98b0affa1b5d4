"""``finegrain demo``: a page on this machine that answers photos dropped on it.

Gradio draws the page. It is bound to 127.0.0.1, and a Content-Security-Policy keeps the browser from asking
anybody else for anything.
"""

import argparse
import functools
import io
import os
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finegrain import optional_deps
from finegrain.core import file_io, log, paths
from finegrain.core.errors import UserError
from finegrain.loading.batches import ImageArray
from finegrain.runtime import devices
from finegrain.serving import find_model
from finegrain.serving.inputs import Photo
from finegrain.serving.predictor import Predictor

HOST = "127.0.0.1"
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'"
"""Gradio's own scripts are inline; nothing may come from, or go to, another address."""
MAX_UPLOAD = "20mb"
UPLOAD_KEPT_SECONDS = 600
"""How long an uploaded photo stays in the temporary folder."""
TOP_K, NEAREST_CLASSES, PHOTOS_PER_CLASS, EXAMPLES = 5, 3, 3, 8
MIN_SHOWN_PIXELS = 256
"""Pixels of a photo on the page, at least."""
CSS = """
footer {display: none !important}
.gradio-container {max-width: 68rem !important; width: 100%; margin: auto}
.grid-wrap {min-height: 0 !important; max-height: none !important}
.caption-label {left: .25rem !important; right: .25rem !important; bottom: .25rem !important}
.caption-label {max-width: none !important; padding: .1rem .3rem !important; border-radius: .3rem !important}
.caption-label {font-size: .7rem !important; line-height: 1.2 !important; white-space: normal !important}
"""

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported, as the next
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"


@dataclass(frozen=True)
class Answer:
    """What the page shows of one photo."""

    text: str
    """Markdown: the best class and how sure it is, or why there is no answer."""
    top: dict[str, float]
    """Class -> calibrated probability."""
    seen: ImageArray | None
    """The photo as the network sees it; ``heat``: under its Grad-CAM."""
    heat: ImageArray | None


def answer_photo(predictor: Predictor, photo: bytes) -> Answer:
    """Ask the network; a bad photo is an answer too."""
    skipped: list[tuple[str, str]] = []
    found = list(predictor.logits([(Photo("photo", "photo"), photo)], skipped))
    if not found:
        return Answer(f"### This file cannot be used\n{skipped[0][1]}", {}, None, None)
    best = predictor.best(found[0][1], TOP_K)
    name, confidence = best[0]
    text = f"### {name}\n{confidence:.0%} sure"
    if confidence < predictor.unknown_below:
        text = (
            f"### Not like any class I know\nThe nearest is {name}, but {confidence:.0%} is less than the "
            f"{predictor.unknown_below:.0%} that 95 % of right answers reach."
        )
    return Answer(text, dict(best), *map(_enlarged, predictor.heat(photo, name)))


class DatasetPhotos:
    """Photos of the dataset, to show beside an answer; nothing where the pack is not on this machine."""

    def __init__(self, pack: Path) -> None:
        """Open ``pack``, the folder that stage pack wrote."""
        self._parts: dict[str, tuple[Any, Any]] = {}
        self.classes: list[str] = []
        if (pack / "pack.json").is_file():
            self.classes = file_io.read_json(pack / "pack.json")["classes"]
            for part in ("train", "test"):
                labels = np.load(pack / f"{part}_labels.npy")
                self._parts[part] = np.load(pack / f"{part}.npy", mmap_mode="r"), labels

    def like(self, names: Sequence[str]) -> list[tuple[ImageArray, str]]:
        """``EACH`` training photos of each of the classes, with their names."""
        return [
            photo
            for name in names
            if name in self.classes
            for photo in self._of("train", name, PHOTOS_PER_CLASS)
        ]

    def examples(self) -> list[tuple[ImageArray, str]]:
        """Test photos of classes far apart from each other."""
        names = self.classes[:: -(-len(self.classes) // EXAMPLES) or 1] if self._parts else []
        return [photo for name in names for photo in self._of("test", name, 1)]

    def _of(self, part: str, name: str, count: int) -> Iterator[tuple[ImageArray, str]]:
        images, labels = self._parts[part]
        for index in np.flatnonzero(labels == self.classes.index(name))[:count]:
            yield np.array(images[index]), name


def model_choices() -> dict[str, str]:
    """What the picker shows -> what ``predict.find_model`` wants; the leaderboard's order."""
    file = paths.LEADERBOARD
    if not file.is_file():
        return {}
    board = file_io.read_json(file)["models"]
    return {f"{name} ({row['test_top1']:.1%} test top-1)": name for name, row in board.items()}


def build_page(
    load: Callable[[str | None], tuple[Predictor, DatasetPhotos]], choices: dict[str, str], start: Any
) -> Any:
    """The Gradio page.

    Args:
        load: a model by name, None the one to begin with; and photos of its dataset.
        choices: of the picker.
        start: the choice that stands at first, or None.
    """
    import gradio as gr

    _, shelf = load(start)
    shown = shelf.examples()

    def answer(photo: bytes, model: str | None) -> list[Any]:
        predictor, photos = load(model)
        given = answer_photo(predictor, photo)
        names = list(given.top)[:NEAREST_CLASSES]
        return [
            given.text,
            gr.Label(given.top, visible=bool(given.top)),
            gr.Image(given.seen, visible=given.seen is not None),
            gr.Image(given.heat, visible=given.heat is not None),
            gr.Gallery(photos.like(names), visible=bool(names and photos.classes)),
        ]

    def dropped(file: str | None, model: str | None) -> list[Any]:
        if file is None:
            return ["", *(gr.update(visible=False) for _ in range(4))]
        return answer(Path(file).read_bytes(), model)

    def picked(model: str | None, event: gr.SelectData) -> list[Any]:
        return answer(_png(shown[event.index][0]), model)

    with gr.Blocks(
        title="finegrain", analytics_enabled=False, delete_cache=(UPLOAD_KEPT_SECONDS, UPLOAD_KEPT_SECONDS)
    ) as blocks:
        gr.Markdown("# finegrain\nDrop a photo, or pick one below.")
        with gr.Row():
            with gr.Column(min_width=300):
                # a file, not an image: Gradio would decode that itself, and say only "Error" of a bad one
                file = gr.File(label="Photo", file_types=["image"], type="filepath", height=140)
                model = gr.Dropdown(
                    list(choices.items()), value=start, label="Model", visible=bool(choices), filterable=False
                )
                own = gr.Gallery(
                    shown, label="Test photos", columns=4, height=None, allow_preview=False,
                    visible=bool(shown), buttons=[],
                )  # fmt: skip
            with gr.Column(min_width=300):
                text = gr.Markdown(elem_id="answer")
                label = gr.Label(label="Top five", show_heading=False, visible=False, elem_id="top")
                with gr.Row():
                    seen = gr.Image(label="As the network sees it", visible=False, buttons=[], min_width=120)
                    heat = gr.Image(label="Where it looked", visible=False, buttons=[], min_width=120)
                near = gr.Gallery(
                    label="Training photos of the nearest classes", columns=PHOTOS_PER_CLASS, height=None,
                    allow_preview=False, visible=False, buttons=[],
                )  # fmt: skip
        out = [text, label, seen, heat, near]
        gr.on([file.change, model.change], dropped, [file, model], out, api_visibility="private")
        own.select(picked, [model], out, api_visibility="private")
    return blocks.queue(max_size=8, default_concurrency_limit=1, api_open=False)


def build_app(blocks: Any) -> Any:
    """The page behind its policy; other host names are refused (DNS rebinding)."""
    import gradio as gr
    from fastapi import FastAPI, Request, Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    outer = FastAPI(openapi_url=None)
    outer.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])

    @outer.middleware("http")
    async def policy(request: Request, call_next: Callable[[Request], Any]) -> Response:
        answered: Response = await call_next(request)
        answered.headers["Content-Security-Policy"] = POLICY
        return answered

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return gr.mount_gradio_app(
        outer, blocks, "/", server_name=HOST, max_file_size=MAX_UPLOAD, theme=theme, css=CSS, footer_links=[],
        ssr_mode=False,
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: no such model, or the port is taken.
    """
    with optional_deps.required_for("`finegrain demo`"):
        import gradio  # noqa: F401
        import uvicorn
    device = devices.select_device(args.device)
    bf16 = devices.use_bf16("auto", device)

    @functools.lru_cache(maxsize=8)
    def load(name: str | None) -> tuple[Predictor, DatasetPhotos]:
        weights, sidecar = find_model.find_model(name)
        predictor = Predictor(weights, sidecar, device, bf16, None, False)
        answer_photo(
            predictor, _png(np.zeros((8, 8, 3), np.uint8))
        )  # the first answer takes memory, chooses kernels
        return predictor, DatasetPhotos(paths.Dataset(weights.parent.name).pack)

    choices = model_choices()
    start = args.model or next(iter(choices.values()), None)
    load(start)
    if start not in choices.values():
        choices = {str(start): start, **choices} if start else choices
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, args.port))
        except OSError as error:
            raise UserError(f"port {args.port}: {error.strerror}; give another one with --port") from None
    address = f"http://{HOST}:{args.port}"
    served = build_app(build_page(load, choices, start))
    log.info(f"{address}  (Ctrl-C ends it)")
    # in a thread, as a browser of the terminal holds up whoever starts it; late, as the page must be there
    opening = threading.Timer(1.0, webbrowser.open, [address])
    opening.daemon = True
    opening.start()
    uvicorn.run(served, host=HOST, port=args.port, log_level="warning")
    return 0


def _enlarged(square: ImageArray) -> ImageArray:
    """To ``SHOWN`` pixels at least: a page would show a small one as a stamp."""
    side = max(MIN_SHOWN_PIXELS, len(square))
    return np.asarray(Image.fromarray(square).resize((side, side), Image.Resampling.BICUBIC))


def _png(square: ImageArray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(square).save(stream, format="png")
    return stream.getvalue()
