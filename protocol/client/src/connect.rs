//! Making a connection.

use std::sync::Arc;
use std::time::Duration;

use ntrace_protocol::text::quote;
use ntrace_session::Peer;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// How long one address has to take a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection of ours, closed when nobody has it any more.
pub(crate) struct Open(Peer);

impl Open {
    pub(crate) fn new(peer: &Peer) -> Arc<Self> {
        Arc::new(Self(peer.clone()))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The text is no address, or its host is unknown.
    #[error("{addr} is no address that can be found; write host:port")]
    Lookup {
        /// The text, in quotes.
        addr: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nobody took the connection.
    #[error("cannot connect to {addr}; is it running there?")]
    Connect {
        /// The address.
        addr: String,
        /// What the system said about the last try.
        source: std::io::Error,
    },
}

/// Connects to `host:port`, trying each of the host's addresses.
///
/// # Errors
/// No such host, or nobody there.
pub async fn connect(addr: &str) -> Result<TcpStream, ConnectError> {
    let lookup = |source| ConnectError::Lookup { addr: quote(addr), source };
    let found = timeout(CONNECT, lookup_host(addr))
        .await
        .map_err(|late| lookup(late.into()))?
        .map_err(lookup)?;
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for one in found {
        match timeout(CONNECT, TcpStream::connect(one)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(late) => last = late.into(),
        }
    }
    Err(ConnectError::Connect { addr: addr.to_owned(), source: last })
}
