//! What a job can do to its zone, its host, and the next job: nothing.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod host;

use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use host::{Host, Said, alive, cgroups_of, is_root, kill, wait_until};
use rustix::process::Signal;
use serde_json::json;

#[test]
fn clean_means_clean() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let mess = "
        for d in / /etc /home/job /root /tmp /var/tmp /run /dev/shm /opt; do
            echo x > $d/planted 2>/dev/null; done
        rm -f /etc/hosts; echo evil >> /etc/passwd; rm -rf /srv
        mkdir -p /var/spool/cron; echo '* * * * * x' > /var/spool/cron/job
        ln -s /proc/1/root/etc /home/job/out
        mount -t tmpfs none /mnt
        (setsid sh -c 'while :; do sleep 60; done' &) >/dev/null 2>&1
        true";
    assert_eq!(host.root(&id, mess).code, 0);
    let (_, status) = host.job(
        &id,
        "(setsid sleep 600 &) >/dev/null 2>&1 </dev/null; \
         mkdir -p /tmp/a/b; echo x > /tmp/a/b/c; chmod 0 /home/job; exit 4",
    );
    assert_eq!(status["code"], 4);
    assert!(host.root(&id, "cat /etc/passwd").out.contains("evil"));
    let keeper = host.keeper(&id);
    host.ok(&["rollback-snapshot", &id, "clean"]);
    wait_until("the old keeper ended", || !alive(keeper));
    let look = host.root(
        &id,
        "find / -xdev -name planted 2>/dev/null; ls /tmp /var/spool \
         /dev/shm /home/job /root /mnt; cat /etc/passwd | grep evil; \
         test -s /etc/hosts && test -d /srv && echo whole; \
         ls -d /proc/[0-9]* | wc -l; stat -c %a /home/job",
    );
    let empty = "/dev/shm:\n\n/home/job:\n\n/mnt:\n\n/root:\n\n/tmp:\n\n\
                 /var/spool:\n";
    // Process 1, the shell, ls and wc are all that there is.
    assert_eq!(look.out, format!("{empty}whole\n4\n755\n"), "{look:?}");
}

#[test]
fn secrets_of_the_host_are_out_of_reach_even_for_root() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let other = host.running(&json!({"alias": "worker1"}));
    host.root(&other, "echo of-another-zone > /home/job/secret");
    let secret = host.dir.path().join("secret");
    std::fs::write(&secret, "hush").unwrap();
    let state = host.state().display().to_string();
    let home = std::env::var("HOME").unwrap_or("/root".to_owned());
    let look = format!(
        "cat {secret} {state}/zones/{other}/manifest.json /etc/ssh/* \
         /etc/environment; ls {state} {home}/.ssh {home}/.cargo /boot; \
         cat /proc/1/environ /proc/self/environ | tr '\\0' '\\n'; \
         ls /sys/fs/cgroup /proc/1/cwd/work; \
         find / -xdev -name secret 2>/dev/null; \
         cat /proc/kcore /dev/mem /dev/kmsg /dev/sda /dev/vda | head -c 9; \
         for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; done",
        secret = secret.display(),
    );
    for said in [host.root(&id, &look), host.job(&id, &look).0] {
        for word in ["hush", "of-another-zone", "SECRET_OF", "image_uuid"] {
            assert!(!said.out.contains(word), "{word}: {}", said.out);
        }
        assert!(!said.out.contains("layers"), "the state: {}", said.out);
    }
    // Files that only root of the host may read stay closed to the zone's.
    if is_root() {
        let closed = host.root(&id, "cat /etc/shadow- /usr/bin/sudo.conf");
        assert_ne!(closed.code, 0);
        let map = host.root(&id, "cat /proc/self/uid_map").out;
        let host_id = map.split_whitespace().nth(1);
        assert!(host_id.is_some_and(|id| id != "0"), "{map}");
        let found = host.root(&id, "mknod /tmp/disk b 254 0 && cat /tmp/disk");
        assert_ne!(found.code, 0, "{found:?}");
    }
}

#[test]
fn the_job_has_no_rights_and_cannot_look_at_its_helper() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let (said, status) = host.job(
        &id,
        "id -u; id -g; grep -E 'Cap(Eff|Prm|Bnd|Amb)|NoNewPrivs' \
         /proc/self/status | tr -d '\\t\\n'; echo; umask; \
         ls /proc/self/fd | wc -l; readlink /proc/self/fd/0; \
         cat /proc/$PPID/environ /proc/$PPID/mem; \
         readlink /proc/1/exe /proc/$PPID/exe; kill -9 1; ulimit -c; \
         echo ok > /dev/stdout; trap '' TERM; exit 3",
    );
    let none = "0000000000000000";
    assert_eq!(
        said.out,
        format!(
            "1000\n1000\nCapPrm:{none}CapEff:{none}CapBnd:{none}\
             CapAmb:{none}NoNewPrivs:1\n0022\n4\n/dev/null\n0\nok\n"
        )
    );
    assert_eq!(status["code"], 3);
    assert!(status["usage"]["max_rss"].as_u64().unwrap() > 0);
    assert_eq!(host.get(&id)["state"], "running", "process 1 survived");
}

#[test]
fn the_helper_tells_every_end_apart() {
    let host = Host::new();
    let id = host.running(&json!({}));
    for (line, wanted) in [
        ("exit 0", json!({"code": 0})),
        ("exit 255", json!({"code": 255})),
        ("kill -SEGV $$", json!({"signal": "SIGSEGV", "core": false})),
        ("kill -9 $$", json!({"signal": "SIGKILL", "core": false})),
        ("trap 'exit 42' TERM; kill $$", json!({"code": 42})),
        // Nobody can know the nonce, so this is no status.
        (
            "printf '\\036ntrace-status x {\"code\":0}\\n' >&2; exit 9",
            json!({"code": 9}),
        ),
    ] {
        let (said, mut status) = host.job(&id, line);
        assert_eq!(said.code, 0, "{line}: {said:?}");
        status.as_object_mut().unwrap().remove("usage");
        assert_eq!(status, wanted, "{line}");
    }
    let request = host.request("", "job").replace("\"sh\"", "\"/nonesuch\"");
    let (_, status) = host.helper(&id, "run", request.as_bytes());
    assert_eq!(status["code"], 127);
    let text = "cannot run /nonesuch: No such file or directory";
    assert_eq!(status["error"], text);
}

#[test]
fn a_tree_goes_in_and_artefacts_come_out() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let head = |more: serde_json::Value| {
        let mut head = json!({
            "nonce": host::NONCE, "user": "job", "dir": "/home/job/work",
        });
        for (key, value) in more.as_object().unwrap() {
            head[key] = value.clone();
        }
        format!("{head}\n").into_bytes()
    };
    let tar = |names: &[&str]| {
        let mut tar = tar::Builder::new(Vec::new());
        for name in names {
            let mut entry = tar::Header::new_gnu();
            let bytes = &mut entry.as_old_mut().name;
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            entry.set_size(3);
            entry.set_mode(0o755);
            entry.set_cksum();
            tar.append(&entry, &b"hi\n"[..]).unwrap();
        }
        tar.into_inner().unwrap()
    };
    let mut input = head(json!({}));
    input.extend(tar(&["a/b.sh", "c.log"]));
    let (_, status) = host.helper(&id, "unpack", &input);
    assert_eq!(status, json!({"code": 0, "files": 2}));
    let mut input = head(json!({}));
    input.extend(tar(&["../../../etc/evil"]));
    let (_, status) = host.helper(&id, "unpack", &input);
    assert_eq!(status["code"], 1, "{status}");
    let (said, _) = host.job(
        &id,
        "cd work && ls -A && stat -c %u:%a a/b.sh && ls /etc/evil; \
         mkdir -p out/d && echo 12345 > out/d/x && ln -s /etc/passwd out/l \
         && mkfifo out/f && head -c 5000 /dev/zero > out/big",
    );
    assert_eq!(said.out, "a\nc.log\n1000:755\n");
    let globs = json!({
        "globs": ["out/**", "*.log"], "max_bytes": 1000, "max_files": 9,
    });
    let args = [id.as_str(), "/native/zone-job", "collect"];
    let output = host.feed("zlogin", &args, &head(globs));
    let mut archive = tar::Archive::new(&output.stdout[..]);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names, ["c.log", "out/d/x"]);
    let text = String::from_utf8_lossy(&output.stderr);
    for skipped in [
        "out/big: too many bytes",
        "out/f: not a regular file",
        "out/l: not a regular file",
    ] {
        assert!(text.contains(skipped), "{skipped}: {text}");
    }
}

#[test]
fn the_helper_signals_the_job_and_nothing_else() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let args = [id.as_str(), "/native/zone-job", "run"];
    let line = "sleep 600 & echo on > /home/job/on; exec sleep 600";
    let request = host.request(line, "job");
    let output = std::thread::scope(|scope| {
        let job =
            scope.spawn(|| host.feed("zlogin", &args, request.as_bytes()));
        wait_until("the job runs", || {
            host.root(&id, "cat /home/job/on").out == "on\n"
        });
        let nonce = host::NONCE;
        let head = format!("{{\"nonce\":\"{nonce}\"}}\n");
        let (_, seen) = host.helper(&id, "ps", head.as_bytes());
        let sleeping = seen["processes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["argv"] == json!(["sleep", "600"]))
            .count();
        assert_eq!(sleeping, 2, "{seen}");
        let head = format!("{{\"nonce\":\"{nonce}\",\"signal\":\"TERM\"}}\n");
        let (_, status) = host.helper(&id, "kill", head.as_bytes());
        assert_eq!(status, json!({"code": 0, "signalled": 2}));
        job.join().unwrap()
    });
    let said = Said::from(output);
    assert!(said.err.contains("\"signal\":\"SIGTERM\""), "{said:?}");
}

#[test]
fn memory_processes_and_cpu_are_limited() {
    let host = Host::new();
    let id = host.running(&json!({
        "max_physical_memory": 128, "max_lwps": 60, "cpu_cap": 50,
    }));
    let limits = host.get(&id)["ntrace"]["limits"].clone();
    let (_, status) = host.job(&id, "exec head -c 400000000 /dev/zero | tail");
    let usage = host.get(&id)["ntrace"]["usage"].clone();
    let held = usage["oom_kills"].as_u64().unwrap_or(0) > 0
        || usage["memory_killed"] == true;
    assert!(held, "{status} {usage} {limits}");
    // Killed processes or a killed zone's job: the zone itself goes on.
    assert_eq!(host.get(&id)["state"], "running");
    let bomb = "i=0; while [ $i -lt 2000 ]; do sleep 60 & i=$((i+1)); done \
                2>/dev/null; echo held";
    let _ = host.job(&id, bomb);
    // Counted from outside: in there no process may be left to count with.
    let inside = count_inside(&host, &id);
    let most = if limits["pids"] == "cgroup" { 60 } else { 60 + 310 };
    assert!(inside <= most, "{inside} processes, {limits}");
    host.ok(&["rollback-snapshot", &id, "clean"]);
    if limits["cpu"] != "cgroup" {
        eprintln!("skipped the limit on cpu: no cpu cgroup is writable");
        return;
    }
    let begin = Instant::now();
    let (_, status) =
        host.job(&id, "i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done");
    let cpu = status["usage"]["cpu_ms"].as_u64().unwrap();
    let wall = begin.elapsed().as_millis() as u64;
    // Half a processor: a loaded machine only makes it slower.
    assert!(wall * 10 >= cpu * 17, "{cpu} ms of cpu in {wall} ms");
}

/// Processes of a zone, counted on the host by their pid namespace.
fn count_inside(host: &Host, id: &str) -> usize {
    let pid = host.get(id)["pid"].as_i64().unwrap();
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
    let wanted = of(&pid.to_string()).unwrap();
    host::names(Path::new("/proc"))
        .iter()
        .filter(|name| of(name).is_ok_and(|found| found == wanted))
        .count()
}

#[test]
fn a_zone_that_passes_its_quota_is_killed_and_it_is_said() {
    let host = Host::new();
    let id = host.running(&json!({"quota": 1}));
    let begin = Instant::now();
    let (_, status) = host
        .job(&id, "fallocate -l 1200M /home/job/big || exit 9; exec sleep 60");
    if status["code"] == 9 {
        eprintln!("skipped: no room for 1.2 GB, or no fallocate");
        return;
    }
    assert!(begin.elapsed() < Duration::from_secs(30));
    wait_until("the quota is noted", || {
        host.get(&id)["ntrace"]["usage"]["disk_killed"] == true
    });
    assert_eq!(host.get(&id)["state"], "running");
    host.ok(&["rollback-snapshot", &id, "clean"]);
    assert_eq!(host.root(&id, "ls /home/job").out, "");
}

#[test]
fn snapshots_keep_additions_and_removals_over_several_layers() {
    let host = Host::new();
    let id = host.running(&json!({}));
    host.root(&id, "cd /root; echo 1 > a; echo 1 > b; mkdir d; echo 1 > d/x");
    host.ok(&["stop", &id]);
    host.ok(&["create-snapshot", &id, "one"]);
    host.ok(&["start", &id]);
    host.root(&id, "cd /root; rm b; rm -r d; mkdir d; echo 2 > d/y; ln a c");
    // Of a running zone: copied, whiteouts and all.
    host.ok(&["create-snapshot", &id, "two"]);
    host.root(&id, "cd /root; rm -rf *; echo 3 > z");
    let list = "cd /root; find . | sort; cat a d/y 2>/dev/null; \
                stat -c %h a 2>/dev/null";
    assert_eq!(host.root(&id, list).out, ".\n./z\n");
    host.ok(&["rollback-snapshot", &id, "two"]);
    let two = ".\n./a\n./c\n./d\n./d/y\n1\n2\n2\n";
    assert_eq!(host.root(&id, list).out, two);
    host.root(&id, "rm -rf /root/*");
    host.ok(&["rollback-snapshot", &id, "two"]);
    assert_eq!(host.root(&id, list).out, two);
    host.ok(&["rollback-snapshot", &id, "one"]);
    let one = ".\n./a\n./b\n./d\n./d/x\n1\n1\n";
    assert_eq!(host.root(&id, list).out, one);
    let left = host.get(&id)["snapshots"].clone();
    let names: Vec<_> =
        left.as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, ["one", "clean"], "newest first, `two` is gone");
    host.ok(&["rollback-snapshot", &id, "clean"]);
    assert_eq!(host.root(&id, list).out, ".\n");
    let layers = host::names(&host.state().join("layers"));
    assert_eq!(layers.len(), 1, "{layers:?}");
}

#[test]
fn files_survive_a_stop_and_a_start() {
    let host = Host::new();
    let id = host.running(&json!({}));
    host.root(&id, "echo kept > /root/x");
    host.ok(&["stop", &id]);
    host.ok(&["start", &id]);
    assert_eq!(host.root(&id, "cat /root/x").out, "kept\n");
}

#[test]
fn an_upper_in_memory_works_and_is_limited() {
    let host = Host::new();
    let id = host.running(&json!({
        "internal_metadata": {"upper": "tmpfs"}, "quota": 1,
    }));
    assert_eq!(host.get(&id)["ntrace"]["limits"]["disk"], "tmpfs");
    assert_eq!(host.root(&id, "echo x > /root/x; cat /root/x").out, "x\n");
    host.ok(&["rollback-snapshot", &id, "clean"]);
    assert_eq!(host.root(&id, "ls /root").out, "");
}

#[test]
fn a_host_directory_behind_a_closed_parent_is_shown_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    let closed = host.dir.path().join("closed");
    std::fs::create_dir_all(closed.join("tool")).unwrap();
    std::fs::write(closed.join("tool/file"), "tool\n").unwrap();
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(&closed, mode).unwrap();
    let id = host.running(&json!({"filesystems": [{
        "type": "lofs", "source": closed.join("tool"),
        "target": "/opt/tool", "options": ["ro", "nodevices"],
    }]}));
    let (said, _) = host.job(&id, "cat /opt/tool/file");
    assert_eq!(said.out, "tool\n", "{said:?}");
    let said = host.root(&id, "echo x > /opt/tool/file");
    assert!(said.err.contains("Read-only"), "{said:?}");
}

#[test]
fn a_mount_point_that_became_a_link_is_refused() {
    let host = Host::new();
    let id = host.running(&json!({}));
    host.root(
        &id,
        "rmdir /tmp /native 2>/dev/null; mv /srv /srv2; \
                    ln -s /etc /srv",
    );
    host.ok(&["stop", &id]);
    let path = host.zone_dir(&id).join("manifest.json");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["filesystems"] = json!([{
        "type": "lofs", "source": "/usr", "target": "/srv/x",
        "options": ["ro"],
    }]);
    std::fs::write(&path, manifest.to_string()).unwrap();
    let said = host.vmadm(&["start", &id]);
    assert_eq!(said.code, 1);
    assert!(said.err.contains("make the mount point /srv/x"), "{said:?}");
    assert_eq!(cgroups_of(&id), Vec::<std::path::PathBuf>::new());
}

#[test]
fn two_hundred_lives_leave_nothing() {
    let host = Host::new();
    let mounts = || {
        std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
    };
    let before = mounts();
    let id = host.running(&json!({}));
    for round in 0..200 {
        let said = host.zlogin(&[&id, "echo x > /root/x; exit 3"]);
        assert_eq!(said.code, 3, "round {round}: {said:?}");
        host.ok(&["rollback-snapshot", &id, "clean"]);
    }
    assert_eq!(host.root(&id, "ls /root").out, "");
    host.ok(&["delete", &id]);
    assert_eq!(mounts(), before);
    assert_eq!(cgroups_of(&id), Vec::<std::path::PathBuf>::new());
    assert_eq!(host::names(&host.state().join("zones")), Vec::<String>::new());
    assert_eq!(host::names(&host.state().join("layers")), Vec::<String>::new());
}

#[test]
fn the_death_of_the_keeper_is_the_death_of_the_zone() {
    let host = Host::new();
    let id = host.running(&json!({}));
    host.root(&id, "(setsid sleep 600 &) >/dev/null 2>&1");
    let (keeper, init) =
        (host.keeper(&id), host.get(&id)["pid"].as_i64().unwrap() as i32);
    kill(keeper, Signal::KILL);
    wait_until("process 1 is gone", || !alive(init));
    assert_eq!(host.get(&id)["state"], "stopped");
    host.vmadm(&["gc"]);
    assert_eq!(cgroups_of(&id), Vec::<std::path::PathBuf>::new());
    host.ok(&["rollback-snapshot", &id, "clean"]);
    assert_eq!(host.zlogin(&[&id, "true"]).code, 0);
}

#[test]
fn vmadm_killed_at_any_moment_leaves_what_the_next_mends() {
    let host = Host::new();
    let id = host.running(&json!({}));
    for round in 0..40_u64 {
        let mut child = host
            .command("vmadm", &["rollback-snapshot", &id, "clean"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Spread over its life; which moment it hits does not matter.
        std::thread::sleep(Duration::from_micros(round * 700));
        let _ = child.kill();
        let _ = child.wait();
        if round % 8 == 7 {
            let said = host.vmadm(&["rollback-snapshot", &id, "clean"]);
            assert_eq!(said.code, 0, "round {round}: {said:?}");
            assert_eq!(host.zlogin(&[&id, "true"]).code, 0);
        }
    }
    host.ok(&["stop", &id]);
    host.vmadm(&["gc"]);
    assert_eq!(cgroups_of(&id), Vec::<std::path::PathBuf>::new());
    let left: Vec<String> = host::names(&host.zone_dir(&id))
        .into_iter()
        .filter(|name| name.starts_with("gen-"))
        .collect();
    assert!(left.len() <= 1, "{left:?}");
}

#[test]
fn the_end_of_the_lifeline_kills_the_zone_within_a_second() {
    let host = Host::new();
    let id = host.zone(&json!({}));
    // Inherited by vmadm under its number: no CLOEXEC on this end.
    let (read, write) = rustix::pipe::pipe().unwrap();
    rustix::io::fcntl_setfd(&write, rustix::io::FdFlags::CLOEXEC).unwrap();
    let said: Said = host
        .command("vmadm", &["start", &id])
        .env("NTRACE_LIFELINE", read.as_raw_fd().to_string())
        .output()
        .unwrap()
        .into();
    assert_eq!(said.code, 0, "{said:?}");
    drop(read);
    host.root(&id, "(setsid sleep 600 &) >/dev/null 2>&1");
    let init = host.get(&id)["pid"].as_i64().unwrap() as i32;
    let begin = Instant::now();
    drop(write);
    wait_until("process 1 is gone", || !alive(init));
    assert!(begin.elapsed() < Duration::from_secs(1));
    wait_until("the keeper cleaned up", || cgroups_of(&id).is_empty());
    assert_eq!(host.get(&id)["state"], "stopped");
}

#[test]
fn a_zone_outlives_the_thread_that_started_it() {
    let host = Host::new();
    let id = host.zone(&json!({}));
    std::thread::scope(|scope| {
        scope.spawn(|| host.ok(&["start", &id]));
    });
    assert_eq!(host.zlogin(&[&id, "true"]).code, 0);
}

#[test]
fn a_stopped_zlogin_does_not_hold_a_halt_back() {
    let host = Host::new();
    let id = host.running(&json!({}));
    let mut child = host
        .command("zlogin", &[&id, "echo on > /root/on; exec sleep 600"])
        .spawn()
        .unwrap();
    wait_until("the command runs", || {
        host.root(&id, "cat /root/on").out == "on\n"
    });
    kill(child.id() as i32, Signal::STOP);
    let begin = Instant::now();
    host.ok(&["stop", "-F", &id]);
    assert!(begin.elapsed() < Duration::from_secs(20));
    assert_eq!(host.get(&id)["state"], "stopped");
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn an_image_is_installed_and_a_zone_made_from_it() {
    let host = Host::new();
    let root = host.dir.path().join("image");
    // The smallest root with a shell: dash and what it is linked with.
    let parts = [
        ("/usr/bin/dash", "bin/sh"),
        ("/lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libc.so.6"),
        ("/lib64/ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"),
        (
            "/lib/x86_64-linux-gnu/libgcc_s.so.1",
            "lib/x86_64-linux-gnu/libgcc_s.so.1",
        ),
    ];
    if !parts.iter().all(|(from, _)| Path::new(from).exists()) {
        eprintln!("skipped: this machine has no dash, or glibc elsewhere");
        return;
    }
    let tarball = host.dir.path().join("root.tar");
    let file = std::fs::File::create(&tarball).unwrap();
    let mut tar = tar::Builder::new(file);
    for (from, name) in parts {
        tar.append_path_with_name(std::fs::canonicalize(from).unwrap(), name)
            .unwrap();
    }
    tar.into_inner().unwrap();
    drop(root);
    let path = tarball.display().to_string();
    let said: Said = host
        .command("imgadm", &["install", "-f", &path])
        .output()
        .unwrap()
        .into();
    assert!(said.out.starts_with("Installed image "), "{said:?}");
    let image = said.out.split(' ').nth(2).unwrap().to_owned();
    let id = host.running(&json!({"image_uuid": image}));
    let said = host.root(
        &id,
        "echo hello > /bin/new; read x < /bin/new; \
                               echo $x; echo /*",
    );
    assert_eq!(
        said.out,
        "hello\n/bin /checkpoints /dev /etc /home /lib /lib64 /native /proc \
         /root /run /sys /tmp\n",
        "{said:?}"
    );
    let (said, status) = host.job(&id, "echo $0; exit 6");
    assert_eq!(status["code"], 6, "{said:?}");
    let used = host.command("imgadm", &["delete", &image]).output().unwrap();
    assert_eq!(used.status.code(), Some(1));
}
