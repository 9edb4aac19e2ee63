//! `/`: the paths there are, and how far each replica lags. Plain HTML without scripts; everything that comes from a
//! configuration or a server is escaped.

use std::fmt::{self, Display, Write};

use super::{PATHS, overall};
use crate::core::snapshot::{Snapshot, TargetView};
use crate::core::time::MonoTime;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:60rem}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{text-align:left;padding:.2rem 1rem .2rem 0}\
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8bf}}";

pub(super) fn render(snapshot: &Snapshot, now: MonoTime) -> String {
    let mut page = String::new();
    write_page(&mut page, snapshot, now).expect("writing to a String cannot fail");
    page
}

fn write_page(page: &mut String, snapshot: &Snapshot, now: MonoTime) -> fmt::Result {
    writeln!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>pgvigil</title><style>{STYLE}</style>\
         </head><body><h1>pgvigil: {}</h1>",
        overall::of_all(snapshot, now).status.as_str()
    )?;
    for cluster in &snapshot.clusters {
        let verdict = overall::of_cluster(snapshot, cluster, now);
        writeln!(page, "<h2>{}: {}</h2>", Escaped(&cluster.name), verdict.status.as_str())?;
        for reason in &verdict.reasons {
            writeln!(page, "<p>{}</p>", Escaped(reason))?;
        }
        page.push_str("<table><tr><th>target</th><th>role</th><th>replay lag</th><th>how sure</th><th>why</th></tr>\n");
        for target in &cluster.targets {
            write_target(page, target, now)?;
        }
        page.push_str("</table>\n");
    }
    page.push_str("<h2>Paths</h2><table>\n");
    for (path, purpose) in PATHS {
        let path = Escaped(path);
        if path.0.contains('{') {
            writeln!(page, "<tr><td>{path}</td><td>{}</td></tr>", Escaped(purpose))?;
        } else {
            writeln!(page, "<tr><td><a href=\"{path}\">{path}</a></td><td>{}</td></tr>", Escaped(purpose))?;
        }
    }
    page.push_str("</table></body></html>\n");
    Ok(())
}

fn write_target(page: &mut String, target: &TargetView, now: MonoTime) -> fmt::Result {
    let is_attended = target.failing.is_some() || target.fresh(now).is_some();
    let lag = target.lag.as_ref().filter(|_| is_attended);
    let value = lag.and_then(|lag| lag.value).map_or_else(|| "–".to_owned(), |value| format!("{value:.3} s"));
    let sureness = lag.map(|lag| format!("{} ({})", lag.certainty.as_str(), lag.method)).unwrap_or_default();
    let role = target.last_role().map_or("–", |role| role.as_str());
    let diagnosis = target.diagnosis.as_ref().filter(|diagnosis| is_attended && diagnosis.lags);
    // What does not answer now is not what it last said it was.
    let (role, why) = match (&target.failing, &target.answer) {
        (Some(failing), _) => (format!("{role}, down"), failing.failure.to_string()),
        (None, Some(_)) if !is_attended => (format!("{role}, stale"), "not heard of late".to_owned()),
        (None, Some(_)) => (role.to_owned(), diagnosis.and_then(|_| target.diagnosis_sentence()).unwrap_or_default()),
        (None, None) => (role.to_owned(), "not asked yet".to_owned()),
    };
    let (name, sureness, why) = (Escaped(&target.id.target), Escaped(&sureness), Escaped(&why));
    writeln!(page, "<tr><td>{name}</td><td>{role}</td><td>{value}</td><td>{sureness}</td><td>{why}</td></tr>")
}

/// Text that is nothing but text in HTML, inside an element or a quoted attribute.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.to_string().chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
