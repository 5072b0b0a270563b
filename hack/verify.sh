#!/usr/bin/env bash
# What must hold before a change lands: formatting, lints, documentation, licences.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
need_cargo
cd "$repo"
say "rustfmt";  cargo fmt --all --check
say "clippy";   cargo clippy --workspace --all-targets --quiet -- -D warnings
# The maps of crates link to private rooms, too.
say "rustdoc";  RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --quiet
if cargo deny --version >/dev/null 2>&1; then
    say "cargo-deny"; cargo deny --log-level error check
else
    say "cargo-deny is not installed: skipped"
fi
say "all checks passed"
