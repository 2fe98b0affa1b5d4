"""Sharing through remotes: what docs/SHARING.md promises, by real DVC with stub stages and an S3 server."""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
import yaml
from clone import TINY, Clone
from moto.server import ThreadedMotoServer
from params_file import write_params
from stub_stages import stages_run

pytestmark = pytest.mark.slow

RUN = "resnet18-0"
AFTER_LR = {f"train@{RUN}", f"evaluate@{RUN}", "compare", "winner"}
KEY, SECRET = secrets.token_hex(10), secrets.token_hex(20)
ARCHIVE = "data/sample/archive/sample.zip"
MODEL = [f"models/sample/{RUN}.safetensors", f"models/sample/{RUN}.json"]
TRAINED = [*MODEL, f"plots/sample/history/{RUN}.csv", f"models/sample/{RUN}.cost.json"]
SHARED = [*TRAINED, ARCHIVE, "data/sample/manifest.csv"]
SHARED += [f"data/sample/predictions/{RUN}.parquet", "reports/index.html"]
PACK = [f"data/sample/pack/{name}.npy" for name in ("train", "val", "test")]


def key(content: bytes) -> str:
    """Where DVC keeps a content, in a remote as in a cache."""
    md5 = hashlib.md5(content).hexdigest()
    return f"files/md5/{md5[:2]}/{md5[2:]}"


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket on this machine."""

    endpoint: str
    name: str = "team"

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )

    def keys(self) -> set[str]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return {item["Key"] for page in pages for item in page.get("Contents", [])}

    def put(self, key: str, content: bytes) -> None:
        self.client().put_object(Bucket=self.name, Key=key, Body=content)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    made = Bucket(f"http://{host}:{port}")
    made.client().create_bucket(Bucket=made.name)
    yield made
    server.stop()


@dataclass(frozen=True)
class Team:
    """A clone that has run the pipeline and pushed, and the bare git repository that others clone."""

    author: Clone
    origin: Path

    def colleague(self, name: str) -> Clone:
        return self.author.colleague(self.origin, self.origin.parent / name)


@pytest.fixture(scope="module")
def team(tmp_path_factory, bucket, stubbed) -> Team:
    author = stubbed.copied(tmp_path_factory.mktemp("team") / "author")
    author(f"dvc remote add -d team s3://{bucket.name}/finegrain")
    author(f"dvc remote modify team endpointurl {bucket.endpoint} && dvc remote modify team verify true")
    author.commit("share")
    author(f"dvc remote modify --local team access_key_id {KEY}")
    author(f"dvc remote modify --local team secret_access_key {SECRET}")
    author("dvc push")
    origin = author.folder.parent / "origin.git"
    author(f"git clone -q --bare . {origin} && git remote add origin {origin}")
    # others have no config of the author's: they sign in by the environment
    author.environment |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    return Team(author, origin)


@pytest.fixture(scope="module")
def puller(team) -> Clone:
    """A colleague who has pulled all there is; to be copied."""
    made = team.colleague("puller")
    made("dvc pull --allow-missing")
    return made


@pytest.fixture
def pulled(puller, tmp_path) -> Clone:
    return puller.copied(tmp_path / "pulled")


def same(one: Clone, other: Clone, paths: list[str]) -> bool:
    return all((one.folder / path).read_bytes() == (other.folder / path).read_bytes() for path in paths)


def test_credentials_are_not_committed(team):
    assert SECRET in (team.author.folder / ".dvc/config.local").read_text()
    assert team.author("git status --porcelain") == ""
    team.author(f"git grep -q -e {SECRET} -e {KEY} $(git rev-list --all)", code=1)


def test_all_is_pushed_but_the_pack(team, bucket):
    pushed, pack = (
        {f"finegrain/{key((team.author.folder / path).read_bytes())}" for path in paths}
        for paths in (SHARED, PACK)
    )
    assert pushed <= bucket.keys()
    assert not pack & bucket.keys()


def test_a_clone_gets_what_was_pushed(team, pulled):
    assert same(team.author, pulled, SHARED)
    assert not (pulled.folder / "data/sample/pack").exists()
    output = pulled("dvc pull", code=1)  # a plain pull gets the same, and then says what it has not got
    assert output.split("following targets:\n")[1].startswith("data/sample/pack\nIs your cache")


def test_repro_has_nothing_to_do_where_the_pack_may_be_missing(pulled):
    assert not stages_run(pulled("dvc repro --allow-missing"))
    assert not (pulled.folder / "data/sample/pack").exists() and pulled("git status --porcelain") == ""


def test_repro_makes_the_pack_again_and_trains_nothing(team, pulled):
    assert stages_run(pulled("dvc repro")) == {"inputs", "pack"}
    assert same(team.author, pulled, PACK)
    assert "up to date" in pulled("dvc status")
    assert pulled("git status --porcelain") == ""


def test_evaluating_needs_the_pack_but_not_the_archive(team, pulled):
    pulled("dvc repro pack")
    archive = pulled.folder / ARCHIVE
    (pulled.folder / ".dvc/cache" / key(archive.read_bytes())).unlink()
    shutil.rmtree(archive.parent)
    output = pulled(f"dvc exp run --allow-missing -S evaluate.flip=true evaluate@{RUN}")
    assert stages_run(output) == {f"evaluate@{RUN}"}
    assert not archive.exists()
    mine, theirs = (clone.json(f"metrics/sample/{RUN}.json") for clone in (pulled, team.author))
    assert mine["loss"] != theirs["loss"]


def test_models_alone(team):
    clone = team.colleague("models")
    clone("dvc pull train")
    assert same(team.author, clone, MODEL)
    data = {file.parent.name for file in (clone.folder / "data").rglob("*") if file.is_file()}
    assert data == {"leave_one_out"}  # what training predicted, no photos


def test_a_file_that_was_changed_in_the_bucket_is_refused(team, bucket):
    """By `verify`: without it DVC takes any content that the remote returns."""
    clone = team.colleague("wary")
    sidecar = (team.author.folder / MODEL[1]).read_bytes()
    bucket.put(f"finegrain/{key(sidecar)}", b"{}")
    try:
        assert MODEL[1] in clone("dvc pull train", code=1)
    finally:
        bucket.put(f"finegrain/{key(sidecar)}", sidecar)
    assert not (clone.folder / MODEL[1]).exists()
    clone("dvc pull train")
    assert same(team.author, clone, MODEL)


def test_one_model_without_a_clone(team, tmp_path):
    for path in MODEL:
        team.author(f"dvc get {team.origin} {path} -o {tmp_path / Path(path).name}")
    weights = tmp_path / f"{RUN}.safetensors"
    metadata = json.loads(weights.with_suffix(".json").read_text())
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == metadata["sha256"]


@pytest.fixture(scope="module")
def faster(team) -> Clone:
    """A colleague who has pushed an experiment with another learning rate."""
    made = team.colleague("faster")
    output = made("dvc exp run --pull -n faster -S lr=0.003")
    assert stages_run(output) == {"pack", *AFTER_LR}  # `--pull` has fetched what these need
    made("dvc exp push --run-cache origin faster")
    return made


@pytest.mark.long
def test_an_experiment_of_a_colleague_is_taken_over_without_training(team, faster, tmp_path):
    author = team.author.copied(tmp_path / "author")
    author("dvc exp pull origin faster && dvc exp apply faster")
    assert yaml.safe_load((author.folder / "params.yaml").read_text())["lr"] == 0.003
    assert not stages_run(author("dvc repro"))
    assert same(author, faster, [*SHARED, f"metrics/sample/{RUN}.json", "reports/leaderboard.md"])


@pytest.mark.long
def test_a_training_that_somebody_has_done_is_not_done_again(team, faster):
    """From the run cache: dvc.lock of this clone does not hold that learning rate."""
    clone = team.colleague("repeats")
    write_params(clone.folder, **{**TINY, "lr": 0.003})
    assert stages_run(clone(f"dvc repro --pull train@{RUN}")) == {"pack"}
    assert same(faster, clone, TRAINED)


def test_a_download_that_somebody_has_done_is_not_done_again(team):
    team.author("dvc push --run-cache")
    clone = team.colleague("downloads")
    (clone.folder / "dvc.lock").unlink()
    assert stages_run(clone("dvc repro --pull download")) == {"inputs"}
    assert same(team.author, clone, [ARCHIVE])


def test_the_winner_is_fetched_by_its_version(team, tmp_path):
    """Whichever model it is, and whatever is committed later; a stage such as prod is a tag, too."""
    origin, author = tmp_path / "origin.git", team.author.copied(tmp_path / "author")
    author(f"git clone -q --bare . {origin} && git remote set-url origin {origin}")
    author("git tag -a winner@v1.0.0 -m first && gto assign winner --version v1.0.0 --stage prod")
    author("git commit -q --allow-empty -m later && git push -q --tags origin main")
    for name, which in (("version", "--rev v1.0.0"), ("stage", "--stage prod")):
        author(f"dvc artifacts get {origin} winner {which} -o {tmp_path / name}")
        for file, own in zip(("model.safetensors", "model.json"), MODEL, strict=True):
            assert (tmp_path / name / file).read_bytes() == (author.folder / own).read_bytes()


def test_a_shared_folder(team, tmp_path):
    share = tmp_path / "share"
    author, clone = team.author.copied(tmp_path / "author"), team.colleague("folder")
    for each in (author, clone):
        each(f"dvc remote add --local folder {share}")
    author("dvc push -r folder")
    clone("dvc pull -r folder train")
    assert same(author, clone, MODEL)
    assert author("git status --porcelain") == ""


def test_two_clones_with_one_cache(team):
    """Nothing is copied, and the pack is there without being pushed."""
    clone = team.colleague("linked")
    clone(f"dvc cache dir --local {team.author.folder}/.dvc/cache && dvc checkout")
    assert not (clone.folder / ".dvc/cache").exists()
    assert same(team.author, clone, [*SHARED, *PACK])
    assert stages_run(clone("dvc repro")) == {"inputs"}
