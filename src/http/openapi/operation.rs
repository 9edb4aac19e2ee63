//! One method of one path, as `OpenAPI` writes it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// What is told of a method.
pub(super) struct Operation {
    pub(super) path: String,
    pub(super) method: &'static str,
    tag: &'static str,
    summary: String,
    description: Option<&'static str>,
    parameters: Vec<Value>,
    body: Option<Value>,
    responses: BTreeMap<u16, Value>,
}

/// The body of an answer.
pub(super) enum Content {
    Json(Value),
    /// The same, or a line for whoever asks for text.
    JsonOrLine(Value),
    Text(&'static str),
    /// Server-sent events, whose data is JSON of that shape.
    Events(Value),
    OneOf(Vec<&'static str>),
}

impl Content {
    fn into_value(self) -> Value {
        let line = json!({ "schema": { "type": "string" } });
        match self {
            Self::Json(schema) => json!({ "application/json": { "schema": schema } }),
            Self::JsonOrLine(schema) => json!({ "application/json": { "schema": schema }, "text/plain": line }),
            Self::Text(kind) => json!({ kind: line }),
            Self::Events(schema) => {
                let data = json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": schema });
                let retry =
                    json!({ "type": "integer", "description": "Milliseconds until the stream is asked for again." });
                let event = json!({
                    "type": "object",
                    "required": ["data"],
                    "properties": { "data": data, "retry": retry },
                });
                json!({ "text/event-stream": { "schema": event } })
            }
            Self::OneOf(kinds) => kinds.into_iter().map(|kind| (kind.to_owned(), line.clone())).collect(),
        }
    }
}

/// Refusals by their code: name, and what each says.
const REFUSALS: [(u16, &str, &str); 9] = [
    (400, "BadRequest", "A parameter or a key of the body that cannot be read or is not known; `parameter` names it."),
    (401, "Unauthorized", "What `WWW-Authenticate` names was not shown, or is not right."),
    (403, "Forbidden", "Nothing can be changed over HTTP: no `server.token` is set."),
    (404, "NotFound", "A name that is not configured, or a number that is not known."),
    (405, "WrongMethod", "Another method than those of the path, which `Allow` names."),
    (409, "Conflict", "It has ended already, or there are too many."),
    (413, "TooLarge", "A body of more than 8 KiB, or one whose length was not told. The connection is closed."),
    (415, "UnsupportedMediaType", "The body is told to be something else than JSON."),
    (503, "Unavailable", "Not now: too many ask, the daemon stops, or the store did not answer in time."),
];

/// All refusals, by name.
pub(super) fn responses(schema: &Value) -> Value {
    let header =
        |description: &str| json!({ "description": description, "required": true, "schema": { "type": "string" } });
    let response = |(code, name, description): &(u16, &str, &str)| {
        let content = Content::JsonOrLine(schema.clone()).into_value();
        let mut response = json!({ "description": description, "content": content });
        match code {
            401 => response["headers"] = json!({ "WWW-Authenticate": header("What to show.") }),
            405 => response["headers"] = json!({ "Allow": header("The methods that there are.") }),
            _ => {}
        }
        ((*name).to_owned(), response)
    };
    Value::Object(REFUSALS.iter().map(response).collect())
}

pub(super) fn in_path(name: &str, description: &str, schema: Value, example: Value) -> Value {
    json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema, "example": example })
}

pub(super) fn required(mut parameter: Value) -> Value {
    parameter["required"] = Value::Bool(true);
    parameter
}

impl Operation {
    fn new(method: &'static str, path: &str, tag: &'static str, summary: &str) -> Self {
        let operation = Self {
            path: path.to_owned(),
            method,
            tag,
            summary: summary.to_owned(),
            description: None,
            parameters: Vec::new(),
            body: None,
            responses: BTreeMap::new(),
        };
        operation.refuses(&[405, 413])
    }

    pub(super) fn get(path: &str, tag: &'static str, summary: &str) -> Self {
        Self::new("get", path, tag, summary)
    }

    pub(super) fn post(path: &str, tag: &'static str, summary: &str) -> Self {
        Self::new("post", path, tag, summary)
    }

    pub(super) fn delete(path: &str, tag: &'static str, summary: &str) -> Self {
        Self::new("delete", path, tag, summary)
    }

    pub(super) fn with(mut self, parameters: impl IntoIterator<Item = Value>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    pub(super) fn described(mut self, description: &'static str) -> Self {
        self.description = Some(description);
        self
    }

    pub(super) fn takes(mut self, schema: Value, example: Value) -> Self {
        let content = json!({ "application/json": { "schema": schema, "example": example } });
        self.body = Some(json!({ "required": true, "content": content }));
        self
    }

    pub(super) fn answers(mut self, code: u16, description: &str, content: Content) -> Self {
        self.responses.insert(code, json!({ "description": description, "content": content.into_value() }));
        self
    }

    pub(super) fn refuses(mut self, codes: &[u16]) -> Self {
        for (code, name, _) in REFUSALS.iter().filter(|(code, ..)| codes.contains(code)) {
            self.responses.insert(*code, json!({ "$ref": format!("#/components/responses/{name}") }));
        }
        self
    }

    /// Whether it changes something.
    pub(super) fn writes(&self) -> bool {
        self.method != "get"
    }

    /// `security`: what must be shown, one of these.
    pub(super) fn into_value(self, security: Vec<Value>) -> Value {
        let operation = if security.is_empty() { self } else { self.refuses(&[401]) };
        let mut value = Map::new();
        value.insert("tags".to_owned(), json!([operation.tag]));
        value.insert("summary".to_owned(), json!(operation.summary));
        if let Some(description) = operation.description {
            value.insert("description".to_owned(), json!(description));
        }
        value.insert("operationId".to_owned(), json!(operation_id(operation.method, &operation.path)));
        if !operation.parameters.is_empty() {
            value.insert("parameters".to_owned(), Value::Array(operation.parameters));
        }
        if let Some(body) = operation.body {
            value.insert("requestBody".to_owned(), body);
        }
        value.insert("security".to_owned(), Value::Array(security));
        let responses = operation.responses.into_iter().map(|(code, response)| (code.to_string(), response));
        value.insert("responses".to_owned(), Value::Object(responses.collect()));
        Value::Object(value)
    }
}

/// For example `get_api_v1_clusters_cluster`. A hyphen is left out, since `standby-leader` is not `standby_leader`, and a slash
/// at the end is told as `root`.
fn operation_id(method: &str, path: &str) -> String {
    let root = if path.ends_with("}/") { "root" } else { "" };
    let path = path.replace('-', "") + root;
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(method).chain(words).collect::<Vec<_>>().join("_")
}
