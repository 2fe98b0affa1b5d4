"""``finegrain diff``: two revisions, or one and the workspace, on the same test images."""

import argparse

from finegrain.core import file_io
from finegrain.experiments import difference, markdown, revision


def run(args: argparse.Namespace) -> int:
    """Compare, write, print; returns the exit status: 1 where ``--fail-if-worse`` has something to say."""
    found = difference.compare_revisions(*revision.read_revisions(args.before, args.after))
    text = markdown.markdown(found, args.images)
    if args.out:
        file_io.write_text(args.out, text)
    if args.json:
        file_io.write_json(args.json, found.facts())
    print(text, end="", flush=True)
    return int(args.fail_if_worse and found.worse)
