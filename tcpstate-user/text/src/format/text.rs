//! Text for people: tables, and records from the catalogue as their lines.

mod layout;
mod records;
mod table;
mod width;

pub use self::{
    layout::{Columns, Layout, UnknownColumn},
    records::{Cell, Records},
    table::{Align, Column, OrDash, Table, wants_colour},
};
pub(crate) use self::{table::push_endpoint, width::right_end};
