"""Stage split: check every image and assign it to train, val or test.

Reads   params.yaml; data/<name>/archive and source.json
Writes  data/<name>/manifest.csv, plots/<name>/data/class_balance.csv,
        reports/<name>/source.json, split.json, rejected.csv and near_duplicates.csv
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from finegrain.config import params
from finegrain.core import disk, file_io, paths
from finegrain.dataset import assignment, inspection, manifest
from finegrain.sources import archive


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    config = params.load_params()
    data = paths.Dataset(config.dataset.name)
    with archive.ArchiveReader(data.archive) as reader:
        for path in (data.manifest, Path(tempfile.gettempdir())):
            disk.require_free_space(path, 1_000 * len(reader), "the table of all images")
        archive.report_ignored(reader.ignored_suffixes)
        inspected = inspection.inspect_images(reader)
    file_io.write_csv(data.rejected, ("path", "reason"), inspected.rejected_rows())
    inspected.reject_if_too_many_bad(config.split.max_bad_ratio, data.rejected)

    result = assignment.assign_splits(inspected, config.split, config.seed)
    file_io.write_csv(data.manifest, manifest.COLUMNS, result.rows())
    file_io.write_csv(data.rejected, ("path", "reason"), result.rejected_rows())
    file_io.write_csv(data.near_duplicates, ("test_path", "other_path", "bits"), result.near_duplicate_rows())
    file_io.write_csv(data.class_balance, ("class", "split", "images"), result.class_balance_rows())
    file_io.write_json(data.source, file_io.read_json(data.download_record))
    file_io.write_json(data.split_summary, result.metrics() | {"sha256": file_io.sha256(data.manifest)})


if __name__ == "__main__":
    process.run_main(main)
