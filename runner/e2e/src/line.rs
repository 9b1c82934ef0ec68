//! A connection as `nc` makes it: lines out, lines in, nothing added.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::Value;

use crate::wait::DEADLINE;

/// A raw connection.
#[derive(Debug)]
pub struct Line {
    read: BufReader<TcpStream>,
}

impl Line {
    /// Connects to a port of this machine.
    ///
    /// # Panics
    /// Nobody is there.
    pub fn connect(port: u16) -> Self {
        Self::connect_to(&format!("127.0.0.1:{port}"))
    }

    /// Connects to an address.
    ///
    /// # Panics
    /// Nobody is there.
    pub fn connect_to(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).unwrap_or_else(|error| {
            panic!("cannot connect to {addr}: {error}")
        });
        stream
            .set_read_timeout(Some(DEADLINE))
            .and_then(|()| stream.set_write_timeout(Some(DEADLINE)))
            .and_then(|()| stream.set_nodelay(true))
            .expect("an open socket takes options");
        Self { read: BufReader::new(stream) }
    }

    fn stream(&self) -> &TcpStream {
        self.read.get_ref()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream().write_all(bytes.as_ref()).expect("the peer reads");
    }

    /// Sends bytes that the peer need not take.
    pub fn offer(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream().write_all(bytes.as_ref()).is_ok()
    }

    /// Says that nothing more is sent.
    pub fn finish(&mut self) {
        self.stream().shutdown(Shutdown::Write).expect("it is open");
    }

    /// The next line; none at the end.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.read.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            Err(error)
                if error.kind() == std::io::ErrorKind::ConnectionReset =>
            {
                None
            }
            Err(error) => panic!("no line came: {error}"),
        }
    }

    /// The next line that is not a keep-alive, as JSON.
    ///
    /// # Panics
    /// None came, or it is not JSON.
    pub fn value(&mut self) -> Value {
        loop {
            let line = self.line().expect("a line comes before the end");
            let value: Value = serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("{error}: {line}"));
            if value != serde_json::json!(["ping", [], -1]) {
                return value;
            }
        }
    }

    /// Sends one line and takes one.
    pub fn ask(&mut self, line: &str) -> Value {
        self.send(format!("{line}\n"));
        self.value()
    }

    /// Everything until the end.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end as well; what came before it counts.
        let _ = self.read.read_to_end(&mut rest);
        rest
    }
}
