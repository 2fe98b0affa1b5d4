"""Stage split: check every image and assign it to train, val or test.

Reads   params.yaml; data/<name>/archive
Writes  data/<name>/manifest.csv, metrics/<name>/data/split.json, plots/<name>/data/class_balance.csv,
        reports/<name>/rejected.csv and near_duplicates.csv
"""

from finegrain import stage  # isort: skip  (first: it ends this process with dvc)
import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from finegrain import disk, manifest, params, paths, record
from finegrain.sources import archive


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    config = params.read()
    data = paths.Data(config.dataset.name)
    with archive.Reader(data.archive) as reader:
        for place in (data.manifest, Path(tempfile.gettempdir())):
            disk.require(place, 1_000 * len(reader), "the table of all images")
        archive.say_others(reader.others)
        inspected = manifest.inspect(reader)
    record.write_csv(data.rejected, ("path", "reason"), inspected.rejected())
    inspected.refuse_many_bad(config.split.max_bad_ratio, data.rejected)

    result = manifest.build(inspected, config.split, config.seed)
    record.write_csv(data.manifest, manifest.COLUMNS, result.rows())
    record.write_csv(data.rejected, ("path", "reason"), result.rejected())
    record.write_csv(data.near_duplicates, ("test_path", "other_path", "bits"), result.near_duplicates())
    record.write_csv(data.class_balance, ("class", "split", "images"), result.balance())
    record.write_json(data.split_metrics, result.metrics() | {"sha256": record.sha256(data.manifest)})


if __name__ == "__main__":
    stage.main(main)
