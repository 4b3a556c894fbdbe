//! Filter expressions on the command line.

use std::fmt::Write as _;

use clap::error::ErrorKind;
use tcpstate_core::expression::{Expression, Lookup, Moment, WORDS, Word};

use crate::Cli;

/// The filter expression that these words of a command make.
///
/// *Errors:* a message that shows the wrong word.
pub fn parse_expression(
    command: &str,
    moment: Moment,
    words: &[String],
    lookup: &dyn Lookup,
) -> Result<Expression, clap::Error> {
    Expression::parse_for(moment, &words.join(" "), lookup)
        .map_err(|error| Cli::error_of(command, ErrorKind::ValueValidation, &error.to_string()))
}

// Lines are broken here, as a man page has them as they are.

/// The language, with all conditions that `ls` knows.
pub(crate) fn language() -> String {
    let text = "\
Filter:
FILTER is an expression as in ss(8), of conditions joined by `and` (or nothing),
`or`, `not` and parentheses, which the shell needs in quotes. OP is one of
= != < <= > >=, and may be left out for =.

Conditions:
";
    text.to_owned() + &conditions(|word| word.is_known(Moment::List))
}

/// The language in few words, with the conditions that `ls` does not know.
pub(crate) fn language_of(moment: Moment) -> String {
    let text = "\
Filter:
FILTER is an expression as in ss(8): `tcpstate ls --help` explains it and lists
its conditions. A fact that is never known matches nothing, and the summary
counts it as undecided.
";
    let here = match moment {
        Moment::Always => {
            "\
FILTER selects sockets with all their changes; conditions on states, times and
counters are for trace, life and ls.
"
        }
        Moment::End => {
            "\
`state` is true of a connection that was in one of the states; `dwell` is for
trace and ls. There are also:
"
        }
        Moment::Change | Moment::List | Moment::Present => {
            "\
`state` is true of a change from or to one of the states, and `dwell` is the
time in the old one. There are also:
"
        }
    };
    let more = conditions(|word| word.is_known(moment) && !word.is_known(Moment::List));
    [text, here, &more].concat()
}

fn conditions(is_listed: impl Fn(&Word) -> bool) -> String {
    let mut text = String::new();
    for word in WORDS.iter().filter(|word| is_listed(word)) {
        let condition = format!("{} {}", word.name, word.form);
        // A String takes all.
        let _ = writeln!(text, "  {condition:<35} {}", word.doc);
    }
    text
}
