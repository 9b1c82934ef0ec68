//! A zone of SmartOS as far as the scripts see one: a directory in which
//! their own scripts are run for real, with fakes of SmartOS's tools that
//! write down how they were called.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::host::Host;

/// Runs what zlogin was given, with the zone's paths below $ZONE, and dies
/// with the whole script when it is the turn of $KILL_AT.
const ZLOGIN: &str = r#"#!/bin/sh
zone=@ZONE@
case $3 in
'uname -s') echo SunOS; exit ;;
*svcs*-xv*) echo 'svc:/x: maintenance'; exit ;;
*svcs*)
    if [ -e "$zone/states" ]; then cat "$zone/states"
    else printf 'online\nonline\n'; fi
    exit ;;
esac
count=$(($(cat "$zone/count" 2>/dev/null || echo 0) + 1))
echo "$count" >"$zone/count"
if [ "$KILL_AT" = "zone $count before" ]; then kill -KILL 0; fi
inside="s#/opt/#$zone/opt/#g; s#/var/ntrace#$zone/var/ntrace#g
s#/home#$zone/home#g"
PATH=$zone/bin:$PATH
export PATH zone
case $3 in
'/bin/sh -s') sed "$inside" | /bin/sh -s ;;
*) /bin/sh -c "$(printf '%s' "$3" | sed "$inside")" ;;
esac
code=$?
if [ "$KILL_AT" = "zone $count after" ]; then kill -KILL 0; fi
exit "$code"
"#;

const RECORDER: &str = r#"#!/bin/sh
echo "${0##*/} $*" >>"$zone/calls"
"#;

const GETENT: &str = r#"#!/bin/sh
grep "^$1 $2\$" "$zone/names" >/dev/null 2>&1
"#;

const ADD: &str = r#"#!/bin/sh
echo "${0##*/} $*" >>"$zone/calls"
case $0 in *user*) kind=passwd ;; *) kind=group ;; esac
for last; do :; done
echo "$kind $last" >>"$zone/names"
"#;

/// Gives a host such zones instead of those of the stand-in.
pub(crate) fn pretend(host: &Host) {
    let zone = host.path("zone");
    for sub in ["bin", "opt/local/bin", "home", "var/ntrace"] {
        fs::create_dir_all(zone.join(sub)).unwrap();
    }
    let tool = |name: &str, script: &str| {
        let path = zone.join(name);
        fs::write(&path, script).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path, mode).unwrap();
    };
    for name in ["svccfg", "svcadm", "chown", "passwd"] {
        tool(&format!("bin/{name}"), RECORDER);
    }
    tool("opt/local/bin/pkgin", RECORDER);
    tool("opt/local/bin/git", RECORDER);
    tool("bin/getent", GETENT);
    tool("bin/useradd", ADD);
    tool("bin/groupadd", ADD);
    tool("bin/uname", "#!/bin/sh\necho SunOS\n");
    let zone = zone.display().to_string();
    host.install("zlogin", &ZLOGIN.replace("@ZONE@", &zone));
    // They keep to real images only.
    host.install("imgadm", "#!/bin/sh\nexit 0\n");
}

/// How the fakes in the zone were called since the last look.
pub(crate) fn calls(host: &Host) -> Vec<String> {
    let file = host.path("zone/calls");
    let text = fs::read_to_string(&file).unwrap_or_default();
    let _ = fs::remove_file(file);
    let zone = host.path("zone").display().to_string();
    text.replace(&zone, "").lines().map(str::to_owned).collect()
}
