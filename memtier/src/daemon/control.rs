//! The control socket: versioned HTTP/1.1 + JSON over unix (docs/control-api.md). It parses, checks rights and limits,
//! and hands each question to the live loop; it knows nothing itself and can never make the loop wait.
//!
//! Two rights: to look has whoever may open the socket (0660 root:memtier); to act has root, and the socket's group
//! where `daemon.group_acts` says so. The kernel tells who is at the other end (SO_PEERCRED), not the client.

use crate::vocab::Time;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

pub const SOCKET: &str = "control.sock";
/// Group that may open the socket.
const GROUP: &str = "memtier";
/// A question fits in far less; more is not one of ours.
const MOST_BODY: usize = 64 << 10;
const MOST_HEAD: usize = 16 << 10;
const MOST_CONNECTIONS: usize = 64;
/// Of one user who may look but is not the owner; all of those together leave as many places to the owners.
const MOST_OF_ONE: usize = 16;
/// Streams last; they must leave room for questions.
const MOST_STREAMS: usize = 16;
const MOST_STREAMS_OF_ONE: usize = 4;
const READ_WITHIN: Duration = Duration::from_secs(10);
/// The loop answers at once, a walk that was asked for takes its time.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// A stream reader that takes nothing for so long is cut.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// A connection that is no stream is over by then, however slowly the other end reads.
const OVER_WITHIN: Duration = Duration::from_secs(180);

/// A question for the live loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    Status,
    Explain {
        pid: Option<u32>,
        at: Option<Time>,
    },
    /// `look`: walk first, then answer. `columns`: cells per row of the picture.
    Heat {
        pid: u32,
        look: bool,
        columns: usize,
    },
    Footprint,
    Facts,
    Caches,
    Nodes,
    Config,
    Metrics,
    Pause,
    Resume,
    Reload,
    /// Walk this process soon.
    Look {
        pid: u32,
    },
    /// Watch this process (never act on it) until `Unwatch` or its end, whatever the configured targets say.
    Watch {
        pid: u32,
    },
    Unwatch {
        pid: u32,
    },
    RecordStart {
        dir: PathBuf,
    },
    RecordStop,
}

/// What one must be allowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    Look,
    Act,
}

impl Query {
    #[must_use]
    pub const fn right(&self) -> Right {
        match self {
            Self::Status
            | Self::Explain { .. }
            | Self::Heat { .. }
            | Self::Footprint
            | Self::Facts
            | Self::Caches
            | Self::Nodes
            | Self::Config
            | Self::Metrics => Right::Look,
            Self::Look { .. } => Right::Look,
            Self::Pause | Self::Resume | Self::Reload | Self::Watch { .. } | Self::Unwatch { .. } => Right::Act,
            Self::RecordStart { .. } | Self::RecordStop => Right::Act,
        }
    }

    /// `body` holds the JSON arguments of a POST; those of a GET stand in the query string.
    pub fn parse(method: &Method, path: &str, args: &str, body: &[u8]) -> Result<Self, Refusal> {
        let args = Arguments(args);
        let query = match (method.as_str(), path) {
            ("GET", "/v1/status") => Self::Status,
            ("GET", "/v1/explain") => Self::Explain { pid: args.number("pid")?, at: args.number("at")?.map(Time) },
            ("GET", "/v1/heat") => Self::Heat {
                pid: args.needed("pid")?,
                look: args.number::<u8>("look")?.is_some_and(|v| v != 0),
                columns: args.number("columns")?.unwrap_or(64usize).clamp(8, 512),
            },
            ("GET", "/v1/footprint") => Self::Footprint,
            ("GET", "/v1/facts") => Self::Facts,
            ("GET", "/v1/caches") => Self::Caches,
            ("GET", "/v1/nodes") => Self::Nodes,
            ("GET", "/v1/config") => Self::Config,
            ("GET", "/metrics") => Self::Metrics,
            ("POST", "/v1/pause") => Self::Pause,
            ("POST", "/v1/resume") => Self::Resume,
            ("POST", "/v1/reload") => Self::Reload,
            ("POST", "/v1/look") => Self::Look { pid: arguments::<OfPid>(body)?.pid },
            ("POST", "/v1/watch") => Self::Watch { pid: arguments::<OfPid>(body)?.pid },
            ("POST", "/v1/unwatch") => Self::Unwatch { pid: arguments::<OfPid>(body)?.pid },
            ("POST", "/v1/record/start") => {
                let InDir { dir } = arguments(body)?;
                if !dir.is_absolute() {
                    return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("{} is not an absolute path", dir.display()))
                        .next("the daemon has another working directory than you: give the whole path"));
                }
                Self::RecordStart { dir }
            }
            ("POST", "/v1/record/stop") => Self::RecordStop,
            ("GET" | "POST", _) => {
                return Err(Refusal::new(StatusCode::NOT_FOUND, format!("no {method} {path}"))
                    .next("docs/control-api.md lists what this version answers"));
            }
            _ => {
                return Err(
                    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not spoken here")).next("use GET or POST")
                );
            }
        };
        Ok(query)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfPid {
    pid: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InDir {
    dir: PathBuf,
}

fn arguments<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("arguments: {error}")))
}

/// A query string of numbers.
struct Arguments<'a>(&'a str);

impl Arguments<'_> {
    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Refusal> {
        let value = self.0.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        value
            .map(|v| v.parse().map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, format!("{key}={v} is not a number here"))))
            .transpose()
    }
    fn needed<T: std::str::FromStr>(&self, key: &str) -> Result<T, Refusal> {
        self.number(key)?.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, format!("{key}= is missing")))
    }
}

/// A "no" on the socket: HTTP status, what is wrong, what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    #[serde(skip, default)]
    pub status: u16,
    pub error: String,
    #[serde(default)]
    pub next: String,
}

impl Refusal {
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status: status.as_u16(), error: error.into(), next: String::new() }
    }
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }
}

/// The body of an answer, rendered by the loop.
pub type Answer = Result<Bytes, Refusal>;

/// A question with who asked and where the answer goes.
#[derive(Debug)]
pub struct Ask {
    pub query: Query,
    /// For the recorded request: "uid 0, pid 123".
    pub by: String,
    pub reply: oneshot::Sender<Answer>,
}

/// What the socket side shares with the loop.
#[derive(Clone, Debug)]
pub struct Door {
    pub asks: mpsc::Sender<Ask>,
    /// Decisions and outcomes as lines of JSON.
    pub feed: broadcast::Sender<Bytes>,
    pub group_acts: Arc<AtomicBool>,
}

/// Makes the socket with its final owner and mode before it gets its name. The lock must be held: a socket that is
/// there already is stale.
pub fn bind(run_dir: &Path) -> io::Result<UnixListener> {
    let path = run_dir.join(SOCKET);
    let unborn = run_dir.join(format!(".{SOCKET}.{}", std::process::id()));
    match std::fs::remove_file(&unborn) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&unborn)?;
    let mode = match nix::unistd::Group::from_name(GROUP).ok().flatten() {
        Some(group) => {
            chown(&unborn, None, Some(group.gid.as_raw()))?;
            0o660
        }
        None => 0o600,
    };
    std::fs::set_permissions(&unborn, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&unborn, &path)?;
    Ok(listener)
}

/// Places that users take, counted per user: nobody takes those of the owners (root, and whoever runs the daemon), who have
/// as many as all others together.
#[derive(Debug)]
struct Places {
    most: usize,
    of_one: usize,
    taken: Mutex<BTreeMap<u32, usize>>,
}

#[derive(Debug)]
struct Place {
    of: Arc<Places>,
    uid: u32,
}

impl Places {
    fn new(most: usize, of_one: usize) -> Arc<Self> {
        Arc::new(Self { most, of_one, taken: Mutex::default() })
    }
    fn take(self: &Arc<Self>, uid: u32) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let side: usize = taken.iter().filter(|(other, _)| owner(**other) == owner(uid)).map(|(_, count)| count).sum();
        let mine = taken.get(&uid).copied().unwrap_or(0);
        (side < self.most && (owner(uid) || mine < self.of_one)).then(|| {
            taken.insert(uid, mine + 1);
            Place { of: Arc::clone(self), uid }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

fn owner(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

/// Answers until it is dropped.
pub async fn serve(listener: UnixListener, door: Door) -> Infallible {
    let connections = Places::new(MOST_CONNECTIONS, MOST_OF_ONE);
    let streams = Places::new(MOST_STREAMS, MOST_STREAMS_OF_ONE);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match stream.peer_cred() {
                Ok(cred) => match connections.take(cred.uid()) {
                    Some(place) => {
                        let pid = cred.pid().map_or_else(String::new, |pid| format!(", pid {pid}"));
                        let peer = Peer { name: format!("uid {}{pid}", cred.uid()), uid: cred.uid() };
                        let (door, streams) = (door.clone(), Arc::clone(&streams));
                        tokio::spawn(async move {
                            converse(stream, door, peer, streams).await;
                            drop(place);
                        });
                    }
                    None => {
                        // A new socket has room for so little; who does not get it sees the end of the connection.
                        let _ = stream.try_write(FULL);
                    }
                },
                Err(error) => tracing::debug!(%error, "control socket: a peer without a name"),
            },
            // Out of descriptors, most likely: let some go first.
            Err(error) => {
                tracing::warn!(%error, "control socket: cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 73\r\n\r\n\
    {\"error\":\"too many connections of this user\",\"next\":\"close some of them\"}";

#[derive(Clone, Debug)]
struct Peer {
    name: String,
    uid: u32,
}

/// How one connection ends when the other end does not take what it is given.
#[derive(Debug, Default)]
struct Cut {
    streams: AtomicBool,
    now: Notify,
}

async fn converse(stream: UnixStream, door: Door, peer: Peer, streams: Arc<Places>) {
    let cut = Arc::new(Cut::default());
    let service = service_fn(|request| {
        let (door, peer, streams, cut) = (&door, &peer, &streams, &cut);
        async move {
            let reply = answer(request, door, peer, streams, cut).await.unwrap_or_else(|refusal| {
                let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let body = serde_json::to_vec(&refusal).expect("strings become JSON");
                response(status, "application/json", Reply::Whole(Some(body.into())))
            });
            Ok::<_, Infallible>(reply)
        }
    });
    // One question a connection: nobody holds a place by idling.
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_WITHIN)
        .max_buf_size(MOST_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A stream that nobody reads gets as long again to take what it was given.
    let stalled = async {
        cut.now.notified().await;
        tokio::time::sleep(STALLED_AFTER).await;
    };
    let late = async {
        tokio::time::sleep(OVER_WITHIN).await;
        if cut.streams.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        served = served => {
            if let Err(error) = served {
                tracing::debug!(%error, peer = peer.name, "control connection ended early");
            }
        }
        () = async { tokio::select! { () = stalled => {}, () = late => {} } } => tracing::debug!(peer = peer.name, "control connection cut: its end does not read"),
    }
}

async fn answer(
    request: Request<Incoming>,
    door: &Door,
    peer: &Peer,
    streams: &Arc<Places>,
    cut: &Arc<Cut>,
) -> Result<Response<Reply>, Refusal> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if (&head.method, path) == (&Method::GET, "/v1/events") {
        let place = streams.take(peer.uid).ok_or_else(|| {
            let most = if owner(peer.uid) { MOST_STREAMS } else { MOST_STREAMS_OF_ONE };
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("{most} streams are open already")).next("close one")
        })?;
        let (to, from) = mpsc::channel(16);
        let (feed, cut) = (door.feed.subscribe(), Arc::clone(cut));
        cut.streams.store(true, Ordering::Relaxed);
        tokio::spawn(async move {
            forward(feed, to).await;
            drop(place);
            cut.now.notify_one();
        });
        return Ok(response(StatusCode::OK, "application/x-ndjson", Reply::Stream(from)));
    }
    let body = tokio::time::timeout(READ_WITHIN, Limited::new(body, MOST_BODY).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("body: {error}"))),
        Err(_) => return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive")),
    };
    let query = Query::parse(&head.method, path, head.uri.query().unwrap_or_default(), &body)?;
    allowed(&query, door, peer)?;
    let kind = if query == Query::Metrics { "text/plain; version=0.0.4" } else { "application/json" };
    let (reply, answered) = oneshot::channel();
    let stopping = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping");
    door.asks.send(Ask { query, by: peer.name.clone(), reply }).await.map_err(|_| stopping())?;
    let answered = tokio::time::timeout(ANSWER_WITHIN, answered).await;
    let late = |_| Refusal::new(StatusCode::GATEWAY_TIMEOUT, "no answer yet").next("`memtier status` shows what the daemon does");
    let body = answered.map_err(late)?.map_err(|_| stopping())??;
    Ok(response(StatusCode::OK, kind, Reply::Whole(Some(body))))
}

fn allowed(query: &Query, door: &Door, peer: &Peer) -> Result<(), Refusal> {
    let may_act = owner(peer.uid) || door.group_acts.load(Ordering::Relaxed);
    match query.right() {
        Right::Look => Ok(()),
        Right::Act if may_act => Ok(()),
        Right::Act => Err(Refusal::new(StatusCode::FORBIDDEN, format!("{} may look but not act", peer.name))
            .next("be root, or set daemon.group_acts = true to let the socket's group act")),
    }
}

/// Copies the feed to one reader. What it was too slow for is counted and said; one that stalls is cut.
async fn forward(mut feed: broadcast::Receiver<Bytes>, to: mpsc::Sender<Bytes>) {
    loop {
        let told = tokio::select! {
            told = feed.recv() => told,
            () = to.closed() => return,
        };
        let line = match told {
            Ok(line) => line,
            Err(broadcast::error::RecvError::Lagged(count)) => Bytes::from(format!("{{\"lost\":{count}}}\n")),
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if to.send_timeout(line, STALLED_AFTER).await.is_err() {
            return;
        }
    }
}

fn response(status: StatusCode, kind: &'static str, body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A whole answer, or lines as they come.
#[derive(Debug)]
enum Reply {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Bytes>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(body) => Poll::Ready(body.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(lines) => lines.poll_recv(cx).map(|line| line.map(|l| Ok(Frame::data(l)))),
        }
    }
    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }
    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(body) => hyper::body::SizeHint::with_exact(body.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(_) => hyper::body::SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, uri: &str, body: &str) -> Result<Query, Refusal> {
        let (path, args) = uri.split_once('?').unwrap_or((uri, ""));
        Query::parse(&method.parse().expect("method"), path, args, body.as_bytes())
    }

    #[test]
    fn no_user_takes_the_places_of_others() {
        let places = Places::new(6, 4);
        let mut one: Vec<Place> = (0..9).map_while(|_| places.take(7)).collect();
        let two: Vec<Place> = (0..9).map_while(|_| places.take(8)).collect();
        assert_eq!((one.len(), two.len()), (4, 2));
        let root: Vec<Place> = (0..9).map_while(|_| places.take(0)).collect();
        assert_eq!(root.len(), 6);
        drop(one.pop());
        assert!(places.take(7).is_some());
        drop((one, two, root));
        assert!(places.taken.lock().expect("not poisoned").is_empty());
        let body = FULL.windows(4).position(|w| w == b"\r\n\r\n").map(|at| &FULL[at + 4..]).expect("a body");
        assert!(serde_json::from_slice::<Refusal>(body).is_ok());
        assert!(String::from_utf8_lossy(FULL).contains(&format!("content-length: {}\r\n", body.len())));
    }

    #[test]
    fn questions() {
        assert_eq!(parse("GET", "/v1/status", ""), Ok(Query::Status));
        assert_eq!(parse("GET", "/v1/explain?pid=7", ""), Ok(Query::Explain { pid: Some(7), at: None }));
        assert_eq!(parse("GET", "/v1/heat?pid=7&look=1", ""), Ok(Query::Heat { pid: 7, look: true, columns: 64 }));
        assert_eq!(parse("POST", "/v1/watch", r#"{"pid":7}"#), Ok(Query::Watch { pid: 7 }));
        for (method, uri, body, status) in [
            ("GET", "/v1/heat", "", 400),
            ("GET", "/v1/heat?pid=x", "", 400),
            ("GET", "/v2/status", "", 404),
            ("POST", "/v1/status", "", 404),
            ("DELETE", "/v1/status", "", 405),
            ("POST", "/v1/watch", "", 400),
            ("POST", "/v1/watch", r#"{"pid":7,"x":1}"#, 400),
            ("POST", "/v1/record/start", r#"{"dir":"here"}"#, 400),
        ] {
            assert_eq!(parse(method, uri, body).expect_err(uri).status, status, "{method} {uri} {body}");
        }
    }
}
