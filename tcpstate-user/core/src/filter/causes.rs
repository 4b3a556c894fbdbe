//! Sets of causes: the one parser of cause lists.

use std::{borrow::Cow, fmt, str::FromStr};

use crate::cause::Cause;

/// A set of causes, written as a list: `refused,timed_out,ECONNABORTED`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CauseSet(Vec<Cause>);

/// The reason why a text is no list of causes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CauseListError {
    /// Nothing between two commas, or nothing at all.
    #[error("an empty item; write causes with a comma between them, such as fin,refused")]
    Empty,
    /// An item that is no cause.
    #[error("`{0}` is not a cause; the causes are {names}, and other errors by their names, such as ECONNABORTED", names = names())]
    NotACause(String),
}

impl CauseSet {
    /// The words that lists are made of, but for the names of other errors.
    pub fn words() -> Vec<&'static str> {
        let words = Cause::NAMED.map(Cause::name).into_iter();
        words
            .filter_map(|word| match word {
                Cow::Borrowed(word) => Some(word),
                Cow::Owned(_) => None,
            })
            .collect()
    }

    /// Whether the cause is in the set.
    pub fn contains(&self, cause: Cause) -> bool {
        self.0.contains(&cause)
    }
}

impl From<CauseSet> for Vec<Cause> {
    fn from(set: CauseSet) -> Self {
        set.0
    }
}

impl fmt::Display for CauseSet {
    /// The list; it parses to the same set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|cause| cause.name()).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for CauseSet {
    type Err = CauseListError;

    fn from_str(list: &str) -> Result<Self, CauseListError> {
        let items = list.split(',').map(str::trim);
        items
            .map(|item| match item {
                "" => Err(CauseListError::Empty),
                item => {
                    Cause::from_name(item).ok_or_else(|| CauseListError::NotACause(item.to_owned()))
                }
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn names() -> String {
    Cause::NAMED.map(Cause::name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_given_as_they_are_written() {
        let set: CauseSet = "fin, Reset-By-Peer,econnaborted,errno_4000"
            .parse()
            .unwrap();
        for (cause, is_in) in [
            (Cause::Fin, true),
            (Cause::ResetByPeer, true),
            (Cause::Errno(103), true),
            (Cause::Errno(4_000), true),
            (Cause::Errno(4_001), false),
            (Cause::Unknown, false),
        ] {
            assert_eq!(set.contains(cause), is_in, "{cause}");
        }
        for cause in Cause::NAMED
            .into_iter()
            .chain([Cause::Errno(103), Cause::Errno(999)])
        {
            let set: CauseSet = cause.name().parse().unwrap();
            assert!(set.contains(cause), "{cause}");
        }
    }

    #[test]
    fn a_text_that_is_no_cause_is_refused_with_the_causes_that_there_are() {
        for list in ["", "fin,", ",", "fin,,refused"] {
            assert_eq!(
                list.parse::<CauseSet>(),
                Err(CauseListError::Empty),
                "{list}"
            );
        }
        for list in ["closed", "errno_", "errno_x", "errno_70000"] {
            let error = list.parse::<CauseSet>().unwrap_err().to_string();
            assert!(error.contains("is not a cause"), "{list}: {error}");
        }
        let error = "closed".parse::<CauseSet>().unwrap_err().to_string();
        assert!(
            error.contains(
                "fin, reset_by_peer, reset_locally, refused, timed_out, unreachable, abandoned, no_port, \
                 unknown"
            ),
            "{error}"
        );
    }
}
