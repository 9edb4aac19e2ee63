//! The C program, built and asked.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use pgvigil::collect::conninfo::{Endpoint, Host};

use super::cases::Case;
use crate::support::{missing, pg};

/// The version of libpq that is followed.
const MAJOR: u32 = 18;

pub(super) struct Probe {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    _dir: tempfile::TempDir,
}

/// What libpq says of a case.
pub(super) struct Answer {
    pub(super) error: String,
    /// Each parameter's value, or `None` where it has none.
    pub(super) options: BTreeMap<String, Option<Vec<u8>>>,
    /// Each parameter's environment variable, or nothing.
    pub(super) variables: BTreeMap<String, String>,
    /// Where it would connect to, in order.
    pub(super) places: Vec<Place>,
}

#[derive(Debug)]
pub(super) struct Place {
    host: String,
    address: String,
    port: String,
}

impl Place {
    /// Whether it is the same as one of ours. The directory of sockets differs from build to build; here it is /tmp.
    pub(super) fn is(&self, ours: &Host) -> bool {
        let port = self.port.trim_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']).parse();
        let (host, has_address) = match &ours.endpoint {
            Endpoint::Tcp { name, address: None } => (name.clone(), !self.address.is_empty()),
            Endpoint::Tcp { name, address: Some(address) } => (name.clone(), self.address == address.to_string()),
            Endpoint::Unix(directory) => (directory.display().to_string(), self.address.is_empty()),
        };
        let host = if host == "/var/run/postgresql" { "/tmp".to_owned() } else { host };
        self.host == host && has_address && port == Ok(ours.port)
    }
}

impl Answer {
    /// It came so far as to connect, and found no fault later on.
    pub(super) fn would_connect(&self) -> bool {
        !self.places.is_empty() && !self.error.contains("invalid integer value")
    }
}

impl Probe {
    /// `None` where no compiler, header or library of that version is installed.
    pub(super) fn start() -> Option<Self> {
        let installation = pg::installations().into_iter().find(|installation| installation.major == MAJOR);
        let library = installation.and_then(|found| found.bin.join("../lib").canonicalize().ok());
        let Some(library) = library.filter(|library| library.join("libpq.so.5").exists()) else {
            missing("libpq 18");
            return None;
        };
        let config = Command::new("pg_config").arg("--includedir").output().ok();
        let include =
            config.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        if !Path::new(&include).join("libpq-fe.h").exists() {
            missing("libpq-dev");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("probe");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/libpq/probe.c");
        let built = Command::new("cc")
            .args(["-O1", "-Wall", "-rdynamic", "-o"])
            .args([&program, &source])
            .arg(format!("-I{include}"))
            .arg(library.join("libpq.so.5"))
            .arg(format!("-Wl,-rpath,{}", library.display()))
            .arg("-ldl")
            .output()
            .expect("cc is installed with Rust");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut child = Command::new(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Warnings about password files.
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Some(Self { child, stdin, stdout, _dir: dir })
    }

    pub(super) fn ask(&mut self, kind: u8, case: &Case) -> Answer {
        let mut request = vec![kind];
        request.extend_from_slice(&(case.variables.len() as u32).to_ne_bytes());
        let put = |request: &mut Vec<u8>, bytes: &[u8]| {
            request.extend_from_slice(&(bytes.len() as u32).to_ne_bytes());
            request.extend_from_slice(bytes);
        };
        for (name, value) in &case.variables {
            put(&mut request, &[name.as_bytes(), b"=", value].concat());
        }
        put(&mut request, case.text.as_bytes());
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(&request).unwrap();
        stdin.flush().unwrap();

        let error = self.string();
        let (mut options, mut names) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..self.number() {
            let (name, variable) = (self.string(), self.string());
            let is_there = self.number() == 1;
            let value = self.text();
            options.insert(name.clone(), is_there.then_some(value));
            names.insert(name, variable);
        }
        let mut places = Vec::new();
        if kind == b'C' {
            for _ in 0..self.number() {
                places.push(Place { host: self.string(), address: self.string(), port: self.string() });
                self.text();
            }
        }
        Answer { error, options, variables: names, places }
    }

    fn number(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.stdout.read_exact(&mut bytes).unwrap();
        u32::from_ne_bytes(bytes)
    }

    fn text(&mut self) -> Vec<u8> {
        let mut text = vec![0; self.number() as usize];
        self.stdout.read_exact(&mut text).unwrap();
        text
    }

    fn string(&mut self) -> String {
        String::from_utf8_lossy(&self.text()).into_owned()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
