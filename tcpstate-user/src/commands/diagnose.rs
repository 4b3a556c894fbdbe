//! `tcpstate diagnose`.

use std::{fs, io, path::Path, process::ExitCode};

use anyhow::{Context as _, bail};
use tcpstate::run::stdout;
use tcpstate_cli::{
    quantity::parse_duration,
    settings_file::{SettingsError, read_settings},
};
use tcpstate_core::{
    diagnosis::{Look, Looks, Thresholds, Unit},
    duration::nanoseconds,
    error::chain,
    expression::Moment,
};
use tcpstate_text::diagnose::{Diagnose, Options};

use crate::{
    INCOMPLETE,
    looks::{Background, Last, Looker, Pace},
    selection::Selection,
    watch::{settings, watch_or_not},
};

pub(crate) fn run(mut arguments: tcpstate_cli::Diagnose) -> anyhow::Result<ExitCode> {
    let window = arguments.window();
    if !arguments.follow && arguments.watch.read.is_none() {
        arguments.watch.duration = Some(window);
    }
    let thresholds = thresholds(arguments.rules.as_deref())?;
    let selection = Selection::of("diagnose", Moment::Always, &arguments.watch)?;
    let looker = Looker::new(&arguments.watch, &selection, &thresholds);
    let is_live = arguments.watch.read.is_none() && !arguments.watch.explain_filter;
    let (first, looks) = if is_live {
        let first = looker.look(&[]);
        (
            first,
            Some(Box::new(Background::start(looker, Last::Now, Pace::WATCHED)?) as Box<dyn Looks>),
        )
    } else {
        (Look::default(), None)
    };
    let settings = settings(&arguments.watch, arguments.bounds, None);
    let limits = settings.limits;
    let options = Options {
        settings,
        thresholds,
        follow: arguments.follow.then(|| nanoseconds(window)),
        all: arguments.all,
        length_ns: arguments.watch.duration.map(nanoseconds),
        count: arguments.watch.count,
    };
    arguments.watch.count = None;
    let mut view = Diagnose::new(options, first, looks);
    if is_live {
        let said = view.so_far(&mut stdout::open());
        if said.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let code = watch_or_not(&arguments.watch, &selection, limits, &mut view)?;
    Ok(if view.has_findings() {
        ExitCode::from(INCOMPLETE)
    } else {
        code
    })
}

/// The figures that decide, as a file changes them.
pub(crate) fn thresholds(rules: Option<&Path>) -> anyhow::Result<Thresholds> {
    match rules {
        Some(path) => read_thresholds(path),
        None => Ok(Thresholds::default()),
    }
}

/// Reads a file of thresholds: lines such as `close_wait_age = "2m"` or `backoffs = 5`.
fn read_thresholds(path: &Path) -> anyhow::Result<Thresholds> {
    let read = || -> anyhow::Result<Thresholds> {
        let text = fs::read_to_string(path)?;
        let mut thresholds = Thresholds::default();
        for setting in read_settings(&text)? {
            let name = &setting.name;
            let set =
                number(name, &setting.value).and_then(|value| Ok(thresholds.set(name, value)?));
            set.map_err(|error| SettingsError::new(&setting, chain(error.as_ref())))?;
        }
        Ok(thresholds)
    };
    read().with_context(|| format!("cannot use {} as --rules", path.display()))
}

/// The value of a threshold, in its unit.
fn number(name: &str, value: &toml::Value) -> anyhow::Result<u64> {
    let row = Thresholds::TABLE.iter().find(|row| row.name == name);
    match (row.map(|row| row.unit), value) {
        (Some(Unit::Time), toml::Value::String(text)) => {
            let duration = parse_duration(text).with_context(|| format!("`{name}`"))?;
            Ok(nanoseconds(duration))
        }
        (Some(Unit::Time), _) => bail!("`{name}` is a time, such as \"30s\""),
        (Some(_), toml::Value::Integer(number)) => match u64::try_from(*number) {
            Ok(number) => Ok(number),
            Err(_) => bail!("`{name}` must not be negative"),
        },
        (Some(_), _) => bail!("`{name}` is a whole number, without quotes"),
        // The name is the mistake.
        (None, _) => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::NamedTempFile;

    use super::*;

    fn read(text: &str) -> Result<Thresholds, String> {
        let file = NamedTempFile::new().unwrap();
        fs::write(&file, text).unwrap();
        read_thresholds(file.path()).map_err(|error| format!("{:#}", error.root_cause()))
    }

    #[test]
    fn a_file_changes_the_thresholds_that_it_names() {
        let changed = read("# ours\nclose_wait_age = \"2m\"\nbackoffs = 5\n").unwrap();
        let expected = Thresholds {
            close_wait_age: 120_000_000_000,
            backoffs: 5,
            ..Thresholds::default()
        };
        assert_eq!(changed, expected);
        assert_eq!(read("").unwrap(), Thresholds::default());
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        for (text, message) in [
            ("\n[x", "line 2: unclosed table"),
            ("x = 1", "line 1: unknown threshold `x`"),
            (
                "backofs = 1",
                "line 1: unknown threshold `backofs`; did you mean `backoffs`?",
            ),
            (
                "close_wait_age = 5",
                "line 1: `close_wait_age` is a time, such as \"30s\"",
            ),
            (
                "close_wait_age = \"5x\"",
                "line 1: `close_wait_age`: `5x` is not a duration",
            ),
            (
                "backoffs = \"5\"",
                "line 1: `backoffs` is a whole number, without quotes",
            ),
            ("backoffs = -5", "line 1: `backoffs` must not be negative"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }
}
