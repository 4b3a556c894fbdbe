//! The catalogue: the fields of each kind of record, each defined once.
//!
//! A [`Column`] has a field's name, its [`Kind`] with the unit, the function that reads it from a row,
//! and its documentation. JSON, CSV, the field tables in `docs/fields.md` and the text of `trace`, `life` and
//! `ls` are made from the same [`Table`]: a new field is one more line there, and appears in all of them but
//! text, whose layouts choose columns by name because a terminal has no room for all.
//!
//! A row is a plain, owned struct of what is known ([`TransitionRow`], [`ConnectionRow`], ...).
//! [`Column::get`] is a function pointer and [`Value`] is `Copy`: reading a field allocates nothing.
//!
//! Fields with a structure of their own (the states of a connection, the buckets of a histogram) are
//! columns too: their [`Value`] borrows the row's slice, and each format has one place that writes
//! such values. One thing is not a column: the list of groups in a line of `rates`, whose elements are
//! rows of another table ([`group_table`]).

mod column;
mod common;
mod connection;
mod group;
mod histogram;
mod packet;
mod rates;
mod socket;
mod transition;

pub use self::{
    column::{Column, Formats, Kind, Table, Value},
    common::{Common, Stamp},
    connection::{CONNECTION, ConnectionRow},
    group::{Group, plural},
    histogram::{
        HistogramHead, HistogramRow, HistogramTransitionRow, HistogramTransitionsRow,
        histogram_table, histogram_transition_table, histogram_transitions_table,
    },
    packet::{PACKET, PacketRow},
    rates::{
        FiguresRow, GroupRow, GroupTransitionRow, PAST, RATES, RatesRow, group_table,
        group_transition_table,
    },
    socket::{SOCKET, SocketRow, TimerRow},
    transition::{SocketFlags, TRANSITION, TransitionRow},
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tcpstate_common::State;

    use super::*;
    use crate::model::By;

    /// Names are unique in each format, objects are not interrupted, and every column is documented.
    fn check<R>(table: &Table<R>) {
        for csv in [false, true] {
            let has = |column: &&Column<R>| match column.formats {
                Formats::Both => true,
                Formats::Json => !csv,
                Formats::Csv => csv,
            };
            let mut names = HashSet::new();
            let mut objects = Vec::new();
            for column in table.columns().filter(has) {
                let name = column.name.replace('.', "_");
                assert!(names.insert(name), "{}: {}", table.name, column.name);
                objects.push(column.name.split_once('.').map(|(object, _)| object));
            }
            objects.dedup();
            let found: Vec<&str> = objects.into_iter().flatten().collect();
            let unique: HashSet<&str> = found.iter().copied().collect();
            assert_eq!(found.len(), unique.len(), "{}: {found:?}", table.name);
        }
        for column in table.columns() {
            for text in [column.doc, column.unknown] {
                assert!(!text.ends_with('.') && !text.contains('|'), "{text}");
            }
            assert!(!column.doc.is_empty(), "{}", column.name);
            assert!(column.name.matches('.').count() <= 1, "{}", column.name);
        }
    }

    #[test]
    fn tables_are_well_formed() {
        check(&TRANSITION);
        check(&CONNECTION);
        check(&SOCKET);
        check(&RATES);
        check(&PAST);
        check(&PACKET);
        for by in By::ALL {
            check(histogram_table(by));
            check(histogram_transitions_table(by));
            check(histogram_transition_table(by));
            check(group_table(by));
            check(group_transition_table(by));
        }
    }

    #[test]
    fn a_connection_has_a_column_for_the_time_in_each_state() {
        for state in State::ALL {
            let name = format!("{state}_ns");
            assert_eq!(CONNECTION.column(&name).name, name);
        }
    }
}
