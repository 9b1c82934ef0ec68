#!/usr/bin/env bash
# Checks everything: format, lints, all tests. Exit status 0: all is well.
#
#   scripts/check.sh
#
# Needs git and the Rust toolchain. What else is there is used as well (nc,
# node, shellcheck, cargo-nextest); a test without its tool says so loudly.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "shell scripts"
if command -v shellcheck >/dev/null; then
    # Those without an ending are known by their first line.
    {
        git ls-files '*.sh'
        git grep -lIE '^#!.*/(env )?(ba|k|da)?sh( |$)' -- scripts .ci
    } | sort -u | xargs -r shellcheck -x
    shellcheck scripts/smartos/gate-calls
else
    echo "SKIPPED: shellcheck is not installed"
fi

step "programs"
cargo build --workspace --bins --locked

step "tests"
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --workspace --locked
    if [ "${NTRACE_E2E_FULL:-}" = 1 ]; then
        # What concerns the place, once more through a real sshd. By
        # default the module ssh of the suite stands for it.
        step "tests over ssh"
        NTRACE_E2E_SSH=1 cargo nextest run -p ntrace-e2e --test e2e --locked \
            -E 'test(/^(wire|verdicts|clean|leaks|many|robust|workers)::/)'
        # What takes too many rounds without optimisation.
        step "a million stacks"
        cargo test --release -p ntrace-sampler --lib --locked -- \
            a_different_stack_costs_less_than_300_bytes
    fi
    cargo test --workspace --doc --locked --quiet
else
    cargo test --workspace --locked
fi

step "all is well"
