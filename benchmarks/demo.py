"""Time from dropping a photo on the demo's page to its prediction, in a real browser, after a warm-up.

    python benchmarks/demo.py photo.jpg ...

Run it in a project in which `dvc repro` has made a leaderboard, with Chromium and requirements-dev.txt
installed.
"""

import itertools
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import command_line
from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ANSWER = "document.querySelector('#result')?.innerText"


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("photos", nargs="+", type=Path, help="two or more, of different classes")
    parser.add_argument("--times", type=int, default=20, help="photos to drop")
    parser.add_argument("--model", help="instead of the leaderboard's winner")
    args = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "finegrain.cli", "demo", "--port", str(port)]
    command += ["--model", args.model] if args.model else []
    server = subprocess.Popen(command, env={**os.environ, "BROWSER": "true"})
    try:
        seconds = measure(f"http://127.0.0.1:{port}/", args.photos, args.times)
    finally:
        server.terminate()
    what = f"{args.model or 'the winner'}, {len(seconds)} photos, {os.cpu_count()} cores"
    print(
        f"{what} of {platform.machine()}: "
        f"median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s"
    )


def measure(address: str, photos: list[Path], times: int) -> list[float]:
    """Seconds from uploading each photo to the text of its prediction; the first one is a warm-up."""
    while True:
        try:
            urllib.request.urlopen(address)
            break
        except OSError:
            time.sleep(0.2)
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("text=Drop a photo")
        for photo in itertools.islice(itertools.cycle(photos), times + 1):
            started = time.perf_counter()
            page.set_input_files("input[type=file]", photo)
            page.wait_for_function(
                f"({ANSWER} || '').includes('sure') || ({ANSWER} || '').includes('Not like')"
            )
            seconds.append(time.perf_counter() - started)
            page.get_by_label("Clear").first.click()
            page.wait_for_function(f"!({ANSWER} || '').trim()")
        browser.close()
    return seconds[1:]


if __name__ == "__main__":
    main()
