#!/usr/bin/env bash
# Writes the list of functions that a daemon's idle loop runs (hot-text.gz in its folder; see pkg/lean-link): to be made
# anew when the loop, the compiler or the libraries have changed much.
# Usage: hack/hot-text.sh DAEMON   (kubelet, kube-apiserver, …; takes some minutes)
set -euo pipefail
. "$(dirname "$0")/lib.sh"
daemon=${1:-}
case $daemon in
    kube-apiserver | kube-scheduler | kube-controller-manager) folder=${daemon#kube-} ;;
    kubelet | kube-proxy) folder=$daemon ;;
    *) sed -n 2,4p "$0" >&2; fail "which daemon?" ;;
esac
need_root
need_cargo
install_missing "${build_packages[@]}" "${cluster_packages[@]}" valgrind=valgrind nm=binutils
settle=${SETTLE:-60} watch=${WATCH:-75}
work=$(mktemp -d)
testbed=$(bin_dir)/testbed
down() { "$testbed" down --state-dir "$work/cluster" >/dev/null 2>&1 || true; rm -rf "$work"; }
trap down EXIT

say "building the others, and $daemon with its symbols"
cd "$repo"
mapfile -t daemons < <(printf '%s\n' "${daemons[@]}" | grep -vx "$daemon")
build_release
cargo rustc --release -p "$daemon" --bin "$daemon" -- -C strip=none
cp "$(bin_dir)/$daemon" "$work/program"
printf '#!/bin/sh\nexec valgrind --tool=callgrind --demangle=no --instr-atstart=no --callgrind-out-file=%s %s "$@"\n' \
    "$work/calls" "$work/program" >"$work/$daemon"
chmod +x "$work/$daemon"

say "a cluster whose $daemon is watched: ready in $settle s, then watched for $watch s"
"$testbed" up --detach --state-dir "$work/cluster" --bin-dir "$(bin_dir)" --manifests manifests/addons --replace "$daemon=$work/$daemon" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; fail "the cluster did not come up"; }
sleep "$settle"
inside() { "$testbed" exec --state-dir "$work/cluster" control-plane-1 -- "$@"; }
# The daemon's number inside the node, where valgrind listens.
pid=$(inside sh -c "grep -lsa '$work/calls' /proc/[0-9]*/cmdline" | grep -v self | cut -d/ -f3 | sort -n | head -n 1)
[ -n "$pid" ] || fail "$daemon does not run"
inside vgdb --pid="$pid" instrumentation on
sleep "$watch"
inside vgdb --pid="$pid" dump
for _ in $(seq 100); do [ -s "$work/calls.1" ] && break; sleep 0.1; done

# A name is written without the hash at its end when few other functions share the rest, so that it outlives compilers.
sed -nE "s/^c?fn=\([0-9]+\) ([^']+)('[0-9]+)?$/\1/p" "$work/calls.1" | sort -u >"$work/called"
nm -S -t d "$work/program" | awk 'NF == 4 && $3 ~ /[tTwW]/ { print $2, $4 }' >"$work/functions"
awk -v called="$work/called" '
    function stem(name) {
        sub(/\.llvm\.[0-9]+$/, "", name)
        full = name
        if (name ~ /^_R/) gsub(/Cs[0-9A-Za-z]+_/, "Cs*_", name)
        sub(/17h[0-9a-f]+E$/, "17h*", name)
        return name
    }
    BEGIN { while ((getline name < called) > 0) hot[name] = 1 }
    { s = stem($2); all[s] += $1
      if ($2 in hot) { some[s] += $1; names[s] = names[s] full "\n" } }
    END { for (s in some) if (all[s] <= 5 * some[s]) print s; else printf "%s", names[s] }
' "$work/functions" | LC_ALL=C sort -u >"$work/list"
[ "$(wc -l <"$work/list")" -gt 100 ] || fail "too few functions were seen"
gzip -9n <"$work/list" >"$folder/hot-text.gz"
say "$(wc -l <"$work/list") functions in $folder/hot-text.gz; build $daemon again and compare its VmRSS"
