"""Stage split: check every image and assign it to train, val or test.

Reads   params.yaml; data/<name>/archive and source.json; the file of `dataset.corrections`
Writes  data/<name>/manifest.csv, plots/<name>/data/class_balance.csv,
        reports/<name>/source.json, split.json, rejected.csv and near_duplicates.csv;
        for its next run .checkpoints/inspected
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
import itertools
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from finegrain.config import params
from finegrain.config.dataset import LabelParams
from finegrain.core import disk, file_io, paths
from finegrain.dataset import assignment, corrections, groups, image_labels, inspection, manifest
from finegrain.sources import archive


def main(argv: Sequence[str] | None = None) -> None:
    process.parser(__doc__).parse_args(argv)
    config = params.load_params()
    data = paths.Dataset(config.dataset.name)
    label_params = config.dataset.label_params
    encoding = archive.recorded_encoding(data.download_record)
    with archive.ArchiveReader(data.archive, label_params is None, encoding) as reader:
        for path in (data.manifest, Path(tempfile.gettempdir())):
            disk.require_free_space(path, 1_000 * len(reader), "the table of all images")
        archive.report_ignored(reader.ignored)
        labels = read_labels(reader, label_params) if label_params else None
        inspected = inspection.inspect_images(reader, inspection.KnownPhotos())
    corrected = None
    if config.dataset.corrections:
        table = corrections.read_corrections(paths.user_path(config.dataset.corrections))
        inspected, corrected = corrections.apply(table, inspected)

    def write_rejected(rows: Iterable[tuple[str, str]]) -> None:
        unmatched = labels.unmatched() if labels else ()
        dropped = corrected.rejected_rows() if corrected else ()
        file_io.write_csv(data.rejected, ("path", "reason"), itertools.chain(rows, dropped, unmatched))

    write_rejected(inspected.rejected_rows())
    inspected.reject_if_too_many_bad(config.split.max_bad_ratio, data.rejected)
    group_of = groups.path_groups(config.split.group) if config.split.group else None
    if labels and label_params and label_params.group:
        group_of = labels.group
    result = assignment.assign_splits(inspected, config.split, config.seed, group_of)
    file_io.write_csv(data.manifest, manifest.COLUMNS, result.rows())
    write_rejected(result.rejected_rows())
    file_io.write_csv(data.near_duplicates, ("test_path", "other_path", "bits"), result.near_duplicate_rows())
    file_io.write_csv(data.class_balance, ("class", "split", "images"), result.class_balance_rows())
    file_io.write_json(data.source, file_io.read_json(data.download_record))
    matched = {
        "images_without_label": labels.images_without_label if labels else 0,
        "labels_without_image": labels.labels_without_image if labels else 0,
    }
    if corrected:
        corrected.report()
    changed = {"corrections": corrected.metrics() if corrected else None}
    digest = {"sha256": file_io.sha256(data.manifest)}
    file_io.write_json(data.split_summary, result.metrics() | matched | changed | digest)


def read_labels(reader: archive.ArchiveReader, labels: LabelParams) -> image_labels.ImageLabels:
    """Take the classes of the archive's images from tables."""
    rows = image_labels.read_rows(labels, reader.read_tables(labels.file_names))
    found = image_labels.ImageLabels(rows, reader.paths())
    reader.use_labels(found)
    return found


if __name__ == "__main__":
    process.run_main(main)
