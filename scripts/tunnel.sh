#!/bin/sh
# A tunnel between a runner and its dispatcher, kept up by autossh.
#
#   tunnel.sh [options] to-dispatcher [USER@]HOST
#       run beside the runner: 127.0.0.1:9181 here is the dispatcher of HOST
#   tunnel.sh [options] to-runner [USER@]HOST
#       run beside the dispatcher (a laptop): 127.0.0.1:9181 of HOST, where
#       the runner is, is the dispatcher here
#
#   --port P[:Q]        P is opened at the runner's side, Q is the
#                       dispatcher's port there [9181]
#   --control P[:Q]     with to-runner: P here is the runner's control port Q
#   --ssh-port N        the port of HOST's sshd
#   --identity FILE     the private key
#   --known-hosts FILE  the host keys that are trusted
#   --alive SECONDS     between two signs of life; three missing ones end the
#                       connection, and it is made again [5]
#   --plain             a loop around ssh, even where there is autossh
#   --print             print the command, and do nothing
#
# Nothing is ever asked: the key must be usable without a password, and the
# host's key must be known. It stays in the foreground; TERM ends it.
set -eu
LC_ALL=C
export LC_ALL

usage() { sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"; }

refuse() {
    printf 'tunnel.sh: %s\n' "$1" >&2
    printf 'tunnel.sh --help says more\n' >&2
    exit 2
}

# The option $1 has a value: $2 is how many words are left.
has_value() { [ "$2" -ge 2 ] || refuse "$1 takes a value"; }

# $1 names an option, $2 is a number from 1 to $3.
number() {
    case $2 in
        '' | *[!0-9]* | 0* | ??????*)
            refuse "$1 takes a number from 1 to $3" ;;
    esac
    [ "$2" -le "$3" ] || refuse "$1 takes a number from 1 to $3"
}

# $1 names an option, $2 is P or P:Q.
ports() {
    case $2 in
        *:*) number "$1" "${2%%:*}" 65535; number "$1" "${2#*:}" 65535 ;;
        *) number "$1" "$2" 65535 ;;
    esac
}

# P and Q as a forwarding between loopback addresses.
forward() { printf '127.0.0.1:%s:127.0.0.1:%s' "${1%%:*}" "${1#*:}"; }

# $1 names an option, $2 is a path. ssh reads blanks, quotes and % in a
# special way, so they are refused.
path() {
    case $2 in
        '' | -* | *[!A-Za-z0-9._/@+,=-]*)
            refuse "$1 takes a path of letters, digits and ._/@+,=-" ;;
    esac
    [ -r "$2" ] || refuse "$1: cannot read $2"
}

# [USER@]HOST; nothing that ssh could take for an option.
place() {
    case $1 in
        *@*)
            case ${1%@*} in
                '' | [!A-Za-z0-9_]* | *[!A-Za-z0-9._-]*)
                    refuse "the user has a letter that is not taken" ;;
            esac ;;
    esac
    case ${1##*@} in
        '' | [!A-Za-z0-9:]* | *[!A-Za-z0-9._:%-]*)
            refuse "the host is no name or address" ;;
    esac
}

port=9181
control=
ssh_port=
identity=
known_hosts=
alive=5
plain=
print=
direction=
host=

while [ $# -gt 0 ]; do
    case $1 in
        --port) has_value "$1" $#; ports "$1" "$2"; port=$2; shift ;;
        --control) has_value "$1" $#; ports "$1" "$2"; control=$2; shift ;;
        --ssh-port)
            has_value "$1" $#; number "$1" "$2" 65535; ssh_port=$2; shift ;;
        --identity) has_value "$1" $#; path "$1" "$2"; identity=$2; shift ;;
        --known-hosts)
            has_value "$1" $#; path "$1" "$2"; known_hosts=$2; shift ;;
        --alive) has_value "$1" $#; number "$1" "$2" 3600; alive=$2; shift ;;
        --plain) plain=yes ;;
        --print) print=yes ;;
        -h | --help) usage; exit 0 ;;
        -*) refuse "there is no option like this one" ;;
        *)
            if [ -z "$direction" ]; then
                direction=$1
            elif [ -z "$host" ]; then
                place "$1"
                host=$1
            else
                refuse "there is a word too many"
            fi ;;
    esac
    shift
done

case $direction in
    to-dispatcher) ;;
    to-runner) ;;
    '') refuse "say to-dispatcher or to-runner" ;;
    *) refuse "the direction is to-dispatcher or to-runner" ;;
esac
[ -n "$host" ] || refuse "say to which host"
[ -z "$control" ] || [ "$direction" = to-runner ] ||
    refuse "--control goes with to-runner"

# No shared connection: this one is ours to lose and to make again.
set -- -N -T -a -x \
    -o BatchMode=yes \
    -o StrictHostKeyChecking=yes \
    -o ExitOnForwardFailure=yes \
    -o ConnectTimeout=10 \
    -o "ServerAliveInterval=$alive" \
    -o ServerAliveCountMax=3 \
    -o ControlMaster=no \
    -o ControlPath=none \
    -o PermitLocalCommand=no
[ -z "$identity" ] || set -- "$@" -i "$identity" -o IdentitiesOnly=yes
[ -z "$known_hosts" ] || set -- "$@" -o "UserKnownHostsFile=$known_hosts"
[ -z "$ssh_port" ] || set -- "$@" -p "$ssh_port"
case $direction in
    to-dispatcher) set -- "$@" -L "$(forward "$port")" ;;
    to-runner) set -- "$@" -R "$(forward "$port")" ;;
esac
[ -z "$control" ] || set -- "$@" -L "$(forward "$control")"
set -- "$@" -- "$host"

if [ -z "$plain" ] && ! command -v autossh >/dev/null; then
    echo "tunnel.sh: autossh is not installed; a loop around ssh does" >&2
    plain=yes
fi

if [ -z "$plain" ]; then
    # -M 0: signs of life are ssh's own. Gate time 0: a first try that fails
    # is tried again, too.
    if [ -n "$print" ]; then
        printf 'AUTOSSH_GATETIME=0 autossh -M 0 %s\n' "$*"
        exit 0
    fi
    AUTOSSH_GATETIME=0
    export AUTOSSH_GATETIME
    exec autossh -M 0 "$@"
fi

if [ -n "$print" ]; then
    printf 'ssh %s\n' "$*"
    exit 0
fi

child=
ended() {
    [ -z "$child" ] || kill "$child" 2>/dev/null || :
    exit 0
}
trap ended TERM INT HUP

# Waits, but not for longer than a signal takes to come.
pause() {
    sleep "$1" &
    child=$!
    wait "$child" || :
    child=
}

wait_for=1
while :; do
    began=$(date +%s)
    ssh "$@" </dev/null &
    child=$!
    status=0
    wait "$child" || status=$?
    child=
    lasted=$(($(date +%s) - began))
    [ "$lasted" -lt 60 ] || wait_for=1
    echo "tunnel.sh: ssh ended with $status after $lasted s;" \
        "again in $wait_for s" >&2
    pause "$wait_for"
    [ "$wait_for" -ge 32 ] || wait_for=$((wait_for * 2))
done
