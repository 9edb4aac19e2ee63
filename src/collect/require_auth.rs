//! `require_auth`: by which methods a server may have us log in.
//!
//! The library that logs in obeys whatever the server asks for, a password in clear text too. So what the server sends is
//! read along the way, and a request that is not wanted never arrives: the password is not sent.

use super::conninfo::BadValue;

/// A method of `require_auth`. Those that the library cannot do are here so that they can be excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Password,
    Md5,
    Gss,
    Sspi,
    ScramSha256,
    Oauth,
    None,
}

const METHODS: [(&str, Method); 7] = [
    ("password", Method::Password),
    ("md5", Method::Md5),
    ("gss", Method::Gss),
    ("sspi", Method::Sspi),
    ("scram-sha-256", Method::ScramSha256),
    ("oauth", Method::Oauth),
    ("none", Method::None),
];

/// The methods that are allowed, one bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequireAuth(u8);

const fn bit(method: Method) -> u8 {
    1 << method as u8
}

impl RequireAuth {
    /// A list such as `scram-sha-256,none`, or `!password,!md5` for all but these.
    pub(super) fn parse(text: &str) -> Result<Self, BadValue> {
        const MIXED: BadValue = BadValue("expected either methods or methods behind a !, not both");
        let is_negative = text.starts_with('!');
        let mut named = 0;
        for word in text.split(',') {
            let word = match (word.strip_prefix('!'), is_negative) {
                (Some(word), true) => word,
                (None, false) => word,
                _ => return Err(MIXED),
            };
            let (_, method) = METHODS.iter().find(|(name, _)| *name == word).ok_or(BadValue(
                "expected methods, joined by commas: password, md5, scram-sha-256, gss, sspi, oauth, none",
            ))?;
            if named & bit(*method) != 0 {
                return Err(BadValue("has a method twice"));
            }
            named |= bit(*method);
        }
        Ok(Self(if is_negative { !named } else { named }))
    }

    const fn allows(self, method: Method) -> bool {
        self.0 & bit(method) != 0
    }
}

/// What the server asked for. Inside an [`std::io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("the server {0}, and require_auth does not allow it")]
pub(super) struct Unwanted(&'static str);

/// Reads what a server sends until we are logged in.
#[derive(Debug)]
pub(super) struct Gate {
    allowed: RequireAuth,
    /// The head of the message that is being read: its kind, its length, and of a request for authentication which.
    head: [u8; 9],
    n_head: usize,
    /// Bytes of a message's rest that are still to come.
    n_rest: usize,
    /// The server has had what proves that we know the password, and of SCRAM proved the same.
    has_exchanged: bool,
    is_over: bool,
}

impl Gate {
    pub(super) const fn new(allowed: RequireAuth) -> Self {
        Self { allowed, head: [0; 9], n_head: 0, n_rest: 0, has_exchanged: false, is_over: false }
    }

    /// Whether these bytes, the next ones, may be taken in. Part of a message has no effect by itself.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Unwanted> {
        while !self.is_over && !bytes.is_empty() {
            if self.n_rest > 0 {
                let n_now = self.n_rest.min(bytes.len());
                self.n_rest -= n_now;
                bytes = &bytes[n_now..];
                continue;
            }
            self.head[self.n_head] = bytes[0];
            self.n_head += 1;
            bytes = &bytes[1..];
            let [kind, a, b, c, d, code @ ..] = self.head;
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            match self.n_head {
                // Too short for a request: the library refuses it.
                5 if kind != b'R' || length < 8 => self.rest_is(length.saturating_sub(4)),
                9 => {
                    self.judge(u32::from_be_bytes(code))?;
                    self.rest_is(length.saturating_sub(8));
                }
                _ => {}
            }
        }
        Ok(())
    }

    const fn rest_is(&mut self, n_rest: usize) {
        self.n_head = 0;
        self.n_rest = n_rest;
    }

    /// A request for authentication, by its number in PostgreSQL's protocol.
    fn judge(&mut self, code: u32) -> Result<(), Unwanted> {
        self.is_over = code == 0;
        let (method, asks) = match code {
            0 if self.has_exchanged => return Ok(()),
            0 => (Method::None, "lets us in without authentication"),
            3 => (Method::Password, "asks for the password in clear text"),
            5 => (Method::Md5, "asks for the password's MD5 hash"),
            7 => (Method::Gss, "asks for GSSAPI"),
            9 => (Method::Sspi, "asks for SSPI"),
            10 => (Method::ScramSha256, "asks for SCRAM-SHA-256"),
            12 => {
                self.has_exchanged = true;
                return Ok(());
            }
            _ => return Ok(()),
        };
        if !self.allowed.allows(method) {
            return Err(Unwanted(asks));
        }
        self.has_exchanged |= matches!(method, Method::Password | Method::Md5);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(code: u32, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(rest.len() + 8).unwrap();
        [&b"R"[..], &length.to_be_bytes(), &code.to_be_bytes(), rest].concat()
    }

    #[test]
    fn methods_are_listed_as_in_libpq() {
        let all = |methods: &[Method]| Ok(methods.iter().map(|method| bit(*method)).sum::<u8>());
        for (text, expected) in [
            ("scram-sha-256", all(&[Method::ScramSha256])),
            ("password,none", all(&[Method::Password, Method::None])),
            ("!password,!md5", all(&[Method::Gss, Method::Sspi, Method::ScramSha256, Method::Oauth, Method::None])),
            (
                "!none",
                all(&[Method::Password, Method::Md5, Method::Gss, Method::Sspi, Method::ScramSha256, Method::Oauth]),
            ),
        ] {
            assert_eq!(RequireAuth::parse(text).map(|allowed| allowed.0 & 0x7f), expected, "{text}");
        }
        for text in ["", ",", "scram", "password,", "password,!md5", "!password,md5", "md5,md5", "!", "SCRAM-SHA-256"] {
            assert!(RequireAuth::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unwanted_request_never_arrives_however_its_bytes_come() {
        let scram =
            [request(10, b"SCRAM-SHA-256\0\0"), request(11, b"r=x"), request(12, b"v=x"), request(0, b"")].concat();
        let notice = b"N\0\0\0\x09R\0\0\0\x08".to_vec();
        let half = [request(10, b"SCRAM-SHA-256\0\0"), request(11, b"r=x"), request(0, b"")].concat();
        for (require_auth, bytes, is_passed) in [
            ("scram-sha-256", scram.clone(), true),
            ("scram-sha-256", [notice.clone(), scram.clone()].concat(), true),
            ("scram-sha-256", half, false),
            ("scram-sha-256", request(3, b""), false),
            ("scram-sha-256", [notice, request(3, b"")].concat(), false),
            ("scram-sha-256", request(5, b"salt"), false),
            ("scram-sha-256", request(0, b""), false),
            ("password", [request(3, b""), request(0, b"")].concat(), true),
            ("password", request(0, b""), false),
            ("none", request(0, b""), true),
            ("none", request(3, b""), false),
            ("!password", scram, true),
            ("!password", request(0, b""), true),
            ("!password", request(3, b""), false),
            ("!none", request(0, b""), false),
            ("password,none", request(10, b"SCRAM-SHA-256\0\0"), false),
            // What comes after we are let in is none of this.
            ("none", [request(0, b""), request(3, b"")].concat(), true),
        ] {
            for n_at_once in [1, 2, 3, bytes.len()] {
                let mut gate = Gate::new(RequireAuth::parse(require_auth).unwrap());
                let passed = bytes.chunks(n_at_once).all(|bytes| gate.pass(bytes).is_ok());
                assert_eq!(passed, is_passed, "{require_auth} {bytes:?} by {n_at_once}");
            }
        }
    }
}
