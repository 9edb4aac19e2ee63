//! IAM database authentication: a token in the place of a password, signed anew for each connection. Signing is local work.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_sns::config::{Credentials, ProvideCredentials};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;

use super::{Aws, Fault, Kind, Place, lock};
use crate::clock;

/// RDS takes no token that is valid for longer. It is needed for connecting only.
const VALID_FOR: Duration = Duration::from_secs(900);
/// Credentials are asked for anew this long before they expire, and without an expiry after so long.
const FRESH_FOR: Duration = Duration::from_secs(300);

/// What logs in to RDS in the place of a password. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}

impl Aws {
    /// A token for this user at this endpoint, which must be called by RDS' own name for it.
    ///
    /// # Errors
    /// There are no credentials.
    pub async fn rds_token(
        &self,
        place: &Place,
        region: &str,
        host: &str,
        port: u16,
        user: &str,
    ) -> Result<Token, Fault> {
        let credentials = self.credentials(place).await?;
        signed(&credentials, region, host, port, user, clock::wall())
            .map_err(|reason| Fault { kind: Kind::Refused, reason: format!("cannot sign a token: {reason}") })
    }

    /// Kept for a while: the machine's metadata is not to be asked at every connection.
    async fn credentials(&self, place: &Place) -> Result<Credentials, Fault> {
        let place_known = Arc::clone(lock(&self.0.credentials).entry(place.clone()).or_default());
        let mut known = place_known.lock().await;
        let (now, wall) = (clock::now(), clock::wall());
        if let Some((credentials, read_at)) = &*known {
            let is_fresh = match credentials.expiry() {
                Some(expiry) => expiry.duration_since(wall).is_ok_and(|left| left > FRESH_FOR),
                None => now.duration_since(*read_at) < FRESH_FOR,
            };
            if is_fresh {
                return Ok(credentials.clone());
            }
        }
        let no_credentials = |reason: String| Fault { kind: Kind::Credentials, reason };
        let settings = self.settings(place).await;
        let provider =
            settings.credentials_provider().ok_or_else(|| no_credentials("no AWS credentials".to_owned()))?;
        let credentials = provider.provide_credentials().await.map_err(|error| Fault::of_credentials(&error))?;
        *known = Some((credentials.clone(), now));
        Ok(credentials)
    }
}

fn signed(
    credentials: &Credentials,
    region: &str,
    host: &str,
    port: u16,
    user: &str,
    at: SystemTime,
) -> Result<Token, String> {
    let identity = credentials.clone().into();
    let mut settings = SigningSettings::default();
    settings.expires_in = Some(VALID_FOR);
    settings.signature_location = SignatureLocation::QueryParams;
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("rds-db")
        .time(at)
        .settings(settings)
        .build()
        .map_err(|error| error.to_string())?;
    let mut token = format!("{host}:{port}/?Action=connect&DBUser={}", encoded(user));
    let url = format!("https://{token}");
    let request = SignableRequest::new("GET", &url, std::iter::empty(), SignableBody::Bytes(&[]))
        .map_err(|error| error.to_string())?;
    let (instructions, _) = sign(request, &parameters.into()).map_err(|error| error.to_string())?.into_parts();
    for (name, value) in instructions.params() {
        token.push_str(&format!("&{name}={}", encoded(value)));
    }
    Ok(Token(token))
}

/// As the signature's rules have it: all but letters, digits and `-._~`.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The region in the name of an endpoint: `db.abcdefgh.eu-west-1.rds.amazonaws.com`, and in China `...com.cn`.
pub fn region_of(host: &str) -> Option<&str> {
    let host = host.trim_end_matches('.');
    let rest = host.strip_suffix(".rds.amazonaws.com").or_else(|| host.strip_suffix(".rds.amazonaws.com.cn"))?;
    let region = rest.rsplit('.').next()?;
    let is_region = region.split('-').count() >= 3 && rest.contains('.');
    is_region.then_some(region)
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::{Digest, Sha256};

    use super::*;

    const HOST: &str = "db1.abcdefgh.eu-west-1.rds.amazonaws.com";

    fn hmac(key: &[u8], text: &str) -> Vec<u8> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length will do");
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The signature of a presigned request, step by step as AWS' documentation of Signature Version 4 has them.
    fn by_the_rules(token: &str, secret: &str, region: &str) -> String {
        let (host, query) = token.split_once("/?").expect("host and query");
        let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("X-Amz-Signature=")).collect();
        pairs.sort_unstable();
        let value = |name: &str| pairs.iter().find_map(|pair| pair.strip_prefix(name)).expect(name).to_owned();
        let canonical = format!("GET\n/\n{}\nhost:{host}\n\nhost\n{}", pairs.join("&"), hex(&Sha256::digest(b"")));
        let time = value("X-Amz-Date=");
        let day = &time[..8];
        let scope = format!("{day}/{region}/rds-db/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
        let key = [region, "rds-db", "aws4_request"]
            .iter()
            .fold(hmac(format!("AWS4{secret}").as_bytes(), day), |key, part| hmac(&key, part));
        hex(&hmac(&key, &text))
    }

    #[test]
    fn a_token_is_signed_by_the_published_rules_whatever_the_user_is_called() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        for user in ["pgvigil", "a&b", "o'neil", "with space", "100%+/=?", "jörg", "x@example.com"] {
            for session in [None, Some("To/ken+==".to_owned())] {
                let credentials = Credentials::new("AKID", "s3cr3t/+", session.clone(), None, "test");
                let token = signed(&credentials, "eu-west-1", HOST, 5432, user, at).expect("signed");
                let token = token.expose();
                let expect = format!("{HOST}:5432/?Action=connect&DBUser={}&", encoded(user));
                assert!(token.starts_with(&expect), "{token}");
                assert!(token.contains("&X-Amz-Expires=900&"), "{token}");
                assert!(
                    token.contains("&X-Amz-Credential=AKID%2F20260921%2Feu-west-1%2Frds-db%2Faws4_request&"),
                    "{token}"
                );
                assert_eq!(token.contains("&X-Amz-Security-Token=To%2Fken%2B%3D%3D"), session.is_some(), "{token}");
                let signature = token.rsplit("X-Amz-Signature=").next().expect("a signature");
                assert_eq!(signature.split('&').next(), Some(by_the_rules(token, "s3cr3t/+", "eu-west-1").as_str()));
            }
        }
        assert_eq!(encoded("a&b ö~"), "a%26b%20%C3%B6~");
    }

    #[test]
    fn a_token_is_not_shown() {
        let credentials = Credentials::new("AKID", "s3cr3t", None, None, "test");
        let token = signed(&credentials, "eu-west-1", HOST, 5432, "u", SystemTime::UNIX_EPOCH);
        assert_eq!(format!("{token:?}"), "Ok(Token(...))");
    }

    #[test]
    fn the_region_stands_in_the_name_of_the_endpoint() {
        for (host, expect) in [
            (HOST, Some("eu-west-1")),
            ("c.cluster-abc.us-gov-west-1.rds.amazonaws.com", Some("us-gov-west-1")),
            ("db.abc.cn-north-1.rds.amazonaws.com.cn", Some("cn-north-1")),
            ("db.abc.us-east-1.rds.amazonaws.com.", Some("us-east-1")),
            ("db.example.internal", None),
            ("rds.amazonaws.com", None),
            ("us-east-1.rds.amazonaws.com", None),
            ("us-east-1.rds.amazonaws.com.evil.example", None),
        ] {
            assert_eq!(region_of(host), expect, "{host}");
        }
    }

    #[tokio::test]
    async fn a_role_that_nobody_answers_for_holds_up_no_other_login() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", silent.local_addr().expect("an address"));
        let aws = Aws::new(crate::aws::Config {
            region: Some("eu-west-1".to_owned()),
            sts_endpoint_url: Some(url),
            ..Default::default()
        });
        let role = Place { region: None, role_arn: Some("arn:aws:iam::123456789012:role/pgvigil".to_owned()) };
        let other = aws.clone();
        let waiting = tokio::spawn(async move { other.rds_token(&role, "eu-west-1", "db", 5432, "app").await.is_ok() });
        let _unanswered = silent.accept().await.expect("the role is asked for");
        assert!(aws.rds_token(&Place::default(), "eu-west-1", "db", 5432, "app").await.is_ok());
        assert!(!waiting.is_finished());
        waiting.abort();
    }
}
