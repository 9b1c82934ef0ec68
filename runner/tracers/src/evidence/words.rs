//! What the kernel's names of places mean, in plain words.
//!
//! The names differ from one kernel to the next, so it is parts of them that
//! are looked for; a name that is not known is shown alone.

/// What somebody waits for who waits there.
pub(super) fn of_place(wchan: &str) -> Option<&'static str> {
    const PLACES: [(&str, &str); 28] = [
        ("futex", "a lock or another thread"),
        ("nanosleep", "asleep"),
        ("do_wait", "for a child to end"),
        ("wait_task", "for a child to end"),
        ("kernel_wait", "for a child to end"),
        ("pipe_read", "for data from a pipe"),
        ("pipe_write", "for room in a pipe"),
        ("wait_for_partner", "for the other end of a named pipe"),
        ("fifo_open", "for the other end of a named pipe"),
        ("ep_poll", "for events"),
        ("epoll", "for events"),
        ("poll_schedule", "for events"),
        ("do_select", "for events"),
        ("do_sys_poll", "for events"),
        ("do_sigtimedwait", "for a signal"),
        ("sigsuspend", "for a signal"),
        ("pause", "for a signal"),
        ("accept", "for a connection"),
        ("wait_for_connect", "for a connection to be made"),
        ("skb_wait", "for data from a socket"),
        ("sk_wait_data", "for data from a socket"),
        ("tcp_recvmsg", "for data from a socket"),
        ("stream_data_wait", "for data from a socket"),
        ("stream_read", "for data from a socket"),
        ("sndbuf", "for room in a socket"),
        ("wait_woken", "for data"),
        ("locks_lock", "for a lock on a file"),
        ("n_tty_read", "for input from a terminal"),
    ];
    let known = PLACES.iter().find(|(part, _)| wchan.contains(part));
    known.map(|(_, words)| *words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_several_kernels_are_known_by_a_part_of_their_names() {
        for (wchan, words) in [
            ("futex_wait_queue_me", "a lock or another thread"),
            ("futex_do_wait", "a lock or another thread"),
            ("anon_pipe_read", "for data from a pipe"),
            ("pipe_write", "for room in a pipe"),
            ("inet_csk_accept", "for a connection"),
            ("unix_stream_data_wait", "for data from a socket"),
            ("__skb_wait_for_more_packets", "for data from a socket"),
            ("do_epoll_wait", "for events"),
            ("poll_schedule_timeout.constprop.0", "for events"),
        ] {
            assert_eq!(of_place(wchan), Some(words), "{wchan}");
        }
        assert_eq!(of_place("some_driver_ioctl"), None);
    }
}
