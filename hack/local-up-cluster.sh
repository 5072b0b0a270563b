#!/usr/bin/env bash
# Brings up a cluster on this machine: every node in namespaces of its own, every daemon real.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<EOF
Usage: hack/local-up-cluster.sh [options]

  --control-planes N   nodes with etcd and the control plane (default 1)
  --workers N          nodes that only run pods (default 0: the control plane runs pods too)
  --state-dir DIR      folder for everything of the cluster (default .local-cluster)
  --api-port PORT      port on 127.0.0.1 for the apiservers (default: any free one)
  --replace C=PATH     use another binary for component C (may be repeated)
  --container-runtime R
                       containerd (default) or crio
  --runtime-dir DIR    folder with another version of the container runtime
  --detach             return when the cluster is up; hack/local-down-cluster.sh takes it down
  --no-build           use the binaries that are there
  -h, --help           this text
EOF
}

state_dir=$repo/.local-cluster build=1 args=()
while [ $# -gt 0 ]; do
    case $1 in
        --state-dir) state_dir=${2:?--state-dir needs a folder}; shift 2 ;;
        --state-dir=*) state_dir=${1#*=}; shift ;;
        --control-planes | --workers | --api-port | --replace | --container-runtime | --runtime-dir) args+=("$1" "${2:?$1 needs a value}"); shift 2 ;;
        --control-planes=* | --workers=* | --api-port=* | --replace=* | --container-runtime=* | --runtime-dir=*) args+=("$1"); shift ;;
        --detach) args+=("$1"); shift ;;
        --no-build) build=; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "unknown option $1" ;;
    esac
done

need_root
need_kubectl
install_missing "${cluster_packages[@]}"
if [ -n "$build" ]; then
    need_cargo
    install_missing "${build_packages[@]}"
    say "Building release binaries (the first time this takes several minutes)"
    build_release
fi
exec "$(bin_dir)/testbed" up --state-dir "$state_dir" --bin-dir "$(bin_dir)" --manifests "$repo/manifests/addons" "${args[@]}"
