#!/usr/bin/env bash
# Measures on this machine: from the acknowledgement of a push to the first
# instruction of the job's command, traced and untraced in turn, and a zone's
# whole life.
#
#   scripts/bench/push-latency.sh [PUSHES] [ordinary]
#
# ordinary: pushes to a runner of a user without rights (to be started by
# root).
set -euo pipefail
cd "$(dirname "$0")/../.."

pushes=${1:-50}
case $pushes in
*[!0-9]* | '')
    echo "push-latency.sh: PUSHES is a number" >&2
    exit 2
    ;;
esac
cargo build --release --locked --workspace --bins
cargo bench --quiet --locked -p ntrace-e2e --bench push_latency -- \
    "$pushes" "${2:-}"
cargo bench --quiet --locked -p ntrace-standin
