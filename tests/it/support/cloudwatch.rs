//! A CloudWatch that answers as a test wants it to, in the protocol that the SDK speaks (Smithy RPC v2 with CBOR). What emulators
//! cannot do: throttle, page, tell a part, correct itself.

use std::io::Read;
use std::sync::{Arc, Mutex};

use ciborium::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `GetMetricData`.
    pub operation: String,
    pub body: Value,
    /// What it was signed with: `AKID/20260101/us-east-1/monitoring/aws4_request`.
    pub credential: String,
    /// Whether the body came packed.
    pub is_packed: bool,
    /// How many of this operation came before.
    pub nth: usize,
}

/// A metric that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub id: String,
    pub name: String,
    pub dimension: String,
    pub statistic: String,
    pub period: i64,
}

/// How it answers.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Page {
        results: Vec<Told>,
        next: Option<&'static str>,
    },
    /// The name of an error, and the status that goes with it.
    Refusal(&'static str, u16),
    /// No answer, while the connection stays open.
    Nothing,
}

/// What is told of a metric: the query's id, points (seconds since 1970, value), status.
pub(crate) type Told = (String, Vec<(i64, f64)>, &'static str);

type Answer = Box<dyn Fn(&Asked) -> Reply + Send>;

struct State {
    answer: Answer,
    asked: Vec<Asked>,
}

/// Stops when it is dropped.
pub(crate) struct Cloud {
    pub url: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Cloud {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State { answer: Box::new(answer), asked: Vec::new() }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { url, state, task }
    }

    /// All that was asked so far.
    pub(crate) fn asked(&self, operation: &str) -> Vec<Asked> {
        let state = self.state.lock().unwrap();
        state.asked.iter().filter(|asked| asked.operation == operation).cloned().collect()
    }

    /// From now on it answers so.
    pub(crate) fn answer(&self, answer: impl Fn(&Asked) -> Reply + Send + 'static) {
        self.state.lock().unwrap().answer = Box::new(answer);
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a process needs in its environment to take an address for AWS.
pub(crate) fn environment(url: &str) -> [(&'static str, String); 5] {
    [
        ("AWS_ENDPOINT_URL", url.to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
    ]
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let Some(mut asked) = read(&mut stream).await else { return };
    let reply = {
        let mut state = state.lock().unwrap();
        asked.nth = state.asked.iter().filter(|before| before.operation == asked.operation).count();
        state.asked.push(asked.clone());
        (state.answer)(&asked)
    };
    let (status, body) = match reply {
        Reply::Page { results, next } => (200, page(results, next)),
        Reply::Refusal(name, status) => {
            let kind = Value::Text(format!("com.amazonaws.cloudwatch.v2010_08_01#{name}"));
            (status, Value::Map(vec![(text("__type"), kind), (text("message"), text("of the test"))]))
        }
        Reply::Nothing => {
            std::future::pending::<()>().await;
            return;
        }
    };
    let mut bytes = Vec::new();
    ciborium::into_writer(&body, &mut bytes).unwrap();
    let head = format!(
        "HTTP/1.1 {status} X\r\nsmithy-protocol: rpc-v2-cbor\r\ncontent-type: application/cbor\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        bytes.len()
    );
    stream.write_all(head.as_bytes()).await.ok();
    stream.write_all(&bytes).await.ok();
}

fn page(results: Vec<Told>, next: Option<&str>) -> Value {
    let result = |(id, points, status): Told| {
        let times = points.iter().map(|(at, _)| Value::Tag(1, Box::new(Value::Integer((*at).into()))));
        let values = points.iter().map(|(_, value)| Value::Float(*value));
        Value::Map(vec![
            (text("Id"), Value::Text(id)),
            (text("Timestamps"), Value::Array(times.collect())),
            (text("Values"), Value::Array(values.collect())),
            (text("StatusCode"), text(status)),
        ])
    };
    let mut fields = vec![(text("MetricDataResults"), Value::Array(results.into_iter().map(result).collect()))];
    fields.extend(next.map(|next| (text("NextToken"), text(next))));
    Value::Map(fields)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// The field of a map.
pub(crate) fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.as_map()?.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
}

/// A text field of a map; empty where there is none.
pub(crate) fn word(value: &Value, name: &str) -> String {
    field(value, name).and_then(Value::as_text).unwrap_or_default().to_owned()
}

impl Asked {
    pub(crate) fn queries(&self) -> Vec<Query> {
        let queries = field(&self.body, "MetricDataQueries").and_then(Value::as_array).cloned().unwrap_or_default();
        let query = |query: &Value| {
            let stat = field(query, "MetricStat").unwrap();
            let metric = field(stat, "Metric").unwrap();
            let dimension = field(metric, "Dimensions").and_then(Value::as_array).and_then(|all| all.first());
            Query {
                id: word(query, "Id"),
                name: word(metric, "MetricName"),
                dimension: dimension.map(|dimension| word(dimension, "Value")).unwrap_or_default(),
                statistic: word(stat, "Stat"),
                period: i128::from(field(stat, "Period").and_then(Value::as_integer).unwrap()) as i64,
            }
        };
        queries.iter().map(query).collect()
    }

    /// Seconds since 1970.
    pub(crate) fn time(&self, name: &str) -> i64 {
        let Some(Value::Tag(1, time)) = field(&self.body, name) else { panic!("no {name} in {:?}", self.body) };
        match &**time {
            Value::Integer(seconds) => i128::from(*seconds) as i64,
            Value::Float(seconds) => *seconds as i64,
            other => panic!("{other:?} is no time"),
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 65_536]);
    loop {
        let n_read = stream.read(&mut buffer).await.ok()?;
        bytes.extend_from_slice(&buffer[..n_read]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let header = |name: &str| {
                head.lines().find_map(|line| {
                    let (known, value) = line.split_once(": ")?;
                    known.eq_ignore_ascii_case(name).then(|| value.to_owned())
                })
            };
            let length: usize = header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                let operation = head.lines().next()?.split(' ').nth(1)?.rsplit('/').next()?.to_owned();
                let body = &bytes[end + 4..end + 4 + length];
                let is_packed = header("content-encoding").as_deref() == Some("gzip");
                let mut unpacked = Vec::new();
                let body = if is_packed {
                    flate2::read::GzDecoder::new(body).read_to_end(&mut unpacked).unwrap();
                    &unpacked
                } else {
                    body
                };
                let body = ciborium::from_reader(body).unwrap_or(Value::Null);
                let signed = header("authorization").unwrap_or_default();
                let credential = signed.split("Credential=").nth(1).and_then(|rest| rest.split(',').next());
                let credential = credential.unwrap_or_default().to_owned();
                return Some(Asked { operation, body, credential, is_packed, nth: 0 });
            }
        }
        if n_read == 0 {
            return None;
        }
    }
}

/// One question to a server that speaks it, for what is not the daemon's to ask.
pub(crate) async fn ask(port: u16, operation: &str, body: &Value) -> Value {
    let mut bytes = Vec::new();
    ciborium::into_writer(body, &mut bytes).unwrap();
    let head = format!(
        "POST /service/GraniteServiceVersion20100801/operation/{operation} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\
         smithy-protocol: rpc-v2-cbor\r\ncontent-type: application/cbor\r\naccept: application/cbor\r\n\
         authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/monitoring/aws4_request, SignedHeaders=host, \
         Signature=0\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        bytes.len()
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut body = &answer[end + 4..];
    let unpacked: Vec<u8>;
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        let mut whole = Vec::new();
        while let Some(at) = body.windows(2).position(|two| two == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&body[..at]).unwrap().trim(), 16).unwrap();
            whole.extend_from_slice(&body[at + 2..at + 2 + size]);
            body = &body[(at + 2 + size + 2).min(body.len())..];
            if size == 0 {
                break;
            }
        }
        unpacked = whole;
        body = &unpacked;
    }
    if body.is_empty() { Value::Null } else { ciborium::from_reader(body).unwrap() }
}
