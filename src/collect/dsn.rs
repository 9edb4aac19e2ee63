//! The text of a connection string, taken apart into parameters: libpq's two forms.
//!
//! A URL is what begins with `postgresql://` or `postgres://`; anything else is `name=value` pairs, whatever their values
//! hold. Where a form differs between versions of libpq, 18 is followed.
//!
//! A piece of the text may be a password that was not escaped, so errors repeat nothing of it but the name of a
//! parameter, and that only where it cannot be one.

use super::conninfo::ConninfoError;

/// The parameters in the order written; a later one wins, as in libpq.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) pairs: Vec<(String, Vec<u8>)>,
    pub(super) is_url: bool,
    /// Unknown names may be pieces of a password and must not be repeated.
    pub(super) is_suspect: bool,
}

impl Parameters {
    pub(super) fn parse(text: &str) -> Result<Self, ConninfoError> {
        if text.contains('\0') {
            return Err(ConninfoError::Syntax("a NUL character has no place in it"));
        }
        let trimmed = text.trim_matches([' ', '\t', '\r', '\n']);
        match trimmed.strip_prefix("postgresql://").or_else(|| trimmed.strip_prefix("postgres://")) {
            Some(rest) => parse_url(rest),
            None => parse_keywords(text),
        }
    }
}

const AT_SIGN: &str = "an @ stands where the host is expected: in a user name or password write @ as %40, / as %2F, \
                       : as %3A, ? as %3F, # as %23, % as %25";

/// What C calls a space.
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// `[user[:password]@][host[:port],...][/dbname][?key=value&...]`
fn parse_url(rest: &str) -> Result<Parameters, ConninfoError> {
    let mut pairs = Vec::new();
    let mut add = |key: &str, value: &str| -> Result<(), ConninfoError> {
        pairs.push((key.to_owned(), percent_decoded(value)?));
        Ok(())
    };
    // libpq looks for the @ up to the first slash.
    let before_slash = rest.find('/').unwrap_or(rest.len());
    let (userinfo, rest) = match rest[..before_slash].find('@') {
        Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
        None => (None, rest),
    };
    if let Some(userinfo) = userinfo {
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (userinfo, None),
        };
        if !user.is_empty() {
            add("user", user)?;
        }
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            add("password", password)?;
        }
    }
    let end_of_hosts = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end_of_hosts);
    // "user:pa/ss@host": what follows the slash holds the real host, and the port is a piece of the password.
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    if authority.contains('@') || (userinfo.is_none() && authority.contains(':') && path.contains('@')) {
        return Err(ConninfoError::Syntax(AT_SIGN));
    }
    let (hosts, ports) = split_hosts(authority)?;
    for (key, list) in [("host", hosts.join(",")), ("port", ports.join(","))] {
        if !list.is_empty() {
            add(key, &list)?;
        }
    }
    // "user:p@ss/word@host": the host and the database hold pieces of the password, and would be named in errors.
    if userinfo.is_some() && path.contains('@') {
        return Err(ConninfoError::Syntax("an @, / or : in a password is written %40, %2F, %3A"));
    }
    if let Some(dbname) = path.strip_prefix('/').filter(|dbname| !dbname.is_empty()) {
        add("dbname", dbname)?;
    }
    for parameter in query.unwrap_or("").split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter
            .split_once('=')
            .ok_or(ConninfoError::Syntax("a parameter after the ? has no value: write name=value, joined by &"))?;
        let key = String::from_utf8(percent_decoded(key)?)
            .map_err(|_| ConninfoError::Syntax("percent-escapes in the name of a parameter do not make UTF-8"))?;
        add(&key, value)?;
    }
    let is_suspect = rest.contains('@');
    Ok(Parameters { pairs, is_url: true, is_suspect })
}

/// `h1:5432,[::1]:5433,h3` as the hosts and the ports, an absent port being empty.
fn split_hosts(authority: &str) -> Result<(Vec<&str>, Vec<&str>), ConninfoError> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for host in authority.split(',') {
        let (name, port) = if let Some(literal) = host.strip_prefix('[') {
            let (literal, after) =
                literal.split_once(']').ok_or(ConninfoError::Syntax("an IPv6 address lacks its closing bracket"))?;
            if literal.is_empty() {
                return Err(ConninfoError::Syntax("the brackets of an IPv6 address are empty"));
            }
            match after.strip_prefix(':') {
                Some(port) => (literal, port),
                None if after.is_empty() => (literal, ""),
                None => return Err(ConninfoError::Syntax("after an IPv6 address in brackets comes : and the port")),
            }
        } else {
            host.split_once(':').unwrap_or((host, ""))
        };
        hosts.push(name);
        ports.push(port);
    }
    Ok((hosts, ports))
}

/// Spaces at both ends are not part of it.
fn percent_decoded(text: &str) -> Result<Vec<u8>, ConninfoError> {
    let text = text.trim_matches(' ');
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let byte = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        match byte {
            Some(0) => return Err(ConninfoError::Syntax("%00 has no place in a connection URL")),
            Some(byte) => decoded.push(byte),
            None => return Err(ConninfoError::Syntax("a % without two hexadecimal digits: write a literal % as %25")),
        }
    }
    Ok(decoded)
}

/// `host=... password='a b'`: spaces around `=` allowed, quotes around values with spaces, a backslash before any
/// character that is meant literally.
fn parse_keywords(text: &str) -> Result<Parameters, ConninfoError> {
    let mut pairs = Vec::new();
    let mut is_suspect = false;
    let mut bytes = text.bytes().peekable();
    loop {
        while bytes.next_if(|byte| is_space(*byte)).is_some() {}
        if bytes.peek().is_none() {
            break;
        }
        let mut key = Vec::new();
        while let Some(byte) = bytes.next_if(|byte| *byte != b'=' && !is_space(*byte)) {
            key.push(byte);
        }
        let key = String::from_utf8_lossy(&key).into_owned();
        if key.contains("://") {
            return Err(ConninfoError::Syntax("a connection URL begins with postgresql:// or postgres://"));
        }
        while bytes.next_if(|byte| is_space(*byte)).is_some() {}
        if bytes.next_if_eq(&b'=').is_none() {
            return Err(ConninfoError::Syntax(
                "a word is not followed by =: write name=value, and a value with spaces in single quotes",
            ));
        }
        while bytes.next_if(|byte| is_space(*byte)).is_some() {}
        let is_quoted = bytes.next_if_eq(&b'\'').is_some();
        let mut value = Vec::new();
        loop {
            match bytes.next() {
                Some(b'\'') if is_quoted => break,
                Some(byte) if is_space(byte) && !is_quoted => break,
                Some(b'\\') => value.extend(bytes.next()),
                Some(byte) => value.push(byte),
                None if is_quoted => return Err(ConninfoError::Syntax("a quoted value lacks its closing quote")),
                None => break,
            }
        }
        // What stands after an unquoted password may be the rest of it.
        is_suspect |= key == "password" && !is_quoted;
        pairs.push((key, value));
    }
    Ok(Parameters { pairs, is_url: false, is_suspect })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let pairs = Parameters::parse(text).expect(text).pairs;
        pairs.into_iter().map(|(key, value)| (key, String::from_utf8(value).expect(text))).collect()
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn urls_come_apart_as_in_libpq() {
        for (url, expected) in [
            ("postgresql://", &[][..]),
            ("postgres://h", &[("host", "h")]),
            ("postgres://u@h/d", &[("user", "u"), ("host", "h"), ("dbname", "d")]),
            ("postgres://u:p%40%2f:x@h:1", &[("user", "u"), ("password", "p@/:x"), ("host", "h"), ("port", "1")]),
            ("postgres://u:p?q#r@h", &[("user", "u"), ("password", "p?q#r"), ("host", "h")]),
            ("postgres://h1:1,h2,h3:3/d", &[("host", "h1,h2,h3"), ("port", "1,,3"), ("dbname", "d")]),
            ("postgres://[::1]:5,[fe80::2%25eth0]", &[("host", "::1,fe80::2%eth0"), ("port", "5,")]),
            ("postgres://%2Fvar%2Frun/d", &[("host", "/var/run"), ("dbname", "d")]),
            ("postgres:///d?host=/tmp&port=6", &[("dbname", "d"), ("host", "/tmp"), ("port", "6")]),
            ("postgres://h?user=a%20b", &[("host", "h"), ("user", "a b")]),
            ("postgres://h/?options=-c%20a=b", &[("host", "h"), ("options", "-c a=b")]),
            (" postgres://h/d\n", &[("host", "h"), ("dbname", "d")]),
            ("postgres://u@h/d%40e?user=a@b", &[("user", "u"), ("host", "h"), ("dbname", "d@e"), ("user", "a@b")]),
            ("postgres://u:@h:/d", &[("user", "u"), ("host", "h"), ("dbname", "d")]),
            ("postgres://,/d", &[("host", ","), ("port", ","), ("dbname", "d")]),
            ("postgres://h:1/d?user=a@b", &[("host", "h"), ("port", "1"), ("dbname", "d"), ("user", "a@b")]),
            ("postgres:// h /d? user =%20u ", &[("host", "h"), ("dbname", "d"), ("user", " u")]),
        ] {
            assert_eq!(pairs(url), owned(expected), "{url}");
        }
    }

    #[test]
    fn keywords_come_apart_as_in_libpq() {
        for (text, expected) in [
            ("", &[][..]),
            ("host=h port=1", &[("host", "h"), ("port", "1")]),
            (" host = h\n\tport= 1 ", &[("host", "h"), ("port", "1")]),
            (r"password='a b' user=u", &[("password", "a b"), ("user", "u")]),
            (r"password='it\'s \\ ' user=u", &[("password", r"it's \ "), ("user", "u")]),
            (r"password=a\ b\'c user=u", &[("password", "a b'c"), ("user", "u")]),
            ("password='' user=u", &[("password", ""), ("user", "u")]),
            ("password='a'user=u", &[("password", "a"), ("user", "u")]),
            ("host=a host=b", &[("host", "a"), ("host", "b")]),
            ("host=h password='https://x'", &[("host", "h"), ("password", "https://x")]),
            ("host=h password=postgres://x", &[("host", "h"), ("password", "postgres://x")]),
            ("password=a\\ ", &[("password", "a ")]),
            ("host=h\x0bport=1", &[("host", "h"), ("port", "1")]),
        ] {
            assert_eq!(pairs(text), owned(expected), "{text}");
        }
    }
}
