"""`perfkit analyze`: where each rank's time went, from what a run left on disk."""

from pathlib import Path

import typer

from perfkit.cli.output import FORMAT_OPTION, Format, closing, result, story


def command(
    paths: list[Path] = typer.Argument(
        metavar="RUN...",
        help="Run folders; or traces, or folders of them: Kineto files (torch.profiler), nsys "
        "exports (SQLite, parquetdir, arrowdir), nsys reports where nsys is installed.",
    ),
    format: Format = FORMAT_OPTION,
    kernels: int = typer.Option(
        0, "--kernels", min=0, help="Also print the N longest operations of each rank."
    ),
    phases: bool = typer.Option(
        True,
        help="Split each phase, too. Without, nsys exports are read twice as fast: no launches.",
    ),
    executor: str | None = typer.Option(
        None,
        help="Read the traces on the workers of a dask.distributed scheduler, tcp://HOST:PORT or "
        "its scheduler file. [default: on the cores of this machine]",
    ),
    out: Path | None = typer.Option(
        None, "--out", help="Folder for the tables. [default: RUN/tables; none for loose files]"
    ),
) -> None:
    """Split each rank's time into compute, exposed communication, copies and idle.

    TTFT, TPOT and throughput come from the timed passes; the split from the captured one.
    Writes the tables as parquet. A broken or missing file is reported, never averaged away.
    """
    from perfkit.executors import executor_for
    from perfkit.ingest.places import worth_a_process
    from perfkit.report.time_split_output import beside, printed
    from perfkit.timeline.analysis import analyze_paths, table_folder, write_tables

    workers = executor_for(executor, worth_it=worth_a_process)
    analyses = analyze_paths(paths, phases=phases, executor=workers)
    written = None
    for analysis in analyses:
        for line in analysis.recognised:
            story(f"{analysis.source}: {line}")
        if folder := table_folder(analysis, out, len(analyses)):
            written = write_tables(analysis, folder)
            if len(analyses) > 1:
                story(f"wrote {written}")
    result(printed(analyses, format.value, kernels))
    for line in beside(analyses, format.value):
        story(line)
    if analyses[0].run:
        closing(written, f"perfkit compare {analyses[0].source}")
    elif written is None:
        closing(None, f"perfkit analyze {analyses[0].source} --out FOLDER  (writes the tables)")
    else:
        closing(written, f"perfkit analyze {analyses[0].source} --kernels 10")
