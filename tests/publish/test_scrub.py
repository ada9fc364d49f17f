"""Secrets planted wherever real exports hold some, and searched for in every byte of a copy."""

import gzip
import json
import sqlite3
from pathlib import Path

import polars as pl
import pytest

from perfkit.errors import CheckFailed, ConfigError
from perfkit.publish.evidence import add
from perfkit.publish.reduce import reduced
from perfkit.publish.scrub import scrub, secrets_in
from perfkit.schema import write_json
from perfkit.secrets import HIDDEN, without_secret_arguments, without_secrets
from perfkit.timeline.analysis import analyze_paths

TOKEN = "hf_plantedPlantedPlanted"
FORMS = [
    TOKEN,
    "sk-planted0123456789",
    "nvapi-planted0123456789",
    "ghp_planted0123456789",
    "AKIAPLANTED012345678",
    "xoxb-planted-0123456789",
]


@pytest.mark.parametrize("secret", FORMS)
def test_known_forms_are_hidden_inside_text(secret: str) -> None:
    assert without_secrets(f"a {secret}, b") == f"a {HIDDEN}, b"


def test_words_that_only_look_alike_stay() -> None:
    line = ["run", "--new-tokens", "128", "--tokenizer", "x", "task-clock", "sk-", "monkey=1"]
    assert without_secret_arguments(line) == line
    assert without_secrets("https://host/path@2") == "https://host/path@2"


def test_values_of_secret_options_and_variables_are_hidden() -> None:
    line = ["env", "HF_TOKEN=x1", "serve", "--api-key", "x2", "--password=x3", "-v"]
    hidden = [
        "env",
        f"HF_TOKEN={HIDDEN}",
        "serve",
        "--api-key",
        HIDDEN,
        f"--password={HIDDEN}",
        "-v",
    ]
    assert without_secret_arguments(line) == hidden
    assert without_secrets("https://me:pw@host/") == f"https://{HIDDEN}@host/"


def an_export(path: Path) -> Path:
    """The tables of an nsys export in which secrets were seen in public files."""
    with sqlite3.connect(path) as export:
        export.executescript(
            """
            create table META_DATA_CAPTURE (name text, value text);
            create table META_DATA_EXPORT (name text, value text);
            create table TARGET_INFO_SYSTEM_ENV (name text, value text);
            create table StringIds (id integer primary key, value text);
            create table NVTX_EVENTS (start integer, text text, textId integer, eventType integer,
                domainId integer, binaryData blob);
            create table CUPTI_ACTIVITY_KIND_KERNEL (start integer, shortName integer);
            create table ProcessStreams (globalPid integer, contentId integer);
            create table PROCESSES (globalPid integer, name text);
            create table ThreadNames (nameId integer, globalTid integer);
            """
        )
        export.executemany(
            "insert into META_DATA_CAPTURE values (?, ?)",
            [
                ("PROCESS_0:ENVIRONMENT_VARIABLE", "MY_SETTING=private-words"),
                ("PROCESS_0:COMMAND", "python train.py --api-key private-words"),
                ("PRODUCT_VERSION", "2025.3.1"),
            ],
        )
        export.executemany(
            "insert into META_DATA_EXPORT values (?, ?)",
            [
                ("EXPORT_SCHEMA_VERSION", "3.20.3"),
                ("EXPORT_USER", "ada"),
                ("EXPORT_PARAM_INPUT_PATH_ABS", "/scratch/ada/report.nsys-rep"),
            ],
        )
        export.execute("insert into PROCESSES values (7, 'private-words')")
        export.execute("insert into ThreadNames values (7, 7)")
        export.executemany(
            "insert into TARGET_INFO_SYSTEM_ENV values (?, ?)",
            [("DeviceEnvironment", f"TOKEN={TOKEN} private-words"), ("NvDriverVersion", "580.1")],
        )
        export.executemany(
            "insert into StringIds values (?, ?)",
            [
                (1, "ncclDevKernel_AllReduce"),
                (2, f"printed {TOKEN}"),
                (3, "/home/ada/model/x.py"),
                (4, "LANG=C SHELL=/bin/sh EDITOR=private-words PAGER=less "),
                (5, "private-words on the screen"),
                (6, "NCCL"),
                (7, "private-words of another's thread"),
            ],
        )
        export.execute("insert into CUPTI_ACTIVITY_KIND_KERNEL values (3, 1)")
        export.execute("insert into ProcessStreams values (1, 5)")
        export.executemany(
            "insert into NVTX_EVENTS values (?, ?, ?, ?, ?, ?)",
            [
                (1, None, 6, 75, 1, None),
                (5, f"decode {TOKEN}", None, 59, 2, b"private-words"),
                (6, None, 3, 59, 2, None),
                (7, "ncclAllReduce", None, 59, 1, b"message size"),
            ],
        )
    return path


def test_an_nsys_export_loses_environment_and_secrets_and_keeps_the_rest(tmp_path: Path) -> None:
    source = an_export(tmp_path / "a.sqlite")
    before = source.read_bytes()
    scrub(source, tmp_path / "b.sqlite")
    assert source.read_bytes() == before
    content = (tmp_path / "b.sqlite").read_bytes()
    for planted in (TOKEN, "private-words", "ada"):
        assert planted.encode() not in content
    with sqlite3.connect(tmp_path / "b.sqlite") as copy:
        assert copy.execute("select name from META_DATA_CAPTURE").fetchall() == [
            ("PRODUCT_VERSION",)
        ]
        assert copy.execute("select value from StringIds order by id").fetchall() == [
            ("ncclDevKernel_AllReduce",),
            (f"/home/{HIDDEN}/model/x.py",),
            ("NCCL",),
        ]
        assert copy.execute("select text, binaryData from NVTX_EVENTS").fetchall() == [
            (None, None),
            (f"decode {HIDDEN}", None),
            (None, None),
            ("ncclAllReduce", b"message size"),
        ]
        assert copy.execute("select count(*) from ProcessStreams").fetchone() == (0,)


def test_a_parquetdir_loses_the_same(tmp_path: Path) -> None:
    source = an_export(tmp_path / "a.sqlite")
    folder = tmp_path / "a_pqtdir"
    folder.mkdir()
    with sqlite3.connect(source) as export:
        for (name,) in export.execute("select name from sqlite_master").fetchall():
            columns = [row[1] for row in export.execute(f"pragma table_info({name})")]
            rows = export.execute(f"select * from {name}").fetchall()
            pl.DataFrame(rows, schema=columns, orient="row").write_parquet(
                folder / f"{name}.parquet"
            )
    scrub(folder, tmp_path / "b")
    left = {file.stem: pl.read_parquet(file) for file in (tmp_path / "b").iterdir()}
    everything = str([frame.rows() for frame in left.values()])
    for planted in (TOKEN, "private-words", "ada"):
        assert planted not in everything
    assert left["StringIds"]["value"].to_list() == [
        "ncclDevKernel_AllReduce",
        f"/home/{HIDDEN}/model/x.py",
        "NCCL",
    ]
    assert left["META_DATA_CAPTURE"]["name"].to_list() == ["PRODUCT_VERSION"]
    assert left["NVTX_EVENTS"]["binaryData"].to_list() == [None, None, None, b"message size"]


def test_an_environment_in_another_place_leaves_no_copy(tmp_path: Path) -> None:
    source = tmp_path / "a.json"
    source.write_text("LANG=C SHELL=/bin/sh EDITOR=vi PAGER=less HOSTNAME=node1")
    with pytest.raises(CheckFailed, match="environment"):
        scrub(source, tmp_path / "b.json")
    assert not (tmp_path / "b.json").exists()


def a_run(root: Path) -> Path:
    """A run folder with a secret in each kind of file."""
    record = {
        "state": "finished",
        "command": ["perfkit", "run", "--", "serve", "--api-key", "private-words"],
        "config": {"program": ["serve", "--api-key", "private-words", TOKEN]},
        "hardware": {"cpu": "a processor", "gpus": []},
        "versions": {"perfkit": "0.1.0"},
        "started_at": "2026-11-23T10:00:00+00:00",
    }
    write_json(root / "run.json", record)
    rank = root / "ranks" / "0000"
    rank.mkdir(parents=True)
    (rank / "log.txt").write_text("private-words")
    (rank / "timers.jsonl").write_text('{"schema_version": 1}\n')
    (rank / "nccl-log.txt").write_text("NCCL INFO NET/Socket : Using [0]eth0:10.1.2.3<0>\n")
    trace = json.dumps({"traceEvents": [{"name": f"op {TOKEN}", "args": {"p": "/home/ada/x"}}]})
    (rank / "kineto.json.gz").write_bytes(gzip.compress(trace.encode()))
    return root


def test_a_run_folder_is_copied_without_logs_and_secrets(tmp_path: Path) -> None:
    told = scrub(a_run(tmp_path / "run"), tmp_path / "copy")
    assert "left out ranks/0000/log.txt" in told
    files = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == [
        "kineto.json.gz",
        "nccl-log.txt",
        "run.json",
        "timers.jsonl",
    ]
    for path in files:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        for planted in (TOKEN, "private-words", "ada", "10.1.2.3"):
            assert planted.encode() not in content, (path, planted)


def test_this_shells_own_secrets_are_searched_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SITE_TOKEN", "no-known-form-1")
    (tmp_path / "a.json").write_text('{"traceEvents": [], "note": "no-known-form-1"}')
    scrub(tmp_path / "a.json", tmp_path / "b.json")
    assert "no-known-form-1" not in (tmp_path / "b.json").read_text()
    assert list(secrets_in(tmp_path)) == [tmp_path / "a.json"]


def test_a_secret_that_cannot_be_cleaned_leaves_no_copy(tmp_path: Path) -> None:
    """A blob is not text: it is kept as it is, so a secret in one refuses the whole copy."""
    with sqlite3.connect(tmp_path / "a.sqlite") as export:
        export.execute("create table NVTX_EVENTS (start integer, binaryData blob)")
        export.execute("insert into NVTX_EVENTS values (1, ?)", (TOKEN.encode(),))
    with pytest.raises(CheckFailed, match="would still hold"):
        scrub(tmp_path / "a.sqlite", tmp_path / "b.sqlite")
    assert not (tmp_path / "b.sqlite").exists()


def test_bad_sources_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "cut.sqlite").write_bytes(an_export(tmp_path / "a.sqlite").read_bytes()[:5000])
    with pytest.raises(ConfigError, match="cannot be copied"):
        scrub(tmp_path / "cut.sqlite", tmp_path / "b.sqlite")
    with pytest.raises(ConfigError, match="exists already"):
        scrub(tmp_path / "a.sqlite", tmp_path / "cut.sqlite")
    with pytest.raises(ConfigError, match="does not exist"):
        scrub(tmp_path / "nothing", tmp_path / "b")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="no run folder"):
        scrub(tmp_path / "folder", tmp_path / "b")


def test_evidence_is_kept_with_a_line_on_how_it_was_made(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "README.md").write_text("# traces\n\nWhat was recorded.\n")
    target = add(a_run(tmp_path / "run"), tmp_path / "traces", "serve", "A server.")
    assert (target / "run.json").is_file()
    page = (tmp_path / "traces" / "README.md").read_text()
    assert page.endswith(
        "## serve\n\nA server.\n\na processor, perfkit 0.1.0, 2026-11-23.\n\n"
        f"    perfkit run -- serve --api-key {HIDDEN}\n"
    )


def test_evidence_that_is_too_big_is_refused(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (run / "outputs.jsonl").write_text("x" * 3_000_001)
    (tmp_path / "traces").mkdir()
    with pytest.raises(ConfigError, match="more than 3 MB"):
        add(run, tmp_path / "traces", "serve", "A server.")
    assert list((tmp_path / "traces").iterdir()) == []


def test_a_smaller_trace_is_analysed_to_the_same_split(tmp_path: Path) -> None:
    handmade = Path(__file__).parents[1] / "data" / "kineto" / "handmade-gpu.json"
    (tmp_path / "small.json").write_text(reduced(handmade.read_text()))
    before, after = (analyze_paths([path])[0] for path in (handmade, tmp_path / "small.json"))
    assert after.split.equals(before.split)
    assert after.operations.equals(before.operations)
    assert after.collectives.equals(before.collectives)


def test_samples_of_hardware_counters_stay(tmp_path: Path) -> None:
    """A recorded export, scrubbed before and again."""
    source = Path(__file__).parents[1] / "data" / "nsys" / "h100-gpu-metrics-2025.3.sqlite"
    scrub(source, tmp_path / "b.sqlite")
    before, after = analyze_paths([source])[0], analyze_paths([tmp_path / "b.sqlite"])[0]
    assert after.collected.gpu_metrics.height == 24
    assert after.collected.gpu_metrics.equals(before.collected.gpu_metrics)
