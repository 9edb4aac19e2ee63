//! The status page, for people: whether all is well, at one glance, and what is not.
//!
//! `/` shows the fleet, the worst first; `/clusters/{cluster}` one cluster whole. Both are complete without scripts. With
//! them a page follows what changes (see [`super::live`]): it is made of parts with a name each, and only the parts that
//! have changed are sent.
//!
//! All text is escaped by the macro that puts it in. Nothing is shown of passwords, of addresses, or of what sessions
//! execute; the texts of statements only where `statements.show_text` is set.

mod chart;
mod cluster;
mod fleet;
mod tables;
mod topology;
mod words;

use maud::{DOCTYPE, Markup, html};

use super::{Ask, PATHS, assets};

pub(super) use self::chart::{Lags, lags};
pub(super) use self::cluster::sheet as cluster;
pub(super) use self::fleet::sheet as fleet;

/// A page in its parts, in their order.
pub(super) struct Sheet {
    title: String,
    /// Where its parts are told as they change.
    live: String,
    parts: Vec<Part>,
}

pub(super) enum Part {
    /// What never changes.
    Still(Markup),
    /// One element, which has this id.
    Live(Piece),
    /// A table with a title, whose body has this id. Its rows are told one by one.
    Rows {
        id: &'static str,
        title: &'static str,
        heads: &'static [&'static str],
        has_filter: HasFilter,
        rows: Vec<Piece>,
    },
}

/// Whether a table has so many rows that people look for one by its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HasFilter {
    No,
    Yes,
}

/// Whom a sheet is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Document,
    /// Those who have the document already: its charts are not drawn again, the script does that.
    Listeners,
}

/// An element and its id.
pub(super) struct Piece {
    pub(super) id: String,
    pub(super) html: String,
}

impl Part {
    fn live(id: &str, html: Markup) -> Self {
        Self::Live(Piece { id: id.to_owned(), html: html.into_string() })
    }
}

impl Sheet {
    /// The parts that may change.
    pub(super) fn into_pieces(self) -> (Vec<Piece>, Vec<(&'static str, Vec<String>)>) {
        let (mut pieces, mut orders) = (Vec::new(), Vec::new());
        for part in self.parts {
            match part {
                Part::Still(_) => {}
                Part::Live(piece) => pieces.push(piece),
                Part::Rows { id, rows, .. } => {
                    orders.push((id, rows.iter().map(|row| row.id.clone()).collect()));
                    pieces.extend(rows);
                }
            }
        }
        (pieces, orders)
    }

    /// The whole document.
    pub(super) fn document(&self) -> String {
        let Self { title, live, parts } = self;
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) }
                    link rel="icon" href=(assets::path("icon.svg")) type="image/svg+xml";
                    link rel="stylesheet" href=(assets::path("uplot.css"));
                    link rel="stylesheet" href=(assets::path("page.css"));
                    script src=(assets::path("uplot.js")) defer {}
                    script src=(assets::path("page.js")) defer {}
                }
                body data-live=(live) {
                    a.skip href="#main" { "Skip to the content" }
                    header {
                        a.home href="/" { img src=(assets::path("icon.svg")) alt="" width="24" height="24"; "pgvigil" }
                        p #link role="status" { noscript { "Without scripts this page stands still: reload it." } }
                    }
                    main #main {
                        @for part in parts {
                            @match part {
                                Part::Still(markup) => (markup),
                                Part::Live(piece) => (maud::PreEscaped(&piece.html)),
                                Part::Rows { id, title, heads, has_filter, rows } => (table(id, title, heads, *has_filter, rows)),
                            }
                        }
                    }
                    footer {
                        details {
                            summary { "Paths" }
                            dl.paths {
                                @for (path, purpose) in PATHS {
                                    dt { @if path.contains('{') { code { (path) } } @else { a href=(path) { (path) } } }
                                    dd { (purpose) }
                                }
                            }
                        }
                        p { "pgvigil " (env!("CARGO_PKG_VERSION")) " · every number comes from memory; loading this page asks no database" }
                    }
                }
            }
        };
        page.into_string()
    }
}

/// The line about when all this was true. A part of its own: it changes each second.
fn as_of(ask: &Ask<'_>) -> Part {
    let at = ask.snapshot.wall_time(ask.now);
    Part::live("at", html! { p #at { "As of " (words::time(at)) } })
}

fn table(id: &str, title: &str, heads: &[&str], has_filter: HasFilter, rows: &[Piece]) -> Markup {
    let table = html! {
        table.cards role="table" {
            thead role="rowgroup" { tr role="row" { @for head in heads { th role="columnheader" scope="col" { (head) } } } }
            tbody #(id) role="rowgroup" { @for row in rows { (maud::PreEscaped(&row.html)) } }
        }
    };
    html! {
        section aria-labelledby={ (id) "-title" } {
            h2 id={ (id) "-title" } { (title) }
            @if has_filter == HasFilter::Yes {
                // Scripts show it: without them it does nothing.
                p.filter hidden { label { "Only names with " input type="search" data-filter=(id) autocomplete="off"; } " " span.soft role="status" {} }
            }
            (tables::scrolling(title, table))
        }
    }
}

/// A name as a part of a path.
fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// A name as an id, or a part of one: an id has no spaces.
fn id_of(prefix: &str, name: &str) -> String {
    format!("{prefix}-{}", encoded(name))
}

#[cfg(test)]
mod tests;
