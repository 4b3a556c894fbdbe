//! Writes the man pages and the shell completions of `tcpstate` into a folder, from the definition that
//! the binary parses its command line with: `completions/` for bash, zsh and fish, `man/` with a page
//! for each command. `cargo xtask dist` runs it.
//!
//! A package of its own, since `xtask` must not depend on `tcpstate-user`, which does not build when
//! its BPF object is stale: `cargo xtask build-ebpf` mends that.

use std::{env, fs, iter, path::Path};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};
use tcpstate_cli::Cli;

fn main() -> Result<()> {
    let folder = env::args_os().nth(1).context("name a folder to write to")?;
    write(Path::new(&folder))
}

fn write(folder: &Path) -> Result<()> {
    let (completions, pages) = (folder.join("completions"), folder.join("man"));
    for folder in [&completions, &pages] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "tcpstate", &completions)
            .with_context(|| format!("write the completions for {shell}"))?;
    }
    let mut command = Cli::command();
    // So that subcommands know their full names.
    command.build();
    for command in iter::once(&command).chain(command.get_subcommands()) {
        let page = Man::new(without_epilogue(command))
            .source(concat!("tcpstate ", env!("CARGO_PKG_VERSION")))
            .manual("User Commands");
        let mut text = Vec::new();
        page.render(&mut text)?;
        write_epilogue(command, &mut text)?;
        let file = pages.join(page.get_filename());
        fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn without_epilogue(command: &clap::Command) -> clap::Command {
    command.clone().after_help(None::<&'static str>)
}

/// What the help ends with, most often examples, line by line as it stands there: a man page would fill
/// its lines else.
fn write_epilogue(command: &clap::Command, page: &mut Vec<u8>) -> Result<()> {
    let Some(epilogue) = command.get_after_help() else {
        return Ok(());
    };
    let epilogue = epilogue.to_string();
    let (heading, lines) = match epilogue.strip_prefix("Examples:\n") {
        Some(examples) => ("EXAMPLES", examples),
        None => ("NOTES", &*epilogue),
    };
    let mut roff = Roff::new();
    roff.control("SH", [heading]).control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line)]);
    }
    Ok(roff.control("fi", []).to_writer(page)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_is_completed() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let read = |name: &str| {
            fs::read_to_string(folder.path().join(name))
                .unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let command = Cli::command();
        let names: Vec<_> = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        assert!(names.contains(&"trace"), "{names:?}");
        for name in names {
            let page = read(&format!("man/tcpstate-{name}.1"));
            assert!(page.contains(".SH OPTIONS"), "{page}");
            assert!(!page.contains(".SH EXTRA"), "{page}");
            assert!(read("man/tcpstate.1").contains(&format!(r"tcpstate\-{name}")));
            for file in ["tcpstate.bash", "_tcpstate", "tcpstate.fish"] {
                assert!(
                    read(&format!("completions/{file}")).contains(name),
                    "{file}"
                );
            }
        }
    }
}
