//! The configuration file of `serve`: its settings are options of the command line, with the same names and the same
//! values, and an option that is given there wins.
//!
//! So a setting is checked by what checks the option. Each is tried alone first, which tells the line of a mistake.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, ArgMatches, CommandFactory as _, FromArgMatches as _, parser::ValueSource,
};
use tcpstate_core::nearest::nearest;
use toml::Value;

use crate::{
    Cli, Command, Serve,
    settings_file::{Setting, SettingsError, read_settings},
};

/// The command that has a configuration file.
const COMMAND: &str = "serve";

/// The setting that is no option: the filter expression.
const FILTER: (&str, &str) = ("filter", "expression");

/// Options about this run of the command, which no file has.
const NOT_IN_FILES: [&str; 5] = [
    "config",
    "check_config",
    "print_config",
    "explain_filter",
    "help",
];

/// The text of a configuration file.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Its path, for messages.
    pub path: &'a Path,
    /// Its text.
    pub text: &'a str,
}

/// Why the arguments and the file make no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A line of the file is wrong.
    #[error("{}, {mistake}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, and the mistake.
        mistake: SettingsError,
    },
    /// The lines are right and do not go together, with each other or with the options.
    #[error("{}: {why}", path.display())]
    Together {
        /// The file.
        path: PathBuf,
        /// The conflict.
        why: String,
    },
    /// The arguments themselves are wrong.
    #[error("{0}")]
    Arguments(String),
}

/// The origin of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    CommandLine,
    /// A line of the configuration file.
    Line(usize),
    /// Nobody has chosen it.
    Default,
}

/// A setting that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// Its name, in files and, after `--`, on the command line.
    pub name: String,
    /// Its value, as it would stand in a file; `None`: it is not set.
    pub value: Option<String>,
    /// The origin of the value.
    pub source: Source,
}

/// A configuration: the arguments, and each setting with its origin.
#[derive(Debug)]
pub struct Configured {
    /// The arguments, those of the file included.
    pub serve: Serve,
    /// All settings, in the order of the help.
    pub settings: Vec<InForce>,
}

impl Configured {
    /// The configuration that these words of a command line make with this file.
    pub fn new(words: &[OsString], file: Option<File<'_>>) -> Result<Self, ConfigError> {
        let mut cli = Cli::command();
        // Otherwise options lack what is derived for them.
        cli.build();
        let command = cli.find_subcommand(COMMAND).cloned().unwrap_or_default();
        let on_command_line = matches(words).map_err(ConfigError::Arguments)?;
        let mut words = words.to_vec();
        let mut lines = BTreeMap::new();
        if let Some(File { path, text }) = file {
            let wrong = |mistake| ConfigError::Line {
                path: path.to_owned(),
                mistake,
            };
            let settings = read_settings(text).map_err(wrong)?;
            let settings: Vec<Setting> = settings.into_iter().flat_map(flat).collect();
            for setting in &settings {
                let argument = argument(&command, setting).map_err(wrong)?;
                let word = word(argument, setting).map_err(wrong)?;
                let Some(word) = word else { continue };
                let alone = ["tcpstate", COMMAND].map(OsString::from).into_iter();
                let alone: Vec<OsString> = alone.chain([word.clone()]).collect();
                parse(&alone).map_err(|why| wrong(SettingsError::new(setting, why)))?;
                let is_given = |argument: &Arg| is_given(&on_command_line, argument);
                // The option wins, and so does one that excludes it.
                if is_given(argument)
                    || command
                        .get_arg_conflicts_with(argument)
                        .into_iter()
                        .any(is_given)
                {
                    continue;
                }
                lines.insert(argument.get_id().to_string(), setting.line);
                if argument.is_positional() {
                    words.push(word);
                } else {
                    // Behind the command: what follows `--` is no option.
                    words.insert(2.min(words.len()), word);
                }
            }
        }
        let failed = |why| match file {
            Some(File { path, .. }) => ConfigError::Together {
                path: path.to_owned(),
                why,
            },
            None => ConfigError::Arguments(why),
        };
        let (serve, all) = parse(&words).map_err(failed)?;
        let settings = command
            .get_arguments()
            .filter(|argument| is_setting(argument));
        let settings = settings.map(|argument| {
            let id = argument.get_id().as_str();
            let source = match lines.get(id) {
                Some(&line) => Source::Line(line),
                None if is_given(&all, argument) => Source::CommandLine,
                None => Source::Default,
            };
            InForce {
                name: name(argument).to_owned(),
                value: value(&all, argument),
                source,
            }
        });
        Ok(Self {
            serve,
            settings: settings.collect(),
        })
    }

    /// The setting of this name.
    pub fn setting(&self, name: &str) -> Option<&InForce> {
        self.settings.iter().find(|setting| setting.name == name)
    }
}

/// The words of a command line as options of the command.
fn matches(words: &[OsString]) -> Result<ArgMatches, String> {
    let mut all = Cli::command()
        .try_get_matches_from(words)
        .map_err(|error| reason(&error))?;
    match all.remove_subcommand() {
        Some((name, matches)) if name == COMMAND => Ok(matches),
        _ => Err(format!("the command is not {COMMAND}")),
    }
}

/// The arguments that these words make.
fn parse(words: &[OsString]) -> Result<(Serve, ArgMatches), String> {
    let parsed = Cli::command()
        .try_get_matches_from(words)
        .and_then(|all| Cli::from_arg_matches(&all)?.checked());
    match parsed.map_err(|error| reason(&error))?.command {
        Command::Serve(serve) => Ok((serve, matches(words)?)),
        _ => Err(format!("the command is not {COMMAND}")),
    }
}

/// The reason in an error of the command line, without the usage.
fn reason(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.collect();
    let joined = lines.join(" ");
    joined
        .strip_prefix("error: ")
        .map_or(joined.clone(), str::to_owned)
}

fn is_given(matches: &ArgMatches, argument: &Arg) -> bool {
    matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine)
}

fn is_setting(argument: &Arg) -> bool {
    !argument.is_hide_set() && !NOT_IN_FILES.contains(&argument.get_id().as_str())
}

fn name(argument: &Arg) -> &str {
    match argument.get_id().as_str() {
        id if id == FILTER.1 => FILTER.0,
        id => argument.get_long().unwrap_or(id),
    }
}

/// The settings in one: `web.config.file = "x"` is a table in a table in TOML.
fn flat(setting: Setting) -> Vec<Setting> {
    let Setting { name, value, line } = setting;
    match value {
        Value::Table(table) if !table.is_empty() => {
            let inner = table.into_iter().map(|(key, value)| Setting {
                name: format!("{name}.{key}"),
                value,
                line,
            });
            inner.flat_map(flat).collect()
        }
        value => vec![Setting { name, value, line }],
    }
}

/// The option that a setting is.
fn argument<'a>(command: &'a clap::Command, setting: &Setting) -> Result<&'a Arg, SettingsError> {
    let settings = || {
        command
            .get_arguments()
            .filter(|argument| is_setting(argument))
    };
    let found = settings().find(|argument| name(argument) == setting.name);
    found.ok_or_else(|| {
        let unknown = &setting.name;
        let similar = nearest(unknown, settings().map(name));
        let similar = similar.map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
        SettingsError::new(setting, format!("unknown setting `{unknown}`{similar}"))
    })
}

/// The word of a command line that says the same; `None`: to say nothing does.
fn word(argument: &Arg, setting: &Setting) -> Result<Option<OsString>, SettingsError> {
    let name = &setting.name;
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return match setting.value {
            Value::Boolean(true) => Ok(Some(format!("--{name}").into())),
            Value::Boolean(false) => Ok(None),
            _ => Err(SettingsError::new(
                setting,
                format!("`{name}` is true or false"),
            )),
        };
    }
    let is_list = argument
        .get_value_names()
        .is_some_and(|names| names.iter().any(|name| name == "LIST"));
    let text = match &setting.value {
        Value::Array(items) if is_list => {
            let items: Option<Vec<String>> = items.iter().map(scalar).collect();
            items.map(|items| items.join(","))
        }
        value => scalar(value),
    };
    let text = text.ok_or_else(|| {
        let kind = if is_list {
            "a string, a number, or a list of these"
        } else {
            "a string or a number"
        };
        SettingsError::new(setting, format!("`{name}` is {kind}"))
    })?;
    if argument.is_positional() {
        return Ok(Some(text.into()));
    }
    Ok(Some(format!("--{name}={text}").into()))
}

/// A value that is no list, as the command line has it.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The value in force, as a file has it.
fn value(matches: &ArgMatches, argument: &Arg) -> Option<String> {
    let values: Vec<&OsStr> = matches.get_raw(argument.get_id().as_str())?.collect();
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return Some(values.contains(&OsStr::new("true")).to_string());
    }
    let separator = if argument.is_positional() { " " } else { "," };
    let text = values.join(OsStr::new(separator));
    let text = text.to_string_lossy();
    // Only as it is written here: `007` is another text.
    let is_number = text
        .parse::<i64>()
        .is_ok_and(|number| number.to_string() == text);
    Some(if is_number {
        text.into_owned()
    } else {
        Value::String(text.into_owned()).to_string()
    })
}

#[cfg(test)]
mod tests;
