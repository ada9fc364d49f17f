"""Doctor's checks of Slurm: reachable, and what its accounting will be able to say of a job."""

import re

from perfkit.collect.doctor_probe import Finding, Probe, fixable, missing, ok

CONFIG = ("scontrol", "show", "config")
SACCT = ("sacct", "-n", "-P", "-X", "-o", "JobID", "-S", "now-1hour")

# Where sites keep the file that the commands did not find by themselves.
CONFIG_FILES = (
    "/etc/slurm*/slurm.conf",
    "/run/slurm/conf/slurm.conf",
    "/var/spool/slurm*/conf-cache/slurm.conf",
    "/opt/slurm/etc/slurm.conf",
    "/usr/local/slurm/etc/slurm.conf",
    "/usr/local/etc/slurm.conf",
)

# What ConsumedEnergy means by plugin (acct_gather_energy/NAME).
ENERGY = {
    "rapl": "CPU packages and memory only, no GPUs; wrong on some newer Intel CPUs",
    "ipmi": "the whole node, from its management controller",
    "xcc": "the whole node, from its management controller",
    "pm_counters": "the whole node, from Cray's sensors",
    "cray_aries": "the whole node, from Cray's sensors",
    "gpu": "the GPUs only",
}


def slurm(probe: Probe) -> Finding:
    """Whether the commands reach a cluster, and whether this is inside a job."""
    lost = "jobs on several nodes, sacct figures; perfkit starts its ranks on this machine"
    job = probe.environ.get("SLURM_JOB_ID")
    if probe.which("scontrol") is None:
        if job:
            found = f"inside job {job}, but no scontrol here (in a container?)"
            return missing(found, "sacct figures from in here; they can be read outside")
        return missing("scontrol is not on PATH", lost)
    config, reason = configuration(probe)
    if not config:
        return _unreachable(probe, reason, lost)
    where = f"inside job {job}" if job else "outside a job"
    version = config.get("SLURM_VERSION", "version unknown")
    return ok(f"{version}, cluster {config.get('ClusterName', '?')}, {where}")


def _unreachable(probe: Probe, reason: str, lost: str) -> Finding:
    """The commands are here and no cluster answers."""
    short = reason.split("fatal: ")[-1]
    found = f"{probe.which('scontrol')} is here, but: {short}"
    if "configuration source" in reason and "SLURM_CONF" not in probe.environ:
        files = [path for pattern in CONFIG_FILES for path in probe.glob(pattern)]
        if files:
            return fixable(found, lost, f"export SLURM_CONF={files[0]}")
    return missing(found, lost)


def configuration(probe: Probe) -> tuple[dict[str, str], str]:
    """(keys of `scontrol show config`, why there are none)."""
    if probe.which("scontrol") is None:
        return {}, "scontrol is not on PATH"
    answer = probe.run(CONFIG)
    if not answer.works:
        return {}, answer.reason
    return parse_config(answer.out), ""


def parse_config(text: str) -> dict[str, str]:
    """`Key                     = value` lines; `(null)` and `(none)` become empty."""
    found = {}
    for line in text.splitlines():
        matched = re.match(r"^(\w+)\s+= ?(.*)$", line)
        if matched:
            value = matched[2].strip()
            found[matched[1]] = "" if value in ("(null)", "(none)", "N/A") else value
    return found


def _plugin(config: dict[str, str], key: str) -> str:
    """`acct_gather_energy/rapl` -> `rapl`; empty for none, as 23.11 and later print it."""
    name = config.get(key, "").rpartition("/")[2]
    return "" if name == "none" else name


def accounting(probe: Probe) -> Finding:
    """Whether sacct answers."""
    lost = "elapsed time, peak memory and energy from Slurm; perfkit's own figures stay"
    config, reason = configuration(probe)
    if not config:
        return missing(f"unknown: {_short(reason)}", lost)
    storage = _plugin(config, "AccountingStorageType")
    if not storage:
        return missing("this cluster stores no accounting (AccountingStorageType is none)", lost)
    if probe.which("sacct") is None:
        return missing("sacct is not on PATH", lost)
    answer = probe.run(SACCT)
    if not answer.works:
        return missing(f"sacct fails: {_short(answer.reason)}", lost)
    return ok(f"sacct answers (storage: {storage})")


def energy(probe: Probe) -> Finding:
    """Which energy plugin fills ConsumedEnergy, and what it counts."""
    lost = "energy from Slurm: sacct's ConsumedEnergy is empty or 0, which is not zero joules"
    config, reason = configuration(probe)
    if not config:
        return missing(f"unknown: {_short(reason)}", lost)
    plugins = config.get("AcctGatherEnergyType", "").split(",")
    names = [name for each in plugins if (name := _plugin({"key": each}, "key"))]
    if not names:
        return missing("this cluster has no energy plugin (AcctGatherEnergyType)", lost)
    meaning = "; ".join(ENERGY.get(name, "what it counts is up to the site") for name in names)
    return ok(f"{', '.join(names)}: {meaning}. A job's own only on exclusive nodes")


def job_gathering(probe: Probe) -> Finding:
    """Whether Slurm samples the memory and CPU time of job steps."""
    lost = "MaxRSS and CPU time in sacct; perfkit's own peak memory of each rank stays"
    config, reason = configuration(probe)
    if not config:
        return missing(f"unknown: {_short(reason)}", lost)
    plugin = _plugin(config, "JobAcctGatherType")
    if not plugin:
        return missing("JobAcctGatherType is none", lost)
    period = _sampling_s(config.get("JobAcctGatherFrequency", ""))
    if period == 0:
        return ok(f"{plugin}, only at the end of a step")
    return ok(f"{plugin}, sampled every {period or 30} s: shorter memory peaks are not seen")


def _sampling_s(text: str) -> int | None:
    """Seconds between samples of tasks, from `30` or `task=30,energy=1`."""
    matched = re.search(r"task=(\d+)", text) or re.fullmatch(r"(\d+)(?: sec)?", text.strip())
    return int(matched[1]) if matched else None


def _short(reason: str) -> str:
    return reason.split("fatal: ")[-1]
