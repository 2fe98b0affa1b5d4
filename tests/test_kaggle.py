"""The real Kaggle client against a server on 127.0.0.1: sign-in, resume, and the message of every error."""

import base64
import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
from kaggle_stub import SECRET, KaggleStub
from params_file import write_params

SLUG = "ann/toy-cars/2"
LEGACY = {"KAGGLE_USERNAME": "ann", "KAGGLE_KEY": SECRET}
FETCH = f"process.run_main(lambda: print(source.download({SLUG!r}, Path('out'))))"


def archive() -> bytes:
    """A zip of about 4 MB, more than the client's pieces of 1 MiB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        rng = np.random.default_rng(0)
        for i in range(4):
            file.writestr(f"cars/{i}.bin", rng.bytes(1_000_000))
    return stream.getvalue()


@pytest.fixture
def stub():
    with KaggleStub({SLUG: archive()}) as running:
        yield running


def requested_ranges(stub: KaggleStub) -> list[str | None]:
    return [headers.get("Range") for path, headers, _ in stub.requests if path.startswith("/files/")]


def error_message(done) -> str:
    """The message of a run that failed cleanly."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: Kaggle: ") and "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr and "signature" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    return done.stderr


def test_the_pinned_version_is_downloaded_completely(stub, project):
    done = stub.run(FETCH, project, LEGACY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out/toy-cars.zip\n"
    assert (project / "out" / "toy-cars.zip").read_bytes() == stub.datasets[SLUG]
    assert not list((project / ".checkpoints" / "downloads").iterdir())
    path, headers, body = stub.requests[0]
    assert path.endswith("DownloadDataset") and body["datasetVersionNumber"] == 2
    assert headers["Authorization"] == "Basic " + base64.b64encode(f"ann:{SECRET}".encode()).decode()
    assert SECRET not in done.stderr


@pytest.mark.parametrize("way", ["variable", "token file", "kaggle.json", "config folder"])
def test_every_way_to_sign_in_without_a_browser(stub, project, way):
    credentials = {}
    home = project / "home" / ".kaggle"
    home.mkdir(parents=True)
    key = json.dumps({"username": "ann", "key": SECRET})
    if way == "variable":
        credentials = {"KAGGLE_API_TOKEN": SECRET}
    elif way == "token file":
        (home / "access_token").write_text(SECRET + "\n")
    elif way == "kaggle.json":
        (home / "kaggle.json").write_text(key)
        (home / "kaggle.json").chmod(0o600)
    else:
        (project / "elsewhere").mkdir()
        (project / "elsewhere" / "kaggle.json").write_text(key)
        credentials = {"KAGGLE_CONFIG_DIR": str(project / "elsewhere")}
    done = stub.run(FETCH, project, credentials)
    assert done.returncode == 0, done.stderr
    sent = {headers["Authorization"].split()[0] for path, headers, _ in stub.requests if "Download" in path}
    assert sent == {"Bearer" if way in ("variable", "token file") else "Basic"}


def test_a_cut_connection_is_resumed_within_the_same_call(stub, project):
    stub.fault = "cut-once"
    done = stub.run(FETCH, project, LEGACY)
    assert done.returncode == 0, done.stderr
    assert (project / "out" / "toy-cars.zip").read_bytes() == stub.datasets[SLUG]
    first, second = requested_ranges(stub)
    assert first is None and second is not None and int(second[6:-1]) > 1_000_000


def test_an_interrupted_download_is_resumed_by_the_next_call(stub, project):
    stub.fault = "cut-always"
    message = error_message(stub.run(FETCH, project, LEGACY))
    assert "no connection" in message and ".checkpoints/downloads/ann-toy-cars-2" in message
    assert not (project / "out").exists()
    stub.fault = None
    stub.requests.clear()
    done = stub.run(FETCH, project, LEGACY)
    assert done.returncode == 0, done.stderr
    assert (project / "out" / "toy-cars.zip").read_bytes() == stub.datasets[SLUG]
    assert int((requested_ranges(stub)[-1] or "bytes=0-")[6:-1]) > 1_000_000


def test_no_credentials(stub, project):
    message = error_message(stub.run(FETCH, project, {}))
    assert "not signed in" in message and "access_token" in message and "kaggle.json" in message


def test_an_unknown_token(stub, project):
    message = error_message(stub.run(FETCH, project, {"KAGGLE_API_TOKEN": "an-0ld-t0ken"}))
    assert "not signed in" in message and "an-0ld-t0ken" not in message


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        (401, "(401)"),
        (403, "datasets/ann/toy-cars with"),
        (404, f"{SLUG} (404)"),
        ("in-body-404", f"{SLUG} (404)"),
        (429, "(429)"),
        (500, "status 500"),
    ],
)
def test_every_error_of_the_server_has_its_message(stub, project, fault, part):
    stub.fault = fault
    assert part in error_message(stub.run(FETCH, project, LEGACY))


def test_a_wrong_version(stub, project):
    assert "ann/toy-cars/9 (404)" in error_message(
        stub.run(FETCH.replace("toy-cars/2", "toy-cars/9"), project, LEGACY)
    )


@pytest.mark.parametrize("fault", ["stall", "stall-midway"])
def test_a_stalled_server(stub, project, fault):
    stub.fault = fault
    assert "for 0.5 s" in error_message(stub.run(FETCH, project, LEGACY, stall=0.5))


def test_no_network(stub, project):
    stub.__exit__()
    assert "check the network" in error_message(stub.run(FETCH, project, LEGACY))


def test_a_page_instead_of_a_zip_is_not_kept(stub, project):
    stub.datasets[SLUG] = b"<html>please wait</html>" * 1000
    assert f"{SLUG} is not a zip" in error_message(stub.run(FETCH, project, LEGACY))
    assert not (project / "out").exists() and not list((project / ".checkpoints" / "downloads").iterdir())


def test_a_full_disk_is_reported_before_the_download(stub, project):
    full = "import shutil\nshutil.disk_usage = lambda p: type('U', (), {'free': 1000})\n"
    assert "the disk is full: 4 MiB more are needed" in error_message(stub.run(full + FETCH, project, LEGACY))


def test_the_download_stage_records_the_source_and_checks_the_sha256(stub, project):
    kaggle = {"name": "toys", "source": "kaggle", "slug": SLUG}
    write_params(project, dataset=kaggle)
    stage = "import download\nprocess.run_main(lambda: download.main([]))"
    done = stub.run(stage, project, LEGACY)
    assert done.returncode == 0, done.stderr
    source = json.loads((project / "data/toys/source.json").read_text())
    digest = hashlib.sha256(stub.datasets[SLUG]).hexdigest()
    assert source["sha256"] == digest and source["slug"] == SLUG
    assert SECRET not in json.dumps(source) + done.stdout + done.stderr

    write_params(project, dataset={**kaggle, "sha256": "0" * 64})
    done = stub.run(stage, project, LEGACY)
    assert done.returncode == 1
    assert "dataset.sha256 is 000" in done.stderr and digest in done.stderr
