"""The command ``finegrain export``: write a trained model to a folder for the Hugging Face Hub."""

import argparse
import importlib.metadata
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from finegrain import optional_deps
from finegrain.config import weights as weights_names
from finegrain.config.base import ImageFit
from finegrain.core import file_io, log, paths
from finegrain.core.errors import UserError
from finegrain.dataset import decoding
from finegrain.export import check_images, output_folder, test_results
from finegrain.export.check_images import CheckImages
from finegrain.export.test_results import TestResults
from finegrain.models import build, storage
from finegrain.serving import find_model, hub

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
"""The model card lists the versions of these."""
TIMM_CROP_MODES: dict[ImageFit, str] = {"squash": "squash", "crop": "center", "letterbox": "border"}
"""timm's names of the fits."""


@dataclass(frozen=True)
class Model:
    """The trained model that is exported."""

    name: str
    weights: Path
    net: nn.Module
    metadata: dict[str, Any]
    """The content of its sidecar, without paths of this machine."""
    results: TestResults | None
    """None if this project has not evaluated it."""


def run(args: argparse.Namespace) -> int:
    """Export a model and print where it is; returns the exit status.

    Raises:
        UserError: there is no such model, its results are stale, the folder must not be replaced, or the ONNX
            graph and the network do not agree.
    """
    with optional_deps.required_for("`finegrain export`"):
        import onnxscript  # noqa: F401  (torch's exporter would notice only later that it is missing)

        from finegrain.export import model_card, onnx_graph  # noqa: F401
    weights, sidecar = find_model.find_model(args.model)
    name = model_name(weights)
    out = args.out or Path("exported") / name
    if out.resolve() == weights.resolve().parent:
        raise UserError(f"{out}: is the folder of the model itself; give another --out")
    output_folder.require_replaceable(out)
    model = load(name, weights, sidecar)
    trained = test_results.find_run(weights)
    pack = paths.Dataset(trained.dataset).pack if trained else None
    images = check_images.find_check_images(model.metadata, pack, args.check)
    with file_io.replace_folder(out) as folder:
        write_folder(folder, model, images, args.license)
    size = sum(file.stat().st_size for file in out.iterdir())
    log.info(f"{out}: {size / 1e6:,.0f} MB; the ONNX graph was compared on {images.description}")
    log.info(f"read {out / hub.CARD}, then: hf upload OWNER/NAME {out} .")
    return 0


def model_name(weights: Path) -> str:
    """Name of a run's model; for weights from elsewhere, of the file or of its exported folder."""
    if trained := test_results.find_run(weights):
        return trained.model
    return weights.resolve().parent.name if weights.name == hub.WEIGHTS else weights.stem


def load(name: str, weights: Path, sidecar: Path) -> Model:
    """Load the model with its test results, and report if it has none.

    Raises:
        UserError: the files cannot be loaded, or the results are stale.
    """
    net, metadata = storage.load_model(weights, sidecar)
    metadata = portable_metadata(metadata)
    results = test_results.find_results(weights, metadata)
    if results is None:
        log.info(f"{weights}: this project has no test results of it; the model card says so")
    return Model(name, weights, net.eval(), metadata, results)


def write_folder(folder: Path, model: Model, images: CheckImages, license_id: str) -> None:
    """Write all files of an export.

    Args:
        folder: an empty folder.
        images: on which the ONNX graph is compared with the network.
        license_id: the Hub's identifier of the license.

    Raises:
        UserError: the ONNX graph and the network do not agree.
    """
    from finegrain.export import model_card, onnx_graph

    copy_model(folder, model.weights, model.metadata)
    onnx_graph.write_onnx(folder / hub.GRAPH, model.net, model.metadata)
    agreement = onnx_graph.check_onnx(
        folder / hub.GRAPH, model.net, model.metadata, images.images, images.labels
    )
    card = model_card.ModelCard(
        name=model.name,
        metadata=model.metadata,
        parameters=build.count_parameters(model.net),
        license=license_id,
        agreement=agreement,
        compared_on=images.description,
        results=model.results,
        versions={package: importlib.metadata.version(package) for package in PACKAGES},
    )
    file_io.write_text(folder / hub.CARD, model_card.render_card(card))
    sums = {file.name: file_io.sha256(file) for file in sorted(folder.iterdir())}
    file_io.write_json(folder / hub.CONFIG, config_json(model.metadata, sums))


def copy_model(folder: Path, weights: Path, metadata: dict[str, Any]) -> None:
    """Write weights and sidecar, which finegrain loads; the classes, one a line; the photos' decoder."""
    with file_io.replace_file(folder / hub.WEIGHTS) as temporary:
        shutil.copyfile(weights, temporary)
    file_io.write_json(folder / hub.SIDECAR, metadata)
    labels = (" ".join(label.splitlines()) for label in metadata["classes"])
    file_io.write_text(folder / hub.LABELS, "".join(f"{label}\n" for label in labels))
    shutil.copyfile(decoding.__file__, folder / hub.DECODING)


def portable_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata with the file name of the initial weights instead of their path on this machine."""
    recipe = dict(metadata["recipe"])
    weights = recipe.get("weights")
    if isinstance(weights, str) and not weights_names.hub_repository(weights):
        recipe["weights"] = re.split(r"[\\/]", weights)[-1]
    return {**metadata, "recipe": recipe}


def config_json(metadata: dict[str, Any], sums: dict[str, str]) -> dict[str, Any]:
    """Content of config.json, in timm's format; the Hub counts downloads by this file.

    timm itself can load a ResNet with a linear head by it.

    Args:
        sums: sha256 of the other files, by which ``output_folder.require_replaceable`` finds changed ones.
    """
    size = metadata["image_size"]
    return {
        "architecture": metadata["model"],
        "num_classes": len(metadata["classes"]),
        "label_names": metadata["classes"],
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": TIMM_CROP_MODES[metadata["pack_fit"]],
            "mean": metadata["mean"],
            "std": metadata["std"],
        },
        "finegrain": {"sha256": sums},
    }
