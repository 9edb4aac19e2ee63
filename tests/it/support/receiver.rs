//! An HTTP address that keeps what it is sent, and answers as it is told to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::until;

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// For example `POST /hook HTTP/1.1`.
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.body))
    }
}

/// Stops when it is dropped.
pub(crate) struct Receiver {
    pub port: u16,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

struct State {
    requests: Vec<Request>,
    /// The status line and headers to answer with.
    answer: String,
    /// What comes behind them.
    body: String,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state =
            Arc::new(Mutex::new(State { requests: Vec::new(), answer: "200 OK".to_owned(), body: String::new() }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let Some(request) = read(&mut stream).await else { return };
                    let answer = {
                        let mut state = state.lock().unwrap();
                        state.requests.push(request);
                        let (head, body) = (&state.answer, &state.body);
                        format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
                    };
                    stream.write_all(answer.as_bytes()).await.ok();
                });
            }
        });
        Self { port, state, task }
    }

    /// From now on it answers so: `503 Service Unavailable`, with headers behind `\r\n`.
    pub(crate) fn answer(&self, answer: &str) {
        answer.clone_into(&mut self.state.lock().unwrap().answer);
    }

    /// From now on it answers so, whatever it is asked.
    pub(crate) fn tell(&self, body: String) {
        self.state.lock().unwrap().body = body;
    }

    /// All that came so far, in order.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// Waits until as many requests have come, and gives all.
    pub(crate) async fn until(&self, count: usize, patience: Duration) -> Vec<Request> {
        until(&format!("{count} requests"), patience, || async {
            let requests = self.requests();
            if requests.len() >= count { Ok(requests) } else { Err(format!("{requests:#?}")) }
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(stream: &mut tokio::net::TcpStream) -> Option<Request> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let n_read = stream.read(&mut buffer).await.ok()?;
        bytes.extend_from_slice(&buffer[..n_read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines();
            let line = lines.next()?.to_owned();
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            let request = Request { line, headers, body: body.to_owned() };
            if request.body.len() >= request.header("content-length").parse().unwrap_or(0) {
                return Some(request);
            }
        }
        if n_read == 0 {
            return None;
        }
    }
}
