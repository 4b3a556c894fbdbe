//! The headings under which help groups options. An option has the same heading in every command, headings come in
//! the same order, and so do the options below them.
//!
//! clap lists headings and options in the order of the fields: so the arguments that commands share come first.

pub(crate) const OUTPUT: &str = "Output";
pub(crate) const FILTERS: &str = "Filters";
pub(crate) const CAPTURE: &str = "Capture";
pub(crate) const MEMORY: &str = "Memory";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::{Arg, CommandFactory as _};

    use super::*;
    use crate::Cli;

    /// `None`: those without a heading, which come first.
    const ORDER: [Option<&str>; 5] = [
        None,
        Some(OUTPUT),
        Some(FILTERS),
        Some(CAPTURE),
        Some(MEMORY),
    ];

    /// An option, with its heading.
    type Headed = (String, Option<String>);

    /// The options of each command in the order of its help.
    fn commands() -> Vec<(String, Vec<Headed>)> {
        let cli = Cli::command();
        let commands = cli.get_subcommands().map(|command| {
            let is_shown = |one: &&Arg| !one.is_positional() && !one.is_hide_set();
            let options = command.get_arguments().filter(is_shown);
            let options = options.map(|one| {
                let heading = one.get_help_heading().map(str::to_owned);
                (one.get_id().to_string(), heading)
            });
            (command.get_name().to_owned(), options.collect())
        });
        commands.collect()
    }

    #[test]
    fn headings_come_in_one_order() {
        for (command, options) in commands() {
            let mut headings: Vec<Option<String>> = Vec::new();
            for (_, heading) in options {
                if !headings.contains(&heading) {
                    headings.push(heading);
                }
            }
            // An option without a heading stands above, wherever it is defined.
            headings.sort_by_key(Option::is_some);
            let place = |heading: &Option<String>| {
                let place = ORDER.iter().position(|one| *one == heading.as_deref());
                place.unwrap_or_else(|| panic!("{command}: {heading:?} is not in the order"))
            };
            let places: Vec<usize> = headings.iter().map(place).collect();
            assert!(places.is_sorted(), "{command}: {headings:?}");
        }
    }

    #[test]
    fn an_option_has_one_heading_and_one_place() {
        let mut headings = BTreeMap::new();
        // One option before another, and the command where it is so.
        let mut before = BTreeMap::new();
        for (command, options) in commands() {
            for (at, (one, heading)) in options.iter().enumerate() {
                let (known, by) = headings
                    .entry(one.clone())
                    .or_insert_with(|| (heading.clone(), command.clone()));
                assert_eq!(known, heading, "--{one} in {by} and {command}");
                let same = |(_, other): &&Headed| other == heading;
                for (other, _) in options[at + 1..].iter().filter(same) {
                    before.insert((one.clone(), other.clone()), command.clone());
                }
            }
        }
        for ((one, other), command) in &before {
            let turned = before.get(&(other.clone(), one.clone()));
            assert_eq!(turned, None, "--{one} is before --{other} in {command}");
        }
        assert!(before.len() > 100);
    }
}
