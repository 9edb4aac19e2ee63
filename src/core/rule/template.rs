//! Texts with placeholders: `{{ target }} is {{ reading }} behind`. A template is checked when it is parsed; to fill it in
//! cannot fail, since no alert may be lost for its words.

use std::fmt::Write;

use super::fault::TemplateFault;
use crate::core::signal::{Read, Signal};

/// What all rules have.
const COMMON: [&str; 6] = ["rule", "cluster", "severity", "reading", "threshold", "cause"];

/// The longest template: a summary is one line, and an address is no novel.
const LONGEST: usize = 500;

/// A text with placeholders that are known to be filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Placeholder(String),
}

/// What stands in the places.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    pub rule: &'a str,
    pub cluster: &'a str,
    pub target: Option<&'a str>,
    /// The signal's own labels. Empty for the place as a whole.
    pub labels: &'a [(String, String)],
    pub severity: &'a str,
    pub reading: &'a str,
    pub threshold: &'a str,
    pub cause: Option<&'a str>,
}

impl Template {
    pub(super) fn parse(text: &str, signal: &'static Signal) -> Result<Self, TemplateFault> {
        if text.trim().is_empty() || text.chars().count() > LONGEST || text.chars().any(char::is_control) {
            return Err(TemplateFault::Length(LONGEST));
        }
        let mut known = COMMON.to_vec();
        if !matches!(signal.read, Read::Cluster(_)) {
            known.insert(2, "target");
        }
        known.extend(signal.labels.iter().filter(|label| !COMMON.contains(label)));
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").ok_or_else(|| {
                let open = &rest[before.len()..];
                TemplateFault::Open(open.chars().take(20).collect())
            })?;
            let name = name.trim();
            if !known.contains(&name) {
                return Err(TemplateFault::Placeholder { name: name.to_owned(), known: known.join(", ") });
            }
            parts.extend((!before.is_empty()).then(|| Part::Text(before.to_owned())));
            parts.push(Part::Placeholder(name.to_owned()));
            rest = after;
        }
        parts.extend((!rest.is_empty()).then(|| Part::Text(rest.to_owned())));
        Ok(Self(parts))
    }

    /// The same for an address.
    pub(super) fn parse_address(text: &str, signal: &'static Signal) -> Result<Self, TemplateFault> {
        let begins = ["https://", "http://"].iter().any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
        if !begins || text.split("{{").any(|part| part.rsplit("}}").next().is_some_and(|text| text.contains(' '))) {
            return Err(TemplateFault::Address);
        }
        Self::parse(text, signal)
    }

    pub fn fill(&self, values: &Values<'_>) -> String {
        self.filled(values, String::push_str)
    }

    /// The same for an address: what is filled in cannot change where it leads.
    pub fn fill_address(&self, values: &Values<'_>) -> String {
        self.filled(values, |text, value| {
            for byte in value.bytes() {
                if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                    text.push(char::from(byte));
                } else {
                    write!(text, "%{byte:02X}").expect("writing to a String cannot fail");
                }
            }
        })
    }

    fn filled(&self, values: &Values<'_>, mut add: impl FnMut(&mut String, &str)) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(own) => text.push_str(own),
                Part::Placeholder(name) => add(&mut text, values.of(name)),
            }
        }
        text
    }
}

impl<'a> Values<'a> {
    fn of(&self, name: &str) -> &'a str {
        match name {
            "rule" => self.rule,
            "cluster" => self.cluster,
            "target" => self.target.unwrap_or("(none)"),
            "severity" => self.severity,
            "reading" => self.reading,
            "threshold" => self.threshold,
            "cause" => self.cause.unwrap_or("no known cause"),
            label => self.labels.iter().find(|(name, _)| name == label).map_or("(unknown)", |(_, value)| value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::rule::tests::SIGNALS;

    fn signal(name: &str) -> &'static Signal {
        SIGNALS.iter().find(|signal| signal.name == name).expect("a signal of the tests")
    }

    #[test]
    fn placeholders_are_filled() {
        let labels = [("slot".to_owned(), "cdc a/b".to_owned())];
        let values = Values {
            rule: "Slot",
            cluster: "orders",
            target: Some("p"),
            labels: &labels,
            severity: "critical",
            reading: "2.0 GiB",
            threshold: "> 1GiB",
            cause: None,
        };
        let slots = signal("slot_inactive_retained_bytes");
        let text = "{{cluster}}/{{ target }}: {{ slot }} keeps {{ reading }} ({{ threshold }}, {{ severity }}, {{ rule }}), {{ cause }} {x}";
        let template = Template::parse(text, slots).expect("a template");
        assert_eq!(
            template.fill(&values),
            "orders/p: cdc a/b keeps 2.0 GiB (> 1GiB, critical, Slot), no known cause {x}"
        );
        let address = "https://wiki.example/slots?slot={{ slot }}&in={{ cluster }}";
        let template = Template::parse_address(address, slots).expect("an address");
        assert_eq!(template.fill_address(&values), "https://wiki.example/slots?slot=cdc%20a%2Fb&in=orders");
        // Of the place as a whole nothing more is known.
        let whole = Values { labels: &[], target: None, cause: Some("slot_lost"), ..values };
        assert_eq!(
            Template::parse("{{ slot }} {{ target }} {{ cause }}", slots).map(|template| template.fill(&whole)),
            Ok("(unknown) (none) slot_lost".to_owned())
        );
    }

    #[test]
    fn a_template_that_cannot_be_filled_is_no_template() {
        let lag = signal("replay_lag_seconds");
        let fault = |text: &str, signal| Template::parse(text, signal).map(drop).map_err(|fault| fault.to_string());
        let known = "there are rule, cluster, target, severity, reading, threshold, cause";
        assert_eq!(fault("{{ value }}", lag), Err(format!("there is no placeholder \"value\"; {known}")));
        assert_eq!(fault("{{ $labels.slot }}", lag), Err(format!("there is no placeholder \"$labels.slot\"; {known}")));
        assert_eq!(fault("a {{ b", lag), Err("\"{{\" at \"{{ b\" is not closed by \"}}\"".to_owned()));
        assert_eq!(
            fault("{{ target }}", signal("primaries")),
            Err("there is no placeholder \"target\"; there are rule, cluster, severity, reading, threshold, cause"
                .to_owned())
        );
        let length = "it must have 1 to 500 characters, none of them a control character";
        for text in ["", " ", "a\nb", &"x".repeat(501)] {
            assert_eq!(fault(text, lag), Err(length.to_owned()));
        }
        for text in ["wiki.example", "ftp://wiki.example", "https://", "javascript:alert(1)", "https://a b"] {
            assert_eq!(Template::parse_address(text, lag), Err(TemplateFault::Address), "{text}");
        }
    }
}
