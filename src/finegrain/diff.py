"""``finegrain diff``: two revisions, or one and the workspace, on the same test images."""

import argparse

from finegrain import difference, difference_text, record, sides


def run(args: argparse.Namespace) -> int:
    """Compare, write, print; returns the exit status: 1 where ``--fail-if-worse`` has something to say."""
    found = difference.of(*sides.read(args.before, args.after))
    text = difference_text.markdown(found, args.images)
    if args.out:
        record.write_text(args.out, text)
    if args.json:
        record.write_json(args.json, found.facts())
    print(text, end="", flush=True)
    return int(args.fail_if_worse and found.worse)
