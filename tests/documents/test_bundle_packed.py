"""The archive: everything to do it again, nothing secret, the same bytes each time."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from document_parts import a_paper, own_text, timed_run
from measured_run import edited

from perfkit.documents.bundle import bundle
from perfkit.errors import CheckFailed, ConfigError


@pytest.fixture(autouse=True)
def one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")


def members(path: Path) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:gz") as archive:
        found = {}
        for member in archive.getmembers():
            assert (member.uid, member.gid, member.uname, member.mtime) == (0, 0, "", 1790000000)
            stream = archive.extractfile(member)
            assert stream is not None
            found[member.name] = stream.read().decode("utf-8", errors="replace")
        return found


def test_an_archive_has_sources_tables_and_how_to_do_it_again(tmp_path: Path) -> None:
    run = timed_run(tmp_path / "one")
    packed = bundle(a_paper(tmp_path / "unused.pdf", run), tmp_path / "b.tar.gz")
    found = members(packed.path)
    assert {
        "bundle/reproduce.md",
        "bundle/SYSTEM.md",
        "bundle/ARTIFACT.md",
        "bundle/SHA256SUMS",
        "bundle/paper/main.typ",
        "bundle/paper/paper.pdf",
        "bundle/paper/text/paper.toml",
        "bundle/paper/paper.provenance.json",
        "bundle/paper/latex/tables/T2.tex",
        "bundle/runs/one/run.json",
        "bundle/runs/one/measures.csv",
        "bundle/runs/one/predicted_and_measured.csv",
    } <= set(found)
    assert (
        "    perfkit run smollm2-135m-instruct --api-key '[hidden]'\n"
        in found["bundle/reproduce.md"]
    )
    assert "- no GPU, a processor, 2 cores: every run" in found["bundle/SYSTEM.md"]
    assert "- Python 3.11.2, perfkit 0.1.0, torch 2.13.0: every run" in found["bundle/SYSTEM.md"]
    assert "execution 30.0 minutes, measured, for 1 runs" in found["bundle/ARTIFACT.md"]
    assert not any("sk-a1b2c3d4e5" in text or str(tmp_path) in text for text in found.values())


def test_nothing_says_where_the_runs_were_or_whose(tmp_path: Path) -> None:
    run = timed_run(tmp_path / "one")
    layout = [{"rank": 0, "pp_rank": 0, "tp_rank": 0, "host": "gpu-n17", "device": "a GPU"}]
    folder = "/leonardo_work/IscrC_abc/mrossi00"
    edited(
        run,
        layout=layout,
        supervisor={"host": "login07", "pid": 7},
        master=["10.2.3.4", 29500],
        launch_id="local-login07-7",
        hardware={"host": "gpu-n17", "gpus": [], "cpu": "a processor", "cores": 2},
        slurm={"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "gpu-n[17-18]"},
        command=[f"{folder}/perfkit/__main__.py", "run", "m", "--out", f"{folder}/runs/one"],
        warnings=[f"gpu-n17 cannot read {folder}/trace.json"],
    )
    found = members(bundle(a_paper(tmp_path / "unused.pdf", run), tmp_path / "b").path)
    for secret in ("gpu-n", "login07", "mrossi00", "IscrC", "leonardo_work", "10.2.3.4"):
        assert [name for name, text in found.items() if secret in text] == [], secret
    record = json.loads(found["bundle/runs/one/run.json"])
    assert (record["layout"][0]["host"], record["slurm"]) == ("host1", {"SLURM_JOB_ID": "7"})
    assert record["warnings"] == ["host1 cannot read trace.json"]
    assert "    perfkit run m --out one\n" in found["bundle/reproduce.md"]


def test_the_same_runs_give_the_same_archive(tmp_path: Path) -> None:
    run = timed_run(tmp_path / "one")
    first, second = (
        bundle(a_paper(tmp_path / "unused.pdf", run), tmp_path / name).path.read_bytes()
        for name in ("a.tar.gz", "b.tar.gz")
    )
    assert first == second


def test_the_sums_are_of_the_files(tmp_path: Path) -> None:
    import hashlib

    packed = bundle(a_paper(tmp_path / "unused.pdf", timed_run(tmp_path / "one")), tmp_path / "b")
    found = members(packed.path)
    pairs = (line.split("  ", 1) for line in found["bundle/SHA256SUMS"].splitlines())
    lines = {name: digest for digest, name in pairs}
    text = found["bundle/reproduce.md"]
    assert lines["reproduce.md"] == hashlib.sha256(text.encode()).hexdigest()
    assert len(lines) == len(found) - 1


def test_a_secret_in_the_text_stops_the_archive(tmp_path: Path) -> None:
    text = own_text(tmp_path / "text", "paper", introduction="Key: hf_abcdefgh12345678")
    with pytest.raises(CheckFailed, match=r"introduction\.typ would hold"):
        bundle(a_paper(tmp_path / "unused.pdf", text=text), tmp_path / "b.tar.gz")
    assert not (tmp_path / "b.tar.gz").exists()


def test_a_secret_of_this_process_stops_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITE_TOKEN", "swordfish-1234")
    text = own_text(tmp_path / "text", "paper", introduction="It is swordfish-1234.")
    with pytest.raises(CheckFailed, match="no archive was written"):
        bundle(a_paper(tmp_path / "unused.pdf", text=text), tmp_path / "b.tar.gz")


def test_an_archive_of_nothing_says_that_there_is_nothing(tmp_path: Path) -> None:
    packed = bundle(a_paper(tmp_path / "unused.pdf"), tmp_path / "b.tar.gz")
    found = members(packed.path)
    assert "There is no run in this archive." in found["bundle/reproduce.md"]
    assert json.loads(found["bundle/paper/paper.provenance.json"])["runs"] == {}


def test_an_archive_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "b.tar.gz").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        bundle(a_paper(tmp_path / "unused.pdf"), tmp_path / "b.tar.gz")
