//! The promises of one connection, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ntrace_protocol::{Code, WireError};
use ntrace_session::{
    Call, CallError, Config, Listener, Peer, Service, accept_loop, spawn,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(20);

/// Answers `echo`; `back` calls the caller; `flood` sends notices; `gate`
/// waits until `open` is called.
struct Echo {
    peer: Peer,
    gate: Arc<Notify>,
}

impl Service for Echo {
    fn call(
        self: Arc<Self>,
        call: Call,
    ) -> BoxFuture<'static, Result<Vec<Value>, WireError>> {
        async move {
            match call.name.as_str() {
                "echo" => Ok(call.args),
                "gate" => {
                    self.gate.notified().await;
                    Ok(vec![])
                }
                "open" => {
                    self.gate.notify_waiters();
                    Ok(vec![])
                }
                "back" => self
                    .peer
                    .call("ping", &call.args, DEADLINE)
                    .await
                    .map_err(|e| WireError::new(Code::Etime, e.to_string())),
                "flood" => {
                    let n = call.args[0].as_u64().unwrap();
                    for n in 0..n {
                        let record = json!([n, "x".repeat(1000)]);
                        if self.peer.notify("log", &[record]).await.is_err() {
                            break;
                        }
                    }
                    Ok(vec![json!(n)])
                }
                _ => Err(WireError::new(Code::Enocmd, "no such command")),
            }
        }
        .boxed()
    }
}

async fn serve(config: Config) -> SocketAddr {
    let addr = "127.0.0.1:0".parse().unwrap();
    let listener = Listener::bind(&addr, false).await.unwrap();
    let at = listener.addrs()[0];
    let stop = CancellationToken::new();
    let gate = Arc::new(Notify::new());
    tokio::spawn(accept_loop(listener, stop, move |stream, permit| {
        let gate = gate.clone();
        let session = spawn(stream, config.clone(), |peer| {
            Arc::new(Echo { peer: peer.clone(), gate })
        })
        .unwrap();
        tokio::spawn(async move {
            session.ended().await;
            drop(permit);
        });
    }));
    at
}

/// Types like `nc`: sends the text, half-closes, reads all.
async fn nc(addr: SocketAddr, text: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(text).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    timeout(DEADLINE, read).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn a_half_closed_peer_gets_all_its_answers() {
    let addr = serve(Config::default()).await;
    let text = b"[\"echo\",[1,\"a\"],1]\n[\"gate\",[],\"g\"]\n[\"open\",[],2]";
    let answer = nc(addr, text).await;
    let mut lines: Vec<_> = answer.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[[null,1,\"a\"],1]", "[[null],\"g\"]", "[[null],2]"]);
}

#[tokio::test]
async fn bad_lines_are_answered_and_the_next_good_one_works() {
    let addr = serve(Config::default()).await;
    let text = b"\n\n{}\n\xff\xfe\n[1,2,9]\nnull\n[\"nope\",[],3]\n\
        [\"echo\",[\"ok\"],4]\n";
    let answer = nc(addr, text).await;
    let lines: Vec<Value> =
        answer.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let codes: Vec<_> = lines.iter().map(|l| &l[0][0]["code"]).collect();
    assert_eq!(codes[..5], ["EPROTO", "EPROTO", "EPROTO", "EPROTO", "ENOCMD"]);
    assert_eq!(lines[2][1], 9);
    assert_eq!(lines[5], json!([[null, "ok"], 4]));
}

#[tokio::test]
async fn a_line_over_the_limit_is_answered_and_ends_the_connection() {
    let config = Config { max_line: 100, ..Config::default() };
    let addr = serve(config).await;
    let mut text = vec![b'a'; 5000];
    text.extend_from_slice(b"\n[\"echo\",[],4]\n");
    let answer = nc(addr, &text).await;
    assert!(answer.contains("EPROTO"), "{answer}");
    assert_eq!(answer.lines().count(), 1);
}

#[tokio::test]
async fn a_notice_gets_no_answer() {
    let addr = serve(Config::default()).await;
    let answer = nc(addr, b"[\"echo\",[1],-1]\n[\"echo\",[2],0]\n").await;
    assert_eq!(answer, "[[null,2],0]\n");
}

#[tokio::test]
async fn ten_thousand_requests_in_one_packet_are_each_answered_in_order() {
    let addr = serve(Config::default()).await;
    let text: String =
        (0..10_000).map(|n| format!("[\"echo\",[{n}],{n}]\n")).collect();
    let answer = nc(addr, text.as_bytes()).await;
    let expected: String =
        (0..10_000).map(|n| format!("[[null,{n}],{n}]\n")).collect();
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn both_sides_may_ask_with_the_same_id() {
    let addr = serve(Config::default()).await;
    let stream = TcpStream::connect(addr).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(b"[\"back\",[7],1]\n").await.unwrap();
    let asked = lines.next_line().await.unwrap().unwrap();
    assert_eq!(asked, "[\"ping\",[7],1]");
    writer.write_all(b"[[null,\"pong\"],1]\n").await.unwrap();
    let answer = lines.next_line().await.unwrap().unwrap();
    assert_eq!(answer, "[[null,\"pong\"],1]");
}

#[tokio::test]
async fn a_call_that_is_open_when_the_connection_ends_is_told() {
    let addr = serve(Config::default()).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"[\"back\",[],1]\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("ETIME") && answer.contains("closed"), "{answer}");
}

#[tokio::test]
async fn a_reader_that_is_slow_slows_only_itself() {
    let addr = serve(Config { outbox: 64 * 1024, ..Config::default() }).await;
    let mut slow = TcpStream::connect(addr).await.unwrap();
    slow.write_all(b"[\"flood\",[20000],1]\n").await.unwrap();
    // Others are served meanwhile.
    assert_eq!(nc(addr, b"[\"echo\",[],1]\n").await, "[[null],1]\n");
    slow.shutdown().await.unwrap();
    let mut lines = BufReader::new(slow).lines();
    for n in 0..20_000_u64 {
        let line = lines.next_line().await.unwrap().unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line[1][0][0], n);
    }
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "[[null,20000],1]");
}

#[tokio::test]
async fn a_peer_that_never_reads_is_cut_off() {
    let config = Config {
        outbox: 64 * 1024,
        stall: Duration::from_millis(300),
        ..Config::default()
    };
    let addr = serve(config).await;
    let mut deaf = TcpStream::connect(addr).await.unwrap();
    deaf.write_all(b"[\"flood\",[1000000],1]\n").await.unwrap();
    // Nothing is read; the server must give up by itself, which shows as an
    // error of our writes.
    let cut = async {
        loop {
            if deaf.write_all(b"[\"echo\",[],-1]\n").await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, cut).await.unwrap();
}

#[tokio::test]
async fn a_line_that_is_begun_and_not_ended_ends_the_connection() {
    let config =
        Config { stall: Duration::from_millis(200), ..Config::default() };
    let addr = serve(config).await;
    let mut slow = TcpStream::connect(addr).await.unwrap();
    slow.write_all(b"[\"push\",[").await.unwrap();
    let mut answer = String::new();
    let read = slow.read_to_string(&mut answer);
    timeout(DEADLINE, read).await.unwrap().unwrap();
    assert!(answer.contains("EPROTO"), "{answer}");
}

#[tokio::test]
async fn a_call_has_a_deadline_and_leaves_nothing_behind() {
    let addr = serve(Config::default()).await;
    let stream = TcpStream::connect(addr).await.unwrap();
    let session = spawn(stream, Config::default(), |peer| {
        Arc::new(Echo { peer: peer.clone(), gate: Arc::new(Notify::new()) })
    })
    .unwrap();
    let peer = session.peer.clone();
    let late = peer.call("gate", &[], Duration::from_millis(50)).await;
    assert!(matches!(late, Err(CallError::Late { .. })), "{late:?}");
    let fine = peer.call("echo", &[json!(5)], DEADLINE).await;
    assert_eq!(fine, Ok(vec![json!(5)]));
    let wrong = peer.call("nope", &[], DEADLINE).await.unwrap_err();
    assert_eq!(wrong.wire().unwrap().code, Code::Enocmd);
    peer.close();
    let closed = peer.call("echo", &[], DEADLINE).await;
    assert!(matches!(closed, Err(CallError::Closed { .. })), "{closed:?}");
    timeout(DEADLINE, session.ended()).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_refuses_the_connection_says_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stream = TcpStream::connect(addr).await.unwrap();
    let session = spawn(stream, Config::default(), |peer| {
        Arc::new(Echo { peer: peer.clone(), gate: Arc::new(Notify::new()) })
    })
    .unwrap();
    let (mut refusing, _) = listener.accept().await.unwrap();
    let line = b"[[{\"message\":\"not you\",\"code\":\"EACCES\"}],null]\n";
    refusing.write_all(line).await.unwrap();
    refusing.shutdown().await.unwrap();
    let peer = session.peer.clone();
    for _ in 0..2 {
        let refused = peer.call("echo", &[], DEADLINE).await.unwrap_err();
        let error = refused.wire().expect("the peer said why");
        assert_eq!(error.code, Code::Eacces);
        timeout(DEADLINE, peer.ended_sending()).await.unwrap();
    }
}

#[tokio::test]
async fn long_lines_that_are_open_hold_back_the_next() {
    let config = Config { max_open_bytes: 8000, ..Config::default() };
    let addr = serve(config).await;
    let long = "x".repeat(6000);
    let lines = format!(
        "[\"gate\",[\"{long}\"],\"a\"]\n[\"gate\",[\"{long}\"],\"b\"]\n\
         [\"echo\",[],\"c\"]\n"
    );
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(lines.as_bytes()).await.unwrap();
    let mut first = String::new();
    let mut reader = BufReader::new(&mut stream);
    // The gates may not wait yet when they are opened the first time.
    let first = timeout(DEADLINE, async {
        loop {
            nc(addr, b"[\"open\",[],1]\n").await;
            let read = reader.read_line(&mut first);
            if timeout(Duration::from_millis(20), read).await.is_ok() {
                return first;
            }
        }
    })
    .await
    .unwrap();
    assert_ne!(first, "[[null],\"c\"]\n");
}
