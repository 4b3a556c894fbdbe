//! Text for people: tables, and records from the catalogue as their lines.

mod cell;
mod layout;
mod records;
mod table;
mod width;
mod wrapped;

pub use self::{
    cell::Cell,
    layout::{Columns, ColumnsError, Layout},
    records::Records,
    table::{Align, Column, OrDash, Table, wants_colour},
    width::fitted,
};
pub(crate) use self::{
    table::push_endpoint,
    width::{both_ends, right_end},
    wrapped::write_wrapped,
};
