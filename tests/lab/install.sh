#!/usr/bin/env bash
# Install what the lab needs and this machine lacks. Safe to run twice, and twice at once.
#
# usage: install.sh [--no-kubernetes | --kubernetes-only]
#
#   (no flag)          Debian packages, Python environment, Kubernetes binaries
#   --no-kubernetes    everything but the Kubernetes binaries (20-40 s on a new machine)
#   --kubernetes-only  only those; about six minutes of one core, once, so run it beside cargo build
#
# Everything but the Debian packages goes to ${FAILOVERD_LAB_CACHE:-~/.cache/failoverd-lab}; nothing is started.
# Exit 1 when something needed is missing and cannot be installed; the last line says what to do.
set -euo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
export FAILOVERD_LAB_CACHE=${FAILOVERD_LAB_CACHE:-$HOME/.cache/failoverd-lab}
CACHE=$FAILOVERD_LAB_CACHE
WITH_REST=yes WITH_KUBERNETES=yes
for flag in "$@"; do
  case $flag in
    --no-kubernetes) WITH_KUBERNETES= ;;
    --kubernetes-only) WITH_REST= ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "install.sh: unknown flag $flag; see --help" >&2; exit 2 ;;
  esac
done
mkdir -p "$CACHE/bin"

say() { echo "lab: $*"; }
have_file() { local pattern; for pattern in "$@"; do compgen -G "$pattern" >/dev/null && return 0; done; return 1; }

# need PACKAGE FILE_PATTERN... : remember PACKAGE unless one of the files is there
missing=()
need() { local package=$1; shift; have_file "$@" || missing+=("$package"); }

# Installs $missing, or explains what to run.
install_missing_packages() {
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    echo "lab: missing Debian packages; as root, run:" >&2
    echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  exec 7>"$CACHE/apt.lock"; flock 7                        # apt does not wait for its own list lock
  say "installing Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  # Service packages start their servers and create clusters at once; the lab wants neither.
  local policy=/usr/sbin/policy-rc.d made_policy= failed=
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made_policy=yes; }
  apt-get -o DPkg::Lock::Timeout=600 update -qq
  apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || failed=yes
  [ -z "$made_policy" ] || rm -f $policy
  [ -z "$failed" ] || { echo "lab: apt-get install failed" >&2; exit 1; }
  flock -u 7
  missing=()
}

# --- servers and the Python environment ---------------------------------------------------------------
if [ -n "$WITH_REST" ]; then
  exec 8>"$CACHE/install.lock"; flock 8
  need postgresql-15 '/usr/lib/postgresql/1[5-9]/bin/initdb'
  need redis-server /usr/bin/redis-server
  need etcd-server /usr/bin/etcd
  need etcd-client /usr/bin/etcdctl
  need prometheus /usr/bin/promtool                        # promtool checks the metrics; no server is started
  if [ "$(id -u)" = 0 ]; then                              # regions as network namespaces; nobody else can make them
    need iproute2 /usr/sbin/ip /sbin/ip /usr/bin/ip
    need nftables /usr/sbin/nft /sbin/nft
  fi
  need python3-venv '/usr/lib/python3*/ensurepip/__init__.py' '/usr/lib/python3/dist-packages/ensurepip/__init__.py' "$CACHE/venv/bin/python"
  install_missing_packages

  # The environment is complete when the copy of requirements.txt inside is the one here.
  if ! cmp -s "$HERE/requirements.txt" "$CACHE/venv/requirements.txt"; then
    say "installing Python packages: $(grep -v '^#' "$HERE/requirements.txt" | tr '\n' ' ')"
    PYTHON=/usr/bin/python3; [ -x $PYTHON ] || PYTHON=python3
    rm -rf "$CACHE/venv"; "$PYTHON" -m venv "$CACHE/venv"
    "$CACHE/venv/bin/python" -m pip install -q --disable-pip-version-check -r "$HERE/requirements.txt"
    cp "$HERE/requirements.txt" "$CACHE/venv/requirements.txt"
  fi
  flock -u 8
fi

# --- the Kubernetes API server, which Debian has as source only ---------------------------------------
if [ -n "$WITH_KUBERNETES" ] && ! { [ -x "$CACHE/bin/kube-apiserver" ] && [ -x "$CACHE/bin/kube-controller-manager" ]; }; then
  exec 9>"$CACHE/kubernetes.lock"; flock 9
  if ! { [ -x "$CACHE/bin/kube-apiserver" ] && [ -x "$CACHE/bin/kube-controller-manager" ]; }; then
    need golang-1.19-go /usr/lib/go-1.19/bin/go
    need dpkg-dev /usr/bin/dpkg-source
    need ca-certificates /etc/ssl/certs/ca-certificates.crt
    install_missing_packages
    say "building kube-apiserver and kube-controller-manager (about 6 minutes, once)"
    "$HERE/build-kubernetes.sh" "$CACHE/bin" >"$CACHE/kubernetes-build.log" 2>&1 || {
      tail -20 "$CACHE/kubernetes-build.log" >&2
      echo "lab: the build failed; the whole log is in $CACHE/kubernetes-build.log" >&2; exit 1; }
  fi
fi
say "ready in $CACHE"
