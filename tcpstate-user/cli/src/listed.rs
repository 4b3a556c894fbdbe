//! Arguments that take a list of words: completion knows the words, and an error names the one that was meant.

use std::{error::Error, ffi::OsStr, str::FromStr};

use clap::{
    Arg, Command,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};
use tcpstate_core::nearest::nearest;

/// A parser of lists of these words, separated by commas. The type decides what is a word of it.
pub(crate) fn listed<T>(words: fn() -> Vec<&'static str>) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: Error + Send + Sync + 'static> + Clone + Send + Sync + 'static,
{
    let read = move |text: String| {
        text.parse::<T>().map_err(|error| {
            let unknown = text
                .split(',')
                .map(str::trim)
                .find(|item| item.parse::<T>().is_err());
            match unknown.and_then(|unknown| nearest(unknown, words())) {
                Some(meant) => format!("{error}; did you mean `{meant}`?"),
                None => error.to_string(),
            }
        })
    };
    Listed {
        parser: StringValueParser::new().try_map(read),
        words,
    }
}

#[derive(Clone)]
struct Listed<P> {
    parser: P,
    words: fn() -> Vec<&'static str>,
}

impl<P: TypedValueParser> TypedValueParser for Listed<P> {
    type Value = P::Value;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<P::Value, clap::Error> {
        self.parser.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.words)().into_iter().map(PossibleValue::new)))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use crate::{Cli, tests::trace};

    #[test]
    fn an_unknown_word_is_answered_with_the_one_that_was_meant() {
        for (words, meant) in [
            ("CLOSEWAIT", "; did you mean `CLOSE_WAIT`?"),
            ("LISTEN,time-wiat", "; did you mean `TIME_WAIT`?"),
            ("conected", "; did you mean `connected`?"),
        ] {
            let error = trace(&["--state", words]).unwrap_err().to_string();
            assert!(error.contains(meant), "{words}: {error}");
        }
        let error = trace(&["--state", "xyz"]).unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn completion_knows_states_and_causes() {
        let cli = Cli::command();
        for (command, option, word) in [
            ("trace", "state", "CLOSE_WAIT"),
            ("life", "state", "TIME_WAIT"),
            ("life", "cause", "reset_by_peer"),
            ("hist", "cause", "timed_out"),
            ("hist", "state", "ESTABLISHED"),
            ("ls", "state", "connected"),
        ] {
            let command = cli.find_subcommand(command).unwrap();
            let argument = command.get_arguments().find(|one| one.get_id() == option);
            let words = argument.unwrap().get_possible_values();
            assert!(
                words.iter().any(|one| one.get_name() == word),
                "{option}: {word}"
            );
        }
    }
}
