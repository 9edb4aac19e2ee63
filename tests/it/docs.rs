//! The book tells of what there is: a page for each rule, names that exist, links that lead somewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pgvigil::core::alert::Severity;
use pgvigil::core::remedy;
use pgvigil::core::rule::{Preset, RuleConfig};

use crate::readme::{condition, held, root, thresholds, with_section};

/// What a rule is in each preset that has it.
fn rule_table(name: &str) -> String {
    let mut table = "| preset | fires when | for |\n| --- | --- | --- |\n".to_owned();
    let mut rows: Vec<(String, String)> = Vec::new();
    for preset in Preset::ALL {
        let Some(rule) = preset.rules().into_iter().find(|rule| rule.name == name) else { continue };
        let row = format!("{} | {}", fires_when(&rule), held(&rule));
        match rows.iter_mut().find(|(_, same)| *same == row) {
            Some((presets, _)) => presets.push_str(&format!(", `{}`", preset.as_str())),
            None => rows.push((format!("`{}`", preset.as_str()), row)),
        }
    }
    assert!(!rows.is_empty(), "no preset has {name}");
    for (presets, row) in rows {
        table.push_str(&format!("| {presets} | {row} |\n"));
    }
    table
}

fn fires_when(rule: &RuleConfig) -> String {
    match &rule.signal {
        Some(signal) => format!("`{signal}`: {}", thresholds(rule)),
        None => format!("{}: {}", rule.severity.map_or("warning", Severity::as_str), condition(rule)),
    }
}

fn rules() -> BTreeSet<String> {
    Preset::ALL.iter().flat_map(|preset| preset.rules()).map(|rule| rule.name).collect()
}

pub(crate) fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root("docs/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What stands between `](` and `)`: a page, and the heading in it where one is named. No page: the one that it is on.
fn links(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| !target.contains("://"))
        .map(|target| target.split_once('#').map_or((target, None), |(page, heading)| (page, Some(heading))))
}

/// What headings are called in links.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let headings = page.lines().filter(|line| {
        is_code ^= line.starts_with("```");
        !is_code && line.starts_with('#')
    });
    let letter = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    headings.map(|heading| heading.trim_start_matches('#').trim().chars().filter_map(letter).collect()).collect()
}

#[test]
fn each_rule_has_a_page_that_says_when_it_fires() {
    let have: BTreeSet<String> = pages()
        .iter()
        .filter(|page| page.parent().is_some_and(|folder| folder.ends_with("runbooks")))
        .filter_map(|page| Some(page.file_stem()?.to_str()?.to_owned()))
        .collect();
    let mut expect = rules();
    expect.insert("MonitorIsolated".to_owned());
    assert_eq!(have, expect);
    for rule in rules() {
        let path = root(&format!("docs/src/runbooks/{rule}.md"));
        let text = std::fs::read_to_string(&path).unwrap();
        let mut expect = with_section(&text, "rule", &rule_table(&rule));
        if !remedy::of_rule(&rule).is_empty() {
            expect = with_section(&expect, "remedies", &remedy::section(&rule));
        }
        if std::env::var_os("UPDATE_README").is_some() {
            std::fs::write(&path, &expect).unwrap();
        } else {
            assert_eq!(text, expect, "{}: UPDATE_README=1 brings it up to date", path.display());
        }
    }
}

#[test]
fn every_link_leads_to_a_page_and_every_page_is_in_the_summary() {
    let book = root("docs/src");
    let summary = std::fs::read_to_string(book.join("SUMMARY.md")).unwrap();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let folder = page.parent().map_or_else(|| book.clone(), Path::to_path_buf);
        for (link, heading) in links(&text) {
            let path = if link.is_empty() { page.clone() } else { folder.join(link) };
            assert!(path.exists(), "{}: {link} is not there", page.display());
            let has = |heading: &str| anchors(&std::fs::read_to_string(&path).unwrap()).contains(heading);
            assert!(heading.is_none_or(has), "{}: {link} has no heading {heading:?}", page.display());
        }
        let name = page.strip_prefix(&book).unwrap().to_str().unwrap().to_owned();
        assert!(name == "SUMMARY.md" || summary.contains(&format!("]({name})")), "SUMMARY.md lacks {name}");
    }
}

#[test]
fn every_series_that_is_named_exists() {
    let vocabulary = pgvigil::http::metrics::metrics_table();
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        // A label of discovery is no series.
        let series = text.match_indices("pgvigil_").filter(|(start, _)| !text[..*start].ends_with('_'));
        for (start, prefix) in series {
            let rest = &text[start + prefix.len()..];
            let end =
                rest.find(|c: char| !(c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())).unwrap_or(rest.len());
            // A name that ends with `_` stands for all that begin so.
            let name = format!("pgvigil_{}", &rest[..end]);
            let is_known = if name.ends_with('_') {
                vocabulary.contains(&format!("`{name}"))
            } else {
                vocabulary.contains(&format!("`{name}`"))
            };
            assert!(is_known, "{}: there is no {name}", page.display());
        }
    }
}
