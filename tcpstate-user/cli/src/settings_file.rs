//! A file of settings: TOML with names and values, and no tables. Each setting knows its line, so that a mistake in it can
//! be found.

use std::collections::BTreeMap;

use toml::{Spanned, Value};

/// A line such as `close_wait_age = "2m"`.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// The line in which its name stands; the first one is 1.
    pub line: usize,
}

/// A mistake in a file of settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct SettingsError {
    /// The line; the first one is 1.
    pub line: usize,
    /// The mistake.
    pub why: String,
}

impl SettingsError {
    /// A mistake in this setting.
    pub const fn new(setting: &Setting, why: String) -> Self {
        Self {
            line: setting.line,
            why,
        }
    }
}

/// Reads the text of such a file, in the order of its lines.
///
/// *Errors:* it is no TOML, or has a name twice.
pub fn read_settings(text: &str) -> Result<Vec<Setting>, SettingsError> {
    let line_at = |at: usize| {
        let before = text.get(..at).unwrap_or_default();
        before.matches('\n').count() + 1
    };
    let table: BTreeMap<Spanned<String>, Value> =
        toml::from_str(text).map_err(|error| SettingsError {
            line: line_at(error.span().map_or(0, |span| span.start)),
            why: error.message().to_owned(),
        })?;
    let settings = table.into_iter().map(|(name, value)| Setting {
        line: line_at(name.span().start),
        name: name.into_inner(),
        value,
    });
    let mut settings: Vec<Setting> = settings.collect();
    settings.sort_by_key(|setting| setting.line);
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_knows_its_line() {
        let text = "# ours\nz = 1\n\nlist = [\n  \"a\",\n]\na = \"x\"\n";
        let settings = read_settings(text).unwrap();
        let lines: Vec<_> = settings
            .iter()
            .map(|setting| (setting.line, &*setting.name))
            .collect();
        assert_eq!(lines, [(2, "z"), (4, "list"), (7, "a")]);
        assert_eq!(settings[2].value, Value::String("x".to_owned()));
        assert_eq!(read_settings(""), Ok(Vec::new()));
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (text, message) in [
            ("\n[x", "line 2: unclosed table"),
            ("a = 1\nb = 2\na = 3\n", "line 3: duplicate key"),
            ("a = 1\nb = ", "line 2: "),
            ("a\n", "line 1: "),
        ] {
            let error = read_settings(text).unwrap_err().to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }
}
