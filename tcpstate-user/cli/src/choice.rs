//! Arguments that take one of a few named values.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

/// The values of such an argument: each with its name and its help.
pub(crate) type Choices<T> = &'static [(T, &'static str, &'static str)];

/// A parser that takes the name of one of these values.
pub(crate) fn choice<T>(choices: Choices<T>) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
{
    let values = choices
        .iter()
        .map(|&(_, name, help)| PossibleValue::new(name).help(help));
    PossibleValuesParser::new(values).try_map(|name| {
        let chosen = choices.iter().find(|choice| choice.1 == name);
        // The parser before this one accepts no other name.
        chosen.map_or_else(
            || Err(format!("`{name}` is not a possible value")),
            |choice| Ok(choice.0.clone()),
        )
    })
}
