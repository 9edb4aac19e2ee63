//! What to make of an error of AWS: one reading of it for everything that asks AWS.

use std::error::Error;
use std::fmt;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

/// Why AWS did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    /// In a line that holds no secret.
    pub reason: String,
}

/// What can be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asked too often.
    Throttled,
    /// The policy of whoever asks lacks this action: `rds:DescribeDBInstances`.
    Denied { action: String },
    /// There are no credentials, or AWS does not take them.
    Credentials,
    /// There is no such thing.
    NotFound,
    /// No answer: name lookup, connection, time-out.
    Unreachable,
    /// The question is wrong.
    Refused,
    /// AWS' own error, or an answer that cannot be read.
    Failed,
    /// It was not asked, since it has failed too often of late ([`crate::core::circuit`]).
    Paused,
}

impl Kind {
    /// The values of the label `outcome`, beside `ok`.
    pub const NAMES: [&'static str; 7] =
        ["throttled", "denied", "credentials", "not_found", "unreachable", "refused", "failed"];

    pub const fn name(&self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Denied { .. } => "denied",
            Self::Credentials => "credentials",
            Self::NotFound => "not_found",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Paused => "paused",
        }
    }

    /// By the status and the code of an answer to `action`.
    pub(super) fn of_answer(action: &str, status: u16, code: &str) -> Self {
        const NO_CREDENTIALS: [&str; 9] = [
            "InvalidClientTokenId",
            "UnrecognizedClientException",
            "InvalidAccessKeyId",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "ExpiredToken",
            "ExpiredTokenException",
            "InvalidToken",
            "RequestExpired",
        ];
        if code.contains("Throttl")
            || ["TooManyRequestsException", "RequestLimitExceeded", "SlowDown", "LimitExceededException"]
                .contains(&code)
            || (code.is_empty() && status == 429)
        {
            Self::Throttled
        } else if NO_CREDENTIALS.contains(&code) || code.contains("Signature") {
            Self::Credentials
        } else if code.starts_with("AccessDenied")
            || ["AuthorizationError", "AuthorizationErrorException", "UnauthorizedOperation", "NotAuthorized"]
                .contains(&code)
            || (code.is_empty() && status == 403)
        {
            Self::Denied { action: action.to_owned() }
        } else if code.contains("NotFound") || (code.is_empty() && status == 404) {
            Self::NotFound
        } else if (400..500).contains(&status) {
            Self::Refused
        } else {
            Self::Failed
        }
    }

    /// Whether the service itself is in trouble, or cannot be reached with what we have.
    pub(super) const fn is_trouble(&self) -> bool {
        matches!(self, Self::Throttled | Self::Credentials | Self::Unreachable | Self::Failed)
    }
}

impl Fault {
    /// `action` is the one that was asked for, as policies write it: `rds:DescribeDBInstances`.
    pub fn of<E>(action: &str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let text = causes(error);
        if let Some(paused) = paused(error) {
            return Self { kind: Kind::Paused, reason: paused };
        }
        // Credentials are fetched on the way to the question, and that may be denied as well.
        if let Some((who, action)) = missing_action(error.message().unwrap_or(&text)) {
            let reason = format!("AWS denies {action} to {who}: add the action to its policy");
            return Self { kind: Kind::Denied { action: action.to_owned() }, reason: line(&reason) };
        }
        match error {
            SdkError::ServiceError(answer) => {
                let (status, code) = (answer.raw().status().as_u16(), error.code().unwrap_or_default());
                let said = error.message().unwrap_or("no reason");
                let kind = match Kind::of_answer(action, status, code) {
                    // Secrets Manager does not name this one.
                    Kind::Denied { .. } if said.contains("KMS") => Kind::Denied { action: "kms:Decrypt".to_owned() },
                    kind => kind,
                };
                let reason = match &kind {
                    Kind::Denied { action } => format!("AWS denies {action}: add the action to the policy ({said})"),
                    // The text for a bad signature repeats the signed request, tokens included.
                    Kind::Credentials => format!("AWS does not take the credentials: {code} ({status})"),
                    _ => format!("{action}: {code} ({status}): {said}"),
                };
                Self { kind, reason: line(&reason) }
            }
            SdkError::ResponseError(answer) => {
                let status = answer.raw().status().as_u16();
                let kind = Kind::of_answer(action, status, "");
                Self { kind, reason: format!("{action}: the answer ({status}) cannot be read") }
            }
            SdkError::DispatchFailure(failure)
                if !failure.is_io() && !failure.is_timeout() && text.to_lowercase().contains("credential") =>
            {
                Self { kind: Kind::Credentials, reason: line(&format!("no AWS credentials: {text}")) }
            }
            SdkError::ConstructionFailure(_) => {
                Self { kind: Kind::Refused, reason: line(&format!("cannot ask {action}: {text}")) }
            }
            _ => Self { kind: Kind::Unreachable, reason: line(&format!("no answer to {action}: {text}")) },
        }
    }
}

impl Fault {
    /// Of who could not say whose question it is.
    pub(super) fn of_credentials(error: &(dyn Error + 'static)) -> Self {
        let text = causes(error);
        match missing_action(&text) {
            Some((who, action)) => {
                let reason = format!("AWS denies {action} to {who}: add the action to its policy");
                Self { kind: Kind::Denied { action: action.to_owned() }, reason: line(&reason) }
            }
            None => Self { kind: Kind::Credentials, reason: line(&format!("no AWS credentials: {text}")) },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Error for Fault {}

/// It was not asked.
#[derive(Debug, thiserror::Error)]
#[error("not asked for another {}s, since it failed: {reason}", wait.as_secs().max(1))]
pub(super) struct Paused {
    pub wait: std::time::Duration,
    pub reason: String,
}

fn paused(error: &(dyn Error + 'static)) -> Option<String> {
    std::iter::successors(Some(error), |error| (*error).source())
        .find_map(|error| error.downcast_ref::<Paused>().map(ToString::to_string))
}

/// Who lacks which action, where AWS says so: `User: arn:... is not authorized to perform: sns:Publish on resource: ...`.
fn missing_action(text: &str) -> Option<(&str, &str)> {
    let (before, after) = text.split_once(" is not authorized to perform: ")?;
    let who = before.rsplit(' ').next().filter(|who| who.starts_with("arn:")).unwrap_or("the role");
    let is_of_action = |c: char| c.is_ascii_alphanumeric() || c == ':' || c == '-';
    let end = after.find(|c| !is_of_action(c)).unwrap_or(after.len());
    (end > 0).then_some((who, &after[..end]))
}

/// An error with what caused it, each said once.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    for error in std::iter::successors(Some(error), |error| (*error).source()) {
        let text = error.to_string();
        if said.last() != Some(&text) {
            said.push(text);
        }
    }
    said.join(": ")
}

/// The first 300 characters, on one line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

/// The code of an error in an answer, before the SDK has made a type of it: in the header, or in XML, JSON or CBOR.
pub(super) fn code_of(header: Option<&str>, body: &[u8]) -> String {
    let code = header.map(str::to_owned).or_else(|| {
        if let Some(at) = find(body, b"<Code>") {
            let rest = &body[at..];
            return Some(String::from_utf8_lossy(&rest[..rest.iter().position(|b| *b == b'<')?]).into_owned());
        }
        let rest = &body[find(body, b"__type")?..];
        let text = match rest.first()? {
            // JSON: the name's closing quote, a colon, a quote.
            b'"' => rest[1..].split(|b| *b == b'"').nth(1)?,
            // CBOR: a text of up to 23 bytes, or up to 255.
            first @ 0x60..=0x77 => rest.get(1..1 + usize::from(first & 0x1f))?,
            0x78 => rest.get(2..2 + usize::from(*rest.get(1)?))?,
            _ => return None,
        };
        Some(String::from_utf8_lossy(text).into_owned())
    });
    let code = code.unwrap_or_default();
    let code = code.split(':').next().unwrap_or_default();
    code.rsplit('#').next().unwrap_or_default().to_owned()
}

/// Where what follows `word` begins.
fn find(body: &[u8], word: &[u8]) -> Option<usize> {
    body.windows(word.len()).position(|window| window == word).map(|at| at + word.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_by_its_code_and_else_by_its_status() {
        let denied = Kind::Denied { action: "sns:Publish".to_owned() };
        for (status, code, expect) in [
            (400, "Throttling", Kind::Throttled),
            (400, "ThrottlingException", Kind::Throttled),
            (429, "", Kind::Throttled),
            (403, "AccessDenied", denied.clone()),
            (400, "AccessDeniedException", denied.clone()),
            (403, "AuthorizationError", denied.clone()),
            (403, "", denied),
            (403, "InvalidClientTokenId", Kind::Credentials),
            (403, "SignatureDoesNotMatch", Kind::Credentials),
            (403, "InvalidSignatureException", Kind::Credentials),
            (400, "ExpiredTokenException", Kind::Credentials),
            (404, "DBInstanceNotFound", Kind::NotFound),
            (400, "ResourceNotFoundException", Kind::NotFound),
            (400, "InvalidParameterValue", Kind::Refused),
            (500, "InternalFailure", Kind::Failed),
            (503, "", Kind::Failed),
        ] {
            assert_eq!(Kind::of_answer("sns:Publish", status, code), expect, "{status} {code}");
        }
    }

    #[test]
    fn the_code_is_found_in_each_of_the_protocols() {
        let cbor = |text: &str| {
            let mut body = vec![0xbf, 0x66];
            body.extend_from_slice(b"__type");
            body.extend_from_slice(&[0x78, text.len() as u8]);
            body.extend_from_slice(text.as_bytes());
            body.push(0xff);
            body
        };
        let xml =
            b"<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code></Error></ErrorResponse>".to_vec();
        for (header, body, expect) in [
            (None, xml, "AccessDenied"),
            (None, br#"{"__type":"ResourceNotFoundException","Message":"x"}"#.to_vec(), "ResourceNotFoundException"),
            (None, br#"{"__type": "com.amazon.coral#Throttling"}"#.to_vec(), "Throttling"),
            (None, cbor("com.amazonaws.cloudwatch#InvalidFormatFault"), "InvalidFormatFault"),
            (None, b"\xbf\x66__type\x68Throttle\xff".to_vec(), "Throttle"),
            (Some("ThrottlingException:http://internal.amazon.com/"), Vec::new(), "ThrottlingException"),
            (None, b"<html>no gateway</html>".to_vec(), ""),
            (None, b"__type".to_vec(), ""),
            (None, b"__type\x78\xffshort".to_vec(), ""),
        ] {
            assert_eq!(code_of(header, &body), expect);
        }
    }

    #[test]
    fn the_missing_action_is_the_one_that_aws_names() {
        let text = "User: arn:aws:sts::123456789012:assumed-role/pgvigil/i-1 is not authorized to perform: sts:AssumeRole on \
                    resource: arn:aws:iam::210987654321:role/watch";
        let who = "arn:aws:sts::123456789012:assumed-role/pgvigil/i-1";
        assert_eq!(missing_action(text), Some((who, "sts:AssumeRole")));
        assert_eq!(missing_action("it is not authorized to perform: x:Y"), Some(("the role", "x:Y")));
        assert_eq!(missing_action("Access Denied"), None);
    }
}
