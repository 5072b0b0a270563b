#!/usr/bin/env bash
# Runs all tests: unit, integration (each with an etcd of its own) and end-to-end (a real cluster).
# Usage: hack/test.sh [unit|integration|e2e]…   (default: all three)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(unit integration e2e)
need_cargo
need_root
install_missing "${build_packages[@]}" "${cluster_packages[@]}"
cd "$repo"
for stage in "${stages[@]}"; do
    case $stage in
        unit)
            say "== unit tests"
            cargo test --workspace --exclude integration --exclude e2e
            ;;
        integration)
            say "== integration tests"
            cargo build -p kube-apiserver
            cargo test -p integration
            ;;
        e2e)
            need_kubectl
            say "== end-to-end tests (release build first)"
            build_release
            cargo build --release -p csi-driver -p device-plugin
            BINNACLE_BIN_DIR=$(bin_dir) BINNACLE_MANIFESTS=$repo/manifests/addons cargo test -p e2e -- --nocapture --test-threads=1
            ;;
        *) fail "unknown stage $stage (unit, integration, e2e)" ;;
    esac
done
say "all tests passed"
