#!/usr/bin/env bash
# Runs a commit in a clean zone on this machine, start to end:
# builds, starts a dispatcher and a runner, makes a worker with a snapshot
# `clean`, enrolls it, pushes, follows the output, prints the verdict.
#
#   scripts/quickstart.sh                     a sample of its own
#   scripts/quickstart.sh PATH                the HEAD of a local repository
#   scripts/quickstart.sh OWNER REPO COMMIT   a commit on GitHub
#
#   --keep   leave everything running, and say how to talk to it
#   --dev    build without optimisation (faster to build)
#
# Exit status: 0 the job is done, 1 it failed, 2 wrong usage, 3 something
# here is missing. Works as root and as an ordinary user, beside others.
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
cd "$repo"

keep=false
profile=release
words=()
for word in "$@"; do
    case $word in
    --keep) keep=true ;;
    --dev) profile=debug ;;
    -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "scripts/quickstart.sh"
        exit 0
        ;;
    -*)
        echo "quickstart: there is no option $word; see --help" >&2
        exit 2
        ;;
    *) words+=("$word") ;;
    esac
done
case ${#words[@]} in
0 | 1 | 3) ;;
*)
    echo "quickstart: give nothing, a PATH, or OWNER REPO COMMIT" >&2
    exit 2
    ;;
esac

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
[ -t 2 ] || say() { printf '== %s\n' "$*" >&2; }
die() {
    printf 'quickstart: %s\n' "$*" >&2
    exit 3
}

for tool in git cargo; do
    command -v "$tool" >/dev/null || die "$tool is missing; install it first"
done

# --- a place of its own, and an end to what an earlier one left -------------

home=${NTRACE_QUICKSTART:-$repo/.quickstart}
mkdir -p "$home"
chmod 700 "$home"

# Ends a process that an earlier quickstart started: the pid must still be
# the same program, begun at the same moment.
started_at() { awk '{print $22}' "/proc/$1/stat" 2>/dev/null || true; }
end_process() { # FILE with: pid, start time
    local pid start
    read -r pid start <"$1" 2>/dev/null || return 0
    [ -n "$start" ] && [ "$(started_at "$pid")" = "$start" ] || return 0
    kill -TERM "$pid" 2>/dev/null || return 0
    for _ in $(seq 100); do
        [ "$(started_at "$pid")" = "$start" ] || return 0
        # A zombie whose parent is busy has ended as well.
        grep -q '^State:.*Z' "/proc/$pid/status" 2>/dev/null && return 0
        sleep 0.05
    done
    kill -KILL "$pid" 2>/dev/null || true
}
remove_place() { # DIR
    local dir=$1 uuid
    end_process "$dir/client.pid"
    end_process "$dir/runner.pid"
    end_process "$dir/dispatcher.pid"
    if [ -d "$dir/zones" ] && [ -x "$dir/vmadm" ]; then
        for uuid in $(NTRACE_ZONES=$dir/zones "$dir/vmadm" lookup \
            2>/dev/null); do
            NTRACE_ZONES=$dir/zones "$dir/vmadm" delete "$uuid" \
                >/dev/null 2>&1 || true
        done
        NTRACE_ZONES=$dir/zones "$dir/vmadm" gc >/dev/null 2>&1 || true
    fi
    # An overlay leaves directories that their own owner may not enter, and
    # the zones' own clearing up may still be at work.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        chmod -R u+rwX "$dir" 2>/dev/null || true
        rm -rf "$dir" 2>/dev/null && return
        sleep 0.5
    done
    rm -rf "$dir"
}
for old in "$home"/*/; do
    old=${old%/}
    [ -e "$old/owner.pid" ] || continue
    read -r pid start <"$old/owner.pid" || continue
    [ "$(started_at "$pid")" = "$start" ] && continue
    [ -e "$old/kept" ] && [ -e "$old/dispatcher.pid" ] &&
        read -r pid start <"$old/dispatcher.pid" &&
        [ "$(started_at "$pid")" = "$start" ] && continue
    say "clearing away what an earlier quickstart left"
    remove_place "$old"
done

place=$(mktemp -d "$home/run.XXXXXX")
echo "$$ $(started_at $$)" >"$place/owner.pid"
# What is started below is known here before it can do anything.
# shellcheck disable=SC2317  # the trap below calls it
clean_up() {
    local status=$?
    trap - EXIT INT TERM
    if $keep && [ -e "$place/ready" ]; then
        touch "$place/kept"
        return "$status"
    fi
    remove_place "$place"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- build -------------------------------------------------------------------

say "building (the first time takes a few minutes)"
build=(cargo build --locked --bins -p ntrace-dispatcher -p ntrace-runner
    -p ntrace-standin -p ntrace-cli)
[ $profile = release ] && build+=(--release)
[ -t 2 ] || build+=(--quiet)
"${build[@]}"
bin=${CARGO_TARGET_DIR:-$repo/target}/$profile
ln -s "$bin/vmadm" "$place/vmadm"
export NTRACE_ZONES=$place/zones NTRACE_VMADM=$bin/vmadm

# --- what to run ---------------------------------------------------------------

source='https://github.com/{owner}/{repo}.git'
if [ ${#words[@]} = 3 ]; then
    owner=${words[0]} name=${words[1]} commit=${words[2]}
else
    source="file://$place/git/{owner}/{repo}.git"
    owner=local name=sample
    mkdir -p "$place/git/$owner"
    if [ ${#words[@]} = 1 ]; then
        path=$(cd "${words[0]}" && pwd) || die "${words[0]} is no directory"
        git=(git -c "safe.directory=*" -C "$path")
        dir=$("${git[@]}" rev-parse --path-format=absolute \
            --git-common-dir) || die "$path is no git repository"
        commit=$("${git[@]}" rev-parse --verify HEAD) ||
            die "$path has no commit yet"
        name=$(basename "$path" | tr -c 'A-Za-z0-9_.\n-' _ | sed 's/^[-.]/_/')
        ln -s "$dir" "$place/git/$owner/$name.git"
    else
        work=$place/sample
        cp -r scripts/sample "$work"
        git -C "$work" init -q
        git -C "$work" add -A
        git -C "$work" -c user.name=sample -c user.email=sample@localhost \
            -c commit.gpgsign=false commit -qm sample
        commit=$(git -C "$work" rev-parse HEAD)
        ln -s "$work/.git" "$place/git/$owner/$name.git"
    fi
fi

# --- dispatcher, runner, worker -------------------------------------------------

# Starts a program in the background and waits until it says on which port it
# listens. Port 0: whatever is free, so that others are not disturbed.
start() { # NAME PROGRAM ARGUMENT...
    local name=$1 log=$place/$1.log
    shift
    # Its own session: the terminal's Ctrl-C goes to us, and we end it.
    setsid "$@" </dev/null >"$log" 2>&1 &
    local pid=$!
    echo "$pid $(started_at $pid)" >"$place/$name.pid"
    for _ in $(seq 200); do
        port=$(sed -n 's/.*listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' \
            "$log" | head -n 1)
        [ -n "$port" ] && return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    cat "$log" >&2
    die "the $name did not start; its log is above"
}
say "starting a dispatcher and a runner"
start dispatcher "$bin/ntrace-dispatcher" --listen localhost:0 \
    --data "$place/dispatcher"
dispatcher=$port
start runner "$bin/ntrace-runner" --listen localhost:0 \
    --dispatcher "127.0.0.1:$dispatcher" --data "$place/runner" \
    --source "$source"
runner=$port

say "making a worker with a snapshot 'clean'"
uuid=$(scripts/worker.sh worker0) || die "no worker could be made"

# Asks a port one thing, like nc: bash brings its own.
ask() { # PORT LINE
    local answer
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf '%s\n' "$2" >&3
    IFS= read -r -t 60 answer <&3 || answer=
    exec 3>&-
    printf '%s\n' "$answer"
}
say "enrolling it"
answer=$(ask "$runner" "[\"enroll\",[\"$uuid\"],1]")
case $answer in
'[[null,'*) ;;
*) die "the runner refused the worker: ${answer:-no answer}" ;;
esac

# --- the job ------------------------------------------------------------------------

export NTRACE_DISPATCHER=127.0.0.1:$dispatcher
say "pushing $owner/$name $commit"
touch "$place/ready"
status=0
# In the background, so that whoever clears away after us can end it.
"$bin/ntrace" push "$owner" "$name" "$commit" --follow &
client=$!
echo "$client $(started_at $client)" >"$place/client.pid"
wait "$client" || status=$?

if $keep; then
    cat >&2 <<TXT

Everything is left running:
  dispatcher   nc localhost $dispatcher      log $place/dispatcher.log
  runner       nc localhost $runner      log $place/runner.log
  client       NTRACE_DISPATCHER=127.0.0.1:$dispatcher $bin/ntrace list
  worker       NTRACE_ZONES=$place/zones $bin/vmadm list
End it by: kill $(cut -d' ' -f1 <"$place/runner.pid") $(
        cut -d' ' -f1 <"$place/dispatcher.pid"
    ); the next quickstart clears it away.
TXT
else
    say "cleaning up (--keep leaves everything running)"
fi
exit "$status"
