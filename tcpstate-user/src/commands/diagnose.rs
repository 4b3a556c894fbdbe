//! `tcpstate diagnose`.

use std::{
    fs, io,
    path::Path,
    process::ExitCode,
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use tcpstate::run::stdout;
use tcpstate_capture::{facts, inventory, sockdiag::Request};
use tcpstate_cli::quantity::parse_duration;
use tcpstate_common::State;
use tcpstate_core::{
    diagnosis::{Look, Looks, Survey, Thresholds, Unit},
    duration::nanoseconds,
    expression::{Expression, Moment, Truth},
    filter::StateSet,
    netns::NetnsSelector,
};
use tcpstate_text::{
    diagnose::{Diagnose, Options},
    ls::socket_row,
};

use crate::{
    INCOMPLETE,
    selection::Selection,
    watch::{settings, watch_or_not},
};

/// The time from one look to the next, at least.
const INTERVAL: Duration = Duration::from_secs(5);

/// A look may take this part of the time; where it takes long, the next one waits longer.
const SHARE: u32 = 20;

pub(crate) fn run(mut arguments: tcpstate_cli::Diagnose) -> anyhow::Result<ExitCode> {
    let window = arguments.window();
    if !arguments.follow && arguments.watch.read.is_none() {
        arguments.watch.duration = Some(window);
    }
    let thresholds = match &arguments.rules {
        Some(path) => read_thresholds(path)?,
        None => Thresholds::default(),
    };
    let selection = Selection::of("diagnose", Moment::Always, &arguments.watch)?;
    let looker = Looker {
        namespaces: arguments.watch.sockets.netns.wanted.clone(),
        expression: selection.whole.clone(),
        thresholds: thresholds.clone(),
    };
    let is_live = arguments.watch.read.is_none() && !arguments.watch.explain_filter;
    let (first, looks) = if is_live {
        let first = looker.look();
        (
            first,
            Some(Box::new(Background::start(looker)?) as Box<dyn Looks>),
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

/// Reads a file of thresholds: lines such as `close_wait_age = "2m"` or `backoffs = 5`.
fn read_thresholds(path: &Path) -> anyhow::Result<Thresholds> {
    let read = || -> anyhow::Result<Thresholds> {
        let text = fs::read_to_string(path)?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            anyhow!("line {line}: {}", error.message())
        })?;
        let mut thresholds = Thresholds::default();
        for (name, value) in &table {
            thresholds.set(name, number(name, value)?)?;
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

/// Takes looks at the selected sockets.
struct Looker {
    namespaces: NetnsSelector,
    expression: Expression,
    thresholds: Thresholds,
}

impl Looker {
    fn look(&self) -> Look {
        let request = Request::of(StateSet::ALL).with_info();
        let mut look = Look {
            facts: facts::read(&self.namespaces).unwrap_or_default(),
            ..Look::default()
        };
        match inventory::take(&self.namespaces, request, true) {
            Ok(mut inventory) => {
                look.missing = inventory.messages();
                if !self.expression.wants_all() {
                    let rows = inventory.sockets.iter();
                    let is_wanted: Vec<bool> = rows
                        .map(|socket| {
                            // Roles and owners of others follow from a listener.
                            socket.state == State::LISTEN
                                || self.expression.judge(&socket_row(&inventory, socket))
                                    != Truth::No
                        })
                        .collect();
                    let mut wanted = is_wanted.into_iter();
                    inventory.sockets.retain(|_| wanted.next() == Some(true));
                }
                look.sockets = Some(Survey::of(&inventory, &self.thresholds));
            }
            Err(error) => look.missing.push(tcpstate_core::error::chain(&error)),
        }
        look
    }
}

/// Takes looks in a thread of its own: with many sockets one takes seconds, and the stream must not wait.
struct Background {
    /// `None`: it has ended.
    ask: Option<SyncSender<()>>,
    looks: Receiver<Look>,
}

impl Background {
    fn start(looker: Looker) -> anyhow::Result<Self> {
        let (ask, asked) = mpsc::sync_channel(1);
        let (send, looks) = mpsc::sync_channel(1);
        let work = move || {
            let mut pause = INTERVAL;
            loop {
                let is_asked = match asked.recv_timeout(pause) {
                    Ok(()) => true,
                    Err(RecvTimeoutError::Timeout) => false,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                let begin = Instant::now();
                let look = looker.look();
                pause = INTERVAL.max(begin.elapsed().saturating_mul(SHARE));
                // The view takes it at its next tick, and a last one that it asked for at once.
                if send.send(look).is_err() || is_asked {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("looks".to_owned())
            .spawn(work)
            .context("cannot start a thread")?;
        Ok(Self {
            ask: Some(ask),
            looks,
        })
    }
}

impl Looks for Background {
    fn newest(&mut self) -> Option<Look> {
        self.looks.try_iter().last()
    }

    fn last(&mut self) -> Option<Look> {
        let ask = self.ask.take()?;
        // One that is under way, or finished and not taken, comes first.
        ask.send(()).ok()?;
        self.looks.iter().last()
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
            ("x = 1", "`x` is no threshold"),
            (
                "backofs = 1",
                "`backofs` is no threshold; `backoffs` is one",
            ),
            (
                "close_wait_age = 5",
                "`close_wait_age` is a time, such as \"30s\"",
            ),
            ("close_wait_age = \"5x\"", "`5x` is not a duration"),
            (
                "backoffs = \"5\"",
                "`backoffs` is a whole number, without quotes",
            ),
            ("backoffs = -5", "`backoffs` must not be negative"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }
}
