//! The other end of the control socket: what every command of the command line speaks through.

use super::control::{Refusal, SOCKET};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon answers at {}: {source}", path.display())]
    NoDaemon { path: PathBuf, source: io::Error },
    #[error("no right to look: {}: {source}", path.display())]
    Shut { path: PathBuf, source: io::Error },
    #[error("{}", .0.error)]
    Refused(Refusal),
    #[error("talking to the daemon: {0}")]
    Talk(#[from] hyper::Error),
    #[error("the daemon's answer to {path}: {source}")]
    Answer { path: String, source: serde_json::Error },
    #[error("the daemon does not answer within {within:?}")]
    Late { within: Duration },
    #[error("reading the daemon's stream: {0}")]
    Io(#[from] io::Error),
}

/// A daemon to ask. Blocking: commands have nothing else to do meanwhile.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    pub fn new(run_dir: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket: run_dir.join(SOCKET), runtime })
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        decode(path, &self.ask(Method::GET, path, Bytes::new())?)
    }

    /// For those who can do without an answer.
    pub fn get_within<T: DeserializeOwned>(&self, path: &str, within: Duration) -> Result<T, ClientError> {
        let asked = async { Ok(self.send(Method::GET, path, Bytes::new()).await?.into_body().collect().await?.to_bytes()) };
        let answer = self.runtime.block_on(async { tokio::time::timeout(within, asked).await });
        decode(path, &answer.unwrap_or_else(|_| Err(ClientError::Late { within }))?)
    }

    /// The answer as it came.
    pub fn get_text(&self, path: &str) -> Result<Bytes, ClientError> {
        self.ask(Method::GET, path, Bytes::new())
    }

    pub fn post<T: DeserializeOwned>(&self, path: &str, arguments: &serde_json::Value) -> Result<T, ClientError> {
        let body = if arguments.is_null() { Bytes::new() } else { arguments.to_string().into() };
        decode(path, &self.ask(Method::POST, path, body)?)
    }

    /// Reads lines until the daemon ends or `each` breaks off.
    pub fn lines(&self, path: &str, mut each: impl FnMut(&[u8]) -> io::Result<ControlFlow<()>>) -> Result<(), ClientError> {
        self.runtime.block_on(async {
            let mut body = self.send(Method::GET, path, Bytes::new()).await?.into_body();
            let mut pending = BytesMut::new();
            while let Some(frame) = body.frame().await {
                if let Ok(data) = frame?.into_data() {
                    pending.extend_from_slice(&data);
                }
                while let Some(end) = pending.iter().position(|&b| b == b'\n') {
                    let line = pending.split_to(end + 1);
                    if each(&line[..end])?.is_break() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        self.runtime.block_on(async { Ok(self.send(method, path, body).await?.into_body().collect().await?.to_bytes()) })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            let path = self.socket.clone();
            if source.kind() == io::ErrorKind::PermissionDenied {
                ClientError::Shut { path, source }
            } else {
                ClientError::NoDaemon { path, source }
            }
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; what goes wrong there shows in the answer.
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "memtier").body(Full::new(body));
        let response = sender.send_request(request.expect("paths are ours")).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        let refusal = serde_json::from_slice(&body).unwrap_or_else(|_| Refusal {
            status,
            error: format!("HTTP status {status}: {}", String::from_utf8_lossy(&body)),
            next: String::new(),
        });
        Err(ClientError::Refused(Refusal { status, ..refusal }))
    }
}

fn decode<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|source| ClientError::Answer { path: path.to_owned(), source })
}
