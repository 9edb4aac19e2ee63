//! What the README shows is what there is.

use std::path::{Path, PathBuf};

use pgvigil::http::metrics::metrics_table;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `text` with `content` between the two comments called `name`.
fn with_section(text: &str, name: &str, content: &str) -> String {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("README.md has no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("README.md has no {end}"));
    format!("{before}{begin}{content}{end}{after}")
}

#[test]
fn the_readme_shows_the_series_and_the_file_that_there_are() {
    let have = std::fs::read_to_string(root("README.md")).unwrap();
    let minimal = std::fs::read_to_string(root("config/minimal.toml")).unwrap();
    let expect = with_section(&have, "minimal.toml", &format!("```toml\n{minimal}```\n"));
    let expect = with_section(&expect, "metrics", &metrics_table());
    let expect = with_section(&expect, "causes", &pgvigil::core::cause::table());
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(root("README.md"), &expect).unwrap();
        return;
    }
    let differs = have.lines().zip(expect.lines()).find(|(have, expect)| have != expect);
    assert!(
        have == expect,
        "README.md is behind the code, first at {differs:#?}\n\
         to bring it up to date: UPDATE_README=1 cargo test --test it readme::"
    );
}
