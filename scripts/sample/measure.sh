#!/bin/sh
# A job like any other: it looks around, works a little, and leaves a mess
# that the next job will not see.
echo "hello from $(uname -n), as $(id -un 2>/dev/null || id -u)"
echo "commit $NTRACE_COMMIT, job $NTRACE_JOB"
set -- /proc/[0-9]*
echo "processes here: $#"

sum=0
i=0
while [ "$i" -lt 200000 ]; do
    i=$((i + 1))
    sum=$(((sum * 31 + i) % 1000003))
done
echo "checksum $sum"
echo "a warning, on stderr" >&2

# What is left behind is gone with the next rollback.
echo dirt >"$HOME/dirt"
sleep 1000 &
if [ "$sum" -eq 0 ]; then
    exit 1
fi
echo "done"
