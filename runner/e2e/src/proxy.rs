//! A way between two programs that can be frozen, slowed to nothing, or cut.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the way does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Carries what comes.
    Open,
    /// Carries nothing, and says nothing about it.
    Frozen,
    /// Cuts what is there and refuses what comes.
    Cut,
}

/// A way to a port of this machine.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    way: watch::Sender<Way>,
    _task: JoinSet<()>,
}

impl Proxy {
    /// Opens a way to a port.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("there is a free port");
        let addr = listener.local_addr().expect("it is bound");
        let (way, seen) = watch::channel(Way::Open);
        let mut task = JoinSet::new();
        task.spawn(serve(listener, port, seen));
        Self { addr, way, _task: task }
    }

    /// Its own port.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Changes what it does.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn serve(listener: TcpListener, port: u16, way: watch::Receiver<Way>) {
    let mut pairs = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        if *way.borrow() == Way::Cut {
            continue;
        }
        pairs.spawn(carry(near, port, way.clone()));
    }
}

async fn carry(near: TcpStream, port: u16, way: watch::Receiver<Way>) {
    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let mut cut = way.clone();
    tokio::select! {
        _ = cut.wait_for(|way| *way == Way::Cut) => {}
        () = async {
            tokio::join!(
                pump(near_read, far_write, way.clone()),
                pump(far_read, near_write, way),
            );
        } => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if way.wait_for(|way| *way == Way::Open).await.is_err() {
            return;
        }
        let Some(bytes) = buffer.get(..read) else { return };
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}
