#!/usr/bin/env bash
# Builds the archives of our own images from our sources and Debian's packages; prints where they are.
# Usage: hack/build-images.sh [--state-dir DIR]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
state_dir=$repo/.local-cluster
case ${1-} in
    --state-dir) state_dir=${2:?--state-dir needs a folder} ;;
    '') ;;
    *) say "Usage: hack/build-images.sh [--state-dir DIR]"; exit ;;
esac
install_missing /bin/busybox=busybox-static "${build_packages[@]}"
need_cargo
build_release
exec "$(bin_dir)/testbed" build-images --state-dir "$state_dir" --bin-dir "$(bin_dir)"
