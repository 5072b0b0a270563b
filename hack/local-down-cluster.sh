#!/usr/bin/env bash
# Takes a local cluster down, whatever state it is in. Usage: hack/local-down-cluster.sh [--state-dir DIR]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
state_dir=$repo/.local-cluster
case ${1-} in
    --state-dir) state_dir=${2:?--state-dir needs a folder} ;;
    --state-dir=*) state_dir=${1#*=} ;;
    '') ;;
    -h | --help) say "Usage: hack/local-down-cluster.sh [--state-dir DIR]"; exit 0 ;;
    *) fail "unknown option $1" ;;
esac
need_root
[ -x "$(bin_dir)/testbed" ] || fail "nothing is built yet: no cluster can be running"
exec "$(bin_dir)/testbed" down --state-dir "$state_dir"
