//! What `--help` says of a command below its options.

pub(super) const PUSH_HELP: &str = "\
Without OWNER REPO COMMIT it pushes the HEAD of the git work tree here, with
owner and repo from the URL of `origin`. The commit must be where the runner
fetches from, so `git push` it first.

Prints the job's id. The job gets its id here, so a push whose answer was lost
is repeated without making a second job.

Examples:
  ntrace push -f
  ntrace push dscape nano 0f1650a97d9b1a4b0f5e6a2f7c3d8e9f00112233 --wait
  ntrace push --run 'make bench' --env SIZE=10 --limit memory=512MiB";

pub(super) const SUBMIT_HELP: &str = "\
Examples:
  ntrace submit -f -- uname -a
  ntrace submit --limit time=10s --wait -- sh -c 'echo $NTRACE'";

pub(super) const LOGS_HELP: &str = "\
The job's stdout goes to stdout and its stderr to stderr, byte for byte. On a
terminal whatever could steer it is shown escaped, but for colours; --raw
switches that off. Events are shown on a terminal only, or with
--stream events.

Examples:
  ntrace logs -f 0192d3a4-5b6c
  ntrace logs 0192d3a4-5b6c --stream stdout > out.bin";

pub(super) const STOP_HELP: &str = "\
With --evidence the runner first looks what the job is doing, a few seconds at
most: its processes, where each waits, the stack of each thread, open files and
the last seconds of its trace. `ntrace why ID` then has it in a sentence, and
the artefacts evidence/processes.txt, evidence/stacks.txt and
evidence/last-seconds.folded have the rest.

A second stop changes the grace. It takes no evidence away, and may still ask
for it.

Examples:
  ntrace stop 0192d3a4-5b6c --grace 5s
  ntrace stop 0192d3a4-5b6c --evidence
  ntrace artefacts get 0192d3a4-5b6c evidence/stacks.txt -o -";

pub(super) const FLAME_HELP: &str = "\
Writes an SVG that a browser shows: click a frame to zoom, Ctrl-F to search.
It needs no network. Its script runs in the page that shows it, so a web server
that hands it out should do so with `Content-Security-Policy: sandbox
allow-scripts`.

Of a job with several runs it is the last traced one; the repetitions of a
command are put together unless --repetition picks one.

Examples:
  ntrace flame 0192d3a4-5b6c --open
  ntrace flame dscape/nano@0f1650a97d9b1a4b0f5e6a2f7c3d8e9f00112233 -o f.svg";

pub(super) const DIFF_HELP: &str = "\
Without B it is compared with the last done run of the parent commit, else with
an earlier run of the repository; the answer says which and why. Functions are
in the order of the change in their own processor time.

How sure a change is: *changed* (8 or more runs on each side agree), *likely* (4
to 7), *hint* (fewer), *no difference seen*. `repeat = 8` under [trace] in
.ntrace.toml, or --repeat 8, makes enough runs. Each function is held against
the rest of its program, which a busier machine slows down alike.

The exit status is 0 whatever was found; --json has it as \"level\".

Examples:
  ntrace diff 0192d3a4-5b6c
  ntrace diff 0192d3a4-5b6c 0192c001-11aa --top 10
  ntrace diff dscape/nano@<commit> dscape/nano@<commit> --svg d.svg";

pub(super) const SYSCALLS_HELP: &str = "\
Counts are of the last run that has any, with all repetitions together. They
are asked for by `--syscalls`, or `syscalls = true` under [trace] in
.ntrace.toml; a runner on Linux must be root for it.

Examples:
  ntrace syscalls 0192d3a4-5b6c
  ntrace syscalls 0192d3a4-5b6c --json | jq .total";

pub(super) const EXPORT_HELP: &str = "\
Formats: pprof (go tool pprof), folded (one line for each stack), speedscope
(speedscope.app), firefox (profiler.firefox.com), svg, diff-svg (the new side;
red is more, blue is less), diff-svg-base (the base, which shows what is gone).

Examples:
  ntrace export 0192d3a4-5b6c --format folded -o - | sort -t' ' -k2 -n
  ntrace export 0192d3a4-5b6c --format pprof && go tool pprof -top *.pb.gz";
