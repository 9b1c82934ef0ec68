/*
 * How often the jobs of one zone make each system call, and how often it
 * fails.
 *
 *     dtrace -s ntrace_sys.d ZONE
 *
 * Run in the global zone; ZONE is the zone's name, for a worker its uuid.
 * Output, on stdout: "ntrace ready" and an empty line once the probes are
 * on. The first INT or TERM prints a line for each call, "calls COUNT NAME"
 * and "errors COUNT NAME", then "ntrace end", and ends. Calls of Linux
 * programs in a zone of the brand lx stand as "lx-calls" and "lx-errors".
 *
 * What the zone's root does is left out: it serves the job and is none.
 */
#pragma D option quiet
#pragma D option zdefs
#pragma D option aggsize=4m
#pragma D option switchrate=10hz

dtrace:::BEGIN
{
	printf("ntrace ready\n\n");
}

syscall:::entry
/zonename == $$1 && uid != 0/
{
	@calls[probefunc] = count();
}

syscall:::return
/zonename == $$1 && uid != 0 && errno != 0/
{
	@errors[probefunc] = count();
}

lx-syscall:::entry
/zonename == $$1 && uid != 0/
{
	@lxcalls[probefunc] = count();
}

lx-syscall:::return
/zonename == $$1 && uid != 0 && errno != 0/
{
	@lxerrors[probefunc] = count();
}

dtrace:::END
{
	printa("calls %@d %s\n", @calls);
	printa("errors %@d %s\n", @errors);
	printa("lx-calls %@d %s\n", @lxcalls);
	printa("lx-errors %@d %s\n", @lxerrors);
	printf("ntrace end\n");
}
