//! A far place: a network namespace with a relay in it, behind a link whose
//! packets can be dropped without anybody being told.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use ntrace_e2e::{is_root, skip};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace behind a link.
pub(crate) struct Far {
    name: String,
    /// Our end of the link.
    here: String,
    /// Our address on the link.
    pub(crate) ours: String,
    /// The address at its other end.
    pub(crate) theirs: String,
}

fn ip(args: &[&str]) -> bool {
    let output = Command::new("ip").args(args).output();
    output.is_ok_and(|output| {
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            eprintln!("ip {args:?}: {said}");
        }
        output.status.success()
    })
}

impl Far {
    /// Makes one; says loudly why it cannot.
    pub(crate) fn make() -> Option<Self> {
        if !is_root() {
            skip("only root can make a network namespace");
            return None;
        }
        // Names of links have at most 15 characters.
        let tag = fastrand::u32(0x10_0000..0x100_0000);
        let (b, c) = (fastrand::u8(64..250), fastrand::u8(..));
        let far = Self {
            name: format!("nt{tag:x}"),
            here: format!("nt{tag:x}a"),
            ours: format!("10.{b}.{c}.1"),
            theirs: format!("10.{b}.{c}.2"),
        };
        if far.build() {
            return Some(far);
        }
        skip("a network namespace with a link cannot be made here");
        None
    }

    fn build(&self) -> bool {
        let Self { name, here, ours, theirs } = self;
        let there = format!("{name}b");
        ip(&["netns", "add", name])
            && ip(&[
                "link", "add", here, "type", "veth", "peer", "name", &there,
                "netns", name,
            ])
            && ip(&["addr", "add", &format!("{ours}/30"), "dev", here])
            && ip(&["link", "set", here, "up"])
            && ip(&[
                "-n",
                name,
                "addr",
                "add",
                &format!("{theirs}/30"),
                "dev",
                &there,
            ])
            && ip(&["-n", name, "link", "set", &there, "up"])
    }

    /// From now on packets vanish, both ways; nobody is told.
    pub(crate) fn drop_packets(&self) {
        let there = format!("{}b", self.name);
        assert!(ip(&["-n", &self.name, "link", "set", &there, "down"]));
    }

    /// Packets arrive again.
    pub(crate) fn carry_packets(&self) {
        let there = format!("{}b", self.name);
        assert!(ip(&["-n", &self.name, "link", "set", &there, "up"]));
    }

    /// Opens a port there that leads back over the link to `port` here.
    pub(crate) fn relay(&self, port: u16) -> u16 {
        let path = format!("/run/netns/{}", self.name);
        let (ours, theirs) = (self.ours.clone(), self.theirs.clone());
        let (tell, told) = mpsc::channel();
        // The namespace is that of this thread and of those that it starts.
        thread::spawn(move || {
            let space = File::open(path).unwrap();
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(space.as_fd(), kind).unwrap();
            let listener = TcpListener::bind((theirs.as_str(), 0)).unwrap();
            tell.send(listener.local_addr().unwrap().port()).unwrap();
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect((ours.as_str(), port)) else {
                    continue;
                };
                let back = (far.try_clone(), near.try_clone());
                if let (Ok(from), Ok(to)) = back {
                    thread::spawn(move || pump(from, to));
                }
                thread::spawn(move || pump(near, far));
            }
        });
        told.recv().expect("the relay listens")
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

impl Drop for Far {
    fn drop(&mut self) {
        // Its other end goes with it.
        ip(&["link", "del", &self.here]);
        ip(&["netns", "del", &self.name]);
    }
}
