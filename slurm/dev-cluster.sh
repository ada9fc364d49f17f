#!/usr/bin/env bash
# A real Slurm cluster on one machine, to try and to test perfkit under srun.
#
#   dev-cluster.sh install    apt-get the programs (Debian 12)
#   dev-cluster.sh up         start what is not running, and wait until the nodes are idle
#   dev-cluster.sh env        what your shell needs: eval "$(dev-cluster.sh env)"
#   dev-cluster.sh status     what runs; exit code 0 when all of it does, 3 otherwise
#   dev-cluster.sh down       cancel all jobs, and stop every daemon that `up` started
#
# It runs slurmctld, three slurmd (node0, node1, node2), slurmdbd with MariaDB so that sacct
# answers, and munged: as root, without systemd. Everything it writes is in one folder, but for
# marked lines in /etc/hosts, which `down` removes. Delete the folder to forget all past jobs.
#
# Settings, from the environment:
#   PERFKIT_CLUSTER_DIR      the folder [/var/lib/perfkit-slurm]
#   PERFKIT_CLUSTER_PORT     the first of the ports it uses [16810]
#   PERFKIT_CLUSTER_NODES    nodes, 1 to 100 [3]
#   PERFKIT_CLUSTER_CPUS     CPUs that each node claims; more than there are is fine [4]
#   PERFKIT_CLUSTER_MEM_MB   MiB that each node claims [its share of 9/10 of this machine's]
#   PERFKIT_CLUSTER_GPUS     fake GPUs of each node; --gres=gpu:2 gives two [4]
#   PERFKIT_CLUSTER_MEMORY   what ends a job over its memory: cgroup, poll, none [auto]
#                            (cgroup v1 reports OUT_OF_MEMORY as real sites do; poll needs no cgroups)
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ME=$HERE/$(basename "${BASH_SOURCE[0]}")
DIR=${PERFKIT_CLUSTER_DIR:-/var/lib/perfkit-slurm}
PORT=${PERFKIT_CLUSTER_PORT:-16810}
NODES=${PERFKIT_CLUSTER_NODES:-3}
CPUS=${PERFKIT_CLUSTER_CPUS:-4}
GPUS=${PERFKIT_CLUSTER_GPUS:-4}
MEMORY=${PERFKIT_CLUSTER_MEMORY:-auto}
MEM_MB=${PERFKIT_CLUSTER_MEM_MB:-$(awk -v n="$NODES" '/^MemTotal/ {print int($2 / 1024 * 0.9 / n)}' /proc/meminfo)}

CLUSTER=perfkit
# With the folder's name: each of two clusters on one machine finds its own lines.
HOSTS_MARK="# perfkit dev-cluster.sh $DIR"
PACKAGES=(slurmctld slurmd slurm-client slurmdbd slurm-wlm-basic-plugins slurm-wlm-mysql-plugin
          munge mariadb-server-core mariadb-client-core)
# What those packages bring, by the command that `up` needs.
COMMANDS=(munged munge mariadbd mariadb-install-db mariadb slurmdbd slurmctld slurmd sacctmgr scontrol
          squeue scancel sinfo)

# The daemons stand in sbin, which is on root's PATH only after a login.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export SLURM_CONF=$DIR/etc/slurm.conf
# slurmdbd's client library takes MariaDB's socket from here; slurmdbd.conf cannot name one.
export MYSQL_UNIX_PORT=$DIR/run/mysql/mysqld.sock

say() { printf 'dev-cluster: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
usage() { sed -n '2,/^set -euo/{/^set/d;s/^# \{0,1\}//;p}' "$ME"; }
need_root() {
  [ "$(id -u)" = 0 ] || die "$1 needs root (it starts slurmd, which runs jobs as any user). Use: sudo -E $ME $1"
}

# shellcheck disable=SC2317  # many functions are called only through wait_for
# --- waiting and processes ---------------------------------------------------------------------
wait_for() { # SECONDS COMMAND...: true as soon as the command is
  local tries=$(($1 * 10)) i
  shift
  for ((i = 0; i < tries; i++)); do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.1
  done
  return 1
}
# A process is ours when it was started with our SLURM_CONF: a pid file can be stale and its number
# taken by somebody else, so nothing is signalled by number alone.
ours() { # PID
  { tr '\0' '\n' <"/proc/$1/environ"; } 2>/dev/null | grep -qxF "SLURM_CONF=$SLURM_CONF"
}
pid_of() { # NAME: prints the daemon's pid if it runs
  local file=$DIR/run/$1.pid pid
  [ -s "$file" ] || return 1
  pid=$(tr -dc 0-9 <"$file")
  [ -n "$pid" ] && ours "$pid" && echo "$pid"
}
gone() { ! ours "$1"; }
stop() { # NAME SECONDS
  local pid
  pid=$(pid_of "$1") || return 0
  kill "$pid" 2>/dev/null || true
  wait_for "$2" gone "$pid" || kill -9 "$pid" 2>/dev/null || true
}
# Daemons get a clean environment: what the caller's shell holds (API keys, a TMPDIR that will be
# deleted, SLURM_* of another cluster) must not reach them.
daemon() {
  env -i PATH="$PATH" LANG=C.UTF-8 SLURM_CONF="$SLURM_CONF" MYSQL_UNIX_PORT="$MYSQL_UNIX_PORT" "$@"
}
no_answer() { # NAME LOG: the daemon's own last words are the best explanation
  say "$1 does not answer. The end of $2:"
  tail -n 8 "$2" >&2 2>/dev/null || true
  die "the whole logs are in $DIR/log. What was started stays, so that 'up' can go on; '$ME down' ends it"
}

# --- install -----------------------------------------------------------------------------------
installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

cmd_install() {
  local name id missing=() policy=/usr/sbin/policy-rc.d made=
  need_root install
  id=$(sed -nE 's/^ID(_LIKE)?="?([^"]*)"?$/\2/p' /etc/os-release 2>/dev/null | xargs) || id=
  case " $id " in
    *" debian "*) ;;
    *) die "this is not Debian (${id:-unknown}), and only Debian's packages are known here." \
           "Install Slurm with slurmdbd, munge and MariaDB from your system; then '$ME up' works" ;;
  esac
  for name in "${PACKAGES[@]}"; do installed "$name" || missing+=("$name"); done
  [ ${#missing[@]} -gt 0 ] || { say "every package is installed already"; return 0; }
  # The packages would start their own daemons, with no configuration: this file forbids it.
  if [ ! -e $policy ]; then
    made=1
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
  fi
  # shellcheck disable=SC2064  # the values of now
  trap "[ -z '$made' ] || rm -f $policy" EXIT
  apt-get update -qq || say "apt-get update failed: trying with the lists that are there"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 ||
    die "apt-get could not install: ${missing[*]}. See its message above; Slurm is in Debian's 'main'"
  say "installed: ${missing[*]}. Next: $ME up"
}

# --- configuration -----------------------------------------------------------------------------
check_settings() {
  local name
  for name in PORT NODES CPUS GPUS MEM_MB; do
    [[ ${!name} =~ ^[0-9]+$ ]] || die "PERFKIT_CLUSTER_$name=${!name} is not a number"
  done
  ((NODES >= 1 && NODES <= 100)) || die "PERFKIT_CLUSTER_NODES=$NODES: use 1 to 100"
  ((PORT >= 1024 && PORT + 10 + NODES < 65536)) || die "PERFKIT_CLUSTER_PORT=$PORT: use 1024 to 65000"
  [[ $DIR =~ ^/[A-Za-z0-9/._-]+$ ]] ||
    die "PERFKIT_CLUSTER_DIR=$DIR: use an absolute path of letters, digits, '.', '_' and '-'"
  # A Unix socket's path has at most 107 bytes.
  [ ${#DIR} -le 60 ] || die "PERFKIT_CLUSTER_DIR=$DIR is too long for sockets: use at most 60 characters"
  if [ "$MEMORY" = auto ]; then
    MEMORY=poll
    if [ -w /sys/fs/cgroup/memory/cgroup.procs ] && [ -w /sys/fs/cgroup/freezer/cgroup.procs ]; then
      MEMORY=cgroup
    fi
  fi
  case $MEMORY in
    cgroup | poll | none) ;;
    *) die "PERFKIT_CLUSTER_MEMORY=$MEMORY: use auto, cgroup, poll or none" ;;
  esac
}
# munged and MariaDB, which is not root, must reach the folder: munged refuses a socket in a folder
# that others cannot enter.
check_reachable() {
  local folder=$DIR
  while [ "$folder" != / ]; do
    if [ -d "$folder" ] && [ $((8#$(stat -c %a "$folder") & 1)) = 0 ]; then
      die "$folder cannot be entered by other users. Use another PERFKIT_CLUSTER_DIR, or: chmod o+x $folder"
    fi
    folder=$(dirname "$folder")
  done
}
check_port() { # NAME PORT: slurmdbd and slurmctld say nothing on stderr when their port is taken
  pid_of "$1" >/dev/null && return 0
  if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then
    die "port $2, for $1, is taken by another program. Set PERFKIT_CLUSTER_PORT (now $PORT) to another number"
  fi
}
check_ports() {
  local i
  check_port slurmctld "$PORT"
  check_port slurmdbd $((PORT + 1))
  for ((i = 0; i < NODES; i++)); do check_port "slurmd.node$i" $((PORT + 10 + i)); done
}
make_folders() {
  local i
  install -d -m 755 "$DIR" "$DIR"/{etc,log,run,spool,dev}
  install -d -m 700 "$DIR"/{state,secret}
  # MariaDB's root has no password, so only its own user and root may reach the socket.
  install -d -m 700 -o slurm "$DIR/run/mysql" "$DIR/db"
  for ((i = 0; i < NODES; i++)); do install -d -m 755 "$DIR/spool/node$i"; done
  [ -s "$DIR/secret/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$DIR/secret/munge.key")
  [ -s "$DIR/secret/database" ] || (umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$DIR/secret/database")
  for ((i = 0; i < GPUS; i++)); do
    # Null devices; plain files where making devices is forbidden.
    [ -e "$DIR/dev/nvidia$i" ] || mknod -m 666 "$DIR/dev/nvidia$i" c 1 3 2>/dev/null || : >"$DIR/dev/nvidia$i"
  done
}
# All of 127.0.0.0/8 is this machine, so each node can have an address of its own.
address() { echo "127.0.77.$((10 + $1))"; }
# Each node in its own UTS and mount namespace has its own host name and /dev/shm, where allowed.
namespaces() {
  unshare --uts --mount --propagation slave sh -c 'hostname node0 && mount -t tmpfs tmpfs /dev/shm' 2>/dev/null
}
node_lines() {
  local i host=
  namespaces || host=" NodeHostname=$(hostname -s)"
  for ((i = 0; i < NODES; i++)); do
    printf 'NodeName=node%d NodeAddr=%s Port=%d%s CPUs=%d Boards=1 SocketsPerBoard=1 CoresPerSocket=%d ThreadsPerCore=1 RealMemory=%d' \
      "$i" "$(address "$i")" $((PORT + 10 + i)) "$host" "$CPUS" "$CPUS" "$MEM_MB"
    ((GPUS == 0)) || printf ' Gres=gpu:fake:%d' "$GPUS"
    printf '\n'
  done
}
fill() { # TEMPLATE NAME=VALUE...: the template with each @NAME@ replaced
  local text pair
  text=$(cat "$HERE/dev-cluster/$1")
  shift
  for pair in "$@"; do text=${text//"@${pair%%=*}@"/"${pair#*=}"}; done
  printf '%s\n' "$text"
}
write() { # MODE FILE, content on stdin
  local file=$DIR/etc/$2
  (umask 077 && cat >"$file.new")
  if ! cmp -s "$file.new" "$file" && pid_of slurmctld >/dev/null; then
    rm -f "$file.new"
    die "a cluster with other settings runs in $DIR. Use the same settings, or first: $ME down"
  fi
  chmod "$1" "$file.new"
  mv -f "$file.new" "$file"
}
configure() {
  local proctrack=proctrack/linuxproc task=task/none poll=''
  case $MEMORY in
    cgroup) proctrack=proctrack/cgroup task=task/cgroup ;;
    poll) poll=JobAcctGatherParams=OverMemoryKill ;;
  esac
  fill slurm.conf.in CONTROLLER="$(hostname -s)" DIR="$DIR" CONTROLLER_PORT="$PORT" \
    ACCOUNTING_PORT=$((PORT + 1)) PROCTRACK=$proctrack TASK=$task MEMORY_POLL=$poll \
    MEMORY_PER_CPU_MB=$((MEM_MB / CPUS)) NODES="$(node_lines)" | write 644 slurm.conf
  fill slurmdbd.conf.in DIR="$DIR" ACCOUNTING_PORT=$((PORT + 1)) \
    PASSWORD="$(cat "$DIR/secret/database")" | write 600 slurmdbd.conf
  fill cgroup.conf.in | write 644 cgroup.conf
  if ((GPUS > 0)); then
    fill gres.conf.in DIR="$DIR" LAST_NODE=$((NODES - 1)) LAST_GPU=$((GPUS - 1)) | write 644 gres.conf
  else
    echo AutoDetect=off | write 644 gres.conf
  fi
}
# Containers bind-mount /etc/hosts: rewrite its content, never replace the file.
forget_hosts() {
  local kept
  grep -qF "$HOSTS_MARK" /etc/hosts || return 0
  kept=$(grep -vxE "[0-9.]+ node[0-9]+ $HOSTS_MARK" /etc/hosts || true)
  printf '%s\n' "$kept" >/etc/hosts
}
name_hosts() {
  local i
  [ -w /etc/hosts ] || die "/etc/hosts is not writable, and the nodes need names. Make it writable"
  forget_hosts
  [ -z "$(tail -c 1 /etc/hosts)" ] || echo >>/etc/hosts # a last line without its end
  for ((i = 0; i < NODES; i++)); do echo "$(address "$i") node$i $HOSTS_MARK" >>/etc/hosts; done
}

# --- daemons, in the order in which they need each other -----------------------------------------
start_munged() {
  pid_of munged >/dev/null && return 0
  daemon munged --key-file="$DIR/secret/munge.key" --socket="$DIR/run/munge.socket" \
    --pid-file="$DIR/run/munged.pid" --log-file="$DIR/log/munged.log" --seed-file="$DIR/secret/munge.seed" ||
    no_answer munged "$DIR/log/munged.log"
  wait_for 20 munge -n -S "$DIR/run/munge.socket" || no_answer munged "$DIR/log/munged.log"
}
sql() { mariadb --no-defaults --socket="$MYSQL_UNIX_PORT" -u root -e "$1"; }
start_mariadb() {
  local password log=$DIR/log/mariadb.log
  pid_of mysql/mysqld >/dev/null && return 0
  if [ ! -d "$DIR/db/mysql" ]; then
    daemon mariadb-install-db --no-defaults --user=slurm --datadir="$DIR/db" --skip-test-db \
      --auth-root-authentication-method=normal >"$log" 2>&1 || no_answer mariadb-install-db "$log"
  fi
  # The InnoDB settings are those that slurmdbd asks for, scaled down; nothing listens on a port.
  daemon setsid mariadbd --no-defaults --user=slurm --datadir="$DIR/db" --socket="$MYSQL_UNIX_PORT" \
    --pid-file="$DIR/run/mysql/mysqld.pid" --log-error="$log" --skip-networking --skip-log-bin \
    --innodb-buffer-pool-size=64M --innodb-log-file-size=32M --innodb-lock-wait-timeout=900 \
    --innodb-flush-log-at-trx-commit=2 --performance-schema=off </dev/null >/dev/null 2>&1 &
  wait_for 60 sql 'select 1' || no_answer MariaDB "$log"
  password=$(cat "$DIR/secret/database")
  sql "create database if not exists slurm_acct_db;
       create user if not exists slurm@localhost identified by '$password';
       alter user slurm@localhost identified by '$password';
       grant all on slurm_acct_db.* to slurm@localhost;"
}
# Before slurmctld, which dies with "no TRES" when it first starts without an accounting database.
start_slurmdbd() {
  pid_of slurmdbd >/dev/null && return 0
  daemon slurmdbd || no_answer slurmdbd "$DIR/log/slurmdbd.log"
  wait_for 60 sacctmgr -n show cluster || no_answer slurmdbd "$DIR/log/slurmdbd.log"
  [ -n "$(sacctmgr -nP show cluster "$CLUSTER")" ] || sacctmgr -i add cluster "$CLUSTER" >/dev/null
}
controller_up() { pid_of slurmctld && scontrol ping; }
start_slurmctld() {
  pid_of slurmctld >/dev/null && return 0
  daemon slurmctld || no_answer slurmctld "$DIR/log/slurmctld.log"
  wait_for 60 controller_up || no_answer slurmctld "$DIR/log/slurmctld.log"
}
start_node() { # INDEX
  local log=$DIR/log/slurmd.node$1.log
  pid_of "slurmd.node$1" >/dev/null && return 0
  if namespaces; then
    # propagation slave: what is mounted on the machine later is seen on the nodes too.
    # shellcheck disable=SC2016  # the inner shell expands them
    daemon unshare --uts --mount --propagation slave sh -ec '
      hostname "$1"
      mount -t tmpfs -o size=1g,mode=1777 tmpfs /dev/shm
      exec slurmd -N "$1" -f "$SLURM_CONF"' node "node$1" || no_answer "slurmd of node$1" "$log"
  else
    daemon slurmd -N "node$1" -f "$SLURM_CONF" || no_answer "slurmd of node$1" "$log"
  fi
}
nodes_ready() {
  [ "$(sinfo -h -N -o '%N %t' | sort -u | grep -cE ' (idle|alloc|mix|comp)$')" = "$NODES" ]
}

# --- commands ------------------------------------------------------------------------------------
cmd_up() {
  local name i
  need_root up
  check_settings
  for name in "${COMMANDS[@]}"; do
    command -v "$name" >/dev/null || die "$name is not installed. First: $ME install"
  done
  id slurm >/dev/null 2>&1 || die "there is no user 'slurm', which slurm's packages create. First: $ME install"
  check_reachable
  check_ports
  make_folders
  configure
  name_hosts
  start_munged
  start_mariadb
  start_slurmdbd
  start_slurmctld
  for ((i = 0; i < NODES; i++)); do start_node "$i"; done
  if ! wait_for 90 nodes_ready; then
    sinfo -N -l >&2 || true
    no_answer "one of the nodes" "$DIR/log/slurmctld.log"
  fi
  say "up: $NODES nodes of $CPUS CPUs, $MEM_MB MiB, $GPUS fake GPUs. Next: eval \"\$($ME env)\""
}
no_jobs() { [ -z "$(squeue -h)" ]; }
cancel_jobs() {
  no_jobs && return 0
  squeue -h -o %A | sort -u | xargs -r scancel --full
  wait_for 10 no_jobs && return 0
  squeue -h -o %A | sort -u | xargs -r scancel --full --signal=KILL
  wait_for 10 no_jobs || true
}
# Steps that outlived their slurmd. Named slurmstepd, too: your shell also has our SLURM_CONF.
end_steps() {
  local folder
  for folder in /proc/[0-9]*; do
    if grep -qa '^slurmstepd' "$folder/cmdline" 2>/dev/null && ours "${folder#/proc/}"; then
      kill -9 "${folder#/proc/}" 2>/dev/null || true
    fi
  done
}
cmd_down() {
  local file name group
  need_root down
  [ -e "$SLURM_CONF" ] || { say "there is no cluster in $DIR"; return 0; }
  if pid_of slurmctld >/dev/null; then cancel_jobs 2>/dev/null || true; fi
  for file in "$DIR"/run/slurmd.*.pid; do
    name=$(basename "$file" .pid)
    stop "$name" 10
  done
  end_steps
  stop slurmctld 15
  stop slurmdbd 15
  stop mysql/mysqld 30
  stop munged 10
  if grep -q '^ProctrackType=proctrack/cgroup' "$SLURM_CONF"; then
    # slurmd leaves empty groups; rmdir refuses any that is still used.
    for group in /sys/fs/cgroup/*/slurm_node[0-9]*; do
      [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
  fi
  forget_hosts
  say "down. Past jobs stay in $DIR; delete it to forget them"
}
cmd_status() {
  local name pid code=0 names
  [ -e "$SLURM_CONF" ] || { say "there is no cluster in $DIR. Start one: $ME up"; return 3; }
  mapfile -t names < <(sed -n 's/^NodeName=\([a-z0-9]*\) .*/slurmd.\1/p' "$SLURM_CONF")
  for name in munged mysql/mysqld slurmdbd slurmctld "${names[@]}"; do
    if pid=$(pid_of "$name"); then
      printf '%-14s running, pid %s\n' "${name##*/}" "$pid"
    else
      printf '%-14s not running\n' "${name##*/}"
      code=3
    fi
  done
  [ $code = 3 ] || sinfo -N -o '%N %t %c CPUs %m MiB %G' || code=3
  return $code
}
cmd_env() {
  [ -e "$SLURM_CONF" ] || die "there is no cluster in $DIR. Start one: $ME up"
  printf 'export SLURM_CONF=%q\n' "$SLURM_CONF"
}

case ${1:-} in
  install | up | down | status | env)
    [ $# = 1 ] || { say "$1 takes no arguments; settings come from the environment (--help)"; exit 2; }
    "cmd_$1"
    ;;
  -h | --help | help) usage ;;
  '') usage >&2; exit 2 ;;
  *) say "no command '$1'. Use install, up, env, status, down, or --help"; exit 2 ;;
esac
