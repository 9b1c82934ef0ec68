/*
 * Where the processes of one zone spend processor time.
 *
 *     dtrace -s ntrace_cpu.d ZONE
 *
 * Run in the global zone; ZONE is the zone's name, for a worker its uuid.
 * Output, on stdout: "ntrace ready" and an empty line once the probes are
 * on; then blocks of stacks, leaf first, each followed by the name of its
 * process and its count; more of the same each second. The first INT or
 * TERM prints the rest and ends.
 *
 * Native symbols are looked up when a stack is printed, from the process as
 * it is then; a process that is gone gives bare addresses. So stacks are
 * printed each second: a job's last second is the most that can be nameless.
 */
#pragma D option quiet
#pragma D option ustackframes=100
#pragma D option jstackframes=100
#pragma D option jstackstrsize=4096
#pragma D option aggsize=32m
#pragma D option strsize=64
#pragma D option switchrate=10hz

dtrace:::BEGIN
{
	printf("ntrace ready\n\n");
}

profile-97
/zonename == $$1/
{
	@cpu[jstack(), execname] = count();
}

tick-1s
{
	printa("%k%s\n%@d\n", @cpu);
	trunc(@cpu);
}

dtrace:::END
{
	printa("%k%s\n%@d\n", @cpu);
}
