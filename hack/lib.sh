# Shared by the scripts of this folder: where things are, and what they need installed.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
daemons=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy cloud-controller-manager pod-network testbed)
# These go into images of their own and must run without any library.
static_programs=(pause cluster-dns)

say() { printf '%s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || fail "this must run as root (it makes namespaces)"; }

# install_missing COMMAND=PACKAGE …: installs the Debian packages whose command is not there, after saying so.
install_missing() {
    local pair command missing=() log
    for pair in "$@"; do
        command=${pair%%=*}
        case $command in
            /*) [ -e "$command" ] || missing+=("${pair#*=}") ;;
            *) command -v "$command" >/dev/null 2>&1 || missing+=("${pair#*=}") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    say "Installing from Debian: ${missing[*]}"
    # Services that packages start would run outside any node.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1
    fi
    log=$(mktemp)
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        [ -z "$made" ] || rm -f $policy
        tail -n 20 "$log" >&2
        fail "could not install ${missing[*]}"
    fi
    [ -z "$made" ] || rm -f $policy
    rm -f "$log"
}

build_packages=(protoc=protobuf-compiler cc=gcc make=make)
cluster_packages=(etcd=etcd-server containerd=containerd runc=runc /usr/lib/cni/bridge=containernetworking-plugins
    nft=nftables iptables=iptables conntrack=conntrack /bin/busybox=busybox-static ip=iproute2 nsenter=util-linux)

need_kubectl() { command -v kubectl >/dev/null 2>&1 || fail "kubectl is not installed"; }
need_cargo() { command -v cargo >/dev/null 2>&1 || fail "Rust is not installed (cargo is missing)"; }

# The folder that cargo builds release binaries into.
bin_dir() { printf '%s/release' "${CARGO_TARGET_DIR:-$repo/target}"; }

build_release() {
    local p flags=()
    for p in "${daemons[@]}"; do flags+=(-p "$p"); done
    (cd "$repo" && cargo build --release "${flags[@]}") || fail "the build failed"
    for p in "${static_programs[@]}"; do
        (cd "$repo" && cargo rustc --quiet --release -p "$p" --bin "$p" -- -C target-feature=+crt-static) || fail "the build of $p failed"
    done
}
