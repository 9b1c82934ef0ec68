# shellcheck shell=bash
# What the scripts for a SmartOS host share. Sourced, not run.
#
# Each script looks before it acts, so it may be run again at any time, after
# an interruption too. With --dry-run it looks and says what it would do.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
me=${0##*/}
dry_run=false
# Below this, files of the global zone are looked for. Not / only in tests
# and for a look at what would be written.
prefix=

PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

say() { printf '%s\n' "$me: $*" >&2; }

fail() {
    say "$@"
    exit 1
}

# A mistake in the command line.
misuse() {
    say "$@"
    say "see $me --help"
    exit 2
}

# Prints the remarks at the head of the script as help.
usage() {
    sed -n '2,/^[^#]/{/^#/{s/^# \{0,1\}//;p;};}' "$0"
    exit 0
}

# The words of a command as one could type them.
shown() {
    local word line=
    for word in "$@"; do
        case $word in
        '' | *[!A-Za-z0-9_./:=,@%+-]*) word="'${word//\'/\'\\\'\'}'" ;;
        esac
        line+=" $word"
    done
    printf '%s' "${line# }"
}

# Runs a command that changes something, or says that it would.
run() {
    if $dry_run; then
        printf '+ %s\n' "$(shown "$@")"
    else
        say "$(shown "$@")"
        "$@"
    fi
}

need_value() {
    [ $# -ge 2 ] || misuse "$1 needs a value"
}

# ---- checks of values: nothing else gets into a manifest or a file --------

check_uuid() {
    [[ $2 =~ ^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$ ]] ||
        misuse "$1 needs a uuid in lower case, not '$2'"
}

check_name() {
    [[ $2 =~ ^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$ ]] ||
        misuse "$1 takes up to 63 letters, digits, _ . and -, not '$2'"
}

check_snapshot() {
    [[ $2 =~ ^[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]{0,63}$ ]] ||
        misuse "$1 takes up to 64 letters, digits and _ . : % -, not '$2'"
}

check_number() {
    [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] ||
        misuse "$1 needs a whole number, not '$2'"
}

check_address() {
    [[ $2 =~ ^[0-9A-Fa-f.:]{2,45}$ ]] ||
        misuse "$1 needs an IP address, not '$2'"
}

check_network() {
    [[ $2 =~ ^[0-9A-Fa-f.:]{2,45}/[0-9]{1,3}$ ]] ||
        misuse "$1 needs an IP address and prefix such as 192.0.2.10/24"
}

# ---- files ----------------------------------------------------------------

# put FILE MODE: what comes on stdin becomes the file, whole or not at all.
put() {
    local file=$1 mode=$2 text
    text=$(cat && printf x)
    text=${text%x}
    if [ -f "$file" ] && [ "$(cat "$file" && printf x)" = "${text}x" ]; then
        say "already there: $file"
        return 0
    fi
    if $dry_run; then
        printf '+ write %s (mode %s)\n' "$(shown "$file")" "$mode"
        return 0
    fi
    # Beside it, so that the rename cannot cross file systems.
    rm -f "$file.ntrace-new"
    (umask 077 && printf '%s' "$text" >"$file.ntrace-new")
    chmod "$mode" "$file.ntrace-new"
    mv -f "$file.ntrace-new" "$file"
    say "wrote $file"
}

make_dir() {
    if [ -d "$1" ]; then return 0; fi
    run mkdir -p "$1"
    run chmod "$2" "$1"
}

# ---- the global zone ------------------------------------------------------

need_global_zone() {
    command -v vmadm >/dev/null ||
        fail "there is no vmadm: run this in the global zone of SmartOS"
    if command -v zonename >/dev/null && [ "$(zonename)" != global ]; then
        fail "this is the zone $(zonename): run this in the global zone"
    fi
}

gate_dir() { printf '%s' "$prefix/opt/custom/ntrace"; }

# The list of VMs without one of them. Not with grep: what it takes for an
# alternative differs from system to system.
other_workers() { awk '$1 != uuid' uuid="$1" "$(gate_dir)/workers"; }

# The snapshots that are listed for a VM.
listed_snapshots() {
    local one rest
    while read -r one rest || [ -n "$one" ]; do
        if [ "$one" = "$1" ]; then printf '%s' "${rest%%#*}"; fi
    done <"$(gate_dir)/workers"
}

# Lets the gate through to a VM, with the snapshot it may be rolled back to;
# where none is named, with what was listed before, else with `clean`.
list_worker() {
    local file snapshots=$2
    local others="# VMs that the runner may drive: uuid, snapshots"
    file=$(gate_dir)/workers
    if [ -f "$file" ]; then
        others=$(other_workers "$1") || fail "cannot read $file"
        if [ -z "$snapshots" ]; then snapshots=$(listed_snapshots "$1"); fi
    fi
    printf '%s\n' ${others:+"$others"} "$1 ${snapshots:-clean}" |
        put "$file" 0644
}

unlist_worker() {
    local file others
    file=$(gate_dir)/workers
    [ -f "$file" ] || return 0
    others=$(other_workers "$1") || fail "cannot read $file"
    printf '%s' "${others:+"$others"$'\n'}" | put "$file" 0644
}

# ---- VMs ------------------------------------------------------------------

# The uuid of the VM with this alias, or nothing.
vm_of() {
    local found
    found=$(vmadm lookup "alias=$1") || fail "cannot ask vmadm for VMs"
    case $found in
    *$'\n'*) fail "there is more than one VM with the alias $1: $found" ;;
    esac
    printf '%s' "$found"
}

vm_state() { vmadm list -p -H -o state "uuid=$1"; }

# Whether the VM has a snapshot of this name.
has_snapshot() {
    vmadm get "$1" | sed -n '/"snapshots"/,/\]/p' |
        grep "\"name\": \"${2//./\\.}\"" >/dev/null
}

# Whether these scripts made it, as this kind.
is_ours() { [ -n "$(vmadm lookup "uuid=$1" "tags.ntrace=$2")" ]; }

# until_true SECONDS WHAT COMMAND...: asks each second, up to a deadline.
until_true() {
    local left=$1 what=$2
    shift 2
    if $dry_run; then
        printf '+ wait up to %s s until %s\n' "$left" "$what"
        return 0
    fi
    while ! "$@"; do
        [ "$left" -gt 0 ] || fail "gave up waiting until $what"
        left=$((left - 1))
        sleep 1
    done
}

is_state() { [ "$(vm_state "$1")" = "$2" ]; }

# Whether a zone's services are up. Running only means that init was started.
is_ready() {
    local system states
    system=$(zlogin -Q "$1" 'uname -s' </dev/null 2>/dev/null) || return 1
    case $system in
    SunOS) ;;
    '') return 1 ;;
    *) return 0 ;;
    esac
    states=$(zlogin -Q "$1" '/usr/bin/svcs -H -o state \
        svc:/milestone/multi-user-server:default \
        svc:/smartdc/mdata:execute' </dev/null 2>/dev/null) || return 1
    case $states in
    *maintenance*)
        zlogin -Q "$1" '/usr/bin/svcs -xv' </dev/null >&2 || :
        fail "a service of $1 is in maintenance, see above"
        ;;
    esac
    [ "$states" = $'online\nonline' ]
}

# Passes lines on to stderr, and the last one to stdout as well.
last_line() {
    local line last=
    while IFS= read -r line; do
        last=$line
        [ "$line" = ntrace-done ] || printf '%s\n' "$line" >&2
    done
    printf '%s' "$last"
}

# Runs a script of ours in a zone. zlogin reports 0 for a command that was
# killed, so success is what the script's last line says.
in_zone() {
    local uuid=$1 what=$2 said
    if $dry_run; then
        printf '+ zlogin -Q %s /bin/sh -s   # %s\n' "$uuid" "$what"
        cat >/dev/null
        return 0
    fi
    say "in zone $uuid: $what"
    said=$({
        printf 'set -eu\n'
        cat
        printf '\necho ntrace-%s\n' "done"
    } | zlogin -Q "$uuid" '/bin/sh -s' | last_line) || :
    [ "$said" = ntrace-done ] || fail "in zone $uuid: cannot $what"
}

# Makes sure that an image is there. A name stands for its newest version.
# Sets `image`.
ensure_image() {
    case $1 in
    *-*-*-*-*)
        check_uuid --image "$1"
        image=$1
        ;;
    *)
        check_name --image "$1"
        # The newest comes last.
        image=$(imgadm list -H -o uuid "name=$1" | tail -1) || image=
        if [ -z "$image" ]; then
            image=$(imgadm avail -H -o uuid "name=$1" | tail -1) || image=
        fi
        [ -n "$image" ] || fail "there is no image with the name $1"
        check_uuid "imgadm, asked for $1," "$image"
        ;;
    esac
    if imgadm get "$image" >/dev/null 2>&1; then
        say "already there: image $image"
    else
        run imgadm import "$image"
    fi
}

# Reads an option that make-worker and make-runner share; fails if it is
# none of them.
manifest=
image=base-64-lts
network=
gateway=
resolvers=()
nic_tag='admin'
vlan=
memory=
quota=
cpu_cap=
lwps=
alias=
deadline=600
taken=false
vm_option() {
    taken=true
    case $1 in
    --alias | --image | --manifest | --ip | --gateway | --resolver | \
        --nic-tag | --vlan | --memory | --quota | --cpu-cap | --lwps | \
        --timeout)
        need_value "$@"
        ;;
    esac
    case $1 in
    --alias) check_name "$1" "$2" && alias=$2 ;;
    --image) image=$2 ;;
    --manifest) manifest=$2 ;;
    --ip) check_network "$1" "$2" && network=$2 ;;
    --gateway) check_address "$1" "$2" && gateway=$2 ;;
    --resolver) check_address "$1" "$2" && resolvers+=("$2") ;;
    --nic-tag) check_name "$1" "$2" && nic_tag=$2 ;;
    --vlan) check_number "$1" "$2" && vlan=$2 ;;
    --memory) check_number "$1" "$2" && memory=$2 ;;
    --quota) check_number "$1" "$2" && quota=$2 ;;
    --cpu-cap) check_number "$1" "$2" && cpu_cap=$2 ;;
    --lwps) check_number "$1" "$2" && lwps=$2 ;;
    --timeout) check_number "$1" "$2" && deadline=$2 ;;
    *) taken=false ;;
    esac
    $taken
}

# Those of the global zone, where none were given.
default_resolvers() {
    local word address
    [ ${#resolvers[@]} = 0 ] && [ -r /etc/resolv.conf ] || return 0
    while read -r word address _; do
        if [ "$word" = nameserver ] && [[ $address =~ ^[0-9A-Fa-f.:]+$ ]]
        then resolvers+=("$address"); fi
    done </etc/resolv.conf
}

# The manifest with the options filled in. Every value was checked, so none
# holds a character that sed or JSON would take for its own.
filled() {
    local edits=() list
    edit() { edits+=(-e "s|\"$1\": $2|\"$1\": $3|"); }
    edit alias '"[^"]*"' "\"$alias\""
    edit hostname '"[^"]*"' "\"${alias//[_.]/-}\""
    edit image_uuid '"[^"]*"' "\"$image\""
    edit nic_tag '"[^"]*"' "\"$nic_tag\""
    if [ -n "$network" ]; then
        edit ips '\[[^]]*\]' "[\"$network\"]"
        edit gateways '\[[^]]*\]' "[\"$gateway\"]"
    fi
    if [ -n "$vlan" ]; then
        edit primary 'true' "true, \"vlan_id\": $vlan"
    fi
    if [ ${#resolvers[@]} -gt 0 ]; then
        printf -v list '"%s", ' "${resolvers[@]}"
        edit resolvers '\[[^]]*\]' "[${list%, }]"
    fi
    if [ -n "$memory" ]; then
        edit max_physical_memory '[0-9]*' "$memory"
        edit max_swap '[0-9]*' $((2 * memory))
        edit tmpfs '[0-9]*' $((memory / 4))
    fi
    if [ -n "$quota" ]; then edit quota '[0-9]*' "$quota"; fi
    if [ -n "$cpu_cap" ]; then edit cpu_cap '[0-9]*' "$cpu_cap"; fi
    if [ -n "$lwps" ]; then edit max_lwps '[0-9]*' "$lwps"; fi
    if [ -n "${parent-}" ]; then
        edit parent '"[^"]*"' "\"$parent\""
    fi
    sed "${edits[@]}" "$manifest"
}

# What was asked for and has no place in the manifest is not ignored.
check_filled() {
    local text value
    text=$(filled)
    for value in "$alias" "$network" "$gateway" "$memory" "$quota" "$cpu_cap" \
        "$lwps" ${vlan:+"vlan_id\": $vlan"} "${parent-}"; do
        case $text in
        *"$value"*) ;;
        *) fail "the manifest $manifest has no place for $value" ;;
        esac
    done
}

# Chooses the manifest of a kind by the options of the network.
choose_manifest() {
    if [ -n "$network" ] && [ -z "$gateway" ]; then
        misuse "--ip needs --gateway as well"
    fi
    if [ -z "$network" ] && [ -n "$gateway" ]; then
        misuse "--gateway needs --ip as well"
    fi
    if [ -z "$manifest" ]; then
        manifest=$here/../../manifests/$1-smartos-dhcp.json
        if [ -n "$network" ]; then
            manifest=$here/../../manifests/$1-smartos-static.json
        fi
    fi
    [ -r "$manifest" ] || fail "cannot read the manifest $manifest"
}

# Makes the VM if there is none of this alias; sets `uuid`. `planned`: there
# is none, and a dry run does not make it.
planned=false
ensure_vm() {
    local said
    uuid=$(vm_of "$alias")
    if [ -n "$uuid" ]; then
        is_ours "$uuid" "$1" || fail "VM $uuid has the alias $alias, and \
was not made as a $1 by these scripts; choose another --alias"
        say "already there: VM $uuid ($alias)"
        return 0
    fi
    ensure_image "$image"
    check_filled
    if $dry_run; then
        printf '+ vmadm create <<EOF\n%s\nEOF\n' "$(filled)"
        uuid=UUID-OF-$alias
        # shellcheck disable=SC2034 # read by the scripts
        planned=true
        return 0
    fi
    say "vmadm create   # $alias"
    said=$(filled | vmadm create 2>&1) || fail "cannot create $alias: $said"
    uuid=$(vm_of "$alias")
    [ -n "$uuid" ] || fail "vmadm said '$said', but there is no VM $alias"
    say "made VM $uuid ($alias)"
}

# Boots the VM and waits for its services.
ensure_ready() {
    if $dry_run; then
        printf '+ vmadm start %s   # if it is not running\n' "$(shown "$1")"
    else
        case $(vm_state "$1") in
        running | provisioning | ready) ;;
        failed) fail "VM $1 has failed; look at vmadm get $1, then remove it \
by $me --undo" ;;
        *) run vmadm start "$1" ;;
        esac
    fi
    until_true "$deadline" "the services of VM $1 are up" is_ready "$1"
}

# Deletes a VM of ours; that there is none is fine.
remove_vm() {
    local gone
    gone=$(vm_of "$1")
    if [ -z "$gone" ]; then
        say "already gone: VM $1"
        return 0
    fi
    is_ours "$gone" "$2" || fail "VM $gone has the alias $1, but was not \
made as a $2 by these scripts; not deleting it"
    run vmadm delete "$gone"
    uuid=$gone
}
