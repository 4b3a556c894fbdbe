//! The configuration of `serve`: read, checked, printed, and read again.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, ensure};
use tcpstate::run::stdout;
use tcpstate_cli::{
    Cli,
    config::{Configured, File, InForce, Source},
};
use tcpstate_core::expression::{Expression, Moment};
use tcpstate_serve::{Buckets, otlp::Endpoint};

use crate::{message::BadUsage, selection::names};

/// The command line and the file, as they were read last.
pub(super) struct Configuration {
    /// The command line.
    words: Vec<OsString>,
    file: Option<PathBuf>,
    /// The settings in force: after a reload, also the values that were refused are those of before.
    settings: Vec<InForce>,
}

/// A configuration that was read and checked.
pub(super) struct Checked {
    pub(super) arguments: tcpstate_cli::Serve,
    pub(super) buckets: Buckets,
    /// The collector to push to.
    pub(super) otlp: Option<Endpoint>,
    settings: Vec<InForce>,
}

/// The result of a reload.
pub(super) struct Reloaded {
    /// Changed, and in force now.
    pub(super) changed: Vec<String>,
    /// Changed in the file, and as before until a restart: a name, and the reason.
    pub(super) refused: Vec<(String, &'static str)>,
    pub(super) buckets: Buckets,
}

impl Configuration {
    /// Reads it for the first time.
    pub(super) fn of_process(file: Option<PathBuf>) -> anyhow::Result<(Self, Checked)> {
        let mut configuration = Self {
            words: env::args_os().collect(),
            file,
            settings: Vec::new(),
        };
        let read = configuration.read()?;
        configuration.settings.clone_from(&read.settings);
        Ok((configuration, read))
    }

    /// Reads it, and changes nothing.
    fn read(&self) -> anyhow::Result<Checked> {
        let text = self.file.as_ref().map(|path| {
            fs::read_to_string(path)
                .with_context(|| format!("cannot read the configuration {}", path.display()))
        });
        let text = text.transpose()?;
        let file = match (&self.file, &text) {
            (Some(path), Some(text)) => Some(File { path, text }),
            _ => None,
        };
        let configured = Configured::new(&self.words, file)
            .map_err(|error| anyhow::Error::new(BadUsage(error.to_string())))?;
        let buckets = match configured.serve.buckets.as_slice() {
            [] => Buckets::default(),
            bounds => Buckets::new(bounds).map_err(|error| {
                self.blame(&configured, "buckets", &format!("--buckets: {error}"))
            })?,
        };
        let otlp = configured.serve.otlp.as_deref().map(Endpoint::new);
        let otlp = otlp
            .transpose()
            .map_err(|error| self.blame(&configured, "otlp", &format!("--otlp: {error}")))?;
        let is_secure = otlp.as_ref().is_some_and(Endpoint::is_secure);
        if configured.serve.otlp_certificate.is_some() && !is_secure {
            let why = "--otlp-certificate takes an https:// URL of --otlp";
            return Err(self.blame(&configured, "otlp-certificate", why));
        }
        // On the command line it is judged where all commands have it judged.
        let filter = configured.setting("filter");
        if filter.is_some_and(|filter| matches!(filter.source, Source::Line(_))) {
            let text = configured.serve.watch.expression.join(" ");
            Expression::parse_for(Moment::Always, &text, &names(true)).map_err(|error| {
                // The lines below show the place in the text.
                let text = error.to_string();
                let why = text.lines().next().unwrap_or_default();
                self.blame(&configured, "filter", &format!("`filter`: {why}"))
            })?;
        }
        let Configured { serve, settings } = configured;
        Ok(Checked {
            arguments: serve,
            buckets,
            otlp,
            settings,
        })
    }

    /// The error of a setting whose value alone does not show that it is wrong.
    fn blame(&self, configured: &Configured, name: &str, why: &str) -> anyhow::Error {
        let source = configured.setting(name).map(|setting| setting.source);
        match (&self.file, source) {
            (Some(path), Some(Source::Line(line))) => {
                BadUsage(format!("{}, line {line}: {why}", path.display())).into()
            }
            _ => Cli::refuse("serve", why),
        }
    }

    /// Reads it again, and says what has changed.
    ///
    /// *Errors:* the file cannot be read, or is wrong. Then nothing has changed.
    pub(super) fn reload(&mut self) -> anyhow::Result<Reloaded> {
        // The run must not wait for whoever writes to a pipe, and one that was read at the start is empty now.
        if let Some(path) = &self.file {
            ensure!(
                path.is_file(),
                "cannot read the configuration {} again: it is not a regular file",
                path.display()
            );
        }
        let read = self.read()?;
        let mut reloaded = Reloaded {
            changed: Vec::new(),
            refused: Vec::new(),
            buckets: read.buckets,
        };
        for new in read.settings {
            let Some(old) = self.settings.iter_mut().find(|old| old.name == new.name) else {
                continue;
            };
            if old.value == new.value {
                // It may stand in another line.
                old.source = new.source;
                continue;
            }
            if let Some(why) = why_not(&new.name) {
                reloaded.refused.push((new.name, why));
            } else {
                reloaded.changed.push(new.name.clone());
                *old = new;
            }
        }
        Ok(reloaded)
    }

    /// Whether somebody has chosen this setting.
    pub(super) fn is_given(&self, name: &str) -> bool {
        let mut settings = self.settings.iter();
        settings.any(|one| one.name == name && one.source != Source::Default)
    }

    /// Prints what is in force, with the origin of each value; the text is a file for `--config`.
    pub(super) fn print(&self) -> io::Result<()> {
        let mut out = stdout::open();
        let lines = self.settings.iter().map(|setting| match &setting.value {
            Some(value) => (format!("{} = {value}", setting.name), setting.source),
            None => (format!("# {}", setting.name), setting.source),
        });
        let lines: Vec<(String, Source)> = lines.collect();
        let width = lines.iter().map(|(line, _)| line.chars().count());
        // A long list does not move all the others.
        let width = width.filter(|&width| width <= 40).max().unwrap_or(0);
        for (line, source) in lines {
            let origin = match source {
                Source::CommandLine => "command line".to_owned(),
                Source::Line(line) => match &self.file {
                    Some(path) => format!("{}, line {line}", path.display()),
                    None => format!("line {line}"),
                },
                Source::Default if line.starts_with('#') => "not set".to_owned(),
                Source::Default => "default".to_owned(),
            };
            writeln!(out, "{line:<width$}  # {origin}")?;
        }
        out.flush()
    }
}

/// Why a setting cannot change while it runs; `None`: it can.
fn why_not(name: &str) -> Option<&'static str> {
    Some(match name {
        "buckets" => return None,
        "listen" => "the socket was opened at the start",
        "otlp" => "it can connect nowhere else now",
        "user" => "privileges do not come back",
        "web.config.file" => "only the folders of the first one can be read",
        "attach" | "ring-bytes" | "bpf-log" | "bpf-stats" => "the BPF programs are loaded with it",
        "filter" | "ipv4" | "ipv6" | "lport" | "rport" | "port" | "netns" | "pid" | "comm"
        | "uid" | "cgroup" | "role" => "what is counted so far is of other sockets",
        "ports" | "max-ports" | "labels" | "max-workloads" | "max-connections" => {
            "what is counted so far has other labels"
        }
        _ => "it is read at the start only",
    })
}

#[cfg(test)]
mod tests {
    use tempfile::NamedTempFile;

    use super::*;

    fn start(file: &NamedTempFile, text: &str) -> anyhow::Result<Configuration> {
        fs::write(file, text)?;
        let mut configuration = Configuration {
            words: ["tcpstate", "serve", "--max-ports=9"]
                .map(OsString::from)
                .into(),
            file: Some(file.path().to_owned()),
            settings: Vec::new(),
        };
        configuration.settings = configuration.read()?.settings;
        Ok(configuration)
    }

    #[test]
    fn what_can_change_does_and_what_cannot_stays() {
        let file = NamedTempFile::new().unwrap();
        let mut configuration = start(&file, "buckets = \"1ms,1s\"\n").unwrap();
        let text = "# moved\nbuckets = \"1ms,2s\"\nlisten = \"[::1]:1\"\nmax-ports = 7\n";
        fs::write(&file, text).unwrap();
        for changed in [&["buckets"][..], &[]] {
            let reloaded = configuration.reload().unwrap();
            assert_eq!(reloaded.changed, changed);
            let refused: Vec<_> = reloaded.refused.iter().map(|(name, _)| &**name).collect();
            // The option wins over `max-ports`. It stays refused.
            assert_eq!(refused, ["listen"]);
        }
        fs::write(&file, "buckets = \"2s,1s\"\n").unwrap();
        let error = configuration.reload().err().unwrap().to_string();
        assert!(
            error.contains(", line 1: --buckets: the bounds of buckets must go up"),
            "{error}"
        );
        fs::remove_file(file.path()).unwrap();
        let error = configuration.reload().err().unwrap().to_string();
        assert!(
            error.starts_with("cannot read the configuration"),
            "{error}"
        );
        let source = |name: &str| {
            let setting = configuration.settings.iter().find(|one| one.name == name);
            setting.map(|setting| (setting.value.clone().unwrap(), setting.source))
        };
        let buckets = "\"1ms,2s\"".to_owned();
        assert_eq!(source("buckets"), Some((buckets, Source::Line(2))));
        let listen = "\"127.0.0.1:9716\"".to_owned();
        assert_eq!(source("listen"), Some((listen, Source::Default)));
    }

    #[test]
    fn a_wrong_collector_is_named_with_its_line() {
        let file = NamedTempFile::new().unwrap();
        let error = start(&file, "otlp = \"localhost:4318\"\n").err().unwrap();
        let error = error.to_string();
        let expected = ", line 1: --otlp: `localhost:4318` is not the URL of a collector";
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn authorities_are_for_a_collector_with_tls() {
        let file = NamedTempFile::new().unwrap();
        let text = "otlp-certificate = \"ca.pem\"\n";
        for url in ["", "otlp = \"http://c\"\n"] {
            let error = start(&file, &format!("{text}{url}")).err().unwrap();
            let error = error.to_string();
            let expected = ", line 1: --otlp-certificate takes an https:// URL of --otlp";
            assert!(error.contains(expected), "{error}");
        }
        start(&file, &format!("{text}otlp = \"https://c\"\n")).unwrap();
    }

    #[test]
    fn a_wrong_filter_is_named_with_its_line() {
        let file = NamedTempFile::new().unwrap();
        let error = start(&file, "\nfilter = \"dport nothing\"\n")
            .err()
            .unwrap();
        let error = error.to_string();
        assert!(error.contains(", line 2: `filter`: "), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}
