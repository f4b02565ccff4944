#!/usr/bin/env bash
# Build a real Kubernetes API server and controller-manager (1.20.2) from Debian's own source package.
#
# usage: build-kubernetes.sh [OUT_DIR]       (called by install.sh; OUT_DIR is CACHE/bin)
#
# The package carries its vendor tree, so no Go module is downloaded. It takes about six minutes of one
# core, once: the two binaries (110 MB) stay in the cache outside the source tree. In-memory imitations of
# the API were tried and are too kind: no scale subresource, no watch, no RBAC, no server-side apply.
#
#   JOBS=2     use two cores (default 1, always at nice 19)
set -euo pipefail

CACHE=${FAILOVERD_LAB_CACHE:-$HOME/.cache/failoverd-lab}
OUT=${1:-$CACHE/bin}
GO=/usr/lib/go-1.19/bin/go
VERSION=1.20.2
WORK=$CACHE/kubernetes-build
TREE=$WORK/gopath/src/k8s.io/kubernetes
mkdir -p "$WORK" "$OUT"

# --- the source, from this machine's own Debian archives asked for source packages --------------------
if [ ! -d "$TREE" ]; then
  mkdir -p "$WORK/parts" "$WORK/lists/partial" "$WORK/gopath/src/k8s.io"
  for f in /etc/apt/sources.list.d/*.sources; do
    # only Debian's own: other vendors' archives often have no source index, which fails the update
    [ -e "$f" ] && grep -q '^Signed-By:.*debian-archive-keyring\|debian\.org' "$f" \
      && sed 's/^Types:.*/Types: deb-src/' "$f" >"$WORK/parts/${f##*/}"
  done
  for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -e "$f" ] && sed -n '/debian/s/^deb /deb-src /p' "$f" >"$WORK/parts/$(basename "$f" .list).list"
  done
  apt=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$WORK/parts" -o "Dir::State::lists=$WORK/lists"
       -o "Dir::Cache::srcpkgcache=" -o "Dir::Cache::pkgcache=" -o APT::Sandbox::User=root)
  cd "$WORK"
  apt-get "${apt[@]}" update -qq
  apt-get "${apt[@]}" source -qq --download-only kubernetes
  tar xzf kubernetes_*really$VERSION.orig.tar.gz
  mv "kubernetes-$VERSION" "$TREE"
fi

# --- build, in GOPATH mode: its go.mod needs edits before Go 1.19 accepts it in module mode -----------
cd "$TREE"
export GOPATH=$WORK/gopath GO111MODULE=off GOPROXY=off GOFLAGS= CGO_ENABLED=0 GOCACHE=$WORK/gocache
export GOMAXPROCS=${JOBS:-1} PATH=/usr/lib/go-1.19/bin:$PATH
build() { nice -n 19 "$GO" build -p "${JOBS:-1}" -trimpath "$@"; }

# One source file is made at build time and not in the archive: the OpenAPI definitions.
openapi=pkg/generated/openapi/zz_generated.openapi.go
if [ ! -s $openapi ]; then
  build -o "$WORK/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  packages=$(find -L pkg vendor/k8s.io -name '*.go' -not -path '*/code-generator/*' -not -path '*/sample-apiserver/*' \
      -not -path '*/testdata/*' -print0 | { xargs -0 grep -l '+k8s:openapi-gen=' || true; } | xargs -n1 dirname \
    | grep -v -e /gengo -e kube-openapi/pkg/generators -e kube-openapi/cmd \
    | LC_ALL=C sort -u | sed 's#^#k8s.io/kubernetes/#' | paste -sd,)
  nice -n 19 "$WORK/openapi-gen" --logtostderr -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt \
    -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi -r "$WORK/openapi-violations.txt"
  test -s $openapi
fi

# Both version packages must be told: one feeds --version, the other what clients get from /version.
flags="-s -w"
for package in component-base/version client-go/pkg/version; do
  p=k8s.io/kubernetes/vendor/k8s.io/$package
  flags="$flags -X $p.gitVersion=v$VERSION -X $p.gitMajor=1 -X $p.gitMinor=20 -X $p.gitTreeState=clean"
done
for program in kube-apiserver kube-controller-manager; do
  build -ldflags "$flags" -o "$OUT/$program.new" "./cmd/$program"
  mv "$OUT/$program.new" "$OUT/$program"          # a half-written binary is never found by the lab
done
rm -rf "$WORK"
