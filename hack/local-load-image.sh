#!/usr/bin/env bash
# Imports docker or OCI archives into every node's runtime under the names that they carry.
# Usage: hack/local-load-image.sh [--state-dir DIR] ARCHIVE…
set -euo pipefail
. "$(dirname "$0")/lib.sh"
state_dir=$repo/.local-cluster
case ${1-} in
    --state-dir) state_dir=${2:?--state-dir needs a folder}; shift 2 ;;
    --state-dir=*) state_dir=${1#*=}; shift ;;
    -h | --help) say "Usage: hack/local-load-image.sh [--state-dir DIR] ARCHIVE…"; exit 0 ;;
esac
[ $# -gt 0 ] || fail "name at least one archive"
need_root
exec "$(bin_dir)/testbed" load-image --state-dir "$state_dir" "$@"
