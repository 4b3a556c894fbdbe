//! `tcpstate help`.

use clap::{Args, CommandFactory as _, builder::PossibleValuesParser};

use crate::{Cli, filter};

/// The topic that is no command.
const FILTER: &str = "filter";

/// Arguments of `tcpstate help`.
#[derive(Debug, Args)]
pub struct Help {
    /// A command, or `filter` for the filter expressions
    #[arg(value_name = "TOPIC", value_parser = PossibleValuesParser::new(TOPICS), hide_possible_values = true)]
    topic: Option<String>,
}

/// The commands, and what else is explained.
const TOPICS: [&str; 12] = [
    "trace", "life", "hist", "rates", "record", "ls", "diagnose", "top", "serve", "explain",
    "doctor", FILTER,
];

impl Help {
    /// The text.
    pub fn text(&self) -> String {
        let mut cli = Cli::command();
        // Sets the full names of the commands.
        cli.build();
        let topic = self.topic.as_deref();
        if topic == Some(FILTER) {
            return filter::page();
        }
        let command = topic.and_then(|name| cli.find_subcommand_mut(name));
        let mut command = command.cloned().unwrap_or(cli);
        command.render_long_help().to_string()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::Command;

    fn help(words: &[&str]) -> String {
        let words = ["tcpstate", "help"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Help(help) => help.text(),
            _ => unreachable!("the words say help"),
        }
    }

    #[test]
    fn it_is_the_help_of_the_command() {
        let cli = Cli::command();
        for command in cli.get_subcommands().map(clap::Command::get_name) {
            if command == "help" {
                continue;
            }
            let asked = Cli::try_parse_from(["tcpstate", command, "--help"]);
            assert_eq!(
                help(&[command]),
                asked.unwrap_err().to_string(),
                "{command}"
            );
        }
        let asked = Cli::try_parse_from(["tcpstate", "--help"]);
        assert_eq!(help(&[]), asked.unwrap_err().to_string());
        assert_eq!(help(&["filter"]), filter::page());
    }
}
