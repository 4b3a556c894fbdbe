//! The last line of a run.

use serde::Serialize;
use tcpstate_core::{
    books::{
        Accounting, Cost, FilteredByReason, LostByReason, Packets, RejectedByReason, Selection,
    },
    model::Books,
    view::{End, Part},
};

/// The books of the source. Those of the capture are unknown, not 0, where they are missing.
#[derive(Debug, Serialize)]
struct AccountingFields<'a> {
    seen: Option<u64>,
    filtered: Option<u64>,
    submitted: Option<u64>,
    lost: Option<u64>,
    received: u64,
    rejected: u64,
    filtered_by_reason: Option<&'a FilteredByReason>,
    lost_by_reason: Option<&'a LostByReason>,
    rejected_by_reason: &'a RejectedByReason,
    partial: bool,
}

impl<'a> AccountingFields<'a> {
    fn new(books: &'a Accounting) -> Self {
        let known = (!books.partial).then_some(books);
        Self {
            seen: known.map(|books| books.seen),
            filtered: known.map(|books| books.filtered),
            submitted: known.map(|books| books.submitted),
            lost: known.map(|books| books.lost),
            received: books.received,
            rejected: books.rejected,
            filtered_by_reason: known.map(|books| &books.filtered_by_reason),
            lost_by_reason: known.map(|books| &books.lost_by_reason),
            rejected_by_reason: &books.rejected_by_reason,
            partial: books.partial,
        }
    }
}

/// The last line of a run: the books, and what it cost. `T` is what the view adds.
#[derive(Debug, Serialize)]
pub struct Summary<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    /// Whether nothing is known to be missing.
    complete: bool,
    /// The evidence that the changes rest on: `kernel` or `packets`.
    evidence: &'static str,
    /// The packets that they were rebuilt from.
    #[serde(skip_serializing_if = "Option::is_none")]
    packets: Option<&'a Packets>,
    accounting: AccountingFields<'a>,
    selection: &'a Selection,
    /// The part of a recording that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<&'a Part>,
    #[serde(rename = "self")]
    cost: &'a Cost,
    #[serde(flatten)]
    more: T,
}

impl<'a, T> Summary<'a, T> {
    /// The line for this end, and the view's books of connections.
    pub fn new(end: &'a End, connections: Option<&Books>, more: T) -> Self {
        Self {
            kind: "summary",
            complete: end.is_complete(connections),
            evidence: end.evidence.name(),
            packets: end.packets.as_ref(),
            accounting: AccountingFields::new(&end.accounting),
            selection: &end.selection,
            part: end.part.as_ref(),
            cost: &end.cost,
            more,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn books_that_are_missing_are_null_and_others_are_whole() {
        let mut books = Accounting {
            seen: 9,
            filtered: 1,
            submitted: 7,
            lost: 1,
            received: 5,
            rejected: 2,
            ..Accounting::default()
        };
        let read = |books: &Accounting| serde_json::to_value(AccountingFields::new(books)).unwrap();
        assert_eq!(read(&books), serde_json::to_value(books).unwrap());

        books.partial = true;
        let mut expected = serde_json::to_value(books).unwrap();
        for name in [
            "seen",
            "filtered",
            "submitted",
            "lost",
            "filtered_by_reason",
            "lost_by_reason",
        ] {
            expected[name] = Value::Null;
        }
        assert_eq!(read(&books), expected);
        assert_eq!(
            (&expected["received"], &expected["rejected"]),
            (&json!(5), &json!(2))
        );
    }
}
