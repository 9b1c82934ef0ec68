//! Listening: on loopback, and for whom.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ntrace_protocol::message::{RawId, write_answer};
use ntrace_protocol::text::quote;
use ntrace_protocol::{Code, WireError};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::owner::{Verdict, judge};

/// Connections at once; the next one is told to try again later.
const MAX_CONNECTIONS: usize = 16_384;

/// The pause after accepting failed, so that a lack of descriptors does not
/// spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a refused peer has to take the refusal.
const REFUSAL: Duration = Duration::from_secs(1);

/// How often a free port is tried for both families.
const PORT_TRIES: u32 = 20;

/// Where to listen: `localhost:PORT` means both loopback addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// 127.0.0.1 and ::1.
    Localhost(u16),
    /// One address.
    One(SocketAddr),
}

/// The text is no address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is no address to listen on; write localhost:9181, 127.0.0.1:9181 or \
     [::1]:9181"
)]
pub struct NotAListenAddr(String);

impl FromStr for ListenAddr {
    type Err = NotAListenAddr;

    fn from_str(text: &str) -> Result<Self, NotAListenAddr> {
        let refuse = || NotAListenAddr(quote(text));
        if let Some(port) = text.strip_prefix("localhost:") {
            return port.parse().map(Self::Localhost).map_err(|_| refuse());
        }
        text.parse().map(Self::One).map_err(|_| refuse())
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Localhost(port) => write!(f, "localhost:{port}"),
            Self::One(addr) => addr.fmt(f),
        }
    }
}

impl ListenAddr {
    /// Whether only this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Localhost(_) => true,
            Self::One(addr) => addr.ip().is_loopback(),
        }
    }
}

/// Why a server could not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Everybody could command it.
    #[error(
        "{0} can be reached from other machines and there is no \
         authentication yet; listen on localhost and use ssh -L, or say \
         --allow-remote-without-auth"
    )]
    Remote(ListenAddr),
    /// The system refused.
    #[error("cannot listen on {addr}; is another one running?")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Bound sockets, not yet accepting.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<TcpListener>,
}

impl Listener {
    /// Binds.
    ///
    /// # Errors
    /// The address is not loopback and `allow_remote` is not set, or the
    /// system refused.
    pub async fn bind(
        addr: &ListenAddr,
        allow_remote: bool,
    ) -> Result<Self, BindError> {
        if !addr.is_loopback() {
            if !allow_remote {
                return Err(BindError::Remote(addr.clone()));
            }
            warn!(%addr, "everybody who reaches this address can command us");
        }
        match addr {
            ListenAddr::One(addr) => {
                Ok(Self { sockets: vec![bind(*addr).await?] })
            }
            ListenAddr::Localhost(port) => bind_localhost(*port).await,
        }
    }

    /// The addresses.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|s| s.local_addr().ok()).collect()
    }
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| BindError::Bind { addr, source })
}

/// Both loopback addresses on the same port; a machine without IPv6 gets one.
async fn bind_localhost(port: u16) -> Result<Listener, BindError> {
    let mut tries = 0;
    loop {
        let v4 = bind((Ipv4Addr::LOCALHOST, port).into()).await?;
        let at = v4.local_addr().map_or(port, |addr| addr.port());
        match bind((Ipv6Addr::LOCALHOST, at).into()).await {
            Ok(v6) => return Ok(Listener { sockets: vec![v4, v6] }),
            Err(BindError::Bind { source, .. })
                if source.kind() == std::io::ErrorKind::AddrNotAvailable
                    || source.raw_os_error() == Some(NO_IPV6) =>
            {
                info!("there is no ::1 here, listening on 127.0.0.1 only");
                return Ok(Listener { sockets: vec![v4] });
            }
            // Somebody else may have the free port's twin.
            Err(_) if port == 0 && tries < PORT_TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// `EAFNOSUPPORT` of Linux.
const NO_IPV6: i32 = 97;

/// Accepts connections until `stop`, and gives each to `serve`, which must
/// spawn what takes long and keep the permit as long as it lives.
pub async fn accept_loop(
    listener: Listener,
    stop: CancellationToken,
    serve: impl Fn(TcpStream, tokio::sync::OwnedSemaphorePermit)
    + Send
    + Sync
    + 'static,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let serve = &serve;
    let room = &room;
    let stop = &stop;
    let loops = listener.sockets.into_iter().map(|socket| async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => admit(stream, room, serve),
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    futures::future::join_all(loops).await;
}

fn admit(
    stream: TcpStream,
    room: &Arc<Semaphore>,
    serve: &impl Fn(TcpStream, tokio::sync::OwnedSemaphorePermit),
) {
    let refusal = match room.clone().try_acquire_owned() {
        Err(_) => WireError::new(
            Code::Eagain,
            "there are too many connections; try again later",
        ),
        Ok(permit) => match check_owner(&stream) {
            Ok(()) => return serve(stream, permit),
            Err(error) => error,
        },
    };
    tokio::spawn(refuse(stream, refusal));
}

/// Refuses who speaks from inside a zone: a job cannot command what runs it.
fn check_owner(stream: &TcpStream) -> Result<(), WireError> {
    let (Ok(peer), Ok(own)) = (stream.peer_addr(), stream.local_addr()) else {
        // It is gone already; serving it will find that out.
        return Ok(());
    };
    match judge(plain(peer), plain(own)) {
        Verdict::Fine => Ok(()),
        Verdict::Zone(why) => {
            warn!(%peer, why, "refused a connection from a zone");
            Err(WireError::new(
                Code::Eacces,
                format!("a job may not command ntrace: {why}"),
            ))
        }
    }
}

/// An IPv4 address that came through an IPv6 socket, as itself.
fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::to_canonical(&addr.ip()), addr.port())
}

async fn refuse(mut stream: TcpStream, error: WireError) {
    let line = write_answer(&Err(error), &RawId::null());
    let sent = async {
        stream.write_all(&line).await?;
        stream.shutdown().await?;
        // What the peer has sent is read, so that the refusal is not lost in
        // a reset.
        let mut rest = [0; 4096];
        while tokio::io::AsyncReadExt::read(&mut stream, &mut rest).await? > 0 {
        }
        std::io::Result::Ok(())
    };
    // A peer that does not take it is closed all the same.
    let _ = timeout(REFUSAL, sent).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_means_both_loopback_addresses() {
        assert_eq!("localhost:9181".parse(), Ok(ListenAddr::Localhost(9181)));
        assert!("[::1]:1".parse::<ListenAddr>().unwrap().is_loopback());
        assert!(!"0.0.0.0:1".parse::<ListenAddr>().unwrap().is_loopback());
        for bad in ["", "localhost", "localhost:x", "example.org:1", "1"] {
            assert!(bad.parse::<ListenAddr>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_remote_address_is_refused() {
        let addr = "0.0.0.0:0".parse().unwrap();
        let error = Listener::bind(&addr, false).await.unwrap_err();
        assert!(error.to_string().contains("no authentication"));
        Listener::bind(&addr, true).await.unwrap();
    }
}
