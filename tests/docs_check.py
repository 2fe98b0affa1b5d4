"""Every command of README, CONTRIBUTING and docs is run, page by page, on a small sample (`make docs-check`).

A page's commands run in their order in one clone, as bash runs them. What is not run as the page has it is
listed here: replaced words, commands that stand in for others, and what is left out and why.
`-k SHARING` runs one page.
"""

import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import drawn
import pytest
import stub_stages
import yaml
from clone import TINY, Clone
from doc_commands import PAGES, command_lines, scripts
from params_file import write_params

from recipes import RECIPES, shrunk

LEFT_OUT = {
    "pip": "downloads; tests/test_wheel.py installs the wheel",
    "uv": "downloads",
    "docker": "no container engine runs in the tests; hadolint reads the Dockerfile",
    "make install TORCH=cpu": "downloads; tests/test_make_install.py has a stub of pip",
    "make test": "runs the tests, as every push does",
    "make test-all": "runs the tests, as the weekly job does",
    "make check": "every push runs it",
    "make docs": "writes pages; tests/test_parameters_page.py and tests/test_readme.py compare them",
    "make docs-check": "is this",
    "make demo": "serves until it is stopped; tests/test_demo.py opens its page in a browser",
    "hf upload OWNER/NAME exported/resnet18 .": "needs the Hub; tests/test_hub.py has a stub",
    "cp recipes/stanford-cars-sgd.yaml params.yaml": "needs Kaggle; tests/test_kaggle.py has a stub, "
    "and tests/test_recipes.py runs the recipe",
    "dvc remote modify team endpointurl https://minio.example.org": "tests/test_remote.py has S3",
    ".": "only puts the environment on the path, where the tests have it",
    "dvc checkout": "is for a fresh clone; tests/test_remote.py runs it there, with a filled cache",
}
"""Commands that are not run, or programs that are not, and why."""

WORDS = {
    "URL": "../origin.git",
    "/srv/finegrain-cache": "$PWD/../shared-cache",
    "--trials 20": "--trials 2",
    "'seeds=[0,1,2]'": "'seeds=[0,1]'",
}
"""Words of a command and what they are replaced by."""

SHARE = "git add -A && git commit -q --allow-empty -m shared && dvc push && git push -q origin main"
CLONED = f"{SHARE} && rm -rf ../colleague && git clone -q ../origin.git ../colleague && cd ../colleague"
STARTED = (
    "until ! dvc queue status | grep -qE 'Queued|Running'; do sleep 1; done"
    "; dvc queue status | grep Success && ! dvc queue status | grep Failed"
)
STAND_INS = {
    "make repro": "make repro && git add -A && git commit -q -m run",
    "dvc exp run -S 'seeds=[0,1,2]'": "dvc exp run -S 'seeds=[0,1,2]' && git checkout -q params.yaml",
    "dvc exp run -S lr=0.003": "git checkout -q params.yaml && dvc exp run -S lr=0.003",  # a recipe was there
    "dvc queue start -j 2": f"dvc queue start -j 2 && {STARTED}",
    "wait": "for job in $(jobs -p); do wait $job || exit; done",
    "dvc repro --pull": f"{CLONED} && dvc repro --pull",
    "dvc repro --pull pack": f"sed -i 's/^lr:.*/lr: 0.004/' params.yaml && {CLONED} && dvc repro --pull pack",
    "dvc repro -s train@resnet18-0": "cd ../colleague && dvc repro -s train@resnet18-0",
    "dvc push --run-cache train@resnet18-0": "cd ../colleague && dvc push --run-cache train@resnet18-0",
    "dvc exp list -A origin": "cd ../colleague && dvc exp list -A origin",
    "dvc exp pull origin faster": "cd ../colleague && dvc exp pull origin faster",
    "dvc exp apply faster": "cd ../colleague && dvc exp apply faster",
    "dvc import URL winner/sample --rev winner@v1.0.0": "git init -q ../another && cd ../another"
    " && dvc init -q && dvc import URL winner/sample --rev winner@v1.0.0",
    "sudo install -d -m 2775 -g team /srv/finegrain-cache": "mkdir -m 2775 /srv/finegrain-cache",
}
"""Commands that need something before or after them, or are typed elsewhere, and what is run."""


def user_files(clone: Clone) -> None:
    """The photos and tables that the pages speak of; git does not see those in the clone."""
    photos = drawn.classes({"ant": 12, "bee": 12, "fly": 12})
    drawn.zip_file(clone.folder.parent / "photos.zip", photos)
    drawn.zip_file(clone.folder / "archive.zip", dict(list(photos.items())[:3]))
    drawn.tree(clone.folder / "photos", {"one.png": drawn.png(1), "two.png": drawn.png(2)})
    drawn.tree(clone.folder / "holiday", {"three.png": drawn.png(3)})
    drawn.tree(clone.folder / "more", {"four.png": drawn.png(4)})
    drawn.tree(clone.folder, {"photo.jpg": drawn.encode(drawn.pattern(5), "JPEG")})
    (clone.folder / "labels.csv").write_text(
        "file,make\none.png,Aero Convertible 2012\ntwo.png,Aero Convertible 2012\n"
    )
    with (clone.folder / ".git/info/exclude").open("a") as file:
        file.write("archive.zip\n/photos/\nholiday/\nmore/\nphoto.jpg\nlabels.csv\npredictions.csv\nmodel/\n")


def fresh(folder: Path) -> Clone:
    """Nothing has run; what `make` would install is there, and a repository to push to."""
    clone = Clone.tiny(folder)
    drawn.tree(folder / ".venv", {".installed": b"", ".installed-app": b"", ".installed-dev": b""})
    user_files(clone)
    clone("git init -q --bare -b main ../origin.git")
    clone("git remote add origin $PWD/../origin.git && git push -q -u origin main")
    return clone


def trained(folder: Path) -> Clone:
    """All stages have run."""
    clone = fresh(folder)
    clone("dvc repro")
    return clone


def shared(folder: Path) -> Clone:
    """A trained project with a remote and an experiment, faster."""
    clone = trained(folder)
    clone("dvc remote add -d team $PWD/../remote")
    clone.commit("run")
    clone("dvc push && git push -q origin main && dvc exp run --temp -n faster -S lr=0.003")
    return clone


def stubbed(folder: Path) -> Clone:
    """Stages without training; they have run."""
    clone = stub_stages.stub_clone(folder)
    drawn.tree(folder / ".venv", {".installed": b"", ".installed-app": b""})
    return clone


def two_models(folder: Path) -> Clone:
    """Stages without training, for two models, and a remote; nothing has run."""
    clone = fresh(folder)
    write_params(folder, **{**TINY, "models": ["resnet18", "resnet50"]})
    stub_stages.install(clone)
    clone("dvc remote add -d team $PWD/../remote")
    clone.commit("two models")
    return clone


PROJECTS: dict[str, Callable[[Path], Clone]] = {
    "README.md": fresh,
    "CONTRIBUTING.md": fresh,
    "INSTALL.md": fresh,
    "ONE_PASS.md": fresh,
    "OWN_PHOTOS.md": fresh,
    "PREDICT.md": trained,
    "PULL_REQUESTS.md": shared,
    "REFERENCE_PROJECTS.md": fresh,
    "SCALING.md": two_models,
    "SHARING.md": shared,
    "SWEEPS.md": stubbed,
    "TRAIN.md": fresh,
}
"""What each page begins with."""


def shrink_recipe(clone: Clone, recipe: str) -> None:
    """Give params.yaml the small values of a recipe, and its own archive."""
    data = shrunk(recipe) | {"dataset": RECIPES[recipe]["dataset"]}
    (clone.folder / "params.yaml").write_text(yaml.safe_dump(data, sort_keys=False))


def reason_left_out(command: str) -> str | None:
    """Why a command of a page is not run; None if it is."""
    return LEFT_OUT.get(command, LEFT_OUT.get(command.split()[0]))


def to_run(page: Path) -> Iterator[tuple[str, str | None]]:
    """Each command of a page, and what is run for it: itself, or another one; None if it is left out."""
    background = ""
    for command in command_lines(page):
        if reason_left_out(command):
            yield command, None
            continue
        if command.endswith("&"):
            background += f"{command}\n"
            continue
        script = background + STAND_INS.get(command, command)
        command, background = background + command, ""
        for word, other in WORDS.items():
            script = script.replace(word, other)
        yield command, script
    assert not background, f"no wait after {background}"


def run(clone: Clone, script: str) -> None:
    """Run it with bash; its output goes to a file, as a worker of the queue would keep a pipe open."""
    with (clone.folder.parent / "output").open("w+") as output:
        done = subprocess.run(
            ["bash", "-c", script], cwd=clone.folder, env=clone.environment, stdout=output, stderr=output,
            stdin=subprocess.DEVNULL, timeout=1200,
        )  # fmt: skip
        output.seek(0)
        assert done.returncode == 0, f"{script}: exit {done.returncode}\n{output.read()[-4000:]}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if [*command_lines(page)]], ids=lambda page: page.name
)
def test_the_commands_run(page, tmp_path):
    print(f"\n{page.name}", flush=True)
    clone = PROJECTS[page.name](tmp_path / "clone")
    clone.environment |= {"OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1,localhost"}
    clone.environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")  # nothing leaves
    for command, script in to_run(page):
        if script is None:
            print(f"  left out: {command}  ({reason_left_out(command)})", flush=True)
            continue
        started = time.monotonic()
        run(clone, script)
        if command.startswith("cp recipes/"):
            shrink_recipe(clone, Path(shlex.split(command)[1]).stem)
        seconds = time.monotonic() - started
        as_run = "" if script == command else f"\n            as: {script}"
        print(f"  {seconds:5.1f} s  {command}{as_run}", flush=True)
    for _ in scripts(page):
        print("  left out: a script of a cluster or a download (tests/test_doc_commands.py parses it)")


def test_no_entry_is_of_a_command_that_is_gone():
    commands = [command for page in PAGES for command in command_lines(page)]
    assert {*LEFT_OUT, *STAND_INS} <= {*commands} | {command.split()[0] for command in commands}
    assert all(any(word in command for command in commands) for word in WORDS)
