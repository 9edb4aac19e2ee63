//! What pages are made of besides their text: the style, the script, the chart library. All of it is in the binary, and no
//! page asks anybody else for anything.

use std::fmt::Write;
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use super::reply::{Keep, Reply};

/// uPlot 1.6.32, minified by its author, with its licence.
const UPLOT: &str = concat!("/*\n", include_str!("assets/uplot.LICENSE"), "*/\n", include_str!("assets/uplot.js"));

/// Name, type, content.
const ASSETS: [(&str, &str, &str); 5] = [
    ("page.css", "text/css; charset=utf-8", include_str!("assets/page.css")),
    ("page.js", "text/javascript; charset=utf-8", include_str!("assets/page.js")),
    ("uplot.css", "text/css; charset=utf-8", include_str!("assets/uplot.css")),
    ("uplot.js", "text/javascript; charset=utf-8", UPLOT),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// Changes when any of them does.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let hash = ASSETS.iter().fold(Sha256::new(), |hash, (_, _, content)| hash.chain_update(content)).finalize();
    hash.iter().take(6).fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
});

/// What there is.
pub(super) fn names() -> Vec<&'static str> {
    ASSETS.iter().map(|(name, ..)| *name).collect()
}

pub(super) fn content_types() -> Vec<&'static str> {
    ASSETS.iter().map(|(_, content_type, _)| *content_type).collect()
}

/// Where a page finds one.
pub(super) fn path(name: &str) -> String {
    format!("/assets/{name}?v={}", *VERSION)
}

/// `/assets/{name}`. Who asks for this very version may keep it.
pub(super) fn reply(path: &str, query: Option<&str>) -> Option<Reply> {
    let name = path.strip_prefix("/assets/")?;
    let (_, content_type, content) = ASSETS.iter().find(|(known, ..)| *known == name)?;
    let is_this = query.and_then(|query| query.strip_prefix("v=")) == Some(VERSION.as_str());
    Some(Reply::asset(content_type, content, if is_this { Keep::Forever } else { Keep::Never }))
}
