#!/usr/bin/env bash
# Makes a worker on this Linux machine: a zone with the snapshot `clean`.
# Prints its UUID; everything else goes to stderr.
#
#   scripts/worker.sh [ALIAS]
#
# State goes to $NTRACE_ZONES, else to the place that vmadm uses by itself.
# A Rust toolchain of rustup lives in a home, which zones do not see; so it is
# mounted at /opt/rust, read-only, if there is one.
set -euo pipefail
cd "$(dirname "$0")/.."

alias=${1:-worker0}
case $alias in
*[!A-Za-z0-9_.-]* | '' | -*)
    echo "worker.sh: an alias takes letters, digits and _ . -" >&2
    exit 2
    ;;
esac

vmadm=${NTRACE_VMADM:-}
for built in target/release/vmadm target/debug/vmadm; do
    [ -z "$vmadm" ] && [ -x "$built" ] && vmadm=$PWD/$built
done
if [ -z "$vmadm" ]; then
    echo "worker.sh: there is no vmadm; run cargo build --release" >&2
    exit 1
fi

mounts=''
if sysroot=$(rustc --print sysroot 2>/dev/null) && [ -x "$sysroot/bin/cargo" ]
then
    case $sysroot in
    *[!A-Za-z0-9_./+@-]*)
        echo "worker.sh: not mounting $sysroot: odd characters" >&2
        ;;
    /usr | /usr/*) ;;
    *)
        mounts="{\"type\": \"lofs\", \"source\": \"$sysroot\", \
\"target\": \"/opt/rust\", \"options\": [\"ro\", \"nodevices\"]}"
        ;;
    esac
fi

manifest=$(sed \
    -e "s|\"alias\": \"[^\"]*\"|\"alias\": \"$alias\"|" \
    -e "s|\"hostname\": \"[^\"]*\"|\"hostname\": \"$alias\"|" \
    -e "s|\"filesystems\": \[\]|\"filesystems\": [$mounts]|" \
    manifests/worker-linux.json)
said=$(printf '%s\n' "$manifest" | "$vmadm" create 2>&1) || {
    printf '%s\n' "$said" >&2
    exit 1
}
uuid=${said##*Successfully created VM }
uuid=${uuid%%[!0-9a-f-]*}
"$vmadm" create-snapshot "$uuid" clean >&2
printf '%s\n' "$uuid"
