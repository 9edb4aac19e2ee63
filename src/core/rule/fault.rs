//! Why a rule cannot be used, and what would be right.

/// Why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule:?}: {fault}")]
pub struct RuleError {
    pub rule: String,
    pub fault: RuleFault,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleFault {
    #[error("a rule needs a name of 1 to 128 characters without control characters")]
    Name,
    #[error("two rules have this name")]
    Duplicate,
    #[error("it has no condition; write for example when = \"replay_lag_seconds > 5s\"")]
    NoCondition,
    #[error("cannot read {0:?}; write for example \"replay_lag_seconds > 5s\", with one of > >= < <= == !=")]
    Form(String),
    #[error("{key} = {text:?} cannot be read; write for example {key} = \"> {example}\", with one of > >= < <= == !=")]
    Comparison { key: &'static str, text: String, example: &'static str },
    #[error(
        "`when` and `{0}` are two ways to write a condition; write signal = \"replay_lag_seconds\" and warning = \"> 5s\", or when = \"replay_lag_seconds > 5s\" and severity = \"warning\""
    )]
    WhenAndLevel(&'static str),
    #[error("`severity` goes with `when`; with `signal`, each threshold stands under its severity: warning = \"> 5s\"")]
    SeverityAndSignal,
    #[error("`signal` needs a threshold under info, warning or critical; write for example warning = \"> {0}\"")]
    NoLevel(&'static str),
    #[error("{milder} and {severer} must look the same way, both with > or >=, or both with < or <=")]
    LevelsApart { milder: &'static str, severer: &'static str },
    #[error(
        "{severer} = {given:?} is reached no later than {milder} = {other:?}; the severer threshold must be the farther one"
    )]
    LevelsOrder { milder: &'static str, other: String, severer: &'static str, given: String },
    #[error("clear = {clear:?} does not look away from {condition:?}; write for example clear = {example:?}")]
    ClearDirection { clear: String, condition: String, example: String },
    #[error("clear = {clear:?} holds while {condition:?} still does; the two may meet, but not overlap")]
    ClearOverlaps { clear: String, condition: String },
    #[error("`clear` goes with > >= < <=; {0:?} is over as soon as it no longer holds")]
    ClearOfEquality(String),
    #[error("there is no signal {name:?}; the nearest is {nearest:?}")]
    Signal { name: String, nearest: &'static str },
    #[error("threshold {text:?} is {given}, but {signal} is {wanted}; write for example {example:?}")]
    Unit { text: String, given: &'static str, signal: &'static str, wanted: &'static str, example: &'static str },
    #[error("datapoints = {0:?} cannot be read; write for example \"3 of 5\", at most of 100")]
    Datapoints(String),
    #[error("`datapoints` and `for` are two ways to say how long; write one of them")]
    DatapointsAndFor,
    #[error("`datapoints` needs the length of a period; write for example every = \"1m\"")]
    DatapointsWithoutEvery,
    #[error("`every` goes with `datapoints`; write for example datapoints = \"3 of 5\"")]
    EveryWithoutDatapoints,
    #[error("every is less than a second, which is no period that could be counted; write for example every = \"1m\"")]
    EveryOfNothing,
    #[error("it selects by {selector}, but {signal} is {about}")]
    Selector { selector: &'static str, signal: &'static str, about: &'static str },
    #[error("where: {signal} has no label {name:?}; {has}")]
    Where { name: String, signal: &'static str, has: String },
    #[error("there is no cause {name:?}; the nearest is {nearest:?}")]
    Cause { name: String, nearest: &'static str },
    #[error("there is no certainty {0:?}; write one of exact, at_least, at_most, unknown")]
    Certainty(String),
    #[error("labels: {0:?} cannot name a label; use letters, digits and \"_\", beginning with a letter")]
    LabelName(String),
    #[error("labels: {0:?} is a label that every alert has already")]
    LabelTaken(String),
    #[error("labels: the value of {0:?} must have 1 to 256 characters, none of them a control character")]
    LabelValue(String),
    #[error("{key}: {fault}")]
    Template { key: &'static str, fault: TemplateFault },
}

/// What is wrong with a text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateFault {
    #[error("it must have 1 to {0} characters, none of them a control character")]
    Length(usize),
    #[error("\"{{{{\" at {0:?} is not closed by \"}}}}\"")]
    Open(String),
    #[error("there is no placeholder {name:?}; there are {known}")]
    Placeholder { name: String, known: String },
    #[error("it must be an address that begins with https:// or http://")]
    Address,
}
