//! A certificate authority of our own, a server's and a client's certificate, made with the `openssl` command.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgvigil::demo::Plan;

/// Certificates in a directory that goes with the value.
pub(crate) struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    /// A CA, a certificate for `localhost` and 127.0.0.1, and one for the client `tlscert`.
    pub(crate) fn make() -> Self {
        Self::valid_for(3650)
    }

    /// The same, with a server's and a client's certificate that are valid for so many days.
    pub(crate) fn valid_for(days: u32) -> Self {
        let days = days.to_string();
        let certificates = Self { dir: tempfile::tempdir().unwrap() };
        let dir = certificates.dir.path();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        openssl(
            dir,
            &[
                &["req", "-x509"][..],
                &key,
                &[
                    "-days",
                    "3650",
                    "-subj",
                    "/CN=test CA",
                    "-keyout",
                    "ca.key",
                    "-out",
                    "ca.crt",
                    "-addext",
                    "basicConstraints=critical,CA:TRUE",
                    "-addext",
                    "keyUsage=critical,keyCertSign,cRLSign",
                ],
            ]
            .concat(),
        );
        for (name, subject) in [("server", "/CN=localhost"), ("client", "/CN=tlscert")] {
            let extensions = format!(
                "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={name}Auth\nbasicConstraints=CA:FALSE\n"
            );
            std::fs::write(dir.join("extensions"), extensions).unwrap();
            let (key_file, request, certificate) =
                (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
            openssl(dir, &[&["req"][..], &key, &["-subj", subject, "-keyout", &key_file, "-out", &request]].concat());
            openssl(
                dir,
                &[
                    "x509",
                    "-req",
                    "-in",
                    &request,
                    "-CA",
                    "ca.crt",
                    "-CAkey",
                    "ca.key",
                    "-CAcreateserial",
                    "-days",
                    &days,
                    "-extfile",
                    "extensions",
                    "-out",
                    &certificate,
                ],
            );
        }
        certificates
    }

    /// `ca.crt`, `client.crt`, `client.key`, `server.crt`, `server.key`, `ca.key`.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Writes the authority's list of revoked certificates, which has these in it.
    pub(crate) fn revoke(&self, certificates: &[&str], list: &str) {
        let dir = self.dir.path();
        let config = "[ca]\ndefault_ca = own\n[own]\ndatabase = index\ncrlnumber = crlnumber\ndefault_md = sha256\n\
                      default_crl_days = 30\ncertificate = ca.crt\nprivate_key = ca.key\n";
        std::fs::write(dir.join("ca.conf"), config).unwrap();
        std::fs::write(dir.join("index"), "").unwrap();
        std::fs::write(dir.join("crlnumber"), "01\n").unwrap();
        for certificate in certificates {
            openssl(dir, &["ca", "-config", "ca.conf", "-revoke", certificate]);
        }
        openssl(dir, &["ca", "-config", "ca.conf", "-gencrl", "-out", list]);
    }

    /// Has the servers of a plan offer TLS with the server's certificate. The role `tlscert` must come with the
    /// client's certificate; `tlsonly` (password `tlsonly`) must come by TLS.
    pub(crate) fn serve(&self, mut plan: Plan) -> Plan {
        for file in ["ca.crt", "server.crt", "server.key"] {
            plan.files.push((file.to_owned(), std::fs::read(self.path(file)).unwrap()));
        }
        plan.settings.push("ssl = on".to_owned());
        for (setting, file) in
            [("ssl_ca_file", "ca.crt"), ("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")]
        {
            plan.settings.push(format!("{setting} = '{file}'"));
        }
        plan.hba.push("hostssl all tlscert 127.0.0.1/32 cert".to_owned());
        plan.hba.push("hostssl all tlsonly 127.0.0.1/32 scram-sha-256".to_owned());
        plan.hba.push("host all tlscert,tlsonly 127.0.0.1/32 reject".to_owned());
        plan.setup.push("CREATE ROLE tlscert LOGIN; GRANT pg_monitor TO tlscert".to_owned());
        plan.setup.push("CREATE ROLE tlsonly LOGIN PASSWORD 'tlsonly'; GRANT pg_monitor TO tlsonly".to_owned());
        plan
    }
}

fn openssl(dir: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(dir).output().expect("openssl is not installed");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
