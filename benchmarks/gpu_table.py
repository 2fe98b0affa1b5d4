"""The tables of benchmarks/gpu.py."""

from collections.abc import Iterator
from typing import Any

WAYS = (
    "ours", "ours, all augmentation", "ceiling", "torchvision", "ceiling, kernel by kernel",
    "ceiling, cuDNN tuned",
)  # fmt: skip
COMPILED = "ceiling, compiled"
BY_OPERATORS = "operator by operator"
AUGMENTATIONS = tuple(
    f"{name}{how}" for name in ("crop and flip", "all augmentation") for how in ("", f", {BY_OPERATORS}")
)


def markdown(results: dict[str, Any]) -> str:
    photos = "generated images" if results["photos"] == "drawn" else "photos"
    lines = [
        f"{results['device']}, {results['cores']} cores; torch {results['torch']}, torchvision "
        f"{results['torchvision']}; {results['images']} {photos} per epoch, {results['image_size']} px.",
        "Images per second of whole epochs, medians.",
        "",
        *_speeds(results["cells"]),
        "",
        *_bounds(results),
        "",
        *_compiled(results["cells"]),
        "",
        *_growing(results["growing"]),
        "",
        *_alone(results),
        *_profiles(results["profiles"]),
    ]
    if results["left_out"]:
        lines += ["", f"Left out for lack of time: {'; '.join(results['left_out'])}."]
    if results["failed"]:
        lines += ["", "Failed:", "", *(f"- {line}" for line in results["failed"])]
    return "\n".join(lines) + "\n"


def _speeds(cells: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        f"| model | batch | {' | '.join(WAYS)} | ours / torchvision "
        "| all augmentation / torchvision | ours / ceiling | all augmentation / ceiling | GiB, ours |"
    )
    yield f"|---|---:|{'---:|' * (len(WAYS) + 5)}"
    for model, size in dict.fromkeys((cell["model"], cell["batch_size"]) for cell in cells):
        mine = {c["way"]: c for c in cells if (c["model"], c["batch_size"]) == (model, size)}
        speed = {way: cell["images_per_second"] for way, cell in mine.items()}

        def ratio(above: str, below: str, shown: str, speed: dict[str, float] = speed) -> str:
            known = above in speed and below in speed
            return shown.format(speed[above] / speed[below]) if known else ""

        yield (
            f"| {model} | {size} | {' | '.join(f'{speed[w]:,.0f}' if w in speed else '' for w in WAYS)} "
            f"| {ratio('ours', 'torchvision', '{:.2f}x')} "
            f"| {ratio('ours, all augmentation', 'torchvision', '{:.2f}x')} "
            f"| {ratio('ours', 'ceiling', '{:.3f}')} "
            f"| {ratio('ours, all augmentation', 'ceiling', '{:.3f}')} "
            f"| {mine['ours']['peak_memory_bytes'] / 2**30 if 'ours' in mine else 0:.1f} |"
        )


def _bounds(results: dict[str, Any]) -> Iterator[str]:
    """Time of a step's operations and bytes, at the GPU's measured rates, next to the ceiling's time."""
    if "chip" not in results:
        return
    chip = results["chip"]
    yield (
        f"A large copy moves {chip['bytes_per_second'] / 1e12:.2f} TB/s, a large bf16 product does "
        f"{chip['flop_per_second'] / 1e12:.0f} TFLOP/s. Bytes: each operator's inputs and outputs, once."
    )
    yield ""
    yield "| model | batch | GFLOP per image | MB per image | us by operations | us by bytes | us, ceiling |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    speed = {
        (c["model"], c["batch_size"]): c["images_per_second"]
        for c in results["cells"]
        if c["way"] == "ceiling"
    }
    for row in results["bounds"]:
        known = speed.get((row["model"], row["batch_size"]))
        yield (
            f"| {row['model']} | {row['batch_size']} | {row['flop'] / 1e9:.2f} | {row['bytes'] / 1e6:.1f} "
            f"| {1e6 * row['flop'] / chip['flop_per_second']:.1f} "
            f"| {1e6 * row['bytes'] / chip['bytes_per_second']:.1f} "
            f"| {f'{1e6 / known:.1f}' if known else ''} |"
        )


def _profiles(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield ""
        yield (
            f"{row['model']}, batch {row['batch_size']}, {row['way']}: the device computes "
            f"{row['busy']:.1%} of the epoch; longest kernels, as shares of it:"
        )
        yield ""
        yield from (f"- {share:.1%} `{name}`" for name, share in row["longest"])


def _compiled(cells: list[dict[str, Any]]) -> Iterator[str]:
    """Whether torch.compile pays: its gain, and the number of images after which it breaks even."""
    yield "| ceiling, compiled | batch | images per second | gain | s to start | break-even after images |"
    yield "|---|---:|---:|---:|---:|---:|"
    plain = {(c["model"], c["batch_size"]): c for c in cells if c["way"] == "ceiling"}
    for cell in cells:
        before = plain.get((cell["model"], cell["batch_size"]))  # None if that measurement failed
        if cell["way"] == COMPILED and before:
            saved = 1 / before["images_per_second"] - 1 / cell["images_per_second"]  # seconds per image
            longer = cell["start_seconds"] - before["start_seconds"]
            yield (
                f"| {cell['model']} | {cell['batch_size']} | {cell['images_per_second']:,.0f} "
                f"| {cell['images_per_second'] / before['images_per_second']:.2f}x "
                f"| {cell['start_seconds']:.0f} | {f'{longer / saved:,.0f}' if saved > 0 else 'never'} |"
            )


def _growing(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "Progressive resizing, all augmentation, each epoch separately (the first of a run is a warm-up):"
    yield ""
    yield "| model | batch | image size of each epoch: images per second |"
    yield "|---|---:|---|"
    for model, size in dict.fromkeys((row["model"], row["batch_size"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["batch_size"]) == (model, size)]
        shown = ", ".join(f"{row['image_size']} px: {row['images_per_second']:,.0f}" for row in mine)
        yield f"| {model} | {size} | {shown} |"


def _alone(results: dict[str, Any]) -> Iterator[str]:
    if results["agreement"]:
        yield (
            "With all augmentation, the batches of kernels and operators differ by at most "
            f"{results['agreement']['largest']:.2f} of 255."
        )
        yield ""
    yield "| our batches without a network | batch | images per second |"
    yield "|---|---:|---:|"
    for row in results["batches_alone"]:
        yield f"| {row['augmentation']} | {row['batch_size']} | {row['images_per_second']:,.0f} |"
