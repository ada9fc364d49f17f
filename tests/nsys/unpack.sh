#!/usr/bin/env bash
# Nsight Systems 2022.4 from Debian 12's non-free section, unpacked into a folder and installed
# nowhere: its package pulls in a whole NVIDIA driver. It records NVTX ranges without a GPU.
#
#   unpack.sh FOLDER [PYTHON]     download (about 170 MB) and unpack (about 610 MB)
#
# FOLDER/bin/nsys then works, and FOLDER/python holds the nvtx package whose ranges this nsys can see,
# for PYTHON [python3]: put it on PYTHONPATH. Nothing outside of FOLDER is touched; a folder that is
# complete is left as it is. Needs apt-get, dpkg-deb (Debian or Ubuntu, x86-64), pip, and mirrors.
set -euo pipefail

[ $# = 1 ] || [ $# = 2 ] || { sed -n '2,/^set -euo/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
mkdir -p "$1"
DIR=$(cd "$1" && pwd)
PYTHON=${2:-python3}
MIRROR=${PERFKIT_DEBIAN_MIRROR:-http://deb.debian.org/debian}
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
# nsys and its parts, and the libraries that its recorder and its importer ask for.
PACKAGES=(nsight-systems nsight-systems-target libucx0 libibumad3 libibverbs1 librdmacm1 libssh-4
          libnl-3-200 libnl-route-3-200 libpfm4)

say() { printf 'unpack-nsys: %s\n' "$*" >&2; }

if [ -d "$DIR/python/nvtx" ] && "$DIR/bin/nsys" --version >/dev/null 2>&1; then
  say "$DIR/bin/nsys is there already"
  exit 0
fi

# apt with lists and a cache of its own: the machine's sources stay as they are.
mkdir -p "$DIR"/apt/{lists/partial,cache/archives/partial} "$DIR/deb"
printf 'deb [arch=amd64 signed-by=%s] %s bookworm main non-free\n' "$KEYRING" "$MIRROR" \
  >"$DIR/apt/sources.list"
apt() {
  apt-get -qq -o Dir::Etc::sourcelist="$DIR/apt/sources.list" -o Dir::Etc::sourceparts=- \
    -o Dir::State::lists="$DIR/apt/lists" -o Dir::Cache="$DIR/apt/cache" \
    -o APT::Architecture=amd64 -o APT::Sandbox::User= "$@"
}
say "downloading ${#PACKAGES[@]} packages from $MIRROR"
apt update
(cd "$DIR/deb" && apt download "${PACKAGES[@]}")
for package in "$DIR"/deb/*.deb; do dpkg-deb -x "$package" "$DIR/root"; done
rm -rf "$DIR/apt" "$DIR/deb"

LIBRARIES=$DIR/root/usr/lib/x86_64-linux-gnu
TARGET=$LIBRARIES/nsight-systems/target-linux-x64
# nsys looks for its importer beside itself; Debian's package has it in another folder.
ln -sfn ../../nsight-systems/host-linux-x64 "$LIBRARIES/nsight-systems/host-linux-x64"
mkdir -p "$DIR/bin"
cat >"$DIR/bin/nsys" <<END
#!/bin/sh
export LD_LIBRARY_PATH="$LIBRARIES:$DIR/root/lib/x86_64-linux-gnu\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
exec "$TARGET/nsys" "\$@"
END
chmod +x "$DIR/bin/nsys"
# Newer packages use an NVTX that this nsys does not know: it records nothing, and says nothing.
"$PYTHON" -m pip install --quiet --no-deps --upgrade --target "$DIR/python" nvtx==0.2.10
say "$("$DIR/bin/nsys" --version): $DIR/bin/nsys"
