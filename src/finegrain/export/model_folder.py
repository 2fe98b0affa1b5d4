"""A trained model as a folder that the Hugging Face Hub takes as it is: ``finegrain export``."""

import argparse
import importlib.metadata
import re
import shutil
from pathlib import Path
from typing import Any

from finegrain import optional_deps
from finegrain.core import file_io, log, paths
from finegrain.core.errors import UserError
from finegrain.export import check_images, output_folder, test_results
from finegrain.models import build, storage
from finegrain.serving import find_model, hub

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
"""Whose versions the card names."""


def run(args: argparse.Namespace) -> int:
    """Export the model, and say where it is; returns the exit status.

    Raises:
        UserError: there is no such model, its results are stale, the folder may not be replaced, or the graph
            does not answer as the network does.
    """
    with optional_deps.required_for("`finegrain export`"):
        import onnxscript  # noqa: F401  (torch's exporter would miss it only when at work)

        from finegrain.export import model_card, onnx_graph
    weights, sidecar = find_model.find_model(args.model)
    own = test_results.run_of(weights)
    # a file from elsewhere names its model, but for one that was exported: there the folder does
    stranger = weights.resolve().parent.name if weights.name == hub.WEIGHTS else weights.stem
    name = own.model if own else stranger
    out = args.out or Path("exported") / name
    if out.resolve() == weights.resolve().parent:
        raise UserError(f"{out}: is the folder of the model itself; give another --out")
    output_folder.require_replaceable(out)
    net, facts = storage.load_model(weights, sidecar)
    net, facts = net.eval(), portable_metadata(facts)
    results = test_results.find_results(weights, facts)
    if results is None:
        log.info(f"{weights}: the project has no test results of it, and the card says so")
    images = check_images.find_check_images(
        facts, paths.Dataset(own.dataset).pack if own else None, args.check
    )
    with file_io.replace_folder(out) as new:
        copy_model(new, weights, facts)
        onnx_graph.write_onnx(new / hub.GRAPH, net, facts)
        agreement = onnx_graph.check_onnx(new / hub.GRAPH, net, facts, images.squares, images.labels)
        versions = {package: importlib.metadata.version(package) for package in PACKAGES}
        parameters = build.count_parameters(net)
        words = model_card.ModelCard(
            name, facts, parameters, args.license, agreement, images.what, results, versions
        )
        file_io.write_text(new / hub.CARD, model_card.render_card(words))
        sums = {file.name: file_io.sha256(file) for file in sorted(new.iterdir())}
        file_io.write_json(new / hub.CONFIG, config_json(facts, sums))
    size = sum(file.stat().st_size for file in out.iterdir())
    log.info(f"{out}: {size / 1e6:,.0f} MB; the graph was compared on {images.what}")
    log.info(f"read {out / hub.CARD}, then: hf upload OWNER/NAME {out} .")
    return 0


def copy_model(new: Path, weights: Path, facts: dict[str, Any]) -> None:
    """What finegrain itself loads, and the classes one a line."""
    with file_io.replace_file(new / hub.WEIGHTS) as temporary:
        shutil.copyfile(weights, temporary)
    file_io.write_json(new / hub.SIDECAR, facts)
    labels = (" ".join(label.splitlines()) for label in facts["classes"])
    file_io.write_text(new / hub.LABELS, "".join(f"{label}\n" for label in labels))


def portable_metadata(facts: dict[str, Any]) -> dict[str, Any]:
    """The sidecar with the first weights' name for their path on this machine."""
    recipe = dict(facts["recipe"])
    if isinstance(recipe.get("weights"), str):
        recipe["weights"] = re.split(r"[\\/]", recipe["weights"])[-1]
    return {**facts, "recipe": recipe}


def config_json(facts: dict[str, Any], sums: dict[str, str]) -> dict[str, Any]:
    """config.json in timm's terms, who loads a ResNet with a linear head; the Hub counts downloads by it.

    Args:
        sums: sha256 of the other files, by which ``folder.require_replaceable`` knows them again.
    """
    side = facts["image_size"]
    return {
        "architecture": facts["model"],
        "num_classes": len(facts["classes"]),
        "label_names": facts["classes"],
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": facts["mean"],
            "std": facts["std"],
        },
        "finegrain": {"sha256": sums},
    }
