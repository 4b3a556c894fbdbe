//! Too few file descriptors for a run.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use crate::{
    need::{Need, trial},
    net::unused_port,
    process::BINARY,
};

pub fn add(trials: &mut Vec<Trial>) {
    trials.push(trial(
        "faults::few_descriptors",
        &[Need::Program("prlimit")],
        few_descriptors,
    ));
}

/// With a limit of 3 to 40 descriptors a command works or reports that there are too few; it never panics,
/// and never works only in part.
fn few_descriptors() -> Result<()> {
    let port = unused_port().to_string();
    let commands: [&[&str]; 4] = [
        &["trace", "--duration", "1ms", "-P", &port],
        &[
            "record",
            "-w",
            "/dev/null",
            "--duration",
            "1ms",
            "-P",
            &port,
        ],
        &["ls", "--netns", "self"],
        &["doctor"],
    ];
    for command in commands {
        let mut last = None;
        // How many a run needs at once depends on the order in which its threads open theirs. At the last limit any run
        // has enough.
        for limit in (3..=40).chain([256]) {
            let output = Command::new("prlimit")
                .arg(format!("--nofile={limit}:{limit}"))
                .arg(BINARY)
                .args(command)
                .stdin(Stdio::null())
                .output()?;
            let stderr = String::from_utf8(output.stderr)?;
            let context = || format!("{command:?} with {limit}: {}: {stderr}", output.status);
            let code = output.status.code().with_context(context)?;
            let is_good = match code {
                0 | 3 => true,
                // doctor lists the features that do not work.
                1 => command == ["doctor"] || stderr.contains("Too many open files"),
                // Too few for the shared libraries: the program has not started yet.
                127 => stderr.contains("shared"),
                _ => false,
            };
            ensure!(is_good, "{}", context());
            last = Some(code);
        }
        ensure!(
            matches!(last, Some(0 | 3)),
            "{command:?} does not even work with 256"
        );
    }
    Ok(())
}
