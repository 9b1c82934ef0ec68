#!/bin/sh
# Runs a program that has no name any more.
cp /opt/share/split /tmp/unlinked
chmod 755 /tmp/unlinked
/tmp/unlinked "$1" &
# It has been mapped once it can be seen to run.
while ! grep -q unlinked "/proc/$!/maps" 2>/dev/null; do :; done
rm /tmp/unlinked
wait $!
