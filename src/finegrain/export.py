"""A trained model as a folder that the Hugging Face Hub takes as it is: ``finegrain export``."""

import argparse
import importlib.metadata
import re
import shutil
from pathlib import Path
from typing import Any

from finegrain import exported, extras, folder, measured, model, paths, predict, probe, record
from finegrain.errors import UserError

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
"""Whose versions the card names."""


def run(args: argparse.Namespace) -> int:
    """Export the model, and say where it is; returns the exit status.

    Raises:
        UserError: there is no such model, its results are stale, the folder may not be replaced, or the graph
            does not answer as the network does.
    """
    with extras.needed_for("`finegrain export`"):
        import onnxscript  # noqa: F401  (torch's exporter would miss it only when at work)

        from finegrain import card, graph
    weights, sidecar = predict.find_model(args.model)
    own = measured.run_of(weights)
    # a file from elsewhere names its model, but for one that was exported: there the folder does
    stranger = weights.resolve().parent.name if weights.name == exported.WEIGHTS else weights.stem
    name = own.model if own else stranger
    out = args.out or Path("exported") / name
    if out.resolve() == weights.resolve().parent:
        raise UserError(f"{out}: is the folder of the model itself; give another --out")
    folder.require_replaceable(out)
    net, facts = model.load(weights, sidecar)
    net, facts = net.eval(), portable(facts)
    results = measured.find(weights, facts)
    if results is None:
        record.say(f"{weights}: the project has no test results of it, and the card says so")
    images = probe.find(facts, paths.Data(own.dataset).pack if own else None, args.check)
    with record.replacing_folder(out) as new:
        copy(new, weights, facts)
        graph.write(new / exported.GRAPH, net, facts)
        agreement = graph.check(new / exported.GRAPH, net, facts, images.squares, images.labels)
        versions = {package: importlib.metadata.version(package) for package in PACKAGES}
        parameters = model.parameters(net)
        words = card.Card(name, facts, parameters, args.license, agreement, images.what, results, versions)
        record.write_text(new / exported.CARD, card.render(words))
        sums = {file.name: record.sha256(file) for file in sorted(new.iterdir())}
        record.write_json(new / exported.CONFIG, config(facts, sums))
    size = sum(file.stat().st_size for file in out.iterdir())
    record.say(f"{out}: {size / 1e6:,.0f} MB; the graph was compared on {images.what}")
    record.say(f"read {out / exported.CARD}, then: hf upload OWNER/NAME {out} .")
    return 0


def copy(new: Path, weights: Path, facts: dict[str, Any]) -> None:
    """What finegrain itself loads, and the classes one a line."""
    with record.replacing(new / exported.WEIGHTS) as temporary:
        shutil.copyfile(weights, temporary)
    record.write_json(new / exported.SIDECAR, facts)
    labels = (" ".join(label.splitlines()) for label in facts["classes"])
    record.write_text(new / exported.LABELS, "".join(f"{label}\n" for label in labels))


def portable(facts: dict[str, Any]) -> dict[str, Any]:
    """The sidecar with the first weights' name for their path on this machine."""
    recipe = dict(facts["recipe"])
    if isinstance(recipe.get("weights"), str):
        recipe["weights"] = re.split(r"[\\/]", recipe["weights"])[-1]
    return {**facts, "recipe": recipe}


def config(facts: dict[str, Any], sums: dict[str, str]) -> dict[str, Any]:
    """config.json in timm's terms, who loads a ResNet with a linear head; the Hub counts downloads by it.

    Args:
        sums: sha256 of the other files, by which ``folder.require_replaceable`` knows them again.
    """
    side = facts["side_pixels"]
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
