"""The command ``finegrain diff``: compare two revisions on the same test images."""

import argparse

from finegrain.core import file_io
from finegrain.experiments import difference, markdown, revision


def run(args: argparse.Namespace) -> int:
    """Compare, write and print; returns the exit status: 1 if ``--fail-if-worse`` finds a worse model."""
    found = difference.compare_revisions(*revision.read_revisions(args.before, args.after))
    text = markdown.render_difference(found, args.images)
    if args.out:
        file_io.write_text(args.out, text)
    if args.json:
        file_io.write_json(args.json, found.to_dict())
    print(text, end="", flush=True)
    return int(args.fail_if_worse and found.worse)
