//! As much of SNS as takes a `Publish`, on loopback, with moods: it fails, answers late, or is down. It keeps what it took,
//! and whether its answer can have arrived.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgvigil::clock;
use pgvigil::core::time::MonoTime;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::random::Random;

const TAKEN: &str = "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult><MessageId>m</MessageId>\
    </PublishResult></PublishResponse>";
const REFUSED: &str = "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error><Type>Receiver</Type>\
    <Code>ServiceUnavailable</Code><Message>later</Message></Error><RequestId>r</RequestId></ErrorResponse>";

/// How the endpoint is disposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mood {
    Up,
    /// Every second attempt fails: it is refused, or taken and not answered, or neither. After five that were not taken in
    /// a row one is: attempts come ever later, and no test can wait for the worst of luck.
    Flaky,
    /// Takes all, and answers up to this much later.
    Slow(Duration),
    /// Takes nothing: refuses, or closes the connection.
    Down,
}

/// One message that was taken.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub at: MonoTime,
    /// When the answer was on its way. `None` while it is not, and when the connection was closed instead.
    pub answered_at: Option<MonoTime>,
    /// Its alerts.
    pub told: Vec<Told>,
}

/// An alert in a message of the `json` format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub target: String,
    pub state: String,
    pub dedup_key: String,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    random: Random,
    taken: Vec<Taken>,
    /// Attempts that were not taken.
    n_lost: usize,
    /// The same, since one was.
    n_lost_in_a_row: usize,
}

/// The endpoint. Dropping it ends it.
pub(crate) struct Sns {
    pub port: u16,
    state: Arc<Mutex<State>>,
    task: AbortHandle,
}

impl Sns {
    pub(crate) async fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state =
            State { mood: Mood::Up, random: Random::new(seed), taken: Vec::new(), n_lost: 0, n_lost_in_a_row: 0 };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { port, state, task: task.abort_handle() }
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// All that was taken so far, in order.
    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.state.lock().unwrap().taken.clone()
    }

    /// How many attempts were not taken so far.
    pub(crate) fn n_lost(&self) -> usize {
        self.state.lock().unwrap().n_lost
    }

    /// What a process needs in its environment to sign a request.
    pub(crate) fn environment() -> [(&'static str, &'static str); 4] {
        [
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
    }
}

impl Drop for Sns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What becomes of an attempt.
enum Fate {
    Taken { answer_after: Option<Duration> },
    Refused,
    Closed,
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let Some(body) = request(&mut stream).await else { return };
    let told = told(&body);
    let (fate, place) = {
        let mut state = state.lock().unwrap();
        let fate = match (state.mood, state.random.below(6)) {
            (Mood::Up, _) | (Mood::Flaky, 0..3) => Fate::Taken { answer_after: Some(Duration::ZERO) },
            (Mood::Slow(most), _) => {
                let millis = state.random.below(most.as_millis() as u64);
                Fate::Taken { answer_after: Some(Duration::from_millis(millis)) }
            }
            (Mood::Flaky, 4..) if state.n_lost_in_a_row >= 5 => Fate::Taken { answer_after: Some(Duration::ZERO) },
            (Mood::Flaky, 3) => Fate::Taken { answer_after: None },
            (Mood::Flaky, 4) | (Mood::Down, 0..=2) => Fate::Refused,
            (Mood::Flaky | Mood::Down, _) => Fate::Closed,
        };
        if let Fate::Taken { .. } = fate {
            state.n_lost_in_a_row = 0;
            state.taken.push(Taken { at: clock::now(), answered_at: None, told });
        } else {
            state.n_lost += 1;
            state.n_lost_in_a_row += 1;
        }
        (fate, state.taken.len().saturating_sub(1))
    };
    let (status, answer) = match fate {
        Fate::Taken { answer_after: Some(delay) } => {
            tokio::time::sleep(delay).await;
            ("200 OK", TAKEN)
        }
        Fate::Refused => ("503 Service Unavailable", REFUSED),
        Fate::Taken { answer_after: None } | Fate::Closed => return,
    };
    let length = answer.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: text/xml\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    if stream.write_all(format!("{head}{answer}").as_bytes()).await.is_ok() && matches!(fate, Fate::Taken { .. }) {
        state.lock().unwrap().taken[place].answered_at = Some(clock::now());
    }
}

/// The body of one request, if all of it comes.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let (mut request, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let n_read = stream.read(&mut buffer).await.ok().filter(|n_read| *n_read > 0)?;
        request.extend_from_slice(&buffer[..n_read]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(body.to_owned());
        }
    }
}

/// The alerts of a published message: every object of it that has a key of its own.
fn told(form: &str) -> Vec<Told> {
    let field = |name: &str| form.split('&').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let message = super::http::decode(field("Message").unwrap_or_default());
    let mut told = Vec::new();
    // A body for each protocol: that of programs is the default.
    let message = match field("MessageStructure") {
        Some(_) => serde_json::from_str::<Value>(&message).unwrap()["default"].as_str().unwrap().to_owned(),
        None => message,
    };
    match serde_json::from_str(&message) {
        Ok(value) => collect(&value, &mut told),
        Err(error) => panic!("not JSON ({error}): {form}"),
    }
    told
}

fn collect(value: &Value, told: &mut Vec<Told>) {
    match value {
        Value::Object(object) => {
            let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
            match (text("rule"), text("state"), text("dedup_key")) {
                (Some(_), Some(state), Some(dedup_key)) => {
                    told.push(Told { target: text("target").unwrap_or_default(), state, dedup_key });
                }
                _ => object.values().for_each(|value| collect(value, told)),
            }
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, told)),
        _ => {}
    }
}
