//! Clean means clean: whatever a job does, the next one in the same worker
//! sees none of it; and what is not its own is out of its reach.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use ntrace_client::StopOptions;
use ntrace_e2e::{DEADLINE, Setup, Stage, eventually, leftovers, until};
use ntrace_protocol::{JobState, JobView};
use serde_json::{Value, json};

/// Leaves something in each place that takes it, and tells where.
const DIRTY: &str = r#"
for dir in "$HOME" . /tmp /var/tmp /dev/shm /run /run/lock /etc /etc/cron.d \
    /usr /usr/bin /usr/local/bin /opt /var /var/lib /var/cache /var/log \
    /var/spool/cron /srv /mnt /root / /dev /home /native /proc /sys
do
    mkdir "$dir/ntdirt.d" 2>/dev/null && echo "dirt in $dir"
    echo dirt 2>/dev/null >"$dir/ntdirt.$$" && chmod 4777 "$dir/ntdirt.$$"
done 2>/dev/null
for file in /etc/passwd /etc/hosts /etc/ld.so.preload /usr/bin/env \
    /etc/profile /bin/sh
do
    echo ntdirt 2>/dev/null >>"$file" && echo "changed $file"
    rm -f "$file" 2>/dev/null && echo "removed $file"
done
echo '* * * * * touch /tmp/ntdirt.cron' | crontab - 2>/dev/null
mount -t tmpfs ntdirt /mnt 2>/dev/null && echo mounted
mount --bind /tmp /mnt 2>/dev/null && echo bound
unshare -Urm sh -c 'mount -t tmpfs ntdirt /tmp && touch /tmp/ntdirt.ns &&
    setsid sleep TOKEN &' 2>/dev/null
ln -s /ntdirt "$HOME/ntdirt.link"; mkfifo /tmp/ntdirt.fifo
ipcmk -Q 2>/dev/null; ipcmk -M 4096 2>/dev/null
umask 0; ulimit -n 64
setsid sleep TOKEN >/dev/null 2>&1 </dev/null &
(setsid sh -c 'trap "" TERM HUP INT; (sleep TOKEN &) ; sleep TOKEN' \
    >/dev/null 2>&1 </dev/null &)
nohup sleep TOKEN >/dev/null 2>&1 &
echo dirty
"#;

/// Tells all that a clean place must always have in the same way.
const LOOK: &str = r#"
echo "found: $( (find / \( -path /proc -o -path /usr \) -prune -o \
    -name '*ntdirt*' -print; find /usr -maxdepth 3 -name '*ntdirt*') \
    2>/dev/null | sort | tr '\n' ' ')"
echo "processes: $(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' ' |
    grep -c 'sleep TOK[E]N')"
echo "mounts: $(cut -d' ' -f2,3 /proc/self/mounts | sort | sha256sum)"
echo "system: $(cat /etc/passwd /etc/hosts /usr/bin/env /bin/sh /etc/profile \
    2>/dev/null | sha256sum)"
echo "top: $(ls -A / /tmp /var/tmp /dev/shm /run "$HOME" /etc | sha256sum)"
echo "umask: $(umask) files: $(ulimit -n)"
echo "ipc: $(cat /proc/sysvipc/msg /proc/sysvipc/shm 2>/dev/null | wc -l)"
echo "loop: $(i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo $i)"
"#;

fn wall(job: &JobView) -> Duration {
    let usage = job.runs.last().and_then(|run| run.usage.clone());
    let ms = usage.and_then(|usage| usage.wall_ms).unwrap_or(0);
    Duration::from_millis(ms)
}

async fn look(stage: &Stage, token: &str) -> (String, Duration) {
    // So that the pattern is not what it looks for.
    let pattern = token.replace('.', "[.]");
    let script = LOOK.replace("TOK[E]N", &pattern);
    let (job, output) = stage.run(&script, Value::Null).await;
    assert_eq!(job.state, JobState::Done, "{job:?} {}", output.errors());
    (output.text(), wall(&job))
}

pub(crate) async fn the_next_job_sees_nothing(stage: &Stage) {
    let token = format!("81.{}", fastrand::u32(10_000_000..));
    let (before, usual) = look(stage, &token).await;
    assert!(before.contains("found: \n"), "{before}");
    assert!(before.contains("processes: 0\n"), "{before}");
    let bomb = "bomb() { bomb | bomb & }; bomb; sleep 0.7";
    let small = json!({"limits": {"pids": 150, "time": "3s"}});
    let fill = "head -c 3G /dev/zero >\"$HOME/ntdirt.big\"; sleep 0.2";
    for (script, options, word) in [
        (DIRTY, Value::Null, "dirty"),
        (bomb, small, ""),
        (fill, json!({"limits": {"time": "20s"}}), ""),
    ] {
        let script = script.replace("TOKEN", &token);
        let (job, output) = stage.run(&script, options).await;
        assert!(job.state.is_final());
        assert!(output.text().contains(word), "{job:?} {output:?}");
        if !word.is_empty() {
            eprintln!("it could: {}", output.text());
            assert_eq!(job.state, JobState::Done, "{job:?}");
        }
        let (after, took) = look(stage, &token).await;
        assert_eq!(after, before);
        // Not slowed: generous, since the machine has other work as well.
        let most = usual * 8 + Duration::from_secs(2);
        assert!(took < most, "{took:?} after a dirty job, {usual:?} before");
        let word = format!("sleep {token}");
        assert!(leftovers::with_word(&word).is_empty(), "outside too");
    }
}

#[tokio::test]
async fn the_next_job_sees_nothing_of_the_one_before() {
    let mut manifest = ntrace_e2e::zones::Zones::manifest();
    manifest["quota"] = json!(1);
    let stage = Stage::start(Setup::workers(1).manifest(manifest)).await;
    the_next_job_sees_nothing(&stage).await;
}

/// Secrets of the host, planted or its own, and how a job would get them.
struct Secrets {
    token: String,
    planted: Vec<std::path::PathBuf>,
}

impl Secrets {
    fn plant(stage: &Stage) -> Self {
        let token = format!("ntplanted{}", fastrand::u64(..));
        let mut planted = Vec::new();
        let mut put = |path: std::path::PathBuf, mode: u32| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &token).unwrap();
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(&path, mode).unwrap();
            planted.push(path);
        };
        // Even what everybody may read is no business of a job.
        put(stage.path().join("h/.ssh/id_ed25519"), 0o600);
        put(stage.path().join("h/readable"), 0o644);
        put(stage.runner_data().join("ntplanted"), 0o644);
        put(stage.dispatcher_data().join("ntplanted"), 0o644);
        put(stage.path().join("z/ntplanted"), 0o644);
        put(std::env::temp_dir().join(&token), 0o644);
        Self { token, planted }
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        // The one outside of the stage.
        let _ = fs::remove_file(std::env::temp_dir().join(&self.token));
    }
}

pub(crate) async fn secrets_are_out_of_reach(stage: &Stage) {
    let secrets = Secrets::plant(stage);
    // Another zone, with a job in it that holds the secret in all forms.
    let neighbour = "echo $SECRET >$HOME/ntplanted; echo $SECRET >/tmp/ntplanted; \
                     chmod 666 /tmp/ntplanted; exec 5>&1; echo up; \
                     SECRET=$SECRET sleep 600";
    let neighbour = stage
        .submit(neighbour, json!({"env": {"SECRET": secrets.token}}))
        .await;
    stage.says(neighbour, "up").await;
    let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
    let mut paths: Vec<String> =
        secrets.planted.iter().map(|path| path.display().to_string()).collect();
    paths.extend([
        format!("{home}/.ssh"),
        format!("{home}/.cargo"),
        format!("{home}/.bash_history"),
        format!("{home}/.gitconfig"),
        stage.path().display().to_string(),
        "/etc/ssh/ssh_host_ed25519_key".to_owned(),
        "/etc/ssh/ssh_host_rsa_key".to_owned(),
        "/proc/kcore".to_owned(),
        "/dev/mem".to_owned(),
        "/dev/kmsg".to_owned(),
        "/dev/vda".to_owned(),
        "/dev/sda".to_owned(),
        "/var/run/docker.sock".to_owned(),
        "/run/dbus".to_owned(),
    ]);
    let script = format!(
        "for path in {}; do \
           ls -d \"$path\" 2>/dev/null && echo \"SEEN $path\"; \
           for root in '' /proc/1/root /proc/1/cwd /proc/self/root/..; do \
             cat \"$root$path\" 2>/dev/null && echo \"READ $root$path\"; \
             head -c 1 \"$root$path\" >/dev/null 2>&1 && \
               echo \"OPENED $root$path\"; \
           done; \
         done; \
         grep -l '[$!*]' /etc/shadow 2>/dev/null | grep -q . && \
           grep ':[$]' /etc/shadow && echo HASHES; \
         cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | \
           grep ntplanted; \
         find / \\( -path /proc -o -path /usr/lib -o -path /usr/share \\) \
           -prune -o -name '*ntplanted*' -print 2>/dev/null; \
         ls -l /proc/[0-9]*/fd 2>/dev/null | grep -E 'ntplanted|/z/|/r/|/d/'; \
         grep -rs {} /proc/self/mountinfo; \
         echo looked",
        paths.iter().map(|p| format!("'{p}'")).collect::<Vec<_>>().join(" "),
        secrets.token,
    );
    let mut resets = BTreeMap::new();
    for uuid in &stage.workers {
        let worker = stage.worker(uuid).await.unwrap();
        resets.insert(uuid.clone(), worker.resets.done);
    }
    let (job, output) = stage.run(&script, Value::Null).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    assert_eq!(output.text(), "looked\n", "{}", output.errors());
    // The zone's own root, who is not the host's, gets no further. The zone
    // is first made clean after the job.
    let worker = job.runs[0].worker.unwrap().to_string();
    until("the worker is clean again", async || {
        let done = stage.worker(&worker).await?.resets.done;
        (done > resets[&worker]).then_some(())
    })
    .await;
    let said = zone_root(stage, &worker, &script);
    assert_eq!(said, "looked\n", "as the zone's root");
    let client = stage.client().await;
    let none = StopOptions::within(Duration::ZERO);
    client.stop(&neighbour.to_string(), none).await.unwrap();
    stage.finished(neighbour).await;
}

fn zone_root(stage: &Stage, uuid: &str, script: &str) -> String {
    eventually("the zone can be entered", DEADLINE, || {
        let output = stage.zones.zlogin(uuid, &["/usr/bin/true"]);
        output.status.success().then_some(())
    });
    let output = stage.zones.zlogin(uuid, &[script]);
    let errors = String::from_utf8_lossy(&output.stderr);
    format!("{}{errors}", String::from_utf8_lossy(&output.stdout))
}

#[tokio::test]
async fn secrets_of_the_host_and_of_others_are_out_of_reach() {
    let stage = Stage::start(Setup::workers(2)).await;
    secrets_are_out_of_reach(&stage).await;
}

pub(crate) async fn a_job_cannot_command(stage: &Stage) {
    let (repo, host) = (
        "[\"submit\",[{\"argv\":[\"true\"],\"labels\":[\"evil\"]}],1]",
        ["127.0.0.1", "::1", "localhost"],
    );
    let ports = [
        (stage.dispatcher_port(), repo.to_owned()),
        (stage.runner_port(), "[\"drain\",[],1]".to_owned()),
        (
            stage.runner_port(),
            format!("[\"expel\",[\"{}\"],1]", stage.workers[0]),
        ),
    ];
    let mut script = "command -v bash >/dev/null || { echo NOBASH; exit 0; }\n\
                      own=$(hostname -I 2>/dev/null)\n"
        .to_owned();
    for (port, line) in &ports {
        for host in host {
            // Asks and waits; sends and closes at once; sends and half
            // closes; leaves a child with the connection and dies.
            script.push_str(&format!(
                "timeout 5 bash -c 'exec 3<>/dev/tcp/{host}/{port} || exit 9; \
                   echo '\"'\"'{line}'\"'\"' >&3; read -r -t 4 a <&3; \
                   echo \"ANSWER $a\"' 2>/dev/null || echo NOWAY\n\
                 timeout 5 bash -c 'echo '\"'\"'{line}'\"'\"' \
                   >/dev/tcp/{host}/{port}' 2>/dev/null; \
                 timeout 5 bash -c '(exec 3<>/dev/tcp/{host}/{port}; \
                   echo '\"'\"'{line}'\"'\"' >&3; sleep 0.3) & exit' \
                   2>/dev/null\n"
            ));
        }
    }
    script.push_str("sleep 1; echo tried\n");
    let (job, output) = stage.run(&script, Value::Null).await;
    assert_eq!(job.state, JobState::Done, "{job:?} {}", output.errors());
    let text = output.text();
    if text.contains("NOBASH") {
        return ntrace_e2e::skip(
            "there is no bash in the zone to connect with",
        );
    }
    assert!(text.ends_with("tried\n"), "{text}");
    for line in text.lines() {
        if let Some(answer) = line.strip_prefix("ANSWER ") {
            assert!(
                answer.is_empty() || answer.contains("EACCES"),
                "a job was answered: {answer}"
            );
        }
    }
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines() {
        let kind = line.split_once(' ').map_or(line, |(kind, _)| kind);
        *kinds.entry(kind).or_default() += 1;
    }
    eprintln!("what a job met: {kinds:?}");
    let filter = json!({"label": "evil"});
    let evil = stage.ask("list", &[filter]).await.unwrap();
    assert_eq!(evil[0], json!([]), "the queue is unchanged");
    let worker = stage.worker(&stage.workers[0]).await;
    assert!(worker.is_some_and(|worker| !worker.leaving));
    let (job, _) = stage.run("echo not drained", Value::Null).await;
    assert_eq!(job.state, JobState::Done);
}

#[tokio::test]
async fn a_job_cannot_command_what_runs_it() {
    let stage = Stage::start(Setup::workers(1)).await;
    a_job_cannot_command(&stage).await;
}
