"""paper.toml and proposal.toml: what the user says of a document. One form for both kinds.

Everything but the title may be left out; what is left out is printed as missing, never made up.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from perfkit.study.systems import Day
from perfkit.study.toml_file import Table, must_match, read_toml, refuse, validate

NAMES = ("paper.toml", "proposal.toml")
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Month = Annotated[int, Field(ge=1, le=60)]
FileName = Annotated[str, must_match(r"[\w.-]+\.typ", "the name of a .typ file beside it")]


class Author(Table):
    name: str
    affiliation: str = ""


class Section(Table):
    file: FileName
    title: str
    words: Count | None = None
    """the form's limit"""


class Phase(Table):
    """A part of the request: a study, a run that is done again, or numbers of one's own."""

    name: str
    study: str | None = None
    hours: Literal["limit", "predicted"] = "limit"
    """of a study's jobs: their time limit, or predicted passes and setup_minutes"""
    setup_minutes: Annotated[float, Field(ge=0)] = 0
    like: str | None = None
    """a run whose measured wall time each job takes"""
    times: Positive = 1
    """how many times as long as that run"""
    nodes: Count | None = None
    gpus_per_node: Count | None = None
    hours_per_run: Positive | None = None
    runs: Count = 1


class Request(Table):
    reserve: Share = 0.1
    phases: list[Phase] = Field(default_factory=list)


class Jobs(Table):
    concurrent: Count | None = None
    memory_gb_per_node: Positive | None = None
    checkpointing: str = ""


class Storage(Table):
    what: str
    place: str
    size_gb: Positive | None = None
    files: Count | None = None
    transfer_gb: Positive | None = None
    retention: str = ""


class Package(Table):
    id: str
    title: str
    start_month: Month
    end_month: Month
    milestone: str = ""
    """reached at the end of it"""


class Risk(Table):
    risk: str
    probability: Literal["low", "medium", "high"]
    impact: Literal["low", "medium", "high"]
    mitigation: str


class Dataset(Table):
    name: str
    licence: str
    size_gb: Positive | None = None
    repository: str = ""
    doi: str = ""
    format: str = ""
    personal_data: bool


class Allocation(Table):
    """What was granted, in the site's own unit."""

    granted: Positive
    start: Day
    end: Day
    monthly: list[Annotated[float, Field(ge=0)]] = Field(default_factory=list)
    """planned for each month, in the same unit; evenly by days when empty"""


class FinalReport(Table):
    grid_g_co2_per_kwh: Positive | None = None
    grid_source: str = ""
    deviations: str = ""


class Artifact(Table):
    """The artifact description of SC and ISC."""

    contributions: list[str] = Field(default_factory=list)
    doi: str = ""
    licence: str = ""
    setup_minutes: Positive | None = None
    analysis_minutes: Positive | None = None


class DocumentFile(Table):
    """paper.toml, proposal.toml."""

    title: str
    subtitle: str = ""
    date: Day | None = None
    pages: Count | None = None
    authors: list[Author] = Field(default_factory=list)
    abstract: Section | None = None
    """of a paper, above its columns"""
    sections: list[Section] = Field(default_factory=list)
    bibliography: str | None = None
    appendix: bool = True
    """tables and figures that no section shows, at the end"""
    call: str = ""
    model: str | None = None
    """that the memory table is of"""
    licences: dict[str, str] = Field(default_factory=dict)
    request: Request | None = None
    jobs: Jobs | None = None
    storage: list[Storage] = Field(default_factory=list)
    work_packages: list[Package] = Field(default_factory=list)
    risks: list[Risk] = Field(default_factory=list)
    datasets: list[Dataset] = Field(default_factory=list)
    allocation: Allocation | None = None
    final_report: FinalReport | None = None
    artifact: Artifact | None = None

    @property
    def texts(self) -> list[Section]:
        """Everything that the user wrote, in its order."""
        return [*([self.abstract] if self.abstract else []), *self.sections]


def load_document(path: Path) -> DocumentFile:
    """A document's TOML file; ConfigError lists every mistake in it."""
    content = read_toml(path)
    file, mistakes = validate(DocumentFile, content)
    if file is not None:
        mistakes += _contradictions(path, file)
    if file is None or mistakes:
        raise refuse(path, mistakes)
    return file


def _contradictions(path: Path, file: DocumentFile) -> list[str]:
    """What is wrong although each value by itself is not."""
    places = [("[abstract]", file.abstract)] if file.abstract else []
    places += [(f"[[sections]] {at}", one) for at, one in enumerate(file.sections, start=1)]
    found = [
        f"{place} file: there is no {path.parent / section.file}."
        for place, section in places
        if not (path.parent / section.file).is_file()
    ]
    if file.bibliography and not (path.parent / file.bibliography).is_file():
        found.append(f"bibliography: there is no {path.parent / file.bibliography}.")
    for at, phase in enumerate(file.request.phases if file.request else (), start=1):
        ways = [phase.study, phase.like, phase.hours_per_run]
        if sum(way is not None for way in ways) != 1:
            found.append(
                f"[request] phases[{at - 1}]: give one of study, like and hours_per_run, "
                f"found {sum(way is not None for way in ways)} of them."
            )
        if phase.hours_per_run is not None and phase.nodes is None:
            found.append(f"[request] phases[{at - 1}] nodes: is missing.")
    for package in file.work_packages:
        if package.end_month < package.start_month:
            found.append(f"[[work_packages]] {package.id}: ends before it starts.")
    if file.allocation and file.allocation.end <= file.allocation.start:
        found.append("[allocation] end: is not after start.")
    return found
