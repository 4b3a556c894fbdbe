//! Writes the man pages and the shell completions of `tcpstate`, from the definition of its command line, into a
//! folder: `completions/` for bash, zsh and fish, `man/` with a page for each command. `cargo xtask dist` calls it.
//!
//! A program of its own, so that the first `cargo xtask` does not build what only a distribution needs.

use std::{
    env, fs, iter,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};
use tcpstate_cli::{Cli, filter};

fn main() -> Result<()> {
    let folder = env::args_os().nth(1).map(PathBuf::from);
    write(
        Cli::command(),
        &folder.context("usage: xtask-manual FOLDER")?,
    )
}

/// Writes the man pages and completions of the binary that `command` defines.
fn write(mut command: clap::Command, folder: &Path) -> Result<()> {
    let binary = command.get_name().to_owned();
    let (completions, pages) = (folder.join("completions"), folder.join("man"));
    for folder in [&completions, &pages] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        write_completions(shell, command.clone(), &binary, &completions)
            .with_context(|| format!("write the completions for {shell}"))?;
    }
    // Sets the full names of the subcommands.
    command.build();
    for command in iter::once(&command).chain(command.get_subcommands()) {
        let page = Man::new(without_epilogue(command))
            .source(source(&binary))
            .manual("User Commands");
        let mut text = Vec::new();
        page.render(&mut text)?;
        if command.get_name() == "top" {
            write_section("SCREEN", frame()?, &mut text)?;
        }
        write_epilogue(command, &mut text)?;
        let file = pages.join(page.get_filename());
        fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    let file = pages.join(format!("{binary}-filter.7"));
    fs::write(&file, filter_page(&binary)?).with_context(|| file.display().to_string())
}

/// The page about filter expressions.
fn filter_page(binary: &str) -> Result<Vec<u8>> {
    let (name, source) = (format!("{binary}-filter"), source(binary));
    let mut roff = Roff::new();
    roff.control("TH", [&*name, "7", "\"\"", &source, "Miscellaneous"])
        .control("SH", ["NAME"])
        .text([roman(format!("{name} - {}", filter::ABOUT))]);
    let mut page = Vec::new();
    roff.to_writer(&mut page)?;
    write_sections(&filter::page(), &mut page)?;
    Ok(page)
}

/// The program and its version.
fn source(binary: &str) -> String {
    format!("{binary} {}", env!("CARGO_PKG_VERSION"))
}

/// Stands in a script for the names in `/run/netns`.
const NAMES: &str = "NETNS_NAMES";

/// Writes a completion script. It looks the names of network namespaces up when it runs: clap knows only words that
/// never change, so their place is marked, and filled in here.
fn write_completions(
    shell: Shell,
    command: clap::Command,
    binary: &str,
    folder: &Path,
) -> Result<()> {
    let mut command = command.mut_subcommands(|command| {
        command.mut_args(|argument| match argument.get_id().as_str() {
            "netns" => argument.value_parser(["all", "self", NAMES]),
            _ => argument,
        })
    });
    let path = clap_complete::generate_to(shell, &mut command, binary, folder)?;
    let script = fs::read_to_string(&path)?;
    // Beside the names, a path: /proc/PID/ns/net.
    let (mark, lookup) = match shell {
        Shell::Zsh => (
            format!("(all self {NAMES})"),
            "{compadd all self /run/netns/*(N\\:t); [[ $PREFIX == /* ]] && _files}",
        ),
        Shell::Fish => (
            format!("{NAMES}\\t''"),
            "(ls /run/netns 2>/dev/null; string match -q '/*' -- (commandline -ct); \
             and __fish_complete_path (commandline -ct))",
        ),
        _ => (
            NAMES.to_owned(),
            r#"$(ls /run/netns 2>/dev/null; [[ $cur == /* ]] && compgen -f -- "$cur")"#,
        ),
    };
    anyhow::ensure!(script.contains(&mark), "`{mark}` is not in the script");
    let script = script.replace(&mark, lookup);
    anyhow::ensure!(!script.contains(NAMES), "a mark is left in the script");
    fs::write(&path, script)?;
    Ok(())
}

fn without_epilogue(command: &clap::Command) -> clap::Command {
    command.clone().after_help(None::<&'static str>)
}

/// Writes the end of the help, most often examples, with its line breaks, which a man page would otherwise
/// join.
fn write_epilogue(command: &clap::Command, page: &mut Vec<u8>) -> Result<()> {
    let Some(epilogue) = command.get_after_help() else {
        return Ok(());
    };
    write_sections(&epilogue.to_string(), page)
}

/// A frame of a real run of `top`: that of the README.
fn frame() -> Result<&'static str> {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme
        .split_once("\n### `tcpstate top`\n")
        .context("README.md has no section `tcpstate top`")?;
    let mut parts = section.split("\n```");
    let block = parts.nth(1).context("no block in it")?;
    // Behind the language of the block.
    let (_, frame) = block.split_once('\n').context("no frame in it")?;
    Ok(frame)
}

/// Writes sections with their line breaks. Each has an empty line before it, and a heading that a colon ends.
fn write_sections(text: &str, page: &mut Vec<u8>) -> Result<()> {
    for section in text.split("\n\n") {
        let (heading, lines) = match section.split_once(":\n") {
            Some((heading, lines)) if !heading.contains('\n') => (heading.to_uppercase(), lines),
            _ => ("NOTES".to_owned(), section),
        };
        write_section(&heading, lines, page)?;
    }
    Ok(())
}

fn write_section(heading: &str, lines: &str, page: &mut Vec<u8>) -> Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", [heading]).control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    Ok(roff.to_writer(page)?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn filters_have_a_page() {
        let folder = tempfile::tempdir().unwrap();
        write(Cli::command(), folder.path()).unwrap();
        let page = fs::read_to_string(folder.path().join("man/tcpstate-filter.7")).unwrap();
        // An empty date.
        let title = "\n.TH tcpstate-filter 7 \"\" \"tcpstate ";
        assert!(page.contains(title), "{page}");
        for section in ["NAME", "SYNOPSIS", "CONDITIONS", "EXAMPLES"] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{page}");
        }
        assert!(page.contains("retransmits [OP] NUMBER"), "{page}");
        assert!(!page.contains(".SH NOTES"), "{page}");
    }

    #[test]
    fn top_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        write(Cli::command(), folder.path()).unwrap();
        let page = fs::read_to_string(folder.path().join("man/tcpstate-top.1")).unwrap();
        let begin = "\n.SH SCREEN\n.nf\n$ tcpstate top \\-\\-once";
        assert!(page.contains(begin), "{page}");
        assert!(page.contains("CLOSE_WAIT"), "{page}");
    }

    #[test]
    fn network_namespaces_are_completed_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        write(Cli::command(), folder.path()).unwrap();
        let script = folder.path().join("completions/tcpstate.bash");
        let complete = |command: &str, word: &str| {
            let run = format!(
                "source {}\nls() {{ printf '%s\\n' blue box; }}\n\
                 COMP_WORDS=(tcpstate {command} --netns '{word}')\nCOMP_CWORD=3\n\
                 _tcpstate tcpstate '{word}' --netns\necho \"${{COMPREPLY[@]}}\"",
                script.display()
            );
            let output = Command::new("bash").args(["-c", &run]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        for command in ["trace", "life", "hist", "rates", "record", "ls"] {
            assert_eq!(complete(command, ""), "all self blue box\n");
            assert_eq!(complete(command, "b"), "blue box\n");
            assert_eq!(complete(command, "s"), "self\n");
            let path = script.display().to_string();
            let beginning = path.strip_suffix("ash").unwrap();
            assert_eq!(complete(command, beginning), format!("{path}\n"));
        }
    }

    #[test]
    fn every_command_has_a_page_and_is_completed() {
        let folder = tempfile::tempdir().unwrap();
        write(Cli::command(), folder.path()).unwrap();
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
            let has_causes = page.contains(".SH CAUSES\n.nf\n  fin ");
            assert_eq!(has_causes, name == "life", "{page}");
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
