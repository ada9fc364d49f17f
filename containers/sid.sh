#!/usr/bin/env bash
# Runs a command in a Debian sid tree, which has Apptainer and a newer Slurm: for tests.
#
#   containers/sid.sh make             make the tree, once (20 s, 420 MB)
#   containers/sid.sh run COMMAND...   run it there as root; / of this machine is seen as before in
#                                      the folders that PERFKIT_SID_BIND lists (default: this checkout)
#
# PERFKIT_SID_TREE names the tree's folder [/var/tmp/perfkit-sid]. Mounts are private to the command.
# Exit code 75 from `make` when the tree cannot be had here; the reason is the last line.
set -euo pipefail
TREE=${PERFKIT_SID_TREE:-/var/tmp/perfkit-sid}
CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PACKAGES=slurmctld,slurmd,slurm-client,slurmdbd,slurm-wlm-basic-plugins,slurm-wlm-mysql-plugin
PACKAGES+=,munge,mariadb-server-core,mariadb-client-core,iproute2,procps,hostname,util-linux,apptainer

impossible() { printf 'no Debian sid tree: %s\n' "$*" >&2; exit 75; }

make_tree() {
  [ "$(id -u)" = 0 ] || impossible "it needs root"
  command -v mmdebstrap >/dev/null || impossible "mmdebstrap is not installed (apt-get install mmdebstrap)"
  unshare --mount true 2>/dev/null || impossible "mount namespaces are refused here"
  unshare --user --map-root-user true 2>/dev/null ||
    impossible "user namespaces are refused here, and apptainer builds in one"
  [ ! -e "$TREE/.complete" ] || return 0
  rm -rf --one-file-system "$TREE"
  # sid's Release file is often older than it says it may be, on mirrors that lag behind.
  mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
    --include="$PACKAGES" sid "$TREE" ||
    impossible "mmdebstrap failed: no mirror with sid, or sid cannot install all of $PACKAGES now"
  printf '127.0.0.1 localhost %s\n' "$(hostname -s)" >"$TREE/etc/hosts"
  # For builds as fakeroot: the range of user ids that root may use inside.
  echo root:100000:65536 | tee "$TREE/etc/subuid" >"$TREE/etc/subgid"
  touch "$TREE/.complete"
}

run_there() {
  [ -e "$TREE/.complete" ] || { echo "there is no tree in $TREE. First: $0 make" >&2; exit 2; }
  export PERFKIT_SID_BIND=${PERFKIT_SID_BIND:-$CHECKOUT}
  # shellcheck disable=SC2016  # the inner shell expands them
  exec unshare --mount --propagation private bash -ec '
    tree=$1; shift
    mount --bind "$tree" "$tree"   # the new root must be a mount point
    for folder in proc sys dev; do mount --rbind "/$folder" "$tree/$folder"; done
    IFS=:
    for path in $PERFKIT_SID_BIND; do
      if [ -d "$path" ]; then mkdir -p "$tree$path"; else mkdir -p "$(dirname "$tree$path")"; touch "$tree$path"; fi
      mount --rbind "$path" "$tree$path"
    done
    unset IFS
    # pivot_root, not chroot: apptainer refuses to run in a chroot.
    mkdir -p "$tree/.old"; cd "$tree"; pivot_root . .old; umount -l /.old
    exec env HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
  ' sid "$TREE" "$@"
}

case ${1:-} in
  make) make_tree ;;
  run) shift; run_there "$@" ;;
  *) sed -n '2,/^set -euo/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
