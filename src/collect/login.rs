//! Who logs in to a server, and with what: a password of one's own, a secret of AWS, or a token that AWS takes for one.

use serde::Deserialize;

use super::conninfo::{Conninfo, Endpoint};
use super::tls::{Roots, SslMode};
use crate::aws::{Place, SecretRef, region_of};

/// Where a session's password comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Login {
    /// The connection string, the environment or a password file.
    #[default]
    Password,
    /// A secret of AWS Secrets Manager: user and password, and what the connection string leaves out.
    Secret(SecretRef),
    /// A token that is signed for each session. The region is that of the endpoint's name, else the place's.
    Iam(Place),
}

/// `auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// With the password of the connection string.
    Password,
    /// IAM database authentication of RDS and Aurora.
    Iam,
}

/// The keys beside `dsn` that say who logs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoginConfig {
    pub secret: Option<String>,
    pub auth: Option<Auth>,
    pub user: Option<String>,
    pub region: Option<String>,
    pub role_arn: Option<String>,
}

/// What is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginFault {
    /// Empty: it is not about a single one.
    pub key: &'static str,
    pub reason: String,
}

impl LoginConfig {
    /// The connection that is asked for. `region` is that of `[aws]`.
    ///
    /// # Errors
    /// What is asked for does not go together.
    pub fn applied_to(&self, dsn: Option<Conninfo>, region: Option<&str>) -> Result<Conninfo, LoginFault> {
        let fault = |key, reason: &str| Err(LoginFault { key, reason: reason.to_owned() });
        let is_iam = self.auth == Some(Auth::Iam);
        let region = self.region.as_deref().or(region);
        match (&self.secret, is_iam) {
            (Some(_), true) => fault("secret", "and auth = \"iam\" exclude each other; leave one out"),
            (_, false) if self.user.is_some() => {
                fault("user", "goes with auth = \"iam\"; otherwise write it into the dsn, or the secret has it")
            }
            (None, false) if self.region.is_some() || self.role_arn.is_some() => {
                let key = if self.region.is_some() { "region" } else { "role_arn" };
                fault(key, "goes with secret or auth = \"iam\"")
            }
            (None, false) => dsn.ok_or_else(|| LoginFault { key: "", reason: "key \"dsn\" is missing".to_owned() }),
            (Some(secret), false) if secret.trim().is_empty() => fault("secret", "is empty; write its name or its ARN"),
            (Some(secret), false) => {
                let dsn = match dsn {
                    Some(dsn) => dsn,
                    None => Conninfo::parse("user=secret")
                        .map_err(|error| LoginFault { key: "dsn", reason: error.to_string() })?,
                };
                Ok(dsn.with_login(Login::Secret(SecretRef::new(secret, region, self.role_arn.as_deref()))))
            }
            (None, true) => {
                let Some(dsn) = dsn else {
                    return fault("", "key \"dsn\" is missing: auth = \"iam\" needs the endpoint's name");
                };
                let place = Place { region: region.map(str::to_owned), role_arn: self.role_arn.clone() };
                with_iam(dsn, self.user.as_deref(), place)
            }
        }
    }
}

/// A token is sent as it is, and whoever gets it may use it: the server must be who it should be.
fn with_iam(dsn: Conninfo, user: Option<&str>, place: Place) -> Result<Conninfo, LoginFault> {
    let fault = |key, reason: String| Err(LoginFault { key, reason });
    let said = dsn.said();
    if said.sslmode && dsn.tls().mode != SslMode::VerifyFull {
        let mode = dsn.tls().mode.as_str();
        return fault(
            "dsn",
            format!("auth = \"iam\" needs sslmode=verify-full, not {mode}: a token is sent as a password"),
        );
    }
    for host in dsn.hosts() {
        match &host.endpoint {
            Endpoint::Unix(_) => {
                return fault("dsn", "auth = \"iam\" needs the name of an endpoint of RDS as its host".to_owned());
            }
            Endpoint::Tcp { name, .. } if region_of(name).is_none() && place.region.is_none() => {
                return fault(
                    "region",
                    format!(
                        "is needed: the host {name:?} does not say it, as RDS' own names do; write for example \"eu-west-1\""
                    ),
                );
            }
            Endpoint::Tcp { .. } => {}
        }
    }
    let roots = (!said.sslrootcert).then_some(Roots::Rds);
    let dsn = match user {
        Some(user) => dsn.with_user(user),
        None if !said.user => {
            return fault("user", "is missing: the role that logs in, which must be granted rds_iam".to_owned());
        }
        None => dsn,
    };
    Ok(dsn.verified_in_full(roots).with_login(Login::Iam(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DSN: &str = "postgresql://pgvigil@db1.abc.eu-west-1.rds.amazonaws.com/app";

    fn applied(dsn: Option<&str>, config: &LoginConfig, region: Option<&str>) -> Result<Conninfo, String> {
        let dsn = dsn.map(|dsn| Conninfo::parse_with(dsn, &|_| None).expect(dsn));
        config.applied_to(dsn, region).map_err(|fault| format!("{} {}", fault.key, fault.reason).trim().to_owned())
    }

    fn iam() -> LoginConfig {
        LoginConfig { auth: Some(Auth::Iam), ..LoginConfig::default() }
    }

    #[test]
    fn a_token_goes_only_to_a_server_that_is_verified() {
        let conninfo = applied(Some(DSN), &iam(), None).expect("good");
        assert_eq!(conninfo.login(), &Login::Iam(Place::default()));
        assert_eq!((conninfo.tls().mode, &conninfo.tls().roots), (SslMode::VerifyFull, &Roots::Rds));
        let own = applied(Some(&format!("{DSN}?sslrootcert=/ca.pem")), &iam(), None).expect("good");
        assert_eq!(own.tls().roots.path().map(|path| path.display().to_string()), Some("/ca.pem".to_owned()));
        for mode in ["disable", "allow", "prefer", "require", "verify-ca"] {
            let error = applied(Some(&format!("{DSN}?sslmode={mode}")), &iam(), None).expect_err(mode);
            assert!(error.starts_with("dsn auth = \"iam\" needs sslmode=verify-full"), "{error}");
        }
        assert!(applied(Some("user=u dbname=d"), &iam(), Some("eu-west-1")).is_err());
    }

    #[test]
    fn the_region_of_a_token_is_never_guessed() {
        let elsewhere = "postgresql://pgvigil@db.example/app";
        let error = applied(Some(elsewhere), &iam(), None).expect_err("no region");
        assert!(error.starts_with("region is needed: the host \"db.example\" does not say it"), "{error}");
        let conninfo = applied(Some(elsewhere), &iam(), Some("eu-west-1")).expect("[aws] says it");
        assert_eq!(conninfo.login(), &Login::Iam(Place::region("eu-west-1")));
        let own = LoginConfig { region: Some("us-east-1".to_owned()), ..iam() };
        let conninfo = applied(Some(elsewhere), &own, Some("eu-west-1")).expect("the target says it");
        assert_eq!(conninfo.login(), &Login::Iam(Place::region("us-east-1")));
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let secret = LoginConfig { secret: Some("db".to_owned()), ..LoginConfig::default() };
        assert_eq!(
            applied(None, &secret, None).expect("all is in the secret").login(),
            &Login::Secret(SecretRef::new("db", None, None))
        );
        for (dsn, config, reason) in [
            (Some(DSN), LoginConfig { auth: Some(Auth::Iam), ..secret.clone() }, "secret and auth = \"iam\" exclude"),
            (Some(DSN), LoginConfig { user: Some("u".to_owned()), ..LoginConfig::default() }, "user goes with"),
            (Some(DSN), LoginConfig { region: Some("x".to_owned()), ..LoginConfig::default() }, "region goes with"),
            (None, LoginConfig::default(), "key \"dsn\" is missing"),
            (None, iam(), "key \"dsn\" is missing: auth"),
            (None, LoginConfig { secret: Some(String::new()), ..LoginConfig::default() }, "secret is empty"),
            (Some("host=db1.abc.eu-west-1.rds.amazonaws.com"), iam(), "user is missing"),
        ] {
            let error = applied(dsn, &config, None).expect_err(reason);
            assert!(error.starts_with(reason), "{error}");
        }
    }
}
