//! Policies as people write them.

use std::fmt;
use std::str::FromStr;

use jiff::Span;

use super::{Count, KeepPolicy, Period, Rule};

/// A text that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeepError {
    /// Nothing, which would keep nothing.
    #[error("a policy needs at least one rule, as in `last=10,hourly=24`: without one it would keep nothing")]
    Empty,
    /// Not of the form `rule=value`.
    #[error("`{0}` is no rule: write `rule=value`, as in `last=10,hourly=24`")]
    Form(String),
    /// A rule that does not exist.
    #[error(
        "there is no rule `{0}`: there are last, minutely, hourly, daily, weekly, monthly, yearly and within"
    )]
    Unknown(String),
    /// The same rule again.
    #[error("the rule `{0}` is there twice")]
    Twice(String),
    /// A count that is none.
    #[error("`{rule}={value}`: give a number from 1 on, or `all`")]
    Count {
        /// The rule.
        rule: String,
        /// What stands where the number should.
        value: String,
    },
    /// A span of time that is none.
    #[error("`within={value}`: give a span such as 90m, 2d12h or 1mo ({why})")]
    Span {
        /// What stands where the span should.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

impl FromStr for KeepPolicy {
    type Err = ParseKeepError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Err(ParseKeepError::Empty);
        }
        let mut rules: Vec<Rule> = Vec::new();
        for part in text.split(',') {
            let form = || ParseKeepError::Form(part.trim().to_owned());
            let (name, value) = part.split_once('=').ok_or_else(form)?;
            let rule = rule(name.trim(), value.trim())?;
            if rules.iter().any(|r| r.name() == rule.name()) {
                return Err(ParseKeepError::Twice(rule.name().to_owned()));
            }
            rules.push(rule);
        }
        Ok(Self { rules })
    }
}

fn rule(name: &str, value: &str) -> Result<Rule, ParseKeepError> {
    let count = || match value.parse::<u32>() {
        Ok(limit @ 1..) => Ok(Count::Limit(limit)),
        _ if value == "all" => Ok(Count::All),
        _ => Err(ParseKeepError::Count { rule: name.to_owned(), value: value.to_owned() }),
    };
    match name {
        "last" => Ok(Rule::Last(count()?)),
        "within" => span(value).map(Rule::Within),
        _ => {
            let period = Period::EVERY.into_iter().find(|period| period.rule() == name);
            let period = period.ok_or_else(|| ParseKeepError::Unknown(name.to_owned()))?;
            Ok(Rule::Period(period, count()?))
        }
    }
}

fn span(value: &str) -> Result<jiff::SpanFieldwise, ParseKeepError> {
    let refused = |why: String| ParseKeepError::Span { value: value.to_owned(), why };
    let span: Span = value.parse().map_err(|error: jiff::Error| refused(error.to_string()))?;
    if span.is_positive() {
        Ok(span.fieldwise())
    } else {
        Err(refused("it has to be longer than nothing".into()))
    }
}

impl Rule {
    fn name(&self) -> &'static str {
        match self {
            Self::Last(_) => "last",
            Self::Period(period, _) => period.rule(),
            Self::Within(_) => "within",
        }
    }
}

impl fmt::Display for KeepPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, rule) in self.rules.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}=", rule.name())?;
            match rule {
                Rule::Last(count) | Rule::Period(_, count) => count.fmt(f)?,
                Rule::Within(span) => write!(f, "{:#}", span.0)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(limit) => limit.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}
