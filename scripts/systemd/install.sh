#!/bin/sh
# Installs programs and systemd units, or takes them away again.
#
#   install.sh [options] dispatcher|runner|tunnel ...
#
#   --user         for this user: ~/.local and the user's own services
#   --from DIR     where the built programs are [target/release]
#   --remove       takes the units and programs away; data and settings stay
#   --dry-run      prints the commands, and changes nothing
#   --root DIR     puts everything below DIR and starts nothing: for packages
#
# May be run again: it is also the upgrade. Services are started; what was
# running is restarted, which disturbs no data.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
from=$here/../../target/release
root=
is_user=
is_dry=
is_remove=
what=

usage() { sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"; }
refuse() { printf 'install.sh: %s\n' "$1" >&2; exit 2; }

while [ $# -gt 0 ]; do
    case $1 in
        --user) is_user=yes ;;
        --from) [ $# -ge 2 ] || refuse "--from takes a value"
            from=$2; shift ;;
        --root) [ $# -ge 2 ] || refuse "--root takes a value"
            root=$2; shift ;;
        --remove) is_remove=yes ;;
        --dry-run) is_dry=yes ;;
        -h | --help) usage; exit 0 ;;
        dispatcher | runner | tunnel) what="$what $1" ;;
        *) refuse "$1 is no option and none of dispatcher, runner, tunnel" ;;
    esac
    shift
done
[ -n "$what" ] || refuse "say what: dispatcher, runner, tunnel"

run() {
    if [ -n "$is_dry" ]; then
        printf '%s\n' "$*"
    else
        "$@"
    fi
}

if [ -n "$is_user" ]; then
    base=$root$HOME/.local
    units=$root${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
    etc=$root${XDG_CONFIG_HOME:-$HOME/.config}/ntrace
    source=$here/user
    control="systemctl --user"
else
    base=$root/usr/local
    units=$root/etc/systemd/system
    etc=$root/etc/ntrace
    source=$here
    control=systemctl
    [ -n "$is_dry$root" ] || [ "$(id -u)" = 0 ] ||
        refuse "be root, or say --user"
fi

programs() {
    case $1 in
        dispatcher) echo ntrace-dispatcher ntrace ;;
        runner) echo ntrace-runner vmadm zlogin ;;
        tunnel) ;;
    esac
}

# Runs systemctl, unless this only fills a directory.
manage() { [ -n "$root" ] || run $control "$@"; }

for one in $what; do
    unit=ntrace-$one.service
    if [ -n "$is_remove" ]; then
        manage disable --now "$unit" || :
        run rm -f "$units/$unit"
        for program in $(programs "$one"); do
            run rm -f "$base/bin/$program"
        done
        [ "$one" != tunnel ] || run rm -f "$base/libexec/ntrace/tunnel.sh"
        continue
    fi
    run install -d "$base/bin" "$base/libexec/ntrace" "$units" "$etc"
    for program in $(programs "$one"); do
        [ -n "$is_dry" ] || [ -x "$from/$program" ] ||
            refuse "$from/$program is not built; cargo build --release"
        # Renamed into place: the old one may be running.
        run install -m 0755 "$from/$program" "$base/bin/$program.new"
        run mv -f "$base/bin/$program.new" "$base/bin/$program"
    done
    [ "$one" != tunnel ] ||
        run install -m 0755 "$here/../tunnel.sh" "$base/libexec/ntrace/"
    if [ -z "$is_user$root" ] && [ "$one" != runner ] &&
        ! id ntrace >/dev/null 2>&1
    then
        run useradd --system --home-dir /var/lib/ntrace-dispatcher \
            --shell /usr/sbin/nologin ntrace
    fi
    run install -m 0644 "$source/$unit" "$units/$unit"
done

manage daemon-reload
[ -z "$is_remove" ] || exit 0
for one in $what; do
    if [ "$one" = tunnel ] && [ ! -e "$etc/tunnel.env" ]; then
        echo "write $etc/tunnel.env, a line NTRACE_TUNNEL=...;" \
            "then $control enable --now ntrace-tunnel" >&2
        continue
    fi
    manage enable "ntrace-$one.service"
    manage restart "ntrace-$one.service"
done
