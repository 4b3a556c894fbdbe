//! The filter on the connections that are listed, which `/` takes.

use tcpstate_core::{
    catalogue::ConnectionRow,
    expression::{Expression, ExpressionError, Lookup, Moment, OpenConnection, Truth, WORDS},
    filter::StateSet,
};

/// A filter on the connections that are listed. The default takes all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// As it was typed in; empty is none.
    pub(crate) text: String,
    expression: Expression,
}

/// The connections are open: of them is known what `ls` knows of a socket.
const MOMENT: Moment = Moment::List;

impl Filter {
    /// Reads an expression.
    pub(crate) fn parse(text: &str, names: &dyn Lookup) -> Result<Self, ExpressionError> {
        let expression = Expression::parse_for(MOMENT, text, names)?;
        Ok(Self {
            text: text.trim().to_owned(),
            expression,
        })
    }

    /// Whether it takes all.
    pub(crate) const fn wants_all(&self) -> bool {
        self.expression.wants_all()
    }

    /// Whether it is true of an open connection.
    pub(crate) fn matches(&self, row: &ConnectionRow) -> bool {
        self.expression.judge(&OpenConnection(row)) == Truth::Yes
    }
}

/// The words that can follow this part of an expression: the values of a condition, or the conditions; and a name for
/// them.
pub(crate) fn words_after(before: &str) -> (Vec<String>, String) {
    let mut words = before.split([' ', '(']).filter(|word| !word.is_empty());
    let mut last = words.next_back();
    if before.ends_with(',') {
        // A list goes on.
        last = words.next_back();
    }
    if matches!(last, Some("=" | "==" | "!=" | "eq" | "ne" | "neq")) {
        last = words.next_back();
    }
    let values: Vec<String> = match last {
        Some("state" | "exclude") => {
            let plain = |word: &str| word.to_ascii_lowercase().replace('_', "-");
            StateSet::words().into_iter().map(plain).collect()
        }
        Some("role") => ["client", "server"].map(str::to_owned).into(),
        Some("family") => ["ipv4", "ipv6"].map(str::to_owned).into(),
        _ => Vec::new(),
    };
    match last {
        Some(word) if !values.is_empty() => (values, format!("value of `{word}`")),
        _ => {
            let known = WORDS.iter().filter(|word| word.is_known(MOMENT));
            let words = known.map(|word| word.name).chain(["and", "or", "not"]);
            (words.map(str::to_owned).collect(), "condition".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_follow_their_condition() {
        for (before, word, is_there) in [
            ("", "dport", true),
            ("", "state", true),
            ("", "cause", false),
            ("dport 443 and (", "dwell", true),
            ("state ", "close-wait", true),
            ("state ", "dport", false),
            ("not state = ", "close-wait", true),
            ("state established,", "time-wait", true),
            ("state established ", "and", true),
            ("role ", "server", true),
            ("comm ", "server", false),
        ] {
            let (words, _) = words_after(before);
            assert_eq!(
                words.iter().any(|one| one == word),
                is_there,
                "{before}{word}"
            );
        }
    }
}
