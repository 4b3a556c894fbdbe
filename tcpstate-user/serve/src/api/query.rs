//! The query of a request: its parameters, checked against the table of the path.

use std::{borrow::Cow, fmt::Display, ops::Range};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tcpstate_core::{
    escape::Printable,
    expression::{Expression, Lookup, Moment},
    nearest::nearest,
};

use super::endpoints::{Endpoint, Form, Parameter};

/// A request that cannot be answered as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    /// The mistake.
    message: String,
    /// The parameter that it is in.
    parameter: Option<&'static str>,
    /// Where in a filter: the characters, and the text with carets below them.
    place: Option<(Range<usize>, String)>,
}

impl BadRequest {
    /// A mistake that is in no parameter, or in its name.
    pub(super) fn new(message: String) -> Self {
        Self {
            message,
            parameter: None,
            place: None,
        }
    }

    /// A mistake in this parameter.
    pub(super) fn of(parameter: &'static str, message: &dyn Display) -> Self {
        Self {
            message: message.to_string(),
            parameter: Some(parameter),
            place: None,
        }
    }

    /// The body of the answer.
    pub(super) fn json(&self) -> Value {
        let mut json = json!({"type": "error", "message": self.message});
        if let Value::Object(fields) = &mut json {
            if let Some(parameter) = self.parameter {
                fields.insert("parameter".to_owned(), json!(parameter));
            }
            if let Some((at, shown)) = &self.place {
                fields.insert("from".to_owned(), json!(at.start));
                fields.insert("to".to_owned(), json!(at.end));
                fields.insert("shown".to_owned(), json!(shown));
            }
        }
        json
    }
}

/// The parameters of a request.
#[derive(Debug)]
pub(super) struct Query<'a> {
    endpoint: &'static Endpoint,
    given: Vec<(&'static Parameter, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    /// Reads a query; the parameters of this path are known, each once.
    pub(super) fn parse(endpoint: &'static Endpoint, text: &'a str) -> Result<Self, BadRequest> {
        let mut given: Vec<(&Parameter, Cow<'a, str>)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name)?;
            let parameter = endpoint
                .parameter(&name)
                .ok_or_else(|| unknown(endpoint, &name))?;
            if given.iter().any(|(known, _)| known.name == parameter.name) {
                return Err(BadRequest::of(
                    parameter.name,
                    &format!("`{}` is given twice", parameter.name),
                ));
            }
            given.push((parameter, decoded(value)?));
        }
        Ok(Self { endpoint, given })
    }

    /// The value of a parameter; `None`: it is left out.
    pub(super) fn value(&self, name: &str) -> Option<(&'static str, &str)> {
        let mut given = self.given.iter();
        let found = given.find(|(parameter, _)| parameter.name == name);
        found.map(|(parameter, value)| (parameter.name, value.as_ref()))
    }

    /// The value, read.
    pub(super) fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, BadRequest> {
        let value = self.value(name);
        value
            .map(|(name, text)| read(text).map_err(|message| BadRequest::of(name, &message)))
            .transpose()
    }

    /// The place of the word in the list of those that the parameter takes.
    pub(super) fn word(&self, name: &str) -> Result<usize, BadRequest> {
        let Some(Form::Word(words)) = self.endpoint.parameter(name).map(|one| one.form) else {
            return Ok(0);
        };
        let found = self.read(name, |text| {
            let place = words.iter().position(|word| *word == text);
            place.ok_or_else(|| format!("`{}` is not one of {}", shown(text), words.join(", ")))
        })?;
        Ok(found.unwrap_or(0))
    }

    /// The number, in the bounds of the parameter.
    pub(super) fn number(&self, name: &str) -> Result<usize, BadRequest> {
        let Some(Form::Number { usual, most }) = self.endpoint.parameter(name).map(|one| one.form)
        else {
            return Ok(0);
        };
        let found = self.read(name, |text| {
            let number = text.parse::<u64>().ok();
            let number = number.filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| format!("`{}` is not a number from 1 to {most}", shown(text)))
        })?;
        Ok(usize::try_from(found.unwrap_or(usual)).unwrap_or(usize::MAX))
    }

    /// The filter, judged at this moment.
    pub(super) fn filter(
        &self,
        moment: Moment,
        names: &dyn Lookup,
    ) -> Result<Expression, BadRequest> {
        let Some((parameter, text)) = self.value("filter") else {
            return Ok(Expression::default());
        };
        Expression::parse_for(moment, text, names).map_err(|error| {
            let place = (error.at(), error.to_string());
            BadRequest {
                place: Some(place),
                ..BadRequest::of(parameter, &error.message())
            }
        })
    }
}

/// A part of a query as it was meant: `+` is a space, `%` begins a byte.
fn decoded(text: &str) -> Result<Cow<'_, str>, BadRequest> {
    let not_utf8 = |_| BadRequest::new("the query is not UTF-8".to_owned());
    if text.contains('+') {
        let text = text.replace('+', " ");
        let decoded = percent_decode_str(&text).decode_utf8().map_err(not_utf8)?;
        return Ok(Cow::Owned(decoded.into_owned()));
    }
    percent_decode_str(text).decode_utf8().map_err(not_utf8)
}

fn unknown(endpoint: &Endpoint, name: &str) -> BadRequest {
    let names = endpoint.parameters.iter().map(|one| one.name);
    let all: Vec<&str> = names.clone().collect();
    let hint = match (nearest(name, names), all.is_empty()) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, true) => "it has none".to_owned(),
        (None, false) => format!("they are {}", all.join(", ")),
    };
    BadRequest::new(format!(
        "unknown parameter `{}` of {}; {hint}",
        shown(name),
        endpoint.path
    ))
}

/// A text that others wrote, as far as it is worth showing.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let begin: String = text.chars().take(MOST).collect();
    Printable(begin.as_bytes()).to_string()
}
